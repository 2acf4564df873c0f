"""Detection metrics: true positives, precision, recall, average precision, fitness.

A detection is a true positive at an IoU threshold if its IoU with a label of its class reaches it and no more confident
detection takes that label. Each threshold has its own matches, as in COCO; v6.1 used those of IoU 0.5 for all, which
costs a few thousandths of mAP. `bbox_iou`, which the loss uses, is defined here. The IoU of all pairs is in
utils/ops/iou.py, the confusion matrix in utils/ops/confusion.py; both can be imported from here.

Shapes: n detections, t labels, L IoU thresholds, C classes with labels, P points of a curve.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np
import torch
from torch import Tensor

from utils.base.pasted import pasted_function
from utils.ops.iou import box_iou, match_greedily
from utils.ops.size_ap import SizeAP, coco_ap, precision_at

__all__ = [
    "IOU_LEVELS",
    "AveragePrecision",
    "EvalResult",
    "average_precision",
    "bbox_iou",
    "box_iou",
    "fitness",
    "match_predictions",
]

IOU_LEVELS = np.linspace(0.5, 0.95, 10)
FITNESS_WEIGHTS = (0.0, 0.0, 0.1, 0.9)  # of precision, recall, mAP at IoU 0.5, mAP at 0.5 to 0.95
CURVE_POINTS = 1000  # confidences, or recalls, from 0 to 1
SMOOTHED_POINTS = 101  # of an F1 curve, before its peak is looked for: a single object must not move it far
EPS = 1e-16
EPS_F1 = 1e-9  # smoothing leaves errors of rounding in what is level


def fitness(results: Sequence[float] | np.ndarray) -> np.ndarray:
    """Compute the score that selects the best epoch from results (..., 4 or more): P, R, mAP@.5, mAP@.5:.95."""
    return np.asarray(results, np.float64)[..., :4] @ np.array(FITNESS_WEIGHTS)


# Overlap --------------------------------------------------------------------------------------------------------------


def bbox_iou(
    box1: Tensor,
    box2: Tensor,
    x1y1x2y2: bool = True,
    GIoU: bool = False,
    DIoU: bool = False,
    CIoU: bool = False,
    eps: float = 1e-7,
) -> Tensor:
    """Compute the IoU of box1 and box2 pair by pair, or GIoU, DIoU or CIoU. The loss calls this function.

    Value and gradient are finite for boxes without area too.

    Args:
        box1: (4, n), as v6.1's callers pass `boxes.T`; or (n, 4); or one box (4,) for all of box2. (4, 4) is (4, n).
        box2: (n, 4).
        x1y1x2y2: Boxes are xyxy; False: xywh.
        GIoU: arXiv 1902.09630.
        DIoU: arXiv 1911.08287.
        CIoU: arXiv 1911.08287.
        eps: Added to heights and denominators.

    Returns:
        (n,) in the dtype of the boxes.
    """
    if box1.ndim == 2 and box1.shape[0] != 4:
        box1 = box1.T
    left1, top1, right1, bottom1 = _corners(box1.unbind(0), x1y1x2y2)
    left2, top2, right2, bottom2 = _corners(box2.unbind(-1), x1y1x2y2)
    w1, h1, w2, h2 = right1 - left1, bottom1 - top1 + eps, right2 - left2, bottom2 - top2 + eps
    both_w = torch.minimum(right1, right2) - torch.maximum(left1, left2)
    both_h = torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)
    intersection = both_w.clamp(min=0) * both_h.clamp(min=0)
    union = w1 * h1 + w2 * h2 - intersection + eps
    iou = intersection / union
    if not (GIoU or DIoU or CIoU):
        return iou
    hull_w = torch.maximum(right1, right2) - torch.minimum(left1, left2)
    hull_h = torch.maximum(bottom1, bottom2) - torch.minimum(top1, top2)
    if GIoU:
        hull = hull_w * hull_h + eps
        return iou - (hull - union) / hull
    apart = ((left2 + right2 - left1 - right1) ** 2 + (top2 + bottom2 - top1 - bottom1) ** 2) / 4  # of the centres
    distance = apart / (hull_w**2 + hull_h**2 + eps)
    if DIoU:
        return iou - distance
    shape = 4 / torch.pi**2 * (torch.atan(w2 / h2) - torch.atan(w1 / h1)) ** 2
    with torch.no_grad():
        alpha = shape / (shape - iou + (1 + eps))
    return iou - (distance + alpha * shape)


def _corners(box: Sequence[Tensor], x1y1x2y2: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b, c, d = box
    if x1y1x2y2:
        return a, b, c, d
    return a - c / 2, b - d / 2, a + c / 2, b + d / 2


# Matching -------------------------------------------------------------------------------------------------------------


def match_predictions(
    pred_classes: np.ndarray, true_classes: np.ndarray, iou: np.ndarray, levels: np.ndarray = IOU_LEVELS
) -> np.ndarray:
    """Match detections with labels: (n, L) bool, True for a true positive. Detections are by confidence; iou is (t, n).

    A detection takes the free label of its class with the highest IoU. If a more confident one has taken its best label
    it may take the next, as in pycocotools; in v6.1 it gets none.
    """
    return match_greedily(np.where(true_classes[:, None] == pred_classes, iou, -1.0), levels) >= 0


# Average precision ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """Results of `average_precision`, for the C classes with labels.

    Curves over confidence share one threshold axis; precision, recall and f1 are taken at `threshold`, where the mean
    F1 peaks. `class_thresholds` are the peaks of each class. `peak_of` finds both, so for a single class they are
    equal.
    """

    classes: np.ndarray  # (C,) int64
    counts: np.ndarray  # (C,) int64, labels
    ap: np.ndarray  # (C, L)
    threshold: float
    class_thresholds: np.ndarray  # (C,), nan where nothing of the class is found
    precision: np.ndarray  # (C,)
    recall: np.ndarray  # (C,)
    f1: np.ndarray  # (C,)
    points: np.ndarray  # (P,) confidences of the next three curves, recalls of the last
    precision_curve: np.ndarray  # (C, P)
    recall_curve: np.ndarray  # (C, P)
    f1_curve: np.ndarray  # (C, P)
    pr_curve: np.ndarray  # (C, P) at the first level


def average_precision(
    tp: np.ndarray,
    conf: np.ndarray,
    pred_cls: np.ndarray,
    target_cls: np.ndarray,
    smooth: bool = True,
    conf_thres: float = 0.0,
) -> AveragePrecision:
    """Compute average precision and curves from tp (n, L) bool, conf (n,), pred_cls (n,) and target_cls (t,).

    AP is COCO's: the mean over 101 recalls of the highest precision at that recall or above, 0 for recalls that are not
    reached. v6.1 continued the curve along a line to (1, 0), which favours a detector that finds little.

    Args:
        tp: True positives per threshold.
        conf: Confidences.
        pred_cls: Predicted classes.
        target_cls: Classes of the labels.
        smooth: Smooth F1 over a tenth of its range before the peak is taken, as YOLOv5 v7.0 does; v6.1 did not.
        conf_thres: Confidence threshold of the detections; the peak is not below it.
    """
    compute_ap = pasted_function(__name__, "compute_ap")
    classes, counts = np.unique(target_cls.astype(np.int64), return_counts=True)
    order = (-conf).argsort(kind="stable")
    tp, conf, pred_cls = tp[order], conf[order], pred_cls[order]
    points = np.linspace(0, 1, CURVE_POINTS)
    ap = np.zeros((len(classes), tp.shape[1]))
    precision, recall, pr_curve = np.zeros((3, len(classes), CURVE_POINTS))  # (C, P) each
    for i, (category, count) in enumerate(zip(classes, counts, strict=True)):
        own = pred_cls == category
        if not own.any():
            continue
        right = tp[own].cumsum(0)  # (n, L)
        recalls = right / (count + EPS)
        precisions = right / np.arange(1, len(right) + 1)[:, None]
        # Thresholds above the surest detection leave none: all of them are right, and nothing is found.
        recall[i] = np.interp(-points, -conf[own], recalls[:, 0], left=0)
        precision[i] = np.interp(-points, -conf[own], precisions[:, 0], left=1)
        if compute_ap is None:
            ap[i] = coco_ap(tp[own], np.ones_like(tp[own]), count)
        else:
            ap[i] = [compute_ap(recalls[:, j], precisions[:, j])[0] for j in range(tp.shape[1])]
        pr_curve[i] = precision_at(points, right[:, 0] / count, precisions[:, 0])
    f1 = 2 * precision * recall / (precision + recall + EPS)
    mean_f1 = f1.mean(0) if len(f1) else np.zeros(CURVE_POINTS)
    lowest = int(np.searchsorted(points, conf_thres))
    peak = peak_of(mean_f1, lowest, smooth)
    thresholds = np.array([points[peak_of(curve, lowest, smooth)] if curve.any() else np.nan for curve in f1])
    found = AveragePrecision(
        classes=classes,
        counts=counts,
        ap=ap,
        threshold=float(points[peak]),
        class_thresholds=thresholds,
        precision=precision[:, peak],
        recall=recall[:, peak],
        f1=f1[:, peak],
        points=points,
        precision_curve=precision,
        recall_curve=recall,
        f1_curve=f1,
        pr_curve=pr_curve,
    )
    ap_per_class = pasted_function(__name__, "ap_per_class")
    return found if ap_per_class is None else with_pasted(found, ap_per_class(tp, conf, pred_cls, target_cls))


def with_pasted(found: AveragePrecision, values: Sequence[np.ndarray]) -> AveragePrecision:
    """Replace precision, recall, F1 and AP by those of an `ap_per_class` that a user has pasted into this file.

    values: v6.1's (tp, fp, p, r, f1, ap, classes), or earlier versions' (p, r, ap, f1, classes); one for each class.
    """
    if len(values) == 7:
        _, _, precision, recall, f1, ap, _ = values
    else:
        precision, recall, ap, f1, _ = values
    return replace(found, precision=precision, recall=recall, f1=f1, ap=ap)


def peak_of(f1: np.ndarray, lowest: int = 0, smooth: bool = True) -> int:
    """Return the index of the peak of an F1 curve (P,), smoothed by default.

    Of several equal neighbours it is the middle one. Indices below `lowest` are ignored, as the curve is unknown there.
    If all values are 0 it is the first index.
    """
    if not f1.any():
        return 0
    curve = (_smoothed(f1) if smooth else f1)[lowest:]
    first = int(curve.argmax())
    lower = np.flatnonzero(curve[first:] < curve[first] - EPS_F1)
    last = first + int(lower[0]) - 1 if len(lower) else len(curve) - 1
    return len(f1) - len(curve) + (first + last) // 2


def _smoothed(curve: np.ndarray) -> np.ndarray:
    """Compute the moving average of a curve, extended by its end values."""
    padded = np.pad(curve, SMOOTHED_POINTS // 2, mode="edge")
    return np.convolve(padded, np.full(SMOOTHED_POINTS, 1 / SMOOTHED_POINTS), mode="valid")


# Result ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class EvalResult:
    """Results of an evaluation. Means are over the classes with labels; without labels all are 0."""

    names: tuple[str, ...]
    images: int
    counts: np.ndarray  # (nc,) labels of each class
    stats: AveragePrecision
    losses: tuple[float, float, float] | None  # box, obj, cls: mean of the batches; None where no loss was asked for
    speed_ms: tuple[float, float, float]  # pre-processing, inference, NMS of an image
    shape: tuple[int, ...]  # of the last batch: (B, 3, H, W)
    sizes: SizeAP | None = None  # AP by object size, where it was asked for

    def __iter__(self) -> Iterator[tuple[float, ...] | np.ndarray]:
        """Unpack as v6.1's val.run: (P, R, mAP@.5, mAP@.5:.95, box, obj, cls), maps (nc,), times per image in ms."""
        losses = self.losses or (0.0, 0.0, 0.0)
        yield self.mp, self.mr, self.map50, self.map, *losses
        yield self.maps
        yield self.speed_ms

    def __getitem__(self, index: int) -> tuple[float, ...] | np.ndarray:
        """Return one of the three parts that it unpacks to."""
        return tuple(self)[index]

    def __len__(self) -> int:
        """Return the number of parts that it unpacks to."""
        return 3

    def __repr__(self) -> str:
        """Format one line for notebooks; the arrays are attributes."""
        return (
            f"EvalResult(mAP@.5 {self.map50:.3f}, mAP@.5:.95 {self.map:.3f}, P {self.mp:.3f}, R {self.mr:.3f}, "
            f"images {self.images}, classes {len(self.names)})"
        )

    @property
    def mp(self) -> float:
        """Mean precision at `threshold`."""
        return _mean(self.stats.precision)

    @property
    def mr(self) -> float:
        """Mean recall at `threshold`."""
        return _mean(self.stats.recall)

    @property
    def map50(self) -> float:
        """Mean AP at IoU 0.5."""
        return _mean(self.stats.ap[:, 0])

    @property
    def map(self) -> float:
        """Mean AP over the IoUs 0.5, 0.55, ..., 0.95."""
        return _mean(self.stats.ap)

    @property
    def threshold(self) -> float:
        """The confidence at which precision and recall are reported."""
        return self.stats.threshold

    @property
    def class_thresholds(self) -> dict[str, float | None]:
        """The confidence at which each class has its highest F1; None for a class without labels or without detections.

        In the order of the classes; classes with equal names are kept apart, see `distinct_names`.
        """
        known = zip(self.stats.classes.tolist(), self.stats.class_thresholds.tolist(), strict=True)
        best = {index: value for index, value in known if not np.isnan(value)}
        return {name: best.get(index) for index, name in enumerate(distinct_names(self.names))}

    @property
    def fitness(self) -> float:
        """The score that selects the best epoch."""
        return float(fitness(np.array([[self.mp, self.mr, self.map50, self.map]]))[0])

    @property
    def maps(self) -> np.ndarray:
        """(nc,) the mean AP of each class; classes without labels have the mean of the others."""
        maps = np.full(len(self.names), self.map)
        maps[self.stats.classes] = self.stats.ap.mean(1)
        return maps


def distinct_names(names: Sequence[str]) -> list[str]:
    """Make names unique for use as keys: equal ones get the class index, `cell (0)` and `cell (2)`."""
    counts = Counter(names)
    distinct = []
    for index, name in enumerate(names):
        key = f"{name} ({index})" if counts[name] > 1 else name
        while key != name and key in counts:  # a class of its own is called that
            key += "'"
        distinct.append(key)
    return distinct


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


# Names of v6.1 --------------------------------------------------------------------------------------------------------


def __getattr__(name: str) -> object:
    """Import a further name of v6.1 when it is asked for; utils/v61 says where each is."""
    if name == "__path__":  # each import of the module asks for it
        raise AttributeError(name)
    return import_module("utils.v61").find(__name__, name)
