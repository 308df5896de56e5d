"""A pen that draws shapes in the unit box of one object, with the inks and lines of one style.

Knows nothing about what is drawn: shapes in, pixels of a Pillow picture out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import ImageDraw

Rgb = tuple[int, int, int]
Point = tuple[float, float]


def mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    """Blend two colours; `share` of b."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def darker(colour: Rgb, share: float = 0.3) -> Rgb:
    """Return a deeper tone; of black a grey, so that details stay visible."""
    return mix(colour, (0, 0, 0), share) if sum(colour) > 150 else mix(colour, (255, 255, 255), 0.3)


def lighter(colour: Rgb, share: float = 0.45) -> Rgb:
    """Return a paler tone; of white a grey, so that details stay visible."""
    return mix(colour, (255, 255, 255), share) if sum(colour) < 660 else (190, 196, 206)


def plain_ink(colour: Rgb) -> Rgb:
    """Return the colour unchanged."""
    return colour


@dataclass
class Pen:
    """Unit coordinates (x right, y down, base line at y = 1) to pixels: `left + x * size`."""

    draw: ImageDraw.ImageDraw
    left: float = 0.0
    top: float = 0.0
    size: float = 1.0
    ink: Callable[[Rgb], Rgb | int] = plain_ink
    line: Rgb | int | None = None
    line_px: float = 0.0

    def at(self, left: float, top: float, size: float) -> Pen:
        """Return the same pen over another box (pixels)."""
        return Pen(self.draw, left, top, size, self.ink, self.line, self.line_px)

    def px(self, points: list[Point]) -> list[Point]:
        """Unit points to pixels."""
        return [(self.left + x * self.size, self.top + y * self.size) for x, y in points]

    def poly(self, points: list[Point], fill: Rgb) -> None:
        """Draw a filled polygon, outlined where the style has lines."""
        pixels = self.px(points)
        self.draw.polygon(pixels, fill=self.ink(fill))
        self._outline([*pixels, pixels[0], pixels[1]])

    def rect(self, x0: float, y0: float, x1: float, y1: float, fill: Rgb) -> None:
        """Draw a filled rectangle."""
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill)

    def oval(self, x0: float, y0: float, x1: float, y1: float, fill: Rgb, outlined: bool = True) -> None:
        """Draw a filled ellipse in the box given by two corners."""
        (ax, ay), (bx, by) = self.px([(x0, y0), (x1, y1)])
        box = (ax, ay, bx, by)
        if self.line is None or not outlined or self.line_px <= 0:
            self.draw.ellipse(box, fill=self.ink(fill))
            return
        half = self.line_px / 2
        outer = (box[0] - half, box[1] - half, box[2] + half, box[3] + half)
        self.draw.ellipse(outer, fill=self.ink(fill), outline=self.line, width=max(1, round(self.line_px)))

    def stroke(self, points: list[Point], width: float, fill: Rgb) -> None:
        """Draw an open line; width as a share of the box, never thinner than the style's lines."""
        pixels = self.px(points)
        width_px = max(1, round(max(width * self.size, self.line_px)))
        self.draw.line(pixels, fill=self.ink(fill), width=width_px, joint="curve")

    def arc(self, box: tuple[float, float, float, float], start: float, end: float, width: float, fill: Rgb) -> None:
        """Draw a part of an ellipse's edge, degrees clockwise from the right."""
        (ax, ay), (bx, by) = self.px([box[:2], box[2:]])
        width_px = max(1, round(max(width * self.size, self.line_px)))
        self.draw.arc((ax, ay, bx, by), start, end, fill=self.ink(fill), width=width_px)

    def _outline(self, pixels: list[Point]) -> None:
        if self.line is not None and self.line_px > 0:
            self.draw.line(pixels, fill=self.line, width=max(1, round(self.line_px)), joint="curve")
