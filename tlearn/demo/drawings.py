"""Cartoon cats, dogs and rabbits: a small data folder that anyone may have, with the faults of a real one."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from tlearn.errors import InputError

Kind = Literal["cat", "dog", "rabbit"]
Ears = Literal["upright", "hanging", "folded", "long"]
Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]
_T = TypeVar("_T")

KINDS: tuple[Kind, ...] = ("cat", "dog", "rabbit")
_SPLITS = ("train", "val", "test")
_SUPERSAMPLING = 2
_HARD_SHARE = 0.1
# All kinds share one palette, so that colour alone tells nothing.
_FURS: tuple[Colour, ...] = (
    (222, 144, 66), (128, 128, 134), (52, 48, 50), (234, 214, 178), (138, 98, 62), (240, 237, 230),
    (206, 160, 94), (166, 92, 52), (160, 152, 144), (94, 72, 58),
)  # fmt: skip
_CAT_EYES: tuple[Colour, ...] = ((196, 204, 72), (238, 190, 58), (112, 188, 220), (130, 190, 96))
_BROWN_EYES: tuple[Colour, ...] = ((92, 58, 32), (120, 78, 40), (60, 40, 30))
_PINK: Colour = (232, 148, 150)
_TONGUE: Colour = (226, 96, 112)
_BLACK: Colour = (28, 24, 26)
_WHITE: Colour = (248, 246, 242)
# Of each kind: the ears of most, and those of an odd one.
_EARS_OF: dict[Kind, tuple[Ears, Ears]] = {
    "cat": ("upright", "folded"),
    "dog": ("hanging", "upright"),
    "rabbit": ("long", "hanging"),
}
_EARS: dict[Ears, Points] = {
    "upright": ((0.18, -0.8), (0.8, -1.62), (0.99, -0.25)),
    "hanging": ((0.42, -0.86), (0.95, -0.8), (1.22, -0.1), (1.18, 0.62), (0.9, 0.72), (0.74, 0.1)),
    "folded": ((0.3, -0.86), (0.62, -1.02), (0.98, -0.66), (0.96, -0.3), (0.7, -0.46)),
}
_EAR_FROM_THE_SIDE: Points = ((-0.42, -0.6), (0.02, -0.5), (0.02, 0.35), (-0.28, 0.82), (-0.58, 0.5), (-0.6, -0.1))
# Left, top, right and bottom of each pose in head radii, around the pen's origin.
_EXTENTS = {
    "head": (-1.4, -1.7, 1.4, 1.45),
    "sitting": (-2.0, -1.7, 2.1, 4.0),
    "standing": (-2.7, -2.4, 3.0, 2.2),
}


def _pick(rng: np.random.Generator, options: Sequence[_T]) -> _T:
    return options[int(rng.integers(len(options)))]


def _chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def _mix(a: Colour, b: Colour, share_b: float) -> Colour:
    red, green, blue = (round(x + (y - x) * share_b) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _any_colour(rng: np.random.Generator, low: int = 40, high: int = 230) -> Colour:
    red, green, blue = (int(value) for value in rng.integers(low, high, 3))
    return red, green, blue


def _smooth(points: Points, *, closed: bool) -> NDArray[np.float64]:
    """Eight points on each piece of a Catmull-Rom curve through `points`."""
    p = np.asarray(points, np.float64)
    p = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1], p, p[-1:]])
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    t = np.linspace(0, 1, 8)[:, None, None]
    curve = b + 0.5 * t * ((c - a) + t * ((2 * a - 5 * b + 4 * c - d) + t * (3 * b - a - 3 * c + d)))
    return np.asarray(curve.transpose(1, 0, 2).reshape(-1, 2))


@dataclass(frozen=True, slots=True)
class _Pen:
    """Draws in an animal's own units: x to where it looks, y down, 1 is the radius of its head."""

    canvas: ImageDraw.ImageDraw
    matrix: NDArray[np.float64]
    ink: Colour | None

    def placed(self, x: float, y: float, *, scale: float = 1.0, tilt_rad: float = 0.0) -> "_Pen":
        cos, sin = scale * math.cos(tilt_rad), scale * math.sin(tilt_rad)
        inner = np.array([[cos, -sin, x], [sin, cos, y], [0, 0, 1]])
        return _Pen(self.canvas, self.matrix @ inner, self.ink)

    def polygon(self, points: Points | NDArray[np.float64], fill: Colour, *, inked: bool = True) -> None:
        placed = np.asarray(points) @ self.matrix[:2, :2].T + self.matrix[:2, 2]
        px = [(x, y) for x, y in placed.tolist()]
        self.canvas.polygon(px, fill=fill)
        if inked and self.ink is not None:
            width_px = max(1, round(0.05 * math.hypot(self.matrix[0, 0], self.matrix[1, 0])))
            self.canvas.line([*px, px[0]], fill=self.ink, width=width_px)

    def blob(self, points: Points, fill: Colour, *, inked: bool = True) -> None:
        self.polygon(_smooth(points, closed=True), fill, inked=inked)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour, *, inked: bool = True) -> None:
        turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        self.polygon(np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], 1), fill, inked=inked)

    def stroke(self, points: Points, width: float, fill: Colour, *, inked: bool = False) -> None:
        """A smooth line with round ends."""
        curve = _smooth(points, closed=False)
        along = np.gradient(curve, axis=0)
        across = along[:, ::-1] * (-0.5, 0.5) / np.hypot(along[:, :1], along[:, 1:])
        passes = [(width + 0.1, self.ink)] if inked and self.ink is not None else []
        for wide, colour in [*passes, (width, fill)]:
            self.polygon(np.concatenate([curve + wide * across, (curve - wide * across)[::-1]]), colour, inked=False)
            for x, y in (curve[0], curve[-1]) if wide > 0.1 else ():
                self.ellipse(x, y, wide / 2, wide / 2, colour, inked=False)


@dataclass(frozen=True, slots=True)
class _Coat:
    """How one animal looks, whatever its pose."""

    kind: Kind
    fur: Colour
    shade: Colour
    pale: Colour
    mark: Colour
    eye: Colour
    pattern: Literal["plain", "stripes", "spots"]
    ears: Ears
    whiskers: bool
    tongue: bool
    collar: Colour | None

    @staticmethod
    def of(kind: Kind, rng: np.random.Generator, *, odd: bool) -> "_Coat":
        """Draw a coat at random; an odd one has what another kind has."""
        jitter = rng.integers(-14, 15, 3)
        red, green, blue = np.clip(np.add(_pick(rng, _FURS), jitter), 12, 246).tolist()
        fur: Colour = (red, green, blue)
        dark = sum(fur) < 250
        stripes, spots = (0.45, 0.15) if kind == "cat" else (0.06, 0.45)
        draw = rng.random()
        usual, unusual = _EARS_OF[kind]
        ears = unusual if odd or (kind == "dog" and _chance(rng, 0.15)) else usual
        return _Coat(
            kind=kind,
            fur=fur,
            shade=_mix(fur, _WHITE if dark else _BLACK, rng.uniform(0.12, 0.4)),
            pale=_mix(fur, _WHITE, rng.uniform(0.25, 0.8)),
            mark=_mix(fur, _WHITE if dark else _pick(rng, ((60, 42, 30), _BLACK)), rng.uniform(0.45, 0.85)),
            eye=_pick(rng, _CAT_EYES if kind == "cat" else _BROWN_EYES),
            pattern="stripes" if draw < stripes else "spots" if draw < stripes + spots else "plain",
            ears=ears,
            whiskers=kind != "dog" and not odd,
            tongue=kind == "dog" and not odd and _chance(rng, 0.4),
            collar=_any_colour(rng) if _chance(rng, 0.25) else None,
        )


def _long_ear(pen: _Pen, coat: _Coat, x: float, tilt_rad: float, colour: Colour) -> None:
    ear = pen.placed(x, -0.7, tilt_rad=tilt_rad)
    ear.ellipse(0, -0.85, 0.29, 1.0, colour)
    ear.ellipse(0, -0.85, 0.15, 0.75, _mix(_PINK, coat.shade, 0.3), inked=False)


def _ears(pen: _Pen, coat: _Coat) -> None:
    """Both ears of a head seen from the front."""
    for side in (-1, 1):
        if coat.ears == "long":
            _long_ear(pen, coat, side * 0.38, side * 0.14, coat.fur)
            continue
        outline = [(side * x, y) for x, y in _EARS[coat.ears]]
        if coat.ears != "upright":
            pen.blob(outline, coat.shade)
            continue
        pen.polygon(outline, coat.fur)
        inner = [(0.62 * x + 0.25 * side, 0.62 * y - 0.32) for x, y in outline]
        pen.polygon(inner, _mix(_PINK, coat.shade, 0.3 if coat.kind == "cat" else 0.75), inked=False)


def _eye(pen: _Pen, coat: _Coat, x: float, y: float) -> None:
    if coat.kind == "cat":
        pen.blob([(x - 0.26, y), (x, y - 0.2), (x + 0.26, y), (x, y + 0.2)], coat.eye)
        pen.ellipse(x, y, 0.055, 0.18, _BLACK, inked=False)
    else:
        pen.ellipse(x, y, 0.19, 0.19, _mix(coat.eye, _WHITE, 0.75))
        pen.ellipse(x, y + 0.02, 0.155, 0.155, coat.eye, inked=False)
        pen.ellipse(x, y + 0.02, 0.1, 0.1, _BLACK, inked=False)
    pen.ellipse(x + 0.06, y - 0.07, 0.04, 0.04, _WHITE, inked=False)


def _whiskers(pen: _Pen, coat: _Coat, x: float, y: float, side: int) -> None:
    colour = _WHITE if sum(coat.fur) < 480 else (96, 90, 88)
    for slope in (-0.22, 0.0, 0.2):
        hair = [(x, y + slope / 4), (x + side * 0.6, y + slope * 0.8), (x + side * 1.1, y + slope * 1.3)]
        pen.stroke(hair, 0.028, colour)


def _front_head(pen: _Pen, coat: _Coat, rng: np.random.Generator) -> None:
    turn = rng.uniform(-0.16, 0.16)
    (_front_of_dog if coat.kind == "dog" else _front_of_cat_or_rabbit)(pen, coat, turn)


def _front_of_cat_or_rabbit(pen: _Pen, coat: _Coat, turn: float) -> None:
    _ears(pen, coat)
    cheeks = ((0, -0.88), (0.7, -0.66), (1.02, 0.0), (0.86, 0.5), (0, 0.88))
    if coat.kind == "rabbit":
        cheeks = ((0, -0.9), (0.5, -0.78), (0.78, -0.1), (0.86, 0.5), (0, 0.95))
    pen.blob([*cheeks, *[(-x, y) for x, y in reversed(cheeks[1:-1])]], coat.fur)
    _marks_on_face(pen, coat, turn)
    for side in (-1, 1):
        _eye(pen, coat, turn + side * 0.43, -0.08)
        pen.ellipse(turn * 1.2 + side * 0.17, 0.43, 0.24, 0.19, coat.pale, inked=False)
    x = turn * 1.3
    pen.polygon([(x - 0.12, 0.22), (x + 0.12, 0.22), (x, 0.36)], _PINK)
    mouth = _mix(coat.fur, _BLACK, 0.8)
    for side in (-1, 1):
        if coat.kind == "rabbit":
            pen.ellipse(x + side * 0.08, 0.66, 0.08, 0.15, _WHITE)
        pen.stroke([(x, 0.36), (x + side * 0.05, 0.52), (x + side * 0.24, 0.54)], 0.045, mouth)
        if coat.whiskers:
            _whiskers(pen, coat, x + side * 0.3, 0.42, side)


def _marks_on_face(pen: _Pen, coat: _Coat, turn: float) -> None:
    if coat.pattern == "stripes":
        for x in (-0.26, 0, 0.26):
            pen.stroke([(x * 1.2, -0.82), (x + turn, -0.42)], 0.1, coat.mark)
        for side in (-1, 1):
            for y in (0.1, 0.3):
                pen.stroke([(side * 0.95, y), (side * 0.66, y + 0.06)], 0.07, coat.mark)
    elif coat.pattern == "spots":
        pen.ellipse(0.45, -0.36, 0.36, 0.36, coat.mark, inked=False)


def _front_of_dog(pen: _Pen, coat: _Coat, turn: float) -> None:
    if coat.ears == "upright":
        _ears(pen, coat)
    skull = ((0, -0.95), (0.6, -0.76), (0.86, -0.1), (0.66, 0.5), (0.4, 1.0), (0, 1.16))
    pen.blob([*skull, *[(-x, y) for x, y in reversed(skull[1:-1])]], coat.fur)
    if coat.pattern == "spots":
        pen.ellipse(turn + 0.4, -0.18, 0.34, 0.4, coat.mark, inked=False)
    if coat.ears != "upright":
        _ears(pen, coat)
    x = turn * 1.8
    if coat.tongue:
        pen.blob([(x - 0.17, 0.86), (x + 0.17, 0.86), (x + 0.16, 1.3), (x, 1.42), (x - 0.16, 1.3)], _TONGUE)
    pen.blob([(x - 0.26, 0.08), (x + 0.26, 0.08), (x + 0.48, 0.66), (x, 1.02), (x - 0.48, 0.66)], coat.pale)
    mouth = _mix(coat.fur, _BLACK, 0.85)
    for side in (-1, 1):
        _eye(pen, coat, turn + side * 0.42, -0.14)
        pen.stroke([(x, 0.4), (x + side * 0.04, 0.7), (x + side * 0.36, 0.74)], 0.05, mouth)
    pen.ellipse(x, 0.3, 0.25, 0.18, _BLACK)
    pen.ellipse(x + 0.06, 0.24, 0.07, 0.04, (120, 116, 118), inked=False)


def _profile_head(pen: _Pen, coat: _Coat) -> None:
    """A head seen from the side, looking towards positive x."""
    (_profile_of_dog if coat.kind == "dog" else _profile_of_cat_or_rabbit)(pen, coat)


def _profile_of_cat_or_rabbit(pen: _Pen, coat: _Coat) -> None:
    mouth = _mix(coat.fur, _BLACK, 0.85)
    for x, colour in ((0.1, coat.shade), (-0.42, coat.fur)):
        if coat.ears == "long":
            _long_ear(pen, coat, x, x / 2 - 0.2, colour)
            continue
        tip = (x + 0.08, -1.5) if coat.ears == "upright" else (x + 0.5, -0.62)
        pen.polygon([(x - 0.3, -0.5), tip, (x + 0.42, -0.62)], colour)
    pen.ellipse(0, 0, 0.9, 0.82, coat.fur)
    pen.ellipse(0.68, 0.3, 0.34, 0.27, coat.pale, inked=False)
    if coat.pattern == "stripes":
        for x in (-0.3, -0.02, 0.26):
            pen.stroke([(x, -0.76), (x + 0.06, -0.4)], 0.1, coat.mark)
    _eye(pen, coat, 0.42, -0.1)
    pen.polygon([(0.86, 0.1), (1.04, 0.14), (0.94, 0.28)], _PINK)
    pen.stroke([(0.94, 0.3), (0.84, 0.44), (0.6, 0.44)], 0.045, mouth)
    if coat.whiskers:
        _whiskers(pen, coat, 0.68, 0.32, 1)
        _whiskers(pen, coat, 0.56, 0.34, -1)
    if coat.ears == "hanging":
        pen.blob(_EAR_FROM_THE_SIDE, coat.shade)


def _profile_of_dog(pen: _Pen, coat: _Coat) -> None:
    mouth = _mix(coat.fur, _BLACK, 0.85)
    if coat.ears == "upright":
        pen.polygon([(-0.5, -0.4), (-0.28, -1.5), (0.22, -0.6)], coat.shade)
    if coat.tongue:
        pen.blob([(0.95, 0.42), (1.25, 0.42), (1.24, 0.85), (1.08, 0.98), (0.95, 0.84)], _TONGUE)
    skull = ((0.4, 0.66), (-0.4, 0.66), (-0.75, 0), (-0.45, -0.7), (0.25, -0.74), (0.62, -0.3))
    pen.blob([*skull, (1.5, -0.16), (1.64, 0.16), (1.4, 0.46)], coat.fur)
    pen.stroke([(1.5, 0.3), (1.0, 0.36), (0.68, 0.28)], 0.05, mouth)
    if coat.pattern == "spots":
        pen.ellipse(0.34, -0.2, 0.32, 0.32, coat.mark, inked=False)
    _eye(pen, coat, 0.4, -0.22)
    pen.ellipse(1.58, -0.08, 0.17, 0.15, _BLACK)
    if coat.ears != "upright":
        pen.blob(_EAR_FROM_THE_SIDE, coat.shade)


def _markings(pen: _Pen, coat: _Coat, rng: np.random.Generator, y: float, rx: float, ry: float) -> None:
    """Stripes or spots on the ellipse around (0, y)."""
    if coat.pattern == "stripes":
        for share in np.linspace(-0.72, 0.72, 6):
            top = math.sqrt(1 - share**2) * 0.94
            bend = rng.uniform(-0.08, 0.08)
            ends = ((share, -top), (share + bend, -top * 0.4), (share, top * rng.uniform(-0.1, 0.3)))
            pen.stroke([(rx * u, y + ry * v) for u, v in ends], 0.13, coat.mark)
    elif coat.pattern == "spots":
        for _ in range(int(rng.integers(2, 7))):
            angle, reach, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.6), rng.uniform(0.14, 0.34)
            center = rx * reach * math.cos(angle), y + ry * reach * math.sin(angle)
            pen.ellipse(*center, size * 0.9, size * 0.75, coat.mark, inked=False)


def _sitting(pen: _Pen, coat: _Coat, rng: np.random.Generator) -> None:
    girth = 0.88 if coat.kind == "cat" else 1.05
    if coat.kind == "rabbit":
        pen.ellipse(1.45, 3.1, 0.44, 0.44, coat.pale)
    elif coat.kind == "cat":
        pen.stroke(((0.6, 3.5), (1.5, 3.45), (1.95, 2.6), (1.6, 1.9), (1.9, 1.3)), 0.2, coat.fur, inked=True)
    else:
        pen.stroke(((0.6, 3.4), (1.45, 3.1), (1.85, 2.3)), 0.38, coat.shade, inked=True)
    back = ((0, 0.5), (0.62, 1.0), (girth, 2.6), (0.8, 3.7), (-0.8, 3.7), (-girth, 2.6), (-0.62, 1.0))
    pen.blob(back, coat.fur)
    _markings(pen, coat, rng, 2.3, girth * 0.9, 1.4)
    pen.ellipse(0, 1.7, 0.42, 0.7, coat.pale, inked=False)
    for side in (-1, 1):
        pen.ellipse(side * girth * 0.86, 3.2, 0.5, 0.62, coat.fur)
        pen.ellipse(side * girth * 0.95, 3.76, 0.44, 0.19, coat.pale)
        width = 0.36 if coat.kind == "cat" else 0.46
        pen.stroke([(side * 0.32, 2.3), (side * 0.33, 3.6)], width, coat.fur, inked=True)
        pen.ellipse(side * 0.34, 3.74, width * 0.7, 0.2, coat.pale)
    if coat.collar is not None:
        pen.stroke([(-0.58, 0.86), (0, 1.08), (0.58, 0.86)], 0.18, coat.collar)
    _front_head(pen.placed(0, 0, tilt_rad=rng.uniform(-0.2, 0.2)), coat, rng)


def _tail_of_standing(pen: _Pen, coat: _Coat, rng: np.random.Generator) -> None:
    if coat.kind == "rabbit":
        pen.ellipse(-1.8, -0.2, 0.44, 0.44, coat.pale)
    elif coat.kind == "cat":
        curl = rng.uniform(-0.3, 0.3)
        tail = ((-1.4, -0.2), (-2.2, -0.3), (-2.45, -1.2), (-2.15 + curl, -1.8), (-2.4 + curl, -2.25))
        pen.stroke(tail, 0.2, coat.fur, inked=True)
    else:
        lift = rng.uniform(-0.6, 0.5)
        pen.stroke(((-1.4, -0.25), (-2.0, -0.5 + lift / 2), (-2.4, -0.9 + lift)), 0.36, coat.fur, inked=True)


def _standing(pen: _Pen, coat: _Coat, rng: np.random.Generator) -> None:
    is_cat, is_rabbit = coat.kind == "cat", coat.kind == "rabbit"
    depth, leg = (0.68, 0.34) if is_cat else (0.82, 0.44)
    ground = 1.2 if is_rabbit else 2.0
    if is_rabbit:
        pen = pen.placed(0, 2.0 - ground)
    _tail_of_standing(pen, coat, rng)
    stride = rng.uniform(-0.25, 0.25)
    for x, far in ((-1.0, True), (1.2, True), (-1.35, False), (0.9, False)):
        foot = x + (stride if far else -stride)
        pen.stroke([(x, 0.2), (foot, ground - 0.1)], leg, coat.shade if far else coat.fur, inked=True)
        pen.ellipse(foot + 0.12, ground, 0.34, 0.17, coat.pale)
    head = (1.75, -0.95) if is_cat else (1.65, -1.15)
    pen.stroke([(1.1, -0.2), (head[0] - 0.1, head[1] + 0.3)], 0.8, coat.fur, inked=True)
    pen.ellipse(0, 0.05, 1.72, depth, coat.fur)
    for x in (-1.35, 0.9):
        pen.stroke([(x, 0.2), (x, 0.75)], leg, coat.fur)
    if is_rabbit:
        pen.ellipse(-1.05, 0.35, 0.82, 0.78, coat.fur)
        pen.ellipse(-0.75, ground, 0.7, 0.2, coat.pale)
    pen.ellipse(0.1, 0.05 + depth * 0.68, 1.1, depth * 0.26, coat.pale, inked=False)
    _markings(pen, coat, rng, 0.05, 1.65, depth)
    if coat.collar is not None:
        pen.stroke([(1.05, -0.62), (1.4, -0.25), (1.75, -0.12)], 0.16, coat.collar)
    at_head = pen.placed(*head, scale=0.84, tilt_rad=rng.uniform(-0.15, 0.15))
    if _chance(rng, 0.65):
        _profile_head(at_head, coat)
    else:
        _front_head(at_head, coat, rng)


def _background(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    width, height = size
    scene = _pick(rng, ("outdoors", "room", "plain", "gradient", "texture"))
    if scene in ("gradient", "texture"):
        cells = (1, 2) if scene == "gradient" else (int(rng.integers(6, 24)), int(rng.integers(6, 24)))
        base, spread = _any_colour(rng, 70, 200), 60 if scene == "gradient" else 35
        small = np.add(base, rng.integers(-spread, spread + 1, (cells[1], cells[0], 3))).clip(0, 255)
        return Image.fromarray(small.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    sky = _mix((150, 200, 235), (232, 214, 190), rng.random())
    picture = Image.new("RGB", size, sky if scene == "outdoors" else _any_colour(rng, 90, 240))
    draw = ImageDraw.Draw(picture)
    horizon = height * rng.uniform(0.45, 0.8)
    if scene == "outdoors":
        grass = _mix((86, 150, 70), (150, 140, 80), rng.random())
        draw.rectangle((0, horizon, width, height), fill=grass)
        for x, y in zip(rng.uniform(0, width, 3), rng.uniform(0, 0.5 * horizon, 3), strict=True):
            draw.ellipse((x - 90, y - 40, x + 90, y + 40), fill=_mix(sky, _WHITE, 0.6))
        for x, y in zip(rng.uniform(0, width, 40), rng.uniform(horizon, height, 40), strict=True):
            draw.line((x, y, x + 5, y - 24), fill=_mix(grass, (30, 70, 20), 0.5), width=3)
    elif scene == "room":
        floor = _any_colour(rng, 60, 190)
        draw.rectangle((0, horizon, width, height), fill=floor)
        draw.line((0, horizon, width, horizon), fill=_mix(floor, _WHITE, 0.6), width=12)
        x, y = rng.uniform(0, 0.7) * width, rng.uniform(0, 0.3) * height
        window = (x, y, x + 0.28 * width, y + 0.3 * height)
        draw.rectangle(window, fill=_any_colour(rng), outline=_any_colour(rng), width=10)
    return picture


def _hide(draw: ImageDraw.ImageDraw, box: Sequence[float], share: float, rng: np.random.Generator) -> None:
    """Put a fence, a bush or a box before the lower `share` of an animal's bounding box."""
    left, top, right, bottom = box
    upper, width = bottom - share * (bottom - top), right - left
    thing = _pick(rng, ("fence", "bush", "box"))
    if thing == "fence":
        wood = _pick(rng, ((150, 110, 72), (226, 222, 214), (104, 84, 66)))
        pitch = width / rng.uniform(5, 8)
        for x in np.arange(left - pitch, right + pitch, pitch):
            heights = (bottom + 9, upper, upper - 0.4 * pitch, upper, bottom + 9)
            pale = list(zip(x + np.array((0, 0, 0.3, 0.6, 0.6)) * pitch, heights, strict=True))
            draw.polygon(pale, fill=wood, outline=_mix(wood, _BLACK, 0.5), width=3)
        middle = (upper + bottom) / 2
        draw.rectangle((left - pitch, middle, right + pitch, middle + 0.4 * pitch), fill=wood)
    elif thing == "bush":
        for x, y in zip(rng.uniform(left, right, 50), rng.uniform(upper, bottom, 50), strict=True):
            radius = width * rng.uniform(0.05, 0.12)
            leaf = _mix((48, 104, 44), (120, 160, 70), rng.random())
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=leaf)
    else:
        card = _mix((190, 150, 100), (150, 112, 72), rng.random())
        draw.rectangle((left, upper, right, bottom + 9), fill=card, outline=_mix(card, _BLACK, 0.4), width=4)
        draw.rectangle((left + 0.44 * width, upper, left + 0.56 * width, bottom + 9), fill=_mix(card, _WHITE, 0.3))


def _photo(picture: Image.Image, rng: np.random.Generator, *, gain: float, noise: float, blur_px: float) -> Image.Image:
    """Uneven light, lens blur and the noise of a camera."""
    if blur_px > 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(blur_px))
    height, width = picture.height, picture.width
    slope_x, slope_y = rng.uniform(-0.22, 0.22, 2)
    light = gain * (1 + slope_x * np.linspace(-1, 1, width) + slope_y * np.linspace(-1, 1, height)[:, None])
    pixels = np.asarray(picture, np.float32) * light[..., None].astype(np.float32)
    pixels += noise * rng.standard_normal((height, width, 1), np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _placement(
    size: tuple[int, int], extent: tuple[float, float, float, float], fill: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], tuple[float, float, float, float]]:
    """The pen's matrix for an animal that fills this share of the picture, and its bounding box in pixels."""
    (wide, high), (left, top, right, bottom) = size, extent
    scale = fill * min(wide / (right - left), high / (bottom - top))
    spare_x, spare_y = wide - scale * (right - left), high - scale * (bottom - top)
    x0, y0 = spare_x * rng.uniform(0.05, 0.95), spare_y * rng.uniform(0.3, 1.0)
    box = (x0, y0, x0 + scale * (right - left), y0 + scale * (bottom - top))
    mirror = -1 if _chance(rng, 0.5) else 1
    origin_x = x0 - scale * left if mirror == 1 else x0 + scale * right
    return np.array([[mirror * scale, 0, origin_x], [0, scale, y0 - scale * top], [0, 0, 1]]), box


def draw(kind: Kind, rng: np.random.Generator) -> Image.Image:
    """Draw one picture of an animal, in colour (RGB) or now and then in greyscale (L)."""
    size = int(rng.integers(200, 401)), int(rng.integers(200, 401))
    wide, high = size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING
    hard = _pick(rng, ("hidden", "tiny", "noisy", "dark", "odd")) if _chance(rng, _HARD_SHARE) else None
    coat = _Coat.of(kind, rng, odd=hard == "odd")
    pose = _pick(rng, ("head", "sitting", "standing"))
    picture = _background((wide, high), rng)
    canvas = ImageDraw.Draw(picture)
    left, top, right, bottom = _EXTENTS[pose]
    if kind == "rabbit" and pose != "standing":
        top -= 0.9  # Room for its ears.
    fill = rng.uniform(0.16, 0.24) if hard == "tiny" else rng.uniform(0.62, 1.02)
    matrix, box = _placement((wide, high), (left, top, right, bottom), fill, rng)
    ink = _mix(coat.fur, _BLACK, 0.75) if _chance(rng, 0.6) else None
    pen = _Pen(canvas, matrix, ink)
    if pose == "head":
        _front_head(pen.placed(0, 0, tilt_rad=rng.uniform(-0.3, 0.3)), coat, rng)
    else:
        (_sitting if pose == "sitting" else _standing)(pen, coat, rng)
    hidden = (0.75, 0.92) if hard == "hidden" else (0.15, 0.35)
    if hard == "hidden" or _chance(rng, 0.2):
        _hide(canvas, box, rng.uniform(*hidden), rng)
    gain = rng.uniform(0.1, 0.22) if hard == "dark" else rng.uniform(0.75, 1.15)
    noise = rng.uniform(75, 110) if hard == "noisy" else rng.uniform(1, 14)
    blur_px = rng.uniform(2, 4) if hard == "noisy" else rng.uniform(0, 1.2)
    picture = _photo(picture.reduce(_SUPERSAMPLING), rng, gain=gain, noise=noise, blur_px=blur_px)
    return picture.convert("L") if _chance(rng, 0.08) else picture


def draw_folder(
    folder: Path, *, num_train: int, num_val: int, num_test: int, seed: int, kinds: Sequence[Kind] = ("cat", "dog")
) -> None:
    """Write train/, val/, an unlabelled test/ with its answers in test_labels.csv, and two broken files."""
    for name, count in (("num_train", num_train), ("num_val", num_val), ("num_test", num_test)):
        if count < 0:
            raise InputError(f"expected a {name} of 0 or more, got {count}: give 0 for none")
    labels: list[tuple[str, Kind]] = []
    for split, count in enumerate((num_train, num_val, num_test)):
        is_test = _SPLITS[split] == "test"
        for into in [""] if is_test else kinds:
            (folder / _SPLITS[split] / into).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            # A generator of its own for each picture: a longer folder begins with the shorter one.
            rng = np.random.default_rng([seed, split, index])
            kind = _pick(rng, kinds) if is_test else kinds[index % len(kinds)]
            name = f"{index + 1:04d}" if is_test else f"{kind}/{index // len(kinds) + 1:04d}"
            # A prime period, so that a format is not a sign of one kind.
            suffix = ".webp" if index == 3 else ".png" if index % 23 == 8 else ".jpg"
            path = folder / _SPLITS[split] / f"{name}{suffix}"
            draw(kind, rng).save(path, quality=int(rng.integers(40, 96)))
            if is_test:
                labels.append((path.relative_to(folder).as_posix(), kind))
    for number, into in enumerate((f"train/{kinds[0]}", "test")):
        whole = io.BytesIO()
        draw(kinds[0], np.random.default_rng([seed, len(_SPLITS), number])).save(whole, "JPEG")
        (folder / into / "broken.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 3])
    with (folder / "test_labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "label"), *labels])
