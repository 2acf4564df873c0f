"""Confusion matrix of a detector.

Shapes: n detections and t labels of an image, nc classes.
"""

import numpy as np
from torch import Tensor

from utils.ops.iou import box_iou, first_claims


class ConfusionMatrix:
    """Counts `matrix` (nc + 1, nc + 1), predicted class x true class; the last row and column are the background.

    A detection with confidence above `conf` is matched with the label of any class that it overlaps most, by an IoU
    above iou_thres; a label keeps the detection of the highest IoU. Unmatched detections are false positives
    (background column), unmatched labels are false negatives (background row).
    """

    def __init__(self, nc: int, conf: float = 0.25, iou_thres: float = 0.45) -> None:
        self.nc, self.conf, self.iou_thres = nc, conf, iou_thres
        self.matrix = np.zeros((nc + 1, nc + 1), np.int64)

    def process_batch(self, detections: Tensor, labels: Tensor) -> None:
        """Add an image: detections (n, 6) xyxy, confidence, class; labels (t, 5) class, xyxy. Both may be empty."""
        detections = detections[detections[:, 4] > self.conf].cpu()
        labels = labels.cpu()
        predicted, true = detections[:, 5].long().numpy(), labels[:, 0].long().numpy()
        found = np.full(len(predicted), self.nc)  # the true class of each detection
        missed = np.ones(len(true), bool)
        if len(predicted) and len(true):
            iou = box_iou(labels[:, 1:], detections[:, :4]).numpy()  # (t, n)
            label, overlap = iou.argmax(0), iou.max(0)
            order = (-overlap).argsort(kind="stable")
            hits = order[first_claims(label[order], overlap[order, None] > self.iou_thres)[:, 0]]
            found[hits] = true[label[hits]]
            missed[label[hits]] = False
        np.add.at(self.matrix, (predicted, found), 1)
        np.add.at(self.matrix, (self.nc, true[missed]), 1)
