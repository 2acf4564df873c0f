"""IoU of all pairs of boxes, and matching of detections with labels.

`bbox_iou` in utils/metrics.py computes the IoU of matched pairs, with GIoU, DIoU and CIoU, for the loss.

Shapes: N and M boxes, n detections, t labels, L IoU thresholds.
"""

import numpy as np
import torch
from torch import Tensor

# Overlap --------------------------------------------------------------------------------------------------------------


def box_iou(boxes1_xyxy: Tensor, boxes2_xyxy: Tensor, eps: float = 1e-7) -> Tensor:
    """Compute the IoU of each of N boxes with each of M boxes: (N, M)."""
    left1, top1, right1, bottom1 = boxes1_xyxy[:, :, None].unbind(1)  # (N, 1) each
    left2, top2, right2, bottom2 = boxes2_xyxy.unbind(1)  # (M,) each
    both_w = torch.minimum(right1, right2) - torch.maximum(left1, left2)
    both_h = torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)
    intersection = both_w.clamp(min=0) * both_h.clamp(min=0)  # (N, M)
    areas = (right1 - left1) * (bottom1 - top1) + (right2 - left2) * (bottom2 - top2)
    return intersection / (areas - intersection + eps)


# Matching -------------------------------------------------------------------------------------------------------------


def match_greedily(iou: np.ndarray, levels: np.ndarray, preferred: np.ndarray | None = None) -> np.ndarray:
    """Match detections with labels as pycocotools does: (n, L), the label of each detection per threshold, or -1.

    In order of confidence each detection takes, of the free labels with IoU >= the threshold, the one of the highest
    IoU; of equal ones the last.

    All detections request their best label at once. The most confident one gets it, the others request their next,
    until none is refused. All labels prefer the more confident detection, so the result is the same.

    Args:
        iou: (t, n), detections in order of confidence.
        levels: (L,) IoU thresholds.
        preferred: (t,) bool, labels that are taken before all others.
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
    """Return for each threshold the first detection that requests each label: (n, L) bool.

    labels (n,): the label that each detection requests; valid (n, L): True if it requests one at this threshold.
    """
    order = labels.argsort(kind="stable")  # claims of one label lie together, in the order given
    counts = np.cumsum(valid[order], 0, dtype=np.int64)  # (n, L) valid claims so far, of any label
    sorted_labels = labels[order]
    starts = np.searchsorted(sorted_labels, sorted_labels)  # (n,) where the claims of the same label begin
    before = np.concatenate((np.zeros((1, valid.shape[1]), np.int64), counts))[starts]
    granted = np.zeros_like(valid)
    granted[order] = valid[order] & (counts - before == 1)
    return granted
