"""Box formats, and conversion between pixels of the network's input and of the original image.

Boxes are (..., 4), a torch Tensor or a numpy array; the result is of the same kind. xyxy is two corners, xywh is
centre, width and height, both in pixels. A trailing n means normalized: divided by the image's width and height.
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
    """Convert xyxy to xywh."""
    x1, y1, x2, y2 = (boxes_xyxy[..., i] for i in range(4))
    return _join(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1))


def xywh2xyxy(boxes_xywh: Boxes) -> Boxes:
    """Convert xywh to xyxy."""
    x, y, w, h = (boxes_xywh[..., i] for i in range(4))
    return _join((x - w / 2, y - h / 2, x + w / 2, y + h / 2))


def xyxy2xywhn(boxes_xyxy: Boxes, w: float = 640, h: float = 640, clip: bool = False, eps: float = 0.0) -> Boxes:
    """Convert xyxy in pixels of a w x h image to xywhn. `clip` first clips to the image minus eps pixels."""
    if clip:
        boxes_xyxy = clipped_coords(boxes_xyxy, (h - eps, w - eps))
    x, y, width, height = (xyxy2xywh(boxes_xyxy)[..., i] for i in range(4))
    return _join((x / w, y / h, width / w, height / h))


def xywhn2xyxy(boxes_xywhn: Boxes, w: float = 640, h: float = 640, padw: float = 0.0, padh: float = 0.0) -> Boxes:
    """Convert xywhn to xyxy in pixels of a w x h image whose origin is at (padw, padh)."""
    x1, y1, x2, y2 = (xywh2xyxy(boxes_xywhn)[..., i] for i in range(4))
    return _join((x1 * w + padw, y1 * h + padh, x2 * w + padw, y2 * h + padh))


def clipped_coords(boxes_xyxy: Boxes, shape: Sequence[float]) -> Boxes:
    """Return boxes clipped to an image of shape (h, w)."""
    h, w = shape[:2]
    x1, y1, x2, y2 = (boxes_xyxy[..., i] for i in range(4))
    return _join((x1.clip(0, w), y1.clip(0, h), x2.clip(0, w), y2.clip(0, h)))


def scaled_coords(
    img1_shape: Sequence[int], coords: Boxes, img0_shape: Sequence[int], ratio_pad: RatioPad | None = None
) -> Boxes:
    """Map boxes xyxy from a network input (h, w) to an original image (h, w), clipped; return new ones.

    Without ratio_pad the image is assumed to be letterboxed: centred, with one ratio for both sides.
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
    """Clip boxes in place to an image of shape (h, w), as v6.1 does, and return them."""
    boxes_xyxy[..., :4] = clipped_coords(boxes_xyxy, shape)
    return boxes_xyxy


def scale_coords(
    img1_shape: Sequence[int], coords: Boxes, img0_shape: Sequence[int], ratio_pad: RatioPad | None = None
) -> Boxes:
    """Apply `scaled_coords` in place, as v6.1 does, and return the boxes.

    ratio_pad: as `letterbox` or the data loader returns it; its first ratio is used for both sides.
    """
    if ratio_pad is not None:
        (ratio, *_), (pad_w, pad_h) = ratio_pad
        ratio_pad = ((ratio, ratio), (pad_w, pad_h))
    coords[..., :4] = scaled_coords(img1_shape, coords, img0_shape, ratio_pad)
    return coords
