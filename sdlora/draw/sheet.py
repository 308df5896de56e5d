"""Pictures and labels -> one picture of them all, readable and of bounded size.

Knows nothing about how the pictures came about. At most one picture from a file is in memory beside the sheet.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from sdlora.dataset.decode import MAX_PIXELS, MAX_SIDE
from sdlora.dataset.picture import open_picture
from sdlora.errors import UserError

MAX_ROW = 8  # cells; a longer strip continues in a row below
MIN_CELL, MAX_LINES, MAX_CHARACTERS = 48, 4, 400  # px; of a label
PAPER, INK, GREY_INK, EMPTY = "#ffffff", "#1c1c1c", "#6a6a6a", "#e8e8e8"
# Tried for characters that the font shipped with Pillow (Aileron: Latin) lacks; whatever of them this computer has
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf", "Arial Unicode.ttf", "segoeui.ttf", "msyh.ttc", "PingFang.ttc",
         "NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "NotoSansArabic-Regular.ttf", "NotoSansDevanagari-Regular.ttf")


def sheet(pictures: Mapping[tuple[int, int], Image.Image | Path | str], columns: Sequence[str], rows: Sequence[str] = ("",),
          title: str = "", like: Image.Image | Path | None = None) -> Image.Image:
    """Return one RGB picture of pictures by (column, row), the columns' labels above them, the rows' beside them.

    Cells without a picture stay grey; a text in place of a picture is written there. All get the size of `like`, or of the
    first, smaller where the sheet would exceed 40 megapixels.
    Raises UserError: no picture, so many that they would be smaller than 48 px, a file that cannot be read.
    """
    first = like or next((picture for picture in pictures.values() if not isinstance(picture, str)), None)
    if first is None:
        raise UserError("There is no picture to put on a sheet.", "Draw the grid again.")
    if len(rows) == 1 and not rows[0] and len(columns) > MAX_ROW:
        return strip(pictures, columns, title, first)
    width, height = (first if isinstance(first, Image.Image) else open_picture(first)).size
    width, height = cell_size(width, height, len(columns), len(rows))
    texts = [text for text in pictures.values() if isinstance(text, str)]
    font = font_for([*columns, *rows, title, *texts], max(13, min(40, width // 9)))
    gap, margin = max(2, width // 64), int(font.size) // 2
    heads = [wrapped(text, font, width) for text in columns]
    sides = [wrapped(text, font, width) for text in rows]
    left = max(math.ceil(font.getlength(line)) for lines in sides for line in lines or [""])
    left += 2 * margin if left else margin
    across, down = len(columns) * (width + gap) - gap, len(rows) * (height + gap) - gap
    above = wrapped(title, font, left + across - margin)
    line = int(font.size) * 5 // 4
    top = margin + line * (len(above) + max(map(len, heads))) + gap + (line // 3 if above else 0)
    paper = Image.new("RGB", (left + across + margin, top + down + margin), PAPER)
    pen = ImageDraw.Draw(paper)
    write(pen, (margin, margin), above, font, GREY_INK)
    for column, lines in enumerate(heads):
        write(pen, (left + column * (width + gap) + width // 2, top - gap - line * len(lines)), lines, font, INK, "ma")
    for row, lines in enumerate(sides):
        middle = top + row * (height + gap) + (height - line * len(lines)) // 2
        write(pen, (left - margin, middle), lines, font, INK, "ra")
        for column in range(len(columns)):
            place = (left + column * (width + gap), top + row * (height + gap))
            picture = pictures.get((column, row))
            paste(paper, None if isinstance(picture, str) else picture, place, (width, height))
            if isinstance(picture, str):
                lines = wrapped(picture, font, width - margin)
                write(pen, (place[0] + width // 2, place[1] + margin), lines, font, GREY_INK, "ma")
    return paper


def strip(pictures: Mapping[tuple[int, int], Image.Image | Path | str], columns: Sequence[str], title: str,
          like: Image.Image | Path) -> Image.Image:
    """Return one row of many pictures as several rows below each other, each with its labels."""
    length = math.ceil(len(columns) / math.ceil(len(columns) / MAX_ROW))
    parts = []
    for begin in range(0, len(columns), length):
        labels = columns[begin:begin + length]
        part = {(column - begin, 0): picture for (column, _), picture in pictures.items() if begin <= column < begin + length}
        parts += [sheet(part, labels, title=title if not begin else "", like=like)] if part else []
    paper = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), PAPER)
    top = 0
    for part in parts:
        paper.paste(part, (0, top))
        top += part.height
    return paper


def cell_size(width: int, height: int, columns: int, rows: int) -> tuple[int, int]:
    """Return the size of one picture: its own, or as small as the limits of the sheet demand (a quarter is left for labels)."""
    scale = min(1.0, math.sqrt(MAX_PIXELS * 0.75 / (width * height * columns * rows)), MAX_SIDE * 0.75 / (width * columns),
                MAX_SIDE * 0.75 / (height * rows))
    small = max(1, int(width * scale)), max(1, int(height * scale))
    if min(small) < min(MIN_CELL, width, height):
        raise UserError(f"A sheet of {columns} x {rows} pictures would be too large.", "Draw several smaller grids.")
    return small


def paste(paper: Image.Image, picture: Image.Image | Path | None, place: tuple[int, int], size: tuple[int, int]) -> None:
    """Paste a picture into its cell, whole and centred; the rest is grey."""
    paper.paste(EMPTY, (*place, place[0] + size[0], place[1] + size[1]))
    if picture is not None:
        image = picture if isinstance(picture, Image.Image) else open_picture(picture)
        image = ImageOps.contain(image.convert("RGB"), size, Image.Resampling.LANCZOS) if image.size != size else image
        paper.paste(image, (place[0] + (size[0] - image.width) // 2, place[1] + (size[1] - image.height) // 2))


def write(pen: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], font: ImageFont.FreeTypeFont, colour: str,
          anchor: str = "la") -> None:
    for number, text in enumerate(lines):
        pen.text((place[0], place[1] + number * int(font.size) * 5 // 4), text, fill=colour, font=font, anchor=anchor)


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Return the text in at most MAX_LINES lines of `width` px, broken between words where possible; "…" where it is cut."""
    lines = [""] if text else []
    for word in text[:MAX_CHARACTERS].split():
        if lines[-1] and font.getlength(f"{lines[-1]} {word}") > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
        while len(lines) <= MAX_LINES and (end := fitting(lines[-1], font, width)) < len(lines[-1]):
            lines[-1:] = [lines[-1][:end], lines[-1][end:]]
    if len(lines) > MAX_LINES:
        lines = lines[:MAX_LINES]
        lines[-1] = lines[-1][:fitting(f"…{lines[-1]}", font, width) - 1] + "…"
    return lines


def fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """Return how many characters of `text` fit into `width` px; at least 1."""
    return max(1, bisect_right(range(len(text) + 1), width, key=lambda end: font.getlength(text[:end])) - 1)


def font_for(texts: Iterable[str], size: int) -> ImageFont.FreeTypeFont:
    """Return the font of this computer that lacks the fewest characters of these texts; Pillow's own where it has them all."""
    characters = frozenset("".join(texts))
    best: Any = ImageFont.load_default(size)  # with a size it is a FreeTypeFont
    for name in FONTS if missing(best, characters) else ():
        try:
            font = ImageFont.truetype(name, size)
        except OSError:  # this computer does not have it
            continue
        best = min(best, font, key=lambda one: len(missing(one, characters)))
    return best


def unreadable(texts: Iterable[str]) -> str:
    """Return the characters of these texts that no font of this computer has: they are boxes on a sheet."""
    characters = frozenset("".join(texts))
    return "".join(sorted(missing(font_for(characters, 16), characters)))


@lru_cache(maxsize=64)
def missing(font: ImageFont.FreeTypeFont, characters: frozenset[str]) -> frozenset[str]:
    """Return those characters for which the font draws the same as for U+FFFF, which is no character."""
    def drawn(character: str) -> tuple[tuple[int, int], bytes]:
        mask: Any = font.getmask(character)  # its type does not say that it has a buffer
        return mask.size, bytes(mask)

    nothing = drawn("\uffff")
    return frozenset(character for character in characters if not character.isspace() and drawn(character) == nothing)
