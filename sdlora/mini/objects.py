"""The sixteen objects: large, plain shapes that are recognizable at 64 pixels.

Each function draws one object into the pen's unit box, standing on y = 1. No detail is thinner than
0.04 of the box (3 px of 128): finer ones do not pass the VAE.
"""

from __future__ import annotations

from sdlora.mini.pen import Pen, Rgb, darker, lighter

WHITE, CREAM, BLACK, GREY = (250, 250, 250), (255, 244, 214), (28, 28, 34), (120, 124, 132)
BROWN, WOOD, GREEN, YELLOW, ORANGE = (112, 70, 36), (140, 92, 48), (58, 140, 60), (255, 210, 60), (245, 140, 40)
GLASS, PINK = (190, 228, 246), (240, 130, 140)


def house(pen: Pen, c: Rgb) -> None:
    pen.rect(0.70, 0.10, 0.82, 0.40, darker(c, 0.45))
    pen.rect(0.10, 0.45, 0.90, 1.0, c)
    pen.poly([(0.0, 0.48), (0.5, 0.06), (1.0, 0.48)], darker(c, 0.45))
    pen.rect(0.42, 0.66, 0.60, 1.0, BROWN)
    pen.rect(0.18, 0.58, 0.34, 0.76, CREAM)
    pen.rect(0.68, 0.58, 0.84, 0.76, CREAM)


def tree(pen: Pen, c: Rgb) -> None:
    pen.rect(0.43, 0.55, 0.57, 1.0, BROWN)
    pen.oval(0.05, 0.28, 0.55, 0.72, c)
    pen.oval(0.45, 0.28, 0.95, 0.72, c)
    pen.oval(0.20, 0.0, 0.80, 0.56, c)
    pen.oval(0.24, 0.20, 0.76, 0.64, c, outlined=False)
    pen.oval(0.30, 0.10, 0.50, 0.26, lighter(c, 0.3), outlined=False)


def pine_tree(pen: Pen, c: Rgb) -> None:
    pen.rect(0.44, 0.80, 0.56, 1.0, BROWN)
    pen.poly([(0.10, 0.86), (0.90, 0.86), (0.5, 0.40)], darker(c, 0.2))
    pen.poly([(0.17, 0.60), (0.83, 0.60), (0.5, 0.20)], c)
    pen.poly([(0.25, 0.36), (0.75, 0.36), (0.5, 0.0)], lighter(c, 0.18))


def lighthouse(pen: Pen, c: Rgb) -> None:
    pen.poly([(0.36, 0.26), (0.64, 0.26), (0.76, 1.0), (0.24, 1.0)], c)
    for top in (0.40, 0.70):
        x0, x1 = 0.36 - (top - 0.26) * 0.162, 0.36 - (top - 0.11) * 0.162
        pen.poly([(x0, top), (1 - x0, top), (1 - x1, top + 0.15), (x1, top + 0.15)], WHITE if sum(c) < 700 else GREY)
    pen.rect(0.30, 0.22, 0.70, 0.28, BLACK)
    pen.rect(0.39, 0.10, 0.61, 0.22, YELLOW)
    pen.poly([(0.34, 0.11), (0.66, 0.11), (0.5, 0.0)], darker(c))


def fish(pen: Pen, c: Rgb) -> None:
    pen.poly([(0.68, 0.52), (1.0, 0.26), (0.95, 0.52), (1.0, 0.78)], darker(c))
    pen.poly([(0.30, 0.32), (0.50, 0.14), (0.64, 0.34)], darker(c))
    pen.oval(0.0, 0.26, 0.78, 0.78, c)
    pen.arc((0.10, 0.34, 0.34, 0.70), -70, 70, 0.05, darker(c, 0.45))
    pen.oval(0.11, 0.40, 0.23, 0.52, WHITE)
    pen.oval(0.13, 0.43, 0.19, 0.49, BLACK, outlined=False)
    pen.arc((0.42, 0.36, 0.62, 0.68), -70, 70, 0.05, lighter(c))


def boat(pen: Pen, c: Rgb) -> None:
    pen.rect(0.47, 0.02, 0.53, 0.74, WOOD)
    pen.poly([(0.56, 0.06), (0.56, 0.62), (0.98, 0.62)], WHITE)
    pen.poly([(0.44, 0.16), (0.44, 0.62), (0.10, 0.62)], lighter(c, 0.65))
    pen.poly([(0.0, 0.70), (1.0, 0.70), (0.82, 1.0), (0.18, 1.0)], c)


def flower(pen: Pen, c: Rgb) -> None:
    pen.stroke([(0.5, 0.45), (0.5, 1.0)], 0.07, GREEN)
    pen.poly([(0.5, 0.95), (0.20, 0.84), (0.16, 0.70), (0.38, 0.74)], GREEN)
    pen.poly([(0.5, 0.95), (0.80, 0.84), (0.84, 0.70), (0.62, 0.74)], GREEN)
    for dx, dy in ((0.0, -0.21), (0.2, -0.07), (0.13, 0.17), (-0.13, 0.17), (-0.2, -0.07)):
        pen.oval(0.5 + dx - 0.14, 0.34 + dy - 0.14, 0.5 + dx + 0.14, 0.34 + dy + 0.14, c)
    pen.oval(0.38, 0.22, 0.62, 0.46, BROWN if c[0] > 200 and c[1] > 120 else YELLOW)


def mountain(pen: Pen, c: Rgb) -> None:
    pen.poly([(0.45, 1.0), (0.80, 0.40), (1.15, 1.0)], darker(c))
    pen.poly([(-0.15, 1.0), (0.42, 0.05), (0.95, 1.0)], c)
    snow = [(0.42, 0.05), (0.60, 0.37), (0.50, 0.32), (0.42, 0.42), (0.34, 0.32), (0.23, 0.37)]
    pen.poly(snow, WHITE if sum(c) < 700 else GLASS)


def balloon(pen: Pen, c: Rgb) -> None:
    pen.stroke([(0.30, 0.55), (0.43, 0.86)], 0.03, BROWN)
    pen.stroke([(0.70, 0.55), (0.57, 0.86)], 0.03, BROWN)
    pen.poly([(0.16, 0.46), (0.84, 0.46), (0.62, 0.74), (0.38, 0.74)], c)
    pen.oval(0.12, 0.0, 0.88, 0.66, c)
    pen.oval(0.38, 0.0, 0.62, 0.70, lighter(c, 0.6))
    pen.rect(0.40, 0.84, 0.60, 1.0, BROWN)


def cup(pen: Pen, c: Rgb) -> None:
    pen.arc((0.56, 0.42, 1.0, 0.82), -110, 120, 0.10, darker(c, 0.2))
    pen.poly([(0.08, 0.36), (0.76, 0.36), (0.70, 0.90), (0.58, 1.0), (0.26, 1.0), (0.14, 0.90)], c)
    pen.oval(0.08, 0.26, 0.76, 0.46, lighter(c))
    pen.oval(0.16, 0.30, 0.68, 0.43, BROWN, outlined=False)
    for x in (0.28, 0.50):
        pen.stroke([(x, 0.22), (x + 0.06, 0.15), (x, 0.08), (x + 0.06, 0.0)], 0.05, WHITE)


def castle(pen: Pen, c: Rgb) -> None:
    pen.rect(0.20, 0.52, 0.80, 1.0, lighter(c, 0.2))
    for x in (0.26, 0.44, 0.62):
        pen.rect(x, 0.44, x + 0.12, 0.54, lighter(c, 0.2))
    for x in (0.02, 0.72):
        pen.rect(x, 0.34, x + 0.26, 1.0, c)
        pen.poly([(x - 0.04, 0.36), (x + 0.30, 0.36), (x + 0.13, 0.04)], darker(c, 0.45))
        pen.rect(x + 0.09, 0.46, x + 0.17, 0.60, CREAM)
    pen.oval(0.38, 0.62, 0.62, 0.86, BLACK, outlined=False)
    pen.rect(0.38, 0.74, 0.62, 1.0, BLACK)


def face(pen: Pen, c: Rgb) -> None:
    pen.oval(0.03, 0.06, 0.97, 1.0, c)
    for x in (0.24, 0.58):
        pen.oval(x, 0.30, x + 0.18, 0.52, WHITE)
        pen.oval(x + 0.05, 0.37, x + 0.13, 0.48, BLACK, outlined=False)
    pen.arc((0.24, 0.38, 0.76, 0.84), 15, 165, 0.07, BLACK if sum(c) > 150 else WHITE)


def car(pen: Pen, c: Rgb) -> None:
    pen.poly([(0.20, 0.56), (0.32, 0.32), (0.70, 0.32), (0.84, 0.56)], c)
    pen.poly([(0.29, 0.54), (0.36, 0.39), (0.49, 0.39), (0.49, 0.54)], GLASS)
    pen.poly([(0.55, 0.54), (0.55, 0.39), (0.66, 0.39), (0.74, 0.54)], GLASS)
    pen.poly([(0.0, 0.84), (0.02, 0.60), (0.14, 0.54), (0.94, 0.54), (1.0, 0.64), (1.0, 0.84)], c)
    for x in (0.12, 0.64):
        pen.oval(x, 0.74, x + 0.26, 1.0, BLACK)
        pen.oval(x + 0.08, 0.82, x + 0.18, 0.92, (200, 204, 210), outlined=False)
    pen.oval(0.92, 0.60, 1.0, 0.70, YELLOW, outlined=False)


def bird(pen: Pen, c: Rgb) -> None:
    for x in (0.44, 0.58):
        pen.stroke([(x, 0.76), (x, 1.0)], 0.045, ORANGE)
    pen.poly([(0.66, 0.58), (1.0, 0.40), (0.98, 0.62), (0.70, 0.74)], darker(c))
    pen.poly([(0.12, 0.24), (0.12, 0.40), (-0.06, 0.34)], ORANGE)
    pen.oval(0.18, 0.36, 0.84, 0.84, c)
    pen.oval(0.08, 0.10, 0.48, 0.50, c)
    pen.oval(0.20, 0.34, 0.50, 0.58, c, outlined=False)
    pen.poly([(0.38, 0.50), (0.78, 0.54), (0.60, 0.74), (0.46, 0.70)], darker(c))
    pen.oval(0.17, 0.21, 0.29, 0.33, WHITE)
    pen.oval(0.19, 0.24, 0.26, 0.31, BLACK, outlined=False)


def cat(pen: Pen, c: Rgb) -> None:
    pen.stroke([(0.60, 0.94), (0.90, 0.92), (1.02, 0.78), (1.02, 0.62)], 0.11, c)
    pen.oval(0.22, 0.44, 0.78, 1.02, c)
    pen.poly([(0.18, 0.36), (0.18, 0.0), (0.46, 0.18)], c)
    pen.poly([(0.82, 0.36), (0.82, 0.0), (0.54, 0.18)], c)
    pen.oval(0.14, 0.12, 0.86, 0.62, c)
    dark = BLACK if sum(c) > 150 else WHITE
    for x in (0.30, 0.58):
        pen.oval(x, 0.28, x + 0.12, 0.42, (240, 230, 90) if dark == WHITE else WHITE)
        pen.oval(x + 0.03, 0.30, x + 0.09, 0.40, BLACK, outlined=False)
    pen.poly([(0.45, 0.44), (0.55, 0.44), (0.50, 0.51)], PINK)
    for side in (0.0, 1.0):
        sign = 1 - 2 * side
        pen.stroke([(side + sign * 0.34, 0.48), (side + sign * 0.02, 0.43)], 0.035, dark)
        pen.stroke([(side + sign * 0.34, 0.53), (side + sign * 0.03, 0.57)], 0.035, dark)


def vase(pen: Pen, c: Rgb) -> None:
    right = [(0.64, 0.06), (0.60, 0.22), (0.80, 0.38), (0.86, 0.56), (0.78, 0.78), (0.64, 1.0)]
    pen.poly(right + [(1 - x, y) for x, y in reversed(right)], c)
    pen.rect(0.28, 0.0, 0.72, 0.09, darker(c))
    pen.poly([(0.15, 0.50), (0.85, 0.50), (0.85, 0.64), (0.15, 0.64)], lighter(c, 0.6))
    pen.poly([(0.24, 0.57), (0.36, 0.50), (0.48, 0.57), (0.36, 0.64)], darker(c))
    pen.poly([(0.52, 0.57), (0.64, 0.50), (0.76, 0.57), (0.64, 0.64)], darker(c))


DRAW_OBJECT = {
    "house": house, "tree": tree, "pine tree": pine_tree, "lighthouse": lighthouse, "fish": fish, "boat": boat,
    "flower": flower, "mountain": mountain, "balloon": balloon, "cup": cup, "castle": castle, "face": face,
    "car": car, "bird": bird, "cat": cat, "vase": vase,
}
