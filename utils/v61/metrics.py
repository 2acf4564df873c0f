"""v6.1's figures of an evaluation, as v6.1 computes them but for AP, which is COCO's; ours are in utils/metrics.py.

Legend: n detections, t labels, L levels of IoU, C classes that have labels, P points of a curve.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

import utils.draw.curves as figures
from utils.ops.confusion import ConfusionMatrix as Counts
from utils.ops.size_ap import coco_ap, precision_at

POINTS = 1000  # confidences from 0 to 1
RECALLS = 101


class ClassFigures(NamedTuple):
    """The figures of each of C classes, at the confidence where their mean F1 is highest; AP is of all confidences."""

    tp: np.ndarray  # (C,)
    fp: np.ndarray  # (C,)
    p: np.ndarray  # (C,)
    r: np.ndarray  # (C,)
    f1: np.ndarray  # (C,)
    ap: np.ndarray  # (C, L)
    unique_classes: np.ndarray  # (C,)


def ap_per_class(
    tp: np.ndarray,
    conf: np.ndarray,
    pred_cls: np.ndarray,
    target_cls: np.ndarray,
    plot: bool = False,
    save_dir: str | Path = ".",
    names: Sequence[str] | Mapping[int, str] = (),
    eps: float = 1e-16,
) -> ClassFigures:
    """Return v6.1's seven figures of detections.

    tp: (n, L) whether each detection is right; conf and pred_cls: (n,); target_cls: (t,). All but ap are taken at the
    confidence where the mean F1 of the classes is highest; ap is COCO's, as everywhere else here. plot: writes the four
    curves into save_dir.
    """
    order = np.argsort(-conf)
    tp, conf, pred_cls = tp[order], conf[order], pred_cls[order]
    classes, counts = np.unique(target_cls, return_counts=True)  # (C,) each
    points = np.linspace(0, 1, POINTS)
    ap = np.zeros((len(classes), tp.shape[1]))
    precision, recall = np.zeros((len(classes), POINTS)), np.zeros((len(classes), POINTS))
    curves = []
    for i, (category, count) in enumerate(zip(classes, counts, strict=True)):
        own = pred_cls == category
        if not own.any():
            continue
        right = tp[own].cumsum(0)  # (n, L)
        recalls = right / (count + eps)
        precisions = right / np.arange(1, len(right) + 1)[:, None]
        recall[i] = np.interp(-points, -conf[own], recalls[:, 0], left=0)
        precision[i] = np.interp(-points, -conf[own], precisions[:, 0], left=1)
        ap[i] = coco_ap(tp[own], np.ones_like(tp[own]), count)
        curves.append((category, precision_at(points, right[:, 0] / count, precisions[:, 0])))
    f1 = 2 * precision * recall / (precision + recall + eps)
    if plot:
        _plot_curves(points, curves, ap, classes, {"P": precision, "R": recall, "F1": f1}, names, Path(save_dir))
    peak = int(f1.mean(0).argmax()) if len(f1) else 0
    precision, recall, f1 = precision[:, peak], recall[:, peak], f1[:, peak]
    found = (recall * counts).round()
    false = (found / (precision + eps) - found).round()
    return ClassFigures(found, false, precision, recall, f1, ap, classes.astype("int32"))


def _plot_curves(
    points: np.ndarray,
    curves: Sequence[tuple[float, np.ndarray]],
    ap: np.ndarray,
    classes: np.ndarray,
    metrics: Mapping[str, np.ndarray],
    names: Sequence[str] | Mapping[int, str],
    folder: Path,
) -> None:
    """Write PR_curve.png, and one for each of precision, recall and F1 over the confidence, each (C, P)."""
    known = names if isinstance(names, Mapping) else dict(enumerate(names))
    texts = [str(known.get(int(category), int(category))) for category in classes]
    rows = [int(np.flatnonzero(classes == category)[0]) for category, _ in curves]
    precisions = np.array([curve for _, curve in curves]).reshape(-1, POINTS)
    figures.plot_pr_curve(points, precisions, ap[rows, 0], [texts[row] for row in rows], folder / "PR_curve.png")
    for name, values in metrics.items():
        figures.plot_metric_curve(points, values, texts, folder / f"{name}_curve.png", ylabel=name)


def plot_pr_curve(
    px: np.ndarray,
    py: Sequence[np.ndarray],
    ap: np.ndarray,
    save_dir: str | Path = "pr_curve.png",
    names: Sequence[str] | Mapping[int, str] = (),
) -> None:
    """Write a file of precisions py (C, P) over recalls px (P,), with the AP (C, L) of each class."""
    curves = np.array(py).reshape(-1, len(px))
    figures.plot_pr_curve(px, curves, ap[:, 0], _texts(names, len(curves)), Path(save_dir))


def plot_mc_curve(
    px: np.ndarray,
    py: Sequence[np.ndarray],
    save_dir: str | Path = "mc_curve.png",
    names: Sequence[str] | Mapping[int, str] = (),
    xlabel: str = "Confidence",
    ylabel: str = "Metric",
) -> None:
    """Write a file of a metric py (C, P) over confidences px (P,)."""
    del xlabel
    curves = np.array(py).reshape(-1, len(px))
    figures.plot_metric_curve(px, curves, _texts(names, len(curves)), Path(save_dir), ylabel=ylabel)


def _texts(names: Sequence[str] | Mapping[int, str], count: int) -> list[str]:
    """The names of so many classes, their numbers where there is none."""
    known = names if isinstance(names, Mapping) else dict(enumerate(names))
    return [str(known.get(i, i)) for i in range(count)]


class ConfusionMatrix(Counts):
    """The confusion matrix of utils/ops/confusion.py, with v6.1's methods."""

    def tp_fp(self) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives of each class, (nc,) each."""
        right = self.matrix.diagonal()
        return right[:-1], (self.matrix.sum(1) - right)[:-1]

    def plot(
        self, normalize: bool = True, save_dir: str | Path = "", names: Sequence[str] | Mapping[int, str] = ()
    ) -> None:
        """Write confusion_matrix.png into a folder."""
        path = Path(save_dir) / "confusion_matrix.png"
        figures.plot_confusion_matrix(self.matrix, _texts(names, self.nc), path, normalize)

    def print(self) -> None:
        """Print the rows."""
        for row in self.matrix:
            print(" ".join(map(str, row)))


def compute_ap(recall: Sequence[float], precision: Sequence[float]) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the area below a curve of precision over recall, (n,) each, its envelope, and the recalls of that.

    The curve goes on along a line to precision 0 at recall 1, and is taken at 101 recalls, as v6.1 does.
    """
    places = np.concatenate(([0.0], recall, [1.0]))
    envelope = np.concatenate(([1.0], precision, [0.0]))
    envelope = np.maximum.accumulate(envelope[::-1])[::-1]
    x = np.linspace(0, 1, RECALLS)
    return float(np.trapezoid(np.interp(x, places, envelope), x)), envelope, places


def bbox_ioa(box1: np.ndarray, box2: np.ndarray, eps: float = 1e-7) -> np.ndarray:
    """The share (n,) of each of box2 (n, 4) that lies under box1 (4,), both xyxy."""
    overlap = (np.minimum(box1[2:], box2[:, 2:]) - np.maximum(box1[:2], box2[:, :2])).clip(0).prod(1)
    return overlap / ((box2[:, 2:] - box2[:, :2]).prod(1) + eps)


def wh_iou(wh1: Tensor, wh2: Tensor) -> Tensor:
    """The IoU (n, m) of boxes around one centre, by their widths and heights (n, 2) and (m, 2)."""
    inter = wh1[:, None].minimum(wh2[None]).prod(2)
    return inter / (wh1.prod(1)[:, None] + wh2.prod(1)[None] - inter)
