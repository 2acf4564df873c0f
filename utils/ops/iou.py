"""How much boxes overlap, and which detection may claim which label.

The IoU of matched pairs and its relatives, which the loss uses, are `bbox_iou` in utils/metrics.py.

Legend: N and M boxes, n detections, L levels of IoU.
"""

import numpy as np
import torch
from torch import Tensor

# Overlap --------------------------------------------------------------------------------------------------------------


def box_iou(boxes1_xyxy: Tensor, boxes2_xyxy: Tensor, eps: float = 1e-7) -> Tensor:
    """The IoU of each box of the first (N, 4) with each of the second (M, 4): (N, M)."""
    left1, top1, right1, bottom1 = boxes1_xyxy[:, :, None].unbind(1)  # (N, 1) each
    left2, top2, right2, bottom2 = boxes2_xyxy.unbind(1)  # (M,) each
    both_w = torch.minimum(right1, right2) - torch.maximum(left1, left2)
    both_h = torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)
    intersection = both_w.clamp(min=0) * both_h.clamp(min=0)  # (N, M)
    areas = (right1 - left1) * (bottom1 - top1) + (right2 - left2) * (bottom2 - top2)
    return intersection / (areas - intersection + eps)


# Matching -------------------------------------------------------------------------------------------------------------


def match_greedily(iou: np.ndarray, levels: np.ndarray, preferred: np.ndarray | None = None) -> np.ndarray:
    """The label that each detection takes at each level, -1 for none: (n, L), as pycocotools pairs them.

    iou is (t, n), detections surest first. One after the other takes, of the labels that are still free and that it
    overlaps by the level or more, the one that it overlaps most; of equal ones the last. `preferred` (t,) bool: labels
    that come before all others.

    All detections ask for their best label at once. The surest keeps it, the others ask for their next one, until none
    is refused: since all labels prefer the surer detection, that ends in the same pairs.
    """
    count = len(levels)
    matched = np.full((iou.shape[1], count), -1)
    close = iou >= levels.min()  # (t, n)
    chosen = np.flatnonzero(close.any(0))
    if not len(chosen):
        return matched
    iou, close = iou[:, chosen], close[:, chosen]  # (t, m)
    key = np.where(close, iou if preferred is None else iou + 2.0 * preferred[:, None], -1.0)
    depth = close.sum(0).max()  # most labels that a detection can ask for
    order = (len(iou) - 1 - np.argsort(-key[::-1], axis=0, kind="stable"))[:depth]  # (d, m) labels, the best first
    open_ = np.take_along_axis(iou, order, 0)[..., None] >= levels  # (d, m, L) not yet refused
    detections, level = np.arange(len(chosen))[:, None], np.arange(count)
    while True:
        asks, place = open_.any(0), open_.argmax(0)  # (m, L)
        label = order[place, detections]  # (m, L)
        keeper = np.full((len(iou), count), len(chosen))
        asking, at_level = asks.nonzero()
        np.minimum.at(keeper, (label[asks], at_level), asking)
        refused = asks & (keeper[label, level] != detections)  # (m, L)
        if not refused.any():
            break
        detection, at_level = refused.nonzero()
        open_[place[refused], detection, at_level] = False
    matched[chosen] = np.where(asks, label, -1)
    return matched


def first_claims(labels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Which detections get their label: (n, L) bool, in each level the first of those that claim the same one.

    labels (n,): the label that each detection claims; valid (n, L): whether it does so in this level.
    """
    order = labels.argsort(kind="stable")  # claims of one label lie together, in the order given
    counts = np.cumsum(valid[order], 0, dtype=np.int64)  # (n, L) valid claims so far, of any label
    sorted_labels = labels[order]
    starts = np.searchsorted(sorted_labels, sorted_labels)  # (n,) where the claims of the same label begin
    before = np.concatenate((np.zeros((1, valid.shape[1]), np.int64), counts))[starts]
    granted = np.zeros_like(valid)
    granted[order] = valid[order] & (counts - before == 1)
    return granted
