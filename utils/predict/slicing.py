"""Detect small objects in large images: overlapping slices go through the network besides the whole image.

Cut here and not by supervision's InferenceSlicer, which keeps the parts of objects that a slice's border cuts off.

Legend: n detections of an image, h and w its sides.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.ops.nms import boxes_by_class, nms

BORDER = 0.01  # of a slice: a box that comes so near to a border inside the image may be cut off there
DetectSlices = Callable[[Sequence[np.ndarray]], Sequence[Tensor]]


class Slicing(NamedTuple):
    """Side of a slice in pixels, and the share of it that neighbours have in common."""

    size: int
    overlap: float

    def covers(self, image_hw: Sequence[int]) -> bool:
        """Whether one slice covers an image (h, w), so that slicing changes nothing."""
        return max(image_hw) <= self.size

    def starts(self, length: int) -> list[int]:
        """Return where slices start along a side; the last one ends with it."""
        last = max(length - self.size, 0)
        step = max(round(self.size * (1 - self.overlap)), 1)
        return [*range(0, last, step), last]


def merge_slices(
    image: np.ndarray,
    whole: Tensor,
    detect_slices: DetectSlices,
    slicing: Slicing,
    *,
    iou_thres: float,
    agnostic: bool,
    max_det: int,
) -> Tensor:
    """Detect in the slices of an image (h, w, 3), and merge the results with those of the whole image by NMS.

    Detections are (n, 6) on the CPU: xyxy in pixels of the image or slice, confidence, class; those returned are sorted
    by confidence. An object that the border of a slice cuts off is left to its neighbour or the whole image.
    """
    h, w = image.shape[:2]
    if slicing.covers((h, w)):
        return whole
    corners = [(x, y) for y in slicing.starts(h) for x in slicing.starts(w)]
    slices = [image[y : y + slicing.size, x : x + slicing.size] for x, y in corners]
    parts = [whole]
    for (x, y), part, rows in zip(corners, slices, detect_slices(slices), strict=True):
        boxes_xyxy = rows[:, :4] + rows.new_tensor([x, y, x, y])
        bottom, right = y + part.shape[0], x + part.shape[1]
        near = max(BORDER * slicing.size, 1)
        inner = boxes_xyxy.new_tensor(  # borders inside the image, at which boxes end; others lie out of reach
            [
                x + near if x else -torch.inf,
                y + near if y else -torch.inf,
                right - near if right < w else torch.inf,
                bottom - near if bottom < h else torch.inf,
            ]
        )
        is_whole = (boxes_xyxy[:, :2] > inner[:2]).all(1) & (boxes_xyxy[:, 2:] < inner[2:]).all(1)
        parts.append(torch.cat((boxes_xyxy, rows[:, 4:]), 1)[is_whole])
    rows = torch.cat(parts)
    return rows[nms(*boxes_by_class(rows, agnostic), iou_thres)[:max_det]]
