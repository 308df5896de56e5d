"""Text of strangers: read where the bytes say what they are, guessed and told where one encoding alone fits, else refused."""

import os

import pytest

from sdlora.dataset.encoding import NAME_CODECS, decode, lines_of, plausible_readings, read_text
from sdlora.errors import UserError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_what_says_its_encoding_is_no_guess(encoding):
    assert decode("a red house, 桜 é 🦊".encode(encoding), "a.txt") == ("a red house, 桜 é 🦊", "")


@pytest.mark.parametrize("text", ["a green tree", "a", "eee", "дом у моря", "Ein Haus, größer", "a 桜 tree", "一 tree",
                                  "a fox 🦊", "ガラスの家と橋、夜の海", "红色的房子，海边的小船"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark(text, encoding):
    assert decode(text.encode(encoding), "a.txt") == (text, "UTF-16")


def test_utf_32_without_a_mark():
    assert decode("a tree".encode("utf-32-le"), "a.txt") == ("a tree", "UTF-32")


@pytest.mark.parametrize("text, codec, label", [
    ("café d’été", "cp1252", "Windows-1252"), ("it’s a house", "cp1252", "Windows-1252"),
    ("smørrebrød på båt", "latin-1", "Windows-1252"), ("a “red” house – big…", "cp1252", "Windows-1252"),
    ("红色房子", "gbk", "GBK"), ("一只猫坐在窗台上，水彩", "gbk", "GBK"), ("a girl, 红色房子, 水彩", "gbk", "GBK"),
    ("桜と橋、春の川", "cp932", "Shift-JIS"), ("ガラスの家, blue", "cp932", "Shift-JIS"), ("桜", "cp932", "Shift-JIS"),
    ("紅色的房子，在海邊", "big5", "Big5"), ("一隻貓, watercolor, 綠色的樹", "big5", "Big5"),
    ("Красный дом, лодка", "cp1251", "Windows-1251"), ("дом", "cp1251", "Windows-1251"), ("был кот", "cp1251", "Windows-1251"),
    ("красный дом на лугу", "koi8-r", "KOI8-R"), ("Мост через реку, осень", "koi8-r", "KOI8-R"),
    ("κόκκινο σπίτι στο λιβάδι", "cp1253", "Windows-1253"),
    ("빨간 집과 초록 나무", "cp949", "EUC-KR"), ("초가집 옆 나무와 하늘", "cp949", "EUC-KR")])
def test_older_encodings_are_guessed_and_told(text, codec, label):
    assert decode(text.encode(codec), "a.txt") == (text, label)


@pytest.mark.parametrize("data", [b"ok \xff", b"\xff\xfea", "可爱".encode("gbk"),
                                  "żółty dom".encode("cp1250"), bytes(range(128, 256)), b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff"])
def test_what_fits_none_or_two_is_refused(data):
    with pytest.raises(UserError, match="a.txt is not readable text"):
        decode(data, "a.txt")


def test_neighbours_decide_between_what_fits():
    assert decode("可爱".encode("gbk"), "a.txt", "GBK") == ("可爱", "GBK")
    assert decode("été".encode("cp1252"), "a.txt", "GBK") == ("été", "Windows-1252")


def test_a_stray_nul_does_not_make_utf_8_another_encoding():
    assert decode(b"a red house\0", "a.txt") == ("a red house\0", "")


def test_only_line_ends_end_a_line():
    assert lines_of("a\u2028b\x0bc\x85d\x1ce\r\nf\rg\n") == ["a\u2028b\x0bc\x85d\x1ce", "f", "g", ""]


@pytest.mark.parametrize("text, codec", [("maison à l'été", "cp437"), ("größe", "cp437"), ("水彩の家", "cp932"),
                                         ("红色房子", "gb18030"), ("красный дом", "cp866"), ("naïve", "cp1252")])
def test_names_of_files_in_the_code_page_of_their_system(text, codec):
    assert plausible_readings(text.encode(codec), NAME_CODECS) == {codec: text}


def test_only_ordinary_files_of_a_size_are_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"x" * 10)
    assert read_text(tmp_path / "a.txt", "a.txt", 10, "too long") == ("x" * 10, "")
    with pytest.raises(UserError, match="too long"):
        read_text(tmp_path / "a.txt", "a.txt", 9, "too long")
    with pytest.raises(UserError, match="gone.txt could not be opened"):
        read_text(tmp_path / "gone.txt", "gone.txt", 9, "too long")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are of Unix")
def test_a_pipe_makes_nobody_wait(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(UserError, match="a.txt could not be opened .it is not an ordinary file"):
        read_text(tmp_path / "a.txt", "a.txt", 9, "too long")


@pytest.mark.parametrize("codec, text", [("koi8-r", "КРАСНЫЙ ДОМ"), ("cp1251", "КРАСНЫЙ ДОМ"), ("cp1251", "СНЕГ В ГОРАХ")])
def test_russian_in_capitals_may_be_another_encoding(codec, text):
    with pytest.raises(UserError, match="not readable"):
        decode(text.encode(codec), "a.txt")
    assert decode("Красный дом у моря".encode("cp1251"), "a.txt") == ("Красный дом у моря", "Windows-1251")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_second_mark_is_no_letter(encoding):
    assert decode("\ufeffa red house".encode(encoding), "a.txt") == ("a red house", "")


@pytest.mark.parametrize("space", ["\u2028", "\u0085", "\u00a0", "\u3000"])
def test_a_rare_space_hides_no_utf16(space):
    text = f"blue{space}boat"
    assert decode(text.encode("utf-16-be"), "a.txt") == decode(text.encode("utf-16-le"), "a.txt") == (text, "UTF-16")


def test_many_nuls_are_never_read_as_utf8():
    with pytest.raises(UserError, match="not readable"):
        decode("a \ue000\ue001\ue002 cat".encode("utf-16-le"), "a.txt")  # private letters: no plain UTF-16
    assert decode(b"a red house\0", "a.txt") == ("a red house\0", "")


@pytest.mark.parametrize("text, codec", [("סירה ירוקה על האגם", "cp1255"), ("kırmızı ev", "cp1254"), ("modrý dům", "cp1250"),
                                         ("한국어 자막", "cp949"), ("ένας άνθρωπος", "cp1253")])
def test_one_language_is_never_read_as_another_that_its_bytes_spell_too(text, codec):
    with pytest.raises(UserError, match="not readable"):
        decode(text.encode(codec), "a.txt")
