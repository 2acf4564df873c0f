"""Draw images of ten shapes with their boxes, for the data set of utils/data/shapes.py.

Varied backgrounds, clutter of no class, occlusion, rotation, shading, blur and noise make outlines matter, not colours.
All randomness comes from the given generator.

Shapes: H, W of the image, n objects, k points of a contour. Images are planes, (3, H, W) BGR float32 in 0..255, until
`_expose`: numpy is several times faster on planes than on interleaved pixels.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

VERSION = 1  # raise it with every change of the pictures: older sets are then made anew
SIDES = ((192, 256), (256, 192), (208, 256), (256, 224), (224, 224), (256, 256))  # H, W of a picture
EMPTY_SHARE = 0.07  # pictures without an object
OBJECTS = (1, 2, 3, 4, 5, 6)  # in a picture ...
OBJECTS_P = (0.18, 0.25, 0.22, 0.16, 0.11, 0.08)  # ... and how often
SIZE = (0.15, 0.52)  # diameter of a shape as a share of the picture's shorter side, log-uniform
MIN_VISIBLE = 0.6  # share of a shape's pixels that others and the border must leave in sight
MIN_CONTRAST = 70.0  # distance in BGR between a shape and what lies behind it
FINE = 4  # outlines are filled on a grid this much finer, then averaged to smooth edges

Outline = list[np.ndarray]  # contours (k, 2) in -1..1; a second contour is a hole


class Scene(NamedTuple):
    """An image and its objects."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    labels: np.ndarray  # (n, 5) class, x centre, y centre, width, height of the visible part in 0..1
    owner: np.ndarray  # (H, W) int8, row of `labels` that the pixel belongs to, -1 for the ground


# Outlines -------------------------------------------------------------------------------------------------------------


def _arc(radius: float, start: float, stop: float, count: int = 64) -> np.ndarray:
    angle = np.linspace(start, stop, count, endpoint=False)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)  # (count, 2)


def _polygon(corners: int) -> np.ndarray:
    return _arc(1.0, -np.pi / 2, 1.5 * np.pi, corners)


def _ring(rng: np.random.Generator) -> Outline:
    return [_arc(1.0, 0, 2 * np.pi), _arc(rng.uniform(0.45, 0.68), 0, 2 * np.pi)]


def _crescent(rng: np.random.Generator) -> Outline:
    """A disc less another one, whose centre lies to the right and whose rim meets the disc's in the two horns."""
    half, centre = rng.uniform(0.25, 0.38) * np.pi, rng.uniform(0.2, 0.45)  # angle of a horn, x of the hollow's centre
    x, y = np.cos(half) - centre, np.sin(half)  # a horn, seen from the hollow's centre
    turn = float(np.arctan2(y, x))
    hollow = _arc(float(np.hypot(x, y)), 2 * np.pi - turn, turn)
    hollow[:, 0] += centre
    return [np.concatenate([_arc(1.0, half, 2 * np.pi - half), hollow])]


def _star(rng: np.random.Generator) -> Outline:
    star = _polygon(10)
    star[1::2] *= rng.uniform(0.4, 0.52)
    return [star]


def _cross(rng: np.random.Generator) -> Outline:
    arm = rng.uniform(0.26, 0.38)
    corner = np.array([[arm, -1], [arm, -arm], [1, -arm]])
    turns = (np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), i) for i in range(4))
    return [np.concatenate([corner @ turn.T for turn in turns])]


def _heart(rng: np.random.Generator) -> Outline:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return [np.stack([x, y * rng.uniform(0.9, 1.1)], axis=1) / 17]


def _arrow(rng: np.random.Generator) -> Outline:
    shaft, neck, head = rng.uniform(0.16, 0.28), rng.uniform(-0.1, 0.2), rng.uniform(0.62, 0.8)
    upper = np.array([[-1, -shaft], [neck, -shaft], [neck, -head], [1, 0]])
    return [np.concatenate([upper, upper[-2::-1] * (1, -1)])]


OUTLINES: dict[str, Callable[[np.random.Generator], Outline]] = {  # the order gives the class numbers
    "circle": lambda rng: [_arc(1.0, 0, 2 * np.pi)],
    "ring": _ring,
    "crescent": _crescent,
    "triangle": lambda rng: [_polygon(3)],
    "square": lambda rng: [_polygon(4)],
    "hexagon": lambda rng: [_polygon(6)],
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "arrow": _arrow,
}
NAMES = tuple(OUTLINES)


def _place(outline: Outline, centre: np.ndarray, diameter: float, rng: np.random.Generator) -> Outline:
    """The outline turned, a little stretched and slanted, in pixels."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.array([[rng.uniform(0.8, 1.0), rng.uniform(-0.12, 0.12)], [0, rng.uniform(0.85, 1.0)]])
    return [contour @ (turn @ stretch).T * (diameter / 2) + centre for contour in outline]


def _coverage(outline: Outline, hw: tuple[int, int]) -> np.ndarray:
    """Share of each pixel inside the outline, (H, W) float32; contours are filled by the even-odd rule."""
    height, width = hw
    cover = np.zeros((height, width), np.float32)
    points = np.concatenate(outline)
    x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0)
    x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + 2, (width, height))
    if x1 <= x0 or y1 <= y0:
        return cover
    fine = np.zeros(((y1 - y0) * FINE, (x1 - x0) * FINE), np.uint8)
    # Pixel (0, 0) spans 0..1 in both directions; on the fine grid fillPoly counts from a cell's centre.
    grid = [np.rint(((contour - (x0, y0)) * FINE - 0.5) * 16).astype(np.int32) for contour in outline]
    cv2.fillPoly(fine, grid, 255, shift=4)
    cover[y0:y1, x0:x1] = cv2.resize(fine, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA) / np.float32(255)
    return cover


# Paint ----------------------------------------------------------------------------------------------------------------


def _colour(rng: np.random.Generator) -> np.ndarray:
    """A BGR colour, (3,) float32; hue, saturation and value are drawn, which gives livelier colours than BGR would."""
    hsv = np.array([[[rng.uniform(0, 180), rng.uniform(40, 255), rng.uniform(50, 250)]]]).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)


def _clouds(hw: tuple[int, int], rng: np.random.Generator, cells: int) -> np.ndarray:
    """Smooth noise in 0..1, (H, W) float32, of about `cells` bumps a side."""
    small = rng.random((cells, cells), dtype=np.float32)
    return np.clip(cv2.resize(small, (hw[1], hw[0]), interpolation=cv2.INTER_CUBIC), 0, 1)


def _ramp(hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """0 to 1 in a random direction, (H, W) float32."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[: hw[0], : hw[1]].astype(np.float32)
    along = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
    return (along - along.min()) / (np.ptp(along) + 1)


def _bands(hw: tuple[int, int], rng: np.random.Generator, period: tuple[float, float]) -> np.ndarray:
    """Soft stripes in a random direction, 0..1, (H, W) float32; period in pixels."""
    waves = max(hw) / rng.uniform(*period)
    edge = rng.uniform(1, 6)  # from a sine to nearly sharp edges
    return (1 + np.tanh(edge * np.sin(2 * np.pi * waves * _ramp(hw, rng)))) / 2


def _tiles(hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Two families of stripes crossing, 0..1, (H, W) float32."""
    return np.abs(_bands(hw, rng, (24, 60)) - _bands(hw, rng, (24, 60)))


def _grain(hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Cloud upon cloud, coarse to fine, about 0..1, (H, W) float32."""
    return np.sum([_clouds(hw, rng, cells) / cells**0.5 for cells in (4, 9, 23, 61)], axis=0) / 1.2


GROUNDS: tuple[Callable[[tuple[int, int], np.random.Generator], np.ndarray], ...] = (
    _ramp,
    _grain,
    _tiles,
    lambda hw, rng: _clouds(hw, rng, 4),
    lambda hw, rng: _bands(hw, rng, (16, 70)),
    lambda hw, rng: _clouds(hw, rng, 12) > 0.55,
)


def _planes(colour: np.ndarray) -> np.ndarray:
    """A colour (3,) as (3, 1, 1); a picture (3, H, W) as it is."""
    return colour.reshape(3, 1, 1) if colour.ndim == 1 else colour


def _mix(weight: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """`low` where the weight (H, W) is 0, `high` where it is 1; each a colour or a picture. (3, H, W) float32."""
    low = _planes(low)
    return low + weight.astype(np.float32) * (_planes(high) - low)


def _blend(image: np.ndarray, paint: np.ndarray, cover: np.ndarray) -> None:
    """Lay paint, a colour or a picture, over the image where cover (H, W) is above 0; in place."""
    image += cover * (_planes(paint) - image)


def _ground(hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """What lies behind everything: two colours mixed by a pattern, and clutter that is none of the classes."""
    first, second = _colour(rng), _colour(rng)
    second = first + rng.uniform(0.3, 0.9) * (second - first)  # calmer than two free colours
    image = _mix(GROUNDS[rng.integers(len(GROUNDS))](hw, rng), first, second)
    for _ in range(rng.integers(0, 6)):
        points = rng.uniform(-0.1, 1.1, (rng.integers(2, 6), 2)) * (hw[1], hw[0])
        if rng.random() < 0.5:
            points = points[0] + np.cumsum(rng.normal(0, 22, (12, 2)), axis=0)  # a scribble instead of long lines
        cover = np.zeros(hw, np.uint8)
        line = [np.rint(points * 16).astype(np.int32)]
        cv2.polylines(cover, line, False, 255, int(rng.integers(1, 7)), cv2.LINE_AA, shift=4)
        _blend(image, _colour(rng), cover * np.float32(rng.uniform(0.3, 1) / 255))
    if rng.random() < 0.35:
        text = "".join(rng.choice(list("ABEFGHKMNPRSVWYZ2345679"), rng.integers(1, 6)))
        cover = np.zeros(hw, np.uint8)
        at = (rng.uniform(0, 0.7, 2) * (hw[1], hw[0]) + (0, 30)).astype(int).tolist()
        cv2.putText(
            cover, text, at, int(rng.integers(0, 5)), rng.uniform(0.5, 1.6), 255, int(rng.integers(1, 4)), cv2.LINE_AA
        )
        _blend(image, _colour(rng), cover * np.float32(rng.uniform(0.3, 1) / 255))
    return image


def _fill(image: np.ndarray, cover: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paint for a shape, (3, H, W): plain, shaded, banded or grainy, and unlike what it covers."""
    hw = cover.shape
    behind = image[:, cover >= 0.5].mean(1)
    colour = _colour(rng)
    while np.linalg.norm(colour - behind) < MIN_CONTRAST:
        colour = _colour(rng)
    shade = np.clip(colour * rng.uniform(0.72, 1.3), 0, 255).astype(np.float32)
    patterns = (lambda: np.zeros(hw), lambda: _ramp(hw, rng), lambda: _bands(hw, rng, (6, 20)), lambda: _grain(hw, rng))
    paint = _mix(patterns[rng.integers(len(patterns))](), colour, shade)
    if rng.random() < 0.3:  # a darker or lighter rim
        inner = cv2.erode(cover, np.ones((3, 3), np.uint8), iterations=int(rng.integers(1, 3)))
        paint = _mix(inner, np.clip(colour * rng.choice([0.5, 1.5]), 0, 255).astype(np.float32), paint)
    return paint


def _shadow(image: np.ndarray, cover: np.ndarray, rng: np.random.Generator) -> None:
    """Darken the ground beside a shape, as if it lay a little above; in place."""
    dx, dy = rng.uniform(-7, 7, 2)
    moved = cv2.warpAffine(cover, np.array([[1, 0, dx], [0, 1, dy]]), cover.shape[::-1])
    image *= 1 - np.float32(rng.uniform(0.2, 0.5)) * cv2.GaussianBlur(moved, (0, 0), rng.uniform(1.5, 4))


def _expose(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The photograph of the drawing: uneven light, tint, blur, sensor noise; (H, W, 3) uint8."""
    light = rng.uniform(0.65, 0.95) + rng.uniform(0.1, 0.5) * _clouds(image.shape[1:], rng, 3)
    tinted = image * light * _planes(rng.uniform(0.88, 1.12, 3).astype(np.float32))
    image = np.ascontiguousarray(tinted.transpose(1, 2, 0))  # (H, W, 3)
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))
    if rng.random() < 0.7:
        image += rng.uniform(1, 9) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


# Scenes ---------------------------------------------------------------------------------------------------------------


def draw_scene(rng: np.random.Generator) -> Scene:
    """A picture with 0 to 6 shapes. A later one may hide part of an earlier one, but never most of it."""
    hw = SIDES[rng.integers(len(SIDES))]
    image = _ground(hw, rng)
    owner = np.full(hw, -1, np.int8)
    classes: list[int] = []
    areas: list[float] = []  # of the whole shapes, in pixels
    for _ in range(0 if rng.random() < EMPTY_SHARE else rng.choice(OBJECTS, p=OBJECTS_P)):
        label = int(rng.integers(len(NAMES)))
        found = _find_place(NAMES[label], owner, areas, rng)
        if found is None:
            continue
        cover, area = found
        if rng.random() < 0.4:
            _shadow(image, cover, rng)
        _blend(image, _fill(image, cover, rng), cover)
        owner[cover >= 0.5] = len(classes)
        classes.append(label)
        areas.append(area)
    boxes = [_bounds(owner == i) for i in range(len(classes))]
    labels = np.array([[c, *b] for c, b in zip(classes, boxes, strict=True)], np.float64).reshape(-1, 5)
    return Scene(_expose(image, rng), labels, owner)


def _find_place(
    name: str, owner: np.ndarray, areas: list[float], rng: np.random.Generator
) -> tuple[np.ndarray, float] | None:
    """Coverage (H, W) and whole area of a new shape that leaves enough of itself and of the others in sight."""
    height, width = owner.shape
    for _ in range(12):
        diameter = min(height, width) * np.exp(rng.uniform(*np.log(SIZE)))
        centre = rng.uniform(0.3 * diameter, (width - 0.3 * diameter, height - 0.3 * diameter))
        outline = _place(OUTLINES[name](rng), centre, diameter, rng)
        cover = _coverage(outline, (height, width))
        signed = [cv2.contourArea(contour.astype(np.float32)) for contour in outline]
        area = signed[0] - sum(signed[1:])
        solid = cover >= 0.5
        left = np.bincount(owner[~solid] + 1, minlength=len(areas) + 1)[1:]  # visible pixels of each earlier shape
        if solid.sum() >= MIN_VISIBLE * area and (left >= MIN_VISIBLE * np.array(areas)).all():
            return cover, area
    return None


def _bounds(mask: np.ndarray) -> tuple[float, float, float, float]:
    """x centre, y centre, width, height in 0..1 of the pixels that are True."""
    height, width = mask.shape
    x, y = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    x0, x1, y0, y1 = x[0] / width, (x[-1] + 1) / width, y[0] / height, (y[-1] + 1) / height
    return (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
