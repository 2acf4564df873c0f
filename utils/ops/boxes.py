"""Box formats and their way between the network's and the image's pixels: pure functions of tensors or arrays.

Boxes are (..., 4), as a torch Tensor or a numpy array, and come back as the same kind. xyxy is two corners, xywh is
centre, width and height, both in pixels; a trailing n says normalised: in shares of the image's width and height.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

PAD_VALUE = 114  # the gray that images are padded with
Boxes = TypeVar("Boxes", Tensor, np.ndarray)
RatioPad = tuple[tuple[float, float], tuple[float, float]]  # ((ratio_h, ratio_w), (pad_w, pad_h))


def _join(columns: Sequence[Boxes]) -> Boxes:
    if isinstance(columns[0], Tensor):
        return torch.stack(list(columns), -1)
    return np.stack(columns, -1)


def xyxy2xywh(boxes_xyxy: Boxes) -> Boxes:
    """Corners to centre, width and height."""
    x1, y1, x2, y2 = (boxes_xyxy[..., i] for i in range(4))
    return _join(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1))


def xywh2xyxy(boxes_xywh: Boxes) -> Boxes:
    """Centre, width and height to corners."""
    x, y, w, h = (boxes_xywh[..., i] for i in range(4))
    return _join((x - w / 2, y - h / 2, x + w / 2, y + h / 2))


def xyxy2xywhn(boxes_xyxy: Boxes, w: float = 640, h: float = 640, clip: bool = False, eps: float = 0.0) -> Boxes:
    """Corners in pixels of a w x h image to normalised xywh; `clip` first cuts them to the image less eps pixels."""
    if clip:
        boxes_xyxy = clipped_coords(boxes_xyxy, (h - eps, w - eps))
    x, y, width, height = (xyxy2xywh(boxes_xyxy)[..., i] for i in range(4))
    return _join((x / w, y / h, width / w, height / h))


def xywhn2xyxy(boxes_xywhn: Boxes, w: float = 640, h: float = 640, padw: float = 0.0, padh: float = 0.0) -> Boxes:
    """Normalised xywh to corners in pixels of a w x h image that begins at (padw, padh)."""
    x1, y1, x2, y2 = (xywh2xyxy(boxes_xywhn)[..., i] for i in range(4))
    return _join((x1 * w + padw, y1 * h + padh, x2 * w + padw, y2 * h + padh))


def clipped_coords(boxes_xyxy: Boxes, shape: Sequence[float]) -> Boxes:
    """Cut boxes to an image of shape (h, w); return new ones."""
    h, w = shape[:2]
    x1, y1, x2, y2 = (boxes_xyxy[..., i] for i in range(4))
    return _join((x1.clip(0, w), y1.clip(0, h), x2.clip(0, w), y2.clip(0, h)))


def scaled_coords(
    img1_shape: Sequence[int], coords: Boxes, img0_shape: Sequence[int], ratio_pad: RatioPad | None = None
) -> Boxes:
    """Bring boxes xyxy from the network's image (h, w) into the original of shape (h, w), cut to it; return new ones.

    Without ratio_pad the image is taken to be letterboxed in the middle, at one ratio for both sides.
    """
    if ratio_pad is None:
        ratio_h = ratio_w = min(img1_shape[0] / img0_shape[0], img1_shape[1] / img0_shape[1])
        pad_w = (img1_shape[1] - img0_shape[1] * ratio_w) / 2
        pad_h = (img1_shape[0] - img0_shape[0] * ratio_h) / 2
    else:
        (ratio_h, ratio_w), (pad_w, pad_h) = ratio_pad
    x1, y1, x2, y2 = (coords[..., i] for i in range(4))
    x1, x2, y1, y2 = (x1 - pad_w) / ratio_w, (x2 - pad_w) / ratio_w, (y1 - pad_h) / ratio_h, (y2 - pad_h) / ratio_h
    return clipped_coords(_join((x1, y1, x2, y2)), img0_shape)


# v6.1's two, which change what they are given -------------------------------------------------------------------------


def clip_coords(boxes_xyxy: Boxes, shape: Sequence[float]) -> Boxes:
    """Cut boxes in place, as v6.1 does, to an image of shape (h, w), and return them."""
    boxes_xyxy[..., :4] = clipped_coords(boxes_xyxy, shape)
    return boxes_xyxy


def scale_coords(
    img1_shape: Sequence[int], coords: Boxes, img0_shape: Sequence[int], ratio_pad: RatioPad | None = None
) -> Boxes:
    """Change boxes in place, as v6.1 does, to what `scaled_coords` makes of them, and return them.

    ratio_pad: as `letterbox` or the data loader gives it; the first of the two ratios counts for both sides.
    """
    if ratio_pad is not None:
        (ratio, *_), (pad_w, pad_h) = ratio_pad
        ratio_pad = ((ratio, ratio), (pad_w, pad_h))
    coords[..., :4] = scaled_coords(img1_shape, coords, img0_shape, ratio_pad)
    return coords
