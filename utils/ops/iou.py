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


# Claims ---------------------------------------------------------------------------------------------------------------


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
