"""Pictures and labels -> one picture of them all, readable and of bounded size.

Knows nothing about how the pictures came about. At most one picture from a file is in memory beside the sheet.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from sdlora.dataset.picture import MAX_PIXELS, MAX_SIDE, open_picture
from sdlora.errors import UserError

LINE_OF_CELLS = 8  # a strip longer than this goes on below itself
MIN_CELL, MOST_LINES, MOST_LETTERS = 48, 4, 400  # px; of a label
PAPER, INK, QUIET, EMPTY = "#ffffff", "#1c1c1c", "#6a6a6a", "#e8e8e8"
# Tried for letters that the font shipped with Pillow (Aileron: Latin) lacks; whatever of them this computer has
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf", "Arial Unicode.ttf", "segoeui.ttf", "msyh.ttc", "PingFang.ttc",
         "NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "NotoSansArabic-Regular.ttf", "NotoSansDevanagari-Regular.ttf")


def sheet(pictures: Mapping[tuple[int, int], Image.Image | Path | str], columns: Sequence[str], rows: Sequence[str] = ("",),
          title: str = "", like: Image.Image | Path | None = None) -> Image.Image:
    """Pictures by (column, row), the columns' labels above them, the rows' beside them -> one RGB picture.

    Places without a picture stay grey; a text stands where there is one instead. All get the size of `like`, or of the first,
    smaller where the sheet would exceed 40 megapixels.
    Raises UserError: no picture, so many that they would be smaller than 48 px, a file that cannot be read.
    """
    first = like or next((picture for picture in pictures.values() if not isinstance(picture, str)), None)
    if first is None:
        raise UserError("There is no picture to put on a sheet.", "Draw the grid again.")
    if len(rows) == 1 and not rows[0] and len(columns) > LINE_OF_CELLS:
        return strip(pictures, columns, title, first)
    width, height = (first if isinstance(first, Image.Image) else open_picture(first)).size
    width, height = cell_size(width, height, len(columns), len(rows))
    texts = [text for text in pictures.values() if isinstance(text, str)]
    font = font_for([*columns, *rows, title, *texts], max(13, min(40, width // 9)))
    gap, margin = max(2, width // 64), font.size // 2
    heads = [wrapped(text, font, width) for text in columns]
    sides = [wrapped(text, font, width) for text in rows]
    left = max(math.ceil(font.getlength(line)) for lines in sides for line in lines or [""])
    left += 2 * margin if left else margin
    across, down = len(columns) * (width + gap) - gap, len(rows) * (height + gap) - gap
    above = wrapped(title, font, left + across - margin)
    line = font.size * 5 // 4
    top = margin + line * (len(above) + max(map(len, heads))) + gap + (line // 3 if above else 0)
    paper = Image.new("RGB", (left + across + margin, top + down + margin), PAPER)
    pen = ImageDraw.Draw(paper)
    write(pen, (margin, margin), above, font, QUIET)
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
                write(pen, (place[0] + width // 2, place[1] + margin), wrapped(picture, font, width - margin), font, QUIET, "ma")
    return paper


def strip(pictures: Mapping[tuple[int, int], Image.Image | Path | str], columns: Sequence[str], title: str,
          like: Image.Image | Path) -> Image.Image:
    """One row of many pictures as several rows below each other, each with its labels."""
    length = math.ceil(len(columns) / math.ceil(len(columns) / LINE_OF_CELLS))
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
    """The size of one picture: as it is, or as small as the sheet's limits ask (a quarter is kept for labels)."""
    scale = min(1.0, math.sqrt(MAX_PIXELS * 0.75 / (width * height * columns * rows)), MAX_SIDE * 0.75 / (width * columns),
                MAX_SIDE * 0.75 / (height * rows))
    small = max(1, int(width * scale)), max(1, int(height * scale))
    if min(small) < min(MIN_CELL, width, height):
        raise UserError(f"A sheet of {columns} x {rows} pictures would be too large.", "Draw several smaller grids.")
    return small


def paste(paper: Image.Image, picture: Image.Image | Path | None, place: tuple[int, int], size: tuple[int, int]) -> None:
    """Put a picture into its place, whole and in the middle; nothing is a grey field."""
    paper.paste(EMPTY, (*place, place[0] + size[0], place[1] + size[1]))
    if picture is not None:
        image = picture if isinstance(picture, Image.Image) else open_picture(picture)
        image = ImageOps.contain(image.convert("RGB"), size, Image.Resampling.LANCZOS) if image.size != size else image
        paper.paste(image, (place[0] + (size[0] - image.width) // 2, place[1] + (size[1] - image.height) // 2))


def write(pen: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], font: ImageFont.FreeTypeFont, colour: str,
          anchor: str = "la") -> None:
    for number, text in enumerate(lines):
        pen.text((place[0], place[1] + number * font.size * 5 // 4), text, fill=colour, font=font, anchor=anchor)


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The text in at most MOST_LINES lines of `width` px, broken between words where it can be; "…" where it goes on."""
    lines = [""] if text else []
    for word in text[:MOST_LETTERS].split():
        if lines[-1] and font.getlength(f"{lines[-1]} {word}") > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
        while len(lines) <= MOST_LINES and (end := fitting(lines[-1], font, width)) < len(lines[-1]):
            lines[-1:] = [lines[-1][:end], lines[-1][end:]]
    if len(lines) > MOST_LINES:
        lines = lines[:MOST_LINES]
        lines[-1] = lines[-1][:fitting(f"…{lines[-1]}", font, width) - 1] + "…"
    return lines


def fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """How many letters of `text` fit into `width` px; at least 1."""
    return max(1, bisect_right(range(len(text) + 1), width, key=lambda end: font.getlength(text[:end])) - 1)


def font_for(texts: Iterable[str], size: int) -> ImageFont.FreeTypeFont:
    """The font at hand that lacks the fewest letters of these texts; Pillow's own where it has them all."""
    letters = frozenset("".join(texts))
    best = ImageFont.load_default(size)
    for name in FONTS if lacking(best, letters) else ():
        try:
            font = ImageFont.truetype(name, size)
        except OSError:  # this computer has it not
            continue
        best = min(best, font, key=lambda one: len(lacking(one, letters)))
    return best


def unreadable(texts: Iterable[str]) -> str:
    """The letters of these texts that no font at hand has: they are boxes on a sheet."""
    letters = frozenset("".join(texts))
    return "".join(sorted(lacking(font_for(letters, 16), letters)))


@lru_cache(maxsize=64)
def lacking(font: ImageFont.FreeTypeFont, letters: frozenset[str]) -> frozenset[str]:
    """Those letters for which the font draws the same as for U+FFFF, which is no letter."""
    def drawn(letter: str) -> tuple[tuple[int, int], bytes]:
        mask = font.getmask(letter)
        return mask.size, bytes(mask)

    nothing = drawn("\uffff")
    return frozenset(letter for letter in letters if not letter.isspace() and drawn(letter) == nothing)
