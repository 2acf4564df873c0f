"""Training augmentations: letterbox, mosaic (arXiv 2004.10934), copy-paste, random perspective, mixup, HSV and flips.

No canvas is drawn. `mosaic` and `letterbox_scene` return the position of each image on a canvas; `random_perspective`
draws one matrix and warps every image directly into the output, so each pixel is sampled once. Random functions take
their generator: equal generators give equal samples.

Shapes: n labels, k polygon points, h and w in pixels. Labels are (n, 5) float32 class, x1, y1, x2, y2 in pixels of the
current frame; polygons are one (k, 2) array or None per label, or () if no label has one. Coordinates are continuous:
pixel i covers [i, i + 1), so an image of width w ends at w and mirrored x is w - x. Images are BGR uint8.
"""

import math
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

import cv2
import numpy as np

from utils.ops.boxes import PAD_VALUE

GRAY = (PAD_VALUE, PAD_VALUE, PAD_VALUE)
MIN_SIDE = 2  # pixels below which a warped label is dropped
MAX_ASPECT = 100
MIN_AREA_RATIO = 0.1  # of a box's area that must stay in sight
MIN_AREA_RATIO_POLYGON = 0.01  # a polygon's bounds are tight, so less of them may stay
MAX_COVERED = 0.3  # share of an existing box that a pasted object may hide

Polygons = Sequence[np.ndarray | None]


class Source(NamedTuple):
    """An image (h, w, 3) with labels (n, 5) class, cx, cy, w, h and polygons, both in 0..1."""

    image: np.ndarray
    labels: np.ndarray
    polygons: Polygons = ()


class Tile(NamedTuple):
    """An image (h, w, 3) on a canvas; to_canvas is the (3, 3) matrix from its pixels to the canvas."""

    image: np.ndarray
    to_canvas: np.ndarray


class Scene(NamedTuple):
    """Tiles on a gray canvas, later ones on top, with labels in its pixels; the canvas is mirrored inside `pasted`."""

    hw: tuple[int, int]
    tiles: tuple[Tile, ...]
    labels: np.ndarray
    polygons: Polygons = ()
    pasted: tuple[np.ndarray, ...] = ()


class Placement(NamedTuple):
    """Position of an image after letterbox: its new size, (w, h) ratio and the unrounded padding (w, h) per side."""

    hw: tuple[int, int]
    ratio: tuple[float, float]
    pad: tuple[float, float]

    @property
    def origin(self) -> tuple[int, int]:
        """The (x, y) pixel of the image's corner; an odd padding has its extra pixel at the right and the bottom."""
        return round(self.pad[0] - 0.1), round(self.pad[1] - 0.1)


def letterbox_placement(
    image_hw: tuple[int, int],
    new_shape: int | tuple[int, int] = 640,
    auto: bool = True,
    scaleFill: bool = False,
    scaleup: bool = True,
    stride: int = 32,
) -> Placement:
    """Compute the numbers of `letterbox`; see there for the arguments."""
    (h, w), (new_h, new_w) = image_hw, (new_shape, new_shape) if isinstance(new_shape, int) else new_shape
    if scaleFill and not auto:
        return Placement((new_h, new_w), (new_w / w, new_h / h), (0.0, 0.0))
    ratio = min(new_h / h, new_w / w)
    if not scaleup:
        ratio = min(ratio, 1.0)
    hw = max(round(h * ratio), 1), max(round(w * ratio), 1)
    pad_w, pad_h = new_w - hw[1], new_h - hw[0]
    if auto:
        pad_w, pad_h = pad_w % stride, pad_h % stride
    return Placement(hw, (ratio, ratio), (pad_w / 2, pad_h / 2))


def letterbox(
    image: np.ndarray,
    new_shape: int | tuple[int, int] = 640,
    color: tuple[int, int, int] = GRAY,
    auto: bool = True,
    scaleFill: bool = False,
    scaleup: bool = True,
    stride: int = 32,
) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Resize an image to fit new_shape (h, w) and pad it with `color`.

    Args:
        image: (h, w, 3).
        new_shape: (h, w), or one number for both.
        color: Of the padding.
        auto: Pad only to the next multiple of `stride`.
        scaleFill: Stretch instead of padding, if not `auto`.
        scaleup: Enlarge small images too.
        stride: For `auto`.

    Returns:
        The image, its (w, h) ratio and half the padding (w, h).
    """
    placement = letterbox_placement(image.shape[:2], new_shape, auto, scaleFill, scaleup, stride)
    if image.shape[:2] != placement.hw:
        image = cv2.resize(image, placement.hw[::-1], interpolation=cv2.INTER_LINEAR)
    (left, top), (pad_w, pad_h) = placement.origin, placement.pad
    right, bottom = round(pad_w + 0.1), round(pad_h + 0.1)
    image = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=color)
    return image, placement.ratio, placement.pad


def letterbox_scene(source: Source, out_hw: tuple[int, int]) -> Scene:
    """Letterbox a source into a canvas of out_hw."""
    h, w = source.image.shape[:2]
    placement = letterbox_placement((h, w), out_hw, auto=False)
    (new_h, new_w), origin = placement.hw, placement.origin
    labels, polygons = to_pixels(source, (new_h, new_w), origin)
    return Scene(out_hw, (Tile(source.image, scaling(new_w / w, new_h / h, *origin)),), labels, polygons)


def mosaic(sources: Sequence[Source], size: int, rng: np.random.Generator) -> Scene:
    """Place four sources at their own scale around a random centre of a canvas of twice the size, cut at its edge."""
    assert len(sources) == 4, "a mosaic has four tiles"
    side = 2 * size
    x, y = (int(v) for v in rng.uniform(size / 2, side - size / 2, 2))
    tiles, labels, polygons = [], [], []
    for i, source in enumerate(sources):  # top left, top right, bottom left, bottom right
        h, w = source.image.shape[:2]
        left, top = (x, x - w)[i % 2 == 0], (y, y - h)[i < 2]
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + w, side), min(top + h, side)
        visible = source.image[y1 - top : y2 - top, x1 - left : x2 - left]
        # One more row and column under the tiles that come later: their rims then blend into picture, not into gray.
        visible = cv2.copyMakeBorder(visible, 0, int(i < 2), 0, int(i % 2 == 0), cv2.BORDER_REPLICATE)
        tiles.append(Tile(visible, scaling(1, 1, x1, y1)))
        tile_labels, tile_polygons = to_pixels(source, (h, w), (left, top))
        labels.append(tile_labels)
        polygons.append(tile_polygons)
    joined = np.concatenate(labels)
    np.clip(joined[:, 1:], 0, side, out=joined[:, 1:])
    return Scene((side, side), tuple(tiles), joined, join_polygons(labels, polygons, limit=side))


def join_polygons(labels: Sequence[np.ndarray], polygons: Sequence[Polygons], limit: float) -> Polygons:
    """Concatenate polygons to match concatenated labels, clipped to a square of side `limit`; () if there are none."""
    if not any(polygons):
        return ()
    parts = (part or (None,) * len(rows) for rows, part in zip(labels, polygons, strict=True))
    return tuple(None if points is None else cut_polygon(points, limit) for part in parts for points in part)


def copy_paste(scene: Scene, probability: float, rng: np.random.Generator) -> Scene:
    """Paste a share of the polygons mirrored, where they cover little (arXiv 2012.07177)."""
    rows = [row for row, points in enumerate(scene.polygons) if points is not None]
    count = round(probability * len(rows))
    if not count:
        return scene
    width = scene.hw[1]
    labels, pasted = scene.labels, []
    for row in rng.choice(rows, count, replace=False):
        kind, x1, y1, x2, y2 = scene.labels[row]
        label = np.array([[kind, width - x2, y1, width - x1, y2]], np.float32)
        if (covered_share(labels[:, 1:], label[0, 1:]) < MAX_COVERED).all():
            labels = np.concatenate((labels, label))
            pasted.append(scene.polygons[row] * (-1, 1) + (width, 0))
    return scene._replace(labels=labels, polygons=(*scene.polygons, *pasted), pasted=tuple(pasted))


def covered_share(boxes_xyxy: np.ndarray, cover_xyxy: np.ndarray) -> np.ndarray:
    """Compute the share of each box's area covered by `cover_xyxy`, (n,)."""
    wh = np.minimum(boxes_xyxy[:, 2:], cover_xyxy[2:]) - np.maximum(boxes_xyxy[:, :2], cover_xyxy[:2])
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(1)
    return wh.clip(0).prod(1) / (areas + 1e-9)


def random_perspective(
    scene: Scene,
    out_hw: tuple[int, int],
    *,
    degrees: float,
    translate: float,
    scale: float,
    shear: float,
    perspective: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Warp a scene by a random matrix: the image (h, w, 3) and the labels that stay visible, (m, 5)."""
    matrix, zoom = random_matrix(scene.hw, out_hw, degrees, translate, scale, shear, perspective, rng)
    labels = transform_labels(scene, matrix, zoom, out_hw)
    image = render(scene.tiles, matrix, out_hw)
    if scene.pasted:
        mirror = scaling(-1, 1, scene.hw[1], 0)
        mirrored = render(scene.tiles, matrix @ mirror, out_hw)
        mask = polygon_mask([transform_points(points, matrix) for points in scene.pasted], out_hw)
        cv2.copyTo(mirrored, mask, image)
    return image, labels


def random_matrix(
    canvas_hw: tuple[int, int],
    out_hw: tuple[int, int],
    degrees: float,
    translate: float,
    scale: float,
    shear: float,
    perspective: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """Draw the (3, 3) matrix from canvas to output, and its zoom: shift @ shear @ rotation @ perspective @ centring."""
    (canvas_h, canvas_w), (out_h, out_w) = canvas_hw, out_hw
    tilt_x, tilt_y = rng.uniform(-perspective, perspective, 2)
    # Beyond 1 the canvas would reach behind the viewer, where pixels and labels come back mirrored.
    horizon = max((abs(tilt_x) * canvas_w + abs(tilt_y) * canvas_h) / 2 / 0.9, 1.0)
    tilt = np.array([[1, 0, 0], [0, 1, 0], [tilt_x / horizon, tilt_y / horizon, 1]])
    angle, zoom = math.radians(rng.uniform(-degrees, degrees)), rng.uniform(1 - scale, 1 + scale)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    rotation = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    shear_x, shear_y = np.tan(np.radians(rng.uniform(-shear, shear, 2)))
    slant = np.array([[1, shear_x, 0], [shear_y, 1, 0], [0, 0, 1]])
    shift_x, shift_y = rng.uniform(0.5 - translate, 0.5 + translate, 2)
    centre, shift = scaling(1, 1, -canvas_w / 2, -canvas_h / 2), scaling(1, 1, shift_x * out_w, shift_y * out_h)
    return shift @ slant @ rotation @ tilt @ centre, zoom


def render(tiles: Sequence[Tile], matrix: np.ndarray, out_hw: tuple[int, int]) -> np.ndarray:
    """Warp the tiles of a canvas by `matrix` into (h, w, 3); equal to drawing the canvas and warping it."""
    image = np.full((*out_hw, 3), PAD_VALUE, np.uint8)
    for tile in tiles:
        h, w = tile.image.shape[:2]
        m = matrix @ tile.to_canvas
        # A rim of one source pixel around the tile is blended in, so the target region has to hold it too.
        corners = transform_points(np.array([[-1, -1], [w + 1, -1], [w + 1, h + 1], [-1, h + 1]]), m)
        x1, y1 = np.floor(corners.min(0)).clip(0, out_hw[::-1]).astype(int).tolist()
        x2, y2 = np.ceil(corners.max(0)).clip(0, out_hw[::-1]).astype(int).tolist()
        if x1 >= x2 or y1 >= y2:
            continue
        # OpenCV's coordinates are pixel indices, whose centres lie half a pixel further in ours.
        m = scaling(1, 1, -x1 - 0.5, -y1 - 0.5) @ m @ scaling(1, 1, 0.5, 0.5)
        wh, region, border = (x2 - x1, y2 - y1), image[y1:y2, x1:x2], cv2.BORDER_TRANSPARENT
        if np.array_equal(m[2], (0, 0, 1)):
            cv2.warpAffine(tile.image, m[:2], wh, dst=region, flags=cv2.INTER_LINEAR, borderMode=border)
        else:
            cv2.warpPerspective(tile.image, m, wh, dst=region, flags=cv2.INTER_LINEAR, borderMode=border)
    return image


def transform_labels(scene: Scene, matrix: np.ndarray, zoom: float, out_hw: tuple[int, int]) -> np.ndarray:
    """Map a scene's labels to output pixels, clip them and drop those too small, too thin or cut too much, (m, 5)."""
    labels = scene.labels
    if not len(labels):
        return labels
    boxes_xyxy = labels[:, 1:]
    corners = transform_points(boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2), matrix).reshape(-1, 4, 2)
    bounds = np.concatenate((corners.min(1), corners.max(1)), 1)
    least = np.full(len(labels), MIN_AREA_RATIO)
    outlines = {
        row: transform_points(points, matrix) for row, points in enumerate(scene.polygons) if points is not None
    }
    if outlines:
        rows = list(outlines)
        bounds[rows] = polygon_bounds(list(outlines.values()), out_hw)
        least[rows] = MIN_AREA_RATIO_POLYGON
    bounds = bounds.clip(0, np.tile(out_hw[::-1], 2))
    wh, wh_before = bounds[:, 2:] - bounds[:, :2], (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) * zoom
    w, h = wh.T
    kept = (w > MIN_SIDE) & (h > MIN_SIDE) & (wh.prod(1) > least * wh_before.prod(1))
    kept &= np.maximum(w, h) < MAX_ASPECT * np.minimum(w, h)
    return np.concatenate((labels[kept, :1], bounds[kept].astype(np.float32)), 1)


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Map points (n, 2) by a (3, 3) matrix, (n, 2) float64."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return moved[:, :2] / moved[:, 2:]


def polygon_bounds(polygons: Sequence[np.ndarray], hw: tuple[int, int]) -> np.ndarray:
    """Compute the xyxy bounds (n, 4) of each polygon (k, 2) inside a frame (h, w); zeros if it is outside.

    They are those of its edges clipped to the frame (Liang and Barsky, 1984) and of the frame's corners inside it.
    """
    lengths = [len(points) for points in polygons]
    starts = np.cumsum([0, *lengths[:-1]])
    a = np.concatenate(polygons).astype(np.float64)
    b = np.concatenate([np.roll(points, -1, 0) for points in polygons]).astype(np.float64)
    step, frame = b - a, np.array(hw[::-1], np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # edges along an axis
        t = np.sort(np.stack((-a / step, (frame - a) / step)), 0)
    inside = np.where((a >= 0) & (a <= frame), np.inf, -np.inf)
    enter = np.where(step == 0, -inside, t[0]).max(1).clip(0)[:, None]
    leave = np.where(step == 0, inside, t[1]).min(1).clip(None, 1)[:, None]
    seen = enter <= leave
    # clip() and where() only guard the edges that `seen` leaves out
    ends = np.stack((a + enter.clip(0, 1) * step, a + leave.clip(0, 1) * step))
    low = np.minimum.reduceat(np.where(seen, ends.min(0), np.inf), starts)
    high = np.maximum.reduceat(np.where(seen, ends.max(0), -np.inf), starts)
    for corner in ((0, 0), (frame[0], 0), (0, frame[1]), tuple(frame)):
        crosses = (a[:, 1] > corner[1]) != (b[:, 1] > corner[1])
        height = np.where(crosses, step[:, 1], 1)
        crosses &= corner[0] < a[:, 0] + (corner[1] - a[:, 1]) / height * step[:, 0]
        covers = np.add.reduceat(crosses, starts, dtype=np.int64)[:, None] % 2 == 1
        low, high = np.where(covers, np.minimum(low, corner), low), np.where(covers, np.maximum(high, corner), high)
    return np.where((low <= high).all(1, keepdims=True), np.concatenate((low, high), 1), 0).clip(0, np.tile(frame, 2))


def cut_polygon(points: np.ndarray, limit: float) -> np.ndarray:
    """Clip a polygon (k, 2) to the square of side `limit`, (m, 2) (Sutherland and Hodgman, 1974)."""
    for axis, edge in ((0, 0), (0, limit), (1, 0), (1, limit)):
        inside = points[:, axis] >= 0 if edge == 0 else points[:, axis] <= limit
        if inside.all():
            continue
        if not inside.any():
            return points.clip(0, limit)  # nothing: a polygon without area
        step = np.roll(points, -1, 0) - points
        crosses = inside != np.roll(inside, -1)
        way = (edge - points[:, axis]) / np.where(crosses, step[:, axis], 1)
        corners = np.stack(
            (points, points + way[:, None] * step), 1
        )  # (k, 2, 2): each point, and where its edge crosses
        points = corners[np.stack((inside, crosses), 1)]
    return points


def polygon_mask(polygons: Sequence[np.ndarray], hw: tuple[int, int]) -> np.ndarray:
    """Draw a (h, w) uint8 mask, 255 inside any of the polygons (k, 2)."""
    mask = np.zeros(hw, np.uint8)
    bits = 4
    for points in polygons:  # one by one: a single call would cut overlaps out
        fixed = np.round((points - 0.5) * 2**bits).clip(-(2**24), 2**24).astype(np.int32)
        cv2.fillPoly(mask, [fixed], 255, shift=bits)
    return mask


def mixup(
    image: np.ndarray,
    labels: np.ndarray,
    other: np.ndarray,
    other_labels: np.ndarray,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Blend two images of one size at a ratio from Beta(32, 32), with the labels of both (arXiv 1710.09412).

    Without a generator, as v6.1's callers, numpy's global one is used.
    """
    ratio = np.random.beta(32, 32) if rng is None else rng.beta(32, 32)
    return cv2.addWeighted(image, ratio, other, 1 - ratio, 0), np.concatenate((labels, other_labels))


def augment_hsv(
    image: np.ndarray,
    hgain: float = 0.5,
    sgain: float = 0.5,
    vgain: float = 0.5,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Multiply hue, saturation and value of an image (h, w, 3) each by a random 1 +- gain.

    Without a generator, as v6.1's callers, numpy's global one is used and the given image is changed as well.
    """
    if not (hgain or sgain or vgain):
        return image
    drawn = np.random.uniform(-1, 1, 3) if rng is None else rng.uniform(-1, 1, 3)
    gains = 1 + drawn * (hgain, sgain, vgain)
    levels = np.arange(256)[:, None] * gains
    levels[:, 0] %= 180  # hue is an angle in steps of two degrees
    tables = levels.clip(0, 255).astype(np.uint8)
    planes = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    hsv = cv2.merge([cv2.LUT(plane, table) for plane, table in zip(planes, tables.T.copy(), strict=True)])
    changed = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if rng is None:
        image[:] = changed
        return image
    return changed


def flip(image: np.ndarray, labels: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Flip image and labels upside down (axis 0) or left to right (axis 1)."""
    low, high = (2, 4) if axis == 0 else (1, 3)
    mirrored = labels.copy()
    mirrored[:, [low, high]] = image.shape[axis] - labels[:, [high, low]]
    return cv2.flip(image, axis), mirrored


def to_pixels(source: Source, hw: tuple[int, int], origin: tuple[int, int]) -> tuple[np.ndarray, Polygons]:
    """Convert a source's labels and polygons to pixels of a frame that holds it at size hw from `origin` (x, y)."""
    size, labels = np.array(hw[::-1], np.float32), source.labels
    centre, half = labels[:, 1:3] * size + np.array(origin, np.float32), labels[:, 3:5] * size / 2
    polygons = tuple(
        None if points is None else points * size + np.array(origin, np.float32) for points in source.polygons
    )
    return np.concatenate((labels[:, :1], centre - half, centre + half), 1), polygons


def scaling(scale_x: float, scale_y: float, shift_x: float, shift_y: float) -> np.ndarray:
    """Build the (3, 3) matrix that scales, then shifts."""
    return np.array([[scale_x, 0, shift_x], [0, scale_y, shift_y], [0, 0, 1]], np.float64)


# Names of v6.1 --------------------------------------------------------------------------------------------------------


def __getattr__(name: str) -> object:
    """Import a v6.1 name on first access; utils/v61 lists where each is."""
    if name == "__path__":  # each import of the module asks for it
        raise AttributeError(name)
    return import_module("utils.v61").find(__name__, name)
