"""v6.1's functions of polygons, (k, 2) points each."""

from collections.abc import Sequence

import numpy as np

from utils.ops.boxes import RatioPad, xyxy2xywh


def xyn2xy(x: np.ndarray, w: float = 640, h: float = 640, padw: float = 0, padh: float = 0) -> np.ndarray:
    """Points (k, 2) in 0..1 as pixels of a w x h image that begins at (padw, padh)."""
    return x * (w, h) + (padw, padh)


def segment2box(segment: np.ndarray, width: float = 640, height: float = 640) -> np.ndarray:
    """The xyxy bounds (4,) of a polygon's points that lie in the image; zeros if none does."""
    x, y = segment.T
    inside = (x >= 0) & (y >= 0) & (x <= width) & (y <= height)
    points = segment[inside]
    return np.concatenate((points.min(0), points.max(0))) if len(points) else np.zeros(4)


def segments2boxes(segments: Sequence[np.ndarray]) -> np.ndarray:
    """The bounds (n, 4) of polygons as centre, width and height."""
    corners = [np.concatenate((points.min(0), points.max(0))) for points in segments]
    return xyxy2xywh(np.array(corners).reshape(-1, 4))


def resample_segments(segments: list[np.ndarray], n: int = 1000) -> list[np.ndarray]:
    """The polygons with n points (n, 2) each, evenly spaced by index along the closed outline; the list is changed."""
    for i, points in enumerate(segments):
        closed = np.concatenate((points, points[:1]))
        places = np.linspace(0, len(closed) - 1, n)
        steps = np.arange(len(closed))
        segments[i] = np.stack([np.interp(places, steps, closed[:, axis]) for axis in (0, 1)], 1).astype(np.float32)
    return segments


def scale_segments(
    img1_shape: Sequence[int],
    segments: np.ndarray,
    img0_shape: Sequence[int],
    ratio_pad: RatioPad | None = None,
    normalize: bool = False,
) -> np.ndarray:
    """Change points (k, 2) of the network's image (h, w) in place to the original's (h, w), and return them.

    normalize: as shares of the original's width and height.
    """
    h, w = img0_shape[:2]
    if ratio_pad is None:
        gain = min(img1_shape[0] / h, img1_shape[1] / w)
        pad = (img1_shape[1] - w * gain) / 2, (img1_shape[0] - h * gain) / 2
    else:
        (gain, *_), pad = ratio_pad
    segments[:] = ((segments - pad) / gain).clip(0, (w, h))
    if normalize:
        segments /= (w, h)
    return segments
