"""Text in an unknown encoding -> str: byte order marks and UTF-8 are read, the rest is guessed, and the guess is reported.

Knows nothing about captions. A guess is made only where one encoding alone gives plausible words; otherwise there is none.
"""

import codecs
import re
from collections.abc import Callable
from pathlib import Path

from sdlora.errors import UserError
from sdlora.storage import open_regular

BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
        (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
LABELS = {"utf-16-le": "UTF-16", "utf-16-be": "UTF-16", "utf-32-le": "UTF-32", "utf-32-be": "UTF-32", "cp932": "Shift-JIS",
          "euc_jp": "EUC-JP", "gb18030": "GBK", "cp950": "Big5", "cp949": "EUC-KR", "cp1251": "Windows-1251",
          "cp1252": "Windows-1252", "cp437": "code page 437", "cp866": "code page 866", "koi8_r": "KOI8-R",
          "cp1253": "Windows-1253", "cp1255": "Windows-1255"}
CJK_MARKS = r"\u3001-\u301f\uff01-\uff5e\u2018-\u201d\u2026\u2014\u00b7"
WESTERN = "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝàáâãäåæçèéêëìíîïñòóôõöøùúûüýßŒœŠšŽž"
WESTERN_MARKS = "‘’“”–—…«»€£§©®°´·¿¡½²³"
COMMON = 0.8  # share of the characters that must be everyday ones
CAPTION_CODECS = ("cp932", "euc_jp", "gb18030", "cp950", "cp949", "cp1251", "koi8_r", "cp1253", "cp1255", "cp1252")
NAME_CODECS = ("cp932", "gb18030", "cp950", "cp949", "cp866", "cp1251", "cp437", "cp1252")


def lines_of(text: str) -> list[str]:
    r"""Return the lines of a text: they end at \n, \r\n or \r. U+2028, U+0085 and others of str.splitlines are text."""
    return re.split(r"\r\n|\r|\n", text)


def read_text(path: Path, name: str, limit: int, too_long: str, usual: str = "") -> tuple[str, str]:
    """Read a file and `decode` it. Raises UserError also for no ordinary file, and `too_long` for more than `limit` bytes."""
    try:
        with open_regular(path) as handle:
            data = handle.read(limit + 1)
    except OSError as error:
        raise UserError(f"{name} could not be opened ({error.strerror or error}).", "Check the file.") from error
    if len(data) > limit:
        raise UserError(too_long, "Give a shorter text.")
    return decode(data, name, usual)


def decode(data: bytes, name: str, usual: str = "") -> tuple[str, str]:
    """Return (text, the name of the encoding where it was guessed, else ""). Raises UserError where not exactly one fits.

    A byte order mark decides, else UTF-8; only what is neither is guessed. usual: the name of the encoding of the texts beside
    this one; it is taken where several fit.
    """
    bom, encoding = next(((bom, encoding) for bom, encoding in BOMS if data.startswith(bom)), (b"", "utf-8"))
    text = decoded_or_none(data[len(bom):], encoding)
    text = text and text.removeprefix("\ufeff")  # of a program that wrote the mark although its encoding did
    if text is None or (b"\0" in data and not bom):
        readings = {} if bom else wide_readings(data)
        if b"\0" not in data and not bom:
            readings |= plausible_readings(data, CAPTION_CODECS)
        if len(readings) > 1:
            readings = {codec: reading for codec, reading in readings.items() if LABELS[codec] == usual}
        if len(readings) == 1:
            return next((reading, LABELS[codec]) for codec, reading in readings.items())
    if text is None or 4 * text.count("\0") > len(text):  # a few stray NULs are allowed in UTF-8; many mean UTF-16
        raise UserError(f"{name} is not readable text.", "Save it as UTF-8.")
    return text, ""


def decoded_or_none(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def wide_readings(data: bytes) -> dict[str, str]:
    """Return {encoding: text} of the readings as UTF-32 or UTF-16 without a mark that give words; the one with most ASCII wins.

    Where no byte is NUL (no ASCII in it), the text must have three characters or more: any two bytes are often a valid one.
    """
    fewest = 1 if b"\0" in data else 3
    for codecs_ in (("utf-32-le", "utf-32-be"), ("utf-16-le", "utf-16-be")):
        found = {codec: text for codec in codecs_ if len(text := decoded_or_none(data, codec) or "") >= fewest and is_plain(text)}
        most = max(map(ascii_letters, found.values()), default=0)
        found = {codec: text for codec, text in found.items() if ascii_letters(text) == most}
        if found:
            return found
    return {}


def ascii_letters(text: str) -> int:
    return sum(c.isascii() for c in text)


def is_plain(text: str) -> bool:
    """Return whether the text has only everyday letters and punctuation of some script."""
    if re.search(r"[\0-\x08\x0e-\x1f\ud800-\udfff\ue000-\uf8ff\ufff0-\uffff]", text) or not text.strip():
        return False
    other = [c for c in text if not c.isascii() and not c.isspace()]
    return sum(map(everyday, other)) >= COMMON * len(other)


def everyday(c: str) -> bool:
    """Return whether a letter is used every day in some script: Latin, Greek, Cyrillic, kana, Hangul, common Han, emoji."""
    if c in WESTERN + WESTERN_MARKS or c >= "\U0001f300":
        return True
    known = re.match(rf"[\u0100-\u017f\u0386-\u03ce\u0401-\u045f\u3041-\u30fe{CJK_MARKS}]", c)
    return known is not None or any(common(c) for common in (common_hangul, common_kanji, common_hanzi, common_traditional))


def lead_byte(c: str, codec: str) -> int:
    """Return the first byte of a double-byte character in an encoding, 0 where it has none."""
    data = c.encode(codec, "ignore")
    return data[0] if len(data) == 2 else 0


def common_hanzi(c: str) -> bool:
    """Return whether a character is in level 1 of GB 2312: the 3,755 everyday characters of Chinese."""
    return 0xB0 <= lead_byte(c, "gb2312") <= 0xD7


def common_kanji(c: str) -> bool:
    """Return whether a character is in level 1 of JIS X 0208: the 2,965 everyday kanji."""
    return "\u4e00" <= c <= "\u9fff" and 0x88 <= lead_byte(c, "shift_jis") <= 0x98


def common_traditional(c: str) -> bool:
    """Return whether a character is in level 1 of Big5: the 5,401 everyday characters of Chinese in Taiwan and Hong Kong."""
    return 0xA4 <= lead_byte(c, "big5") <= 0xC6


def common_hangul(c: str) -> bool:
    """Return whether a character is one of the 2,350 syllables of KS X 1001."""
    return "\uac00" <= c <= "\ud7a3" and 0xB0 <= lead_byte(c, "euc_kr") <= 0xC8


def plausible_readings(data: bytes, tried: tuple[str, ...]) -> dict[str, str]:
    """Return {encoding: text} of the readings in older encodings that look like words of the language each was made for."""
    readings = {codec: decoded_or_none(data, codec) for codec in tried}
    return {codec: text for codec, text in readings.items() if text is not None and PLAUSIBLE[codec](text)}


def east_asian(common: Callable[[str], bool], script: str = "", share: float = COMMON) -> Callable[[str], bool]:
    """Return a check for whole words in an East Asian script; a lone character in Latin text is a misread accent or quote."""
    def check(text: str) -> bool:
        foreign = [c for c in text if not c.isascii()]
        good = sum(bool(common(c) or re.match(rf"[{script}{CJK_MARKS}]", c)) for c in foreign)
        runs = re.findall(r"[^\x00-\x7f]{2,}", text)
        return good >= share * len(foreign) and (bool(runs) or not re.search("[A-Za-z]", text)) and is_clean(text)
    return check


def is_clean(text: str) -> bool:
    return not re.search(r"[\x80-\x9f\ue000-\uf8ff\uff61-\uff9f\ufffd]", text)


def cased(word: str) -> bool:
    return word in (word.lower(), word.upper()) or word == word[:1].upper() + word[1:].lower()


def western(text: str) -> bool:
    """Return whether the text is Latin words with a few accents, and quotes where quotes belong."""
    if any(c not in WESTERN + WESTERN_MARKS for c in text if not c.isascii()):
        return False
    if re.search("[ÝýÐðÞþ]", text):  # Turkish, Czech or Icelandic, and the first two have encodings of their own
        return False
    misplaced = re.search(r"”[^\W\d_]|[^\W\d_]“|[^\W\d_][¿¡²³½°´·§£€][^\W\d_]", text)
    many = re.search(rf"[{WESTERN}]{{3}}|[^\x00-\x7f]{{4}}", text)
    return not misplaced and not many and all(cased(word) for word in re.findall(r"[^\W\d_]+", text) if not word.isascii())


def alphabet(letters: str) -> Callable[[str], bool]:
    """Return a check for words of these letters alone, at least as many as other words, with capitals where they belong."""
    def check(text: str) -> bool:
        if sum(map(str.isupper, text)) > sum(map(str.islower, text)):
            return False
        if any(not re.match(rf"[{letters}«»„“”’–—…№°·]", c) for c in text if not c.isascii()):
            return False
        words = re.findall(r"[^\W\d_]+", text)
        own = [word for word in words if re.fullmatch(f"[{letters}]+", word) and cased(word)]
        mixed = [word for word in words if not word.isascii() and word not in own]
        return not mixed and 2 * len(own) >= len(words) and any(len(word) > 2 for word in own)
    return check


def without(check: Callable[[str], bool], pattern: str) -> Callable[[str], bool]:
    """Return a check for texts that pass `check` and do not match the pattern."""
    return lambda text: check(text) and not re.search(pattern, text)


def frequent(text: str) -> int:
    """Count the letters that are the most frequent ones of Russian; a wrong encoding swaps capitals and small letters."""
    return sum(c in "оеаинтср" for c in text.lower())


def windows_cyrillic(text: str) -> bool:
    """Return whether the text is Cyrillic words that would not, if longer than a word, look far more like Russian as KOI8-R."""
    other = frequent(text.encode("cp1251", "replace").decode("koi8_r", "replace"))
    return CYRILLIC(text) and (len(text) < 11 or 3 * frequent(text) >= 2 * other)


def koi8(text: str) -> bool:
    """Return whether the text is Cyrillic words that look more like Russian than as Windows-1251."""
    return CYRILLIC(text) and frequent(text) > frequent(text.encode("koi8_r", "replace").decode("cp1251", "replace"))


def greek(text: str) -> bool:
    """Return whether the text is Greek words, most of them with an accent, and final sigma only at the end of a word."""
    words = re.findall(r"[^\W\d_]{3,}", text)
    accented = sum(bool(re.search("[άέήίόύώΆΈΉΊΌΎΏ]", word)) for word in words)
    return GREEK(text) and 2 * accented > len(words) > 1 and not re.search(r"ς\B|σ\b", text)


def hebrew(text: str) -> bool:
    """Return whether the text is Hebrew words, final letter forms only at the end of a word, and not Russian as Windows-1251."""
    letters = "".join(re.findall("[א-ת]", text))
    russian = 5 * frequent(letters.encode("cp1255").decode("cp1251", "replace")) > 2 * len(letters)
    return alphabet("א-ת")(text) and len(letters) > 3 and not russian and not re.search(r"[ךםןףץ]\B", text)


def not_korean(check: Callable[[str], bool], codec: str) -> Callable[[str], bool]:
    """Return a check for texts that pass `check`, but not for words of six characters or more that all are common Korean."""
    def checked(text: str) -> bool:
        letters = [c for c in text.encode(codec, "ignore").decode("cp949", "replace") if not c.isascii()]
        korean = len(letters) >= 6 and " " in text.strip() and all(map(common_hangul, letters))
        return not korean and check(text)
    return checked


CYRILLIC = alphabet("ЁёА-яІіЇїЄєҐґ")
GREEK = alphabet("\u0386\u0388-\u038f\u0391-\u03af\u03b1-\u03ce")
KANA = r"\u3041-\u30fe\u3005"
PLAUSIBLE: dict[str, Callable[[str], bool]] = {
    "cp932": east_asian(common_kanji, KANA), "euc_jp": without(east_asian(common_kanji, KANA), rf"^[^{KANA}]*$"),
    "gb18030": not_korean(east_asian(common_hanzi), "gb18030"), "cp949": east_asian(common_hangul, share=1),
    "cp950": not_korean(without(east_asian(common_traditional, share=1), r"[a-z][^\x00-\x7f]|[^\x00-\x7f][a-z]"), "cp950"),
    "cp1251": windows_cyrillic, "cp866": CYRILLIC, "koi8_r": koi8, "cp1253": greek, "cp1255": hebrew, "cp1252": western,
    "cp437": western}
