"""How good detections are: which are right, precision, recall, average precision, and one number of it all.

A detection is right at a level of IoU if it overlaps a label of its class by that much which no surer one takes. Each
level has its own pairs, as COCO has it; v6.1 took those made at IoU 0.5 for all of them, which costs a few thousandths
of mAP. `bbox_iou`, by which the loss is computed, is defined here. The IoU of all pairs is in utils/ops/iou.py, the
confusion matrix in utils/ops/confusion.py; both can be imported from here.

Legend: n detections, t labels, L levels of IoU, C classes that have labels, P points of a curve.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import torch
from torch import Tensor

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
    """The number (...) to choose the best epoch by, of results (..., 4 or more): P, R, mAP at 0.5, at 0.5 to 0.95."""
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

    Value and gradient are finite for boxes without area, too.

    Args:
        box1: (4, n), as v6.1's callers give `boxes.T`; or (n, 4); or one box (4,) for all of box2. (4, 4) is (4, n).
        box2: (n, 4).
        x1y1x2y2: boxes are corners; False: centre, width and height.
        GIoU: arXiv 1902.09630.
        DIoU: arXiv 1911.08287.
        CIoU: arXiv 1911.08287.
        eps: added to heights and denominators.

    Returns:
        (n,) of the boxes' type.
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
    """Whether each detection is right in each level: (n, L) bool. Detections come surest first; iou is (t, n).

    A detection takes the free label of its class that it overlaps most. Where a surer one has taken the best it may
    have the next, as in pycocotools; with v6.1 it has none then.
    """
    return match_greedily(np.where(true_classes[:, None] == pred_classes, iou, -1.0), levels) >= 0


# Average precision ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """What `average_precision` finds, for the C classes that have labels.

    Curves over the confidence have one threshold for all classes; so do precision, recall and f1, which are taken at
    `threshold`, where the mean F1 is highest. `class_thresholds` are where the F1 of each class is. Both are looked for
    in the same way, see `peak_of`, so that of one class they are the same.
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
    """Average precision and curves of detections: tp (n, L) bool, confidence (n,), class (n,); target_cls (t,).

    AP is COCO's: the mean, over 101 recalls, of the best precision at that recall or a higher one, 0 for recalls that
    are never reached. v6.1 continued the curve along a line to (1, 0) instead, which gives more to a detector that
    finds little. `smooth` looks for the peak of an F1 curve that is smoothed over a tenth of its range, as the v7 line
    does; v6.1 took the peak as it was. conf_thres: what the detections were cut off at; the peak is not below it.
    """
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
        ap[i] = coco_ap(tp[own], np.ones_like(tp[own]), count)
        pr_curve[i] = precision_at(points, right[:, 0] / count, precisions[:, 0])
    f1 = 2 * precision * recall / (precision + recall + EPS)
    mean_f1 = f1.mean(0) if len(f1) else np.zeros(CURVE_POINTS)
    lowest = int(np.searchsorted(points, conf_thres))
    peak = peak_of(mean_f1, lowest, smooth)
    thresholds = np.array([points[peak_of(curve, lowest, smooth)] if curve.any() else np.nan for curve in f1])
    return AveragePrecision(
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


def peak_of(f1: np.ndarray, lowest: int = 0, smooth: bool = True) -> int:
    """The place in an F1 curve (P,), smoothed unless it is asked not to be, where it is highest.

    That is the middle one of several in a row. Places before `lowest` do not count: what is found there is not known.
    Where nothing is right it is the first place.
    """
    if not f1.any():
        return 0
    curve = (_smoothed(f1) if smooth else f1)[lowest:]
    first = int(curve.argmax())
    lower = np.flatnonzero(curve[first:] < curve[first] - EPS_F1)
    last = first + int(lower[0]) - 1 if len(lower) else len(curve) - 1
    return len(f1) - len(curve) + (first + last) // 2


def _smoothed(curve: np.ndarray) -> np.ndarray:
    """The mean around each point; beyond its ends the curve is taken to go on level."""
    padded = np.pad(curve, SMOOTHED_POINTS // 2, mode="edge")
    return np.convolve(padded, np.full(SMOOTHED_POINTS, 1 / SMOOTHED_POINTS), mode="valid")


# Result ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class EvalResult:
    """What an evaluation says. Means are over the classes that have labels; without labels all are 0."""

    names: tuple[str, ...]
    images: int
    counts: np.ndarray  # (nc,) labels of each class
    stats: AveragePrecision
    losses: tuple[float, float, float] | None  # box, obj, cls: mean of the batches; None where no loss was asked for
    speed_ms: tuple[float, float, float]  # pre-processing, inference, NMS of an image
    shape: tuple[int, ...]  # of the last batch: (B, 3, H, W)
    sizes: SizeAP | None = None  # AP by object size, where it was asked for

    def __iter__(self) -> Iterator[tuple[float, ...] | np.ndarray]:
        """Unpack as v6.1's val.run: (P, R, mAP@.5, mAP@.5:.95, box, obj, cls), maps (nc,), times of an image in ms."""
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
        """Return one line for notebooks; the arrays are attributes."""
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
        """The confidence that precision and recall are given for."""
        return self.stats.threshold

    @property
    def class_thresholds(self) -> dict[str, float | None]:
        """The confidence at which each class has its highest F1; None for a class that has no label or none found.

        They are in the order of the classes; of classes with one name each has its own, see `distinct_names`.
        """
        known = zip(self.stats.classes.tolist(), self.stats.class_thresholds.tolist(), strict=True)
        best = {index: value for index, value in known if not np.isnan(value)}
        return {name: best.get(index) for index, name in enumerate(distinct_names(self.names))}

    @property
    def fitness(self) -> float:
        """The number to choose the best epoch by."""
        return float(fitness(np.array([[self.mp, self.mr, self.map50, self.map]]))[0])

    @property
    def maps(self) -> np.ndarray:
        """(nc,) the AP over all levels of each class; classes without labels have the mean of the others."""
        maps = np.full(len(self.names), self.map)
        maps[self.stats.classes] = self.stats.ap.mean(1)
        return maps


def distinct_names(names: Sequence[str]) -> list[str]:
    """Names as keys: those that several classes have get the class's number, `cell (0)` and `cell (2)`."""
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
