"""Average precision of small, medium and large objects, by COCO's rules and with pycocotools' numbers.

A size is a range of areas in pixels of the image file. Within a size, labels of other sizes are ignored: to find one is
neither right nor wrong. So is a detection of another size that finds nothing. A detection takes the free label of its
class that it overlaps most, of this size if it can, and precision is read off at 101 recalls without interpolation.

COCO's annotations give the area of an object's outline; here it is that of its box.

Legend: n detections and t labels of an image, S sizes, L levels of IoU.
"""

from dataclasses import dataclass

import numpy as np

from utils.ops.iou import match_greedily

SIZES = ("small", "medium", "large")
AREAS = np.array([(0, 32**2), (32**2, 96**2), (96**2, np.inf)])  # (S, 2) square pixels; both ends belong to a size
RECALL_POINTS = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class SizeAP:
    """What a `SizeTally` finds, in the order of SIZES."""

    counts: np.ndarray  # (S, nc) labels
    ap: np.ndarray  # (S, nc, L), nan for a class without labels of that size

    @property
    def map(self) -> np.ndarray:
        """(S,) mean AP over all levels and the classes that have labels of the size; nan where none has."""
        return self.means(self.ap.mean(2))

    @property
    def map50(self) -> np.ndarray:
        """(S,) the same at the first level."""
        return self.means(self.ap[..., 0])

    def means(self, values: np.ndarray) -> np.ndarray:
        """(S,) the means of values (S, nc) over the classes that have labels."""
        known = self.counts > 0
        sums, classes = np.where(known, values, 0).sum(1), known.sum(1)
        return np.where(classes > 0, sums / np.maximum(classes, 1), np.nan)


class SizeTally:
    """Collects an evaluation's detections and labels, image by image."""

    def __init__(self, levels: np.ndarray) -> None:
        self.levels = levels
        nothing = np.zeros((0, len(SIZES), len(levels)), bool)
        self.right, self.counted = [nothing], [nothing]  # (n, S, L) each
        self.scores = [np.zeros((0, 2), np.float32)]  # (n, 2) confidence, class
        self.classes = [np.zeros(0, np.int64)]  # (t,)
        self.sized = [np.zeros((0, len(SIZES)), bool)]  # (t, S)

    def add(self, detections: np.ndarray, labels: np.ndarray, iou: np.ndarray) -> None:
        """Counts an image: detections (n, 6) xyxy, confidence, class, surest first; labels (t, 5) class, xyxy; (t, n).

        Boxes are in pixels of the image file.
        """
        sized = sizes_of(labels[:, 1:])
        taken, right = claims(detections[:, 5], labels[:, 0], iou, sized, self.levels)
        self.right.append(right)
        self.counted.append(right | ~taken & sizes_of(detections[:, :4])[..., None])
        self.scores.append(detections[:, 4:])
        self.classes.append(labels[:, 0].astype(np.int64))
        self.sized.append(sized)

    def parts(self) -> dict[str, list[np.ndarray]]:
        """The lists of what was counted, by name."""
        return {
            "right": self.right,
            "counted": self.counted,
            "scores": self.scores,
            "classes": self.classes,
            "sized": self.sized,
        }

    def result(self, nc: int, order: np.ndarray | None = None) -> SizeAP:
        """AP of each size and class. order (n,): of the detections before they are sorted by confidence."""
        scores, classes, sized = (np.concatenate(parts) for parts in (self.scores, self.classes, self.sized))
        order = np.arange(len(scores)) if order is None else order
        order = order[(-scores[order, 0]).argsort(kind="stable")]
        predicted, right, counted = (
            values[order] for values in (scores[:, 1], np.concatenate(self.right), np.concatenate(self.counted))
        )
        counts = np.stack([np.bincount(classes[of_size], minlength=nc) for of_size in sized.T])  # (S, nc)
        ap = np.full((*counts.shape, len(self.levels)), np.nan)
        for category in np.flatnonzero(counts.any(0)):
            own = predicted == category
            for size in np.flatnonzero(counts[:, category]):
                ap[size, category] = coco_ap(right[own, size], counted[own, size], counts[size, category])
        return SizeAP(counts, ap)


def sizes_of(boxes_xyxy: np.ndarray) -> np.ndarray:
    """(n, S) bool, whether each of the boxes (n, 4) belongs to each size; on a border it belongs to two."""
    w, h = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).astype(np.float64).T
    areas = (w * h).round(1)[:, None]  # labels are shares of the image's sides: 32 x 32 pixels come a little off
    return (areas >= AREAS[:, 0]) & (areas <= AREAS[:, 1])


def claims(
    pred_classes: np.ndarray, true_classes: np.ndarray, iou: np.ndarray, sized: np.ndarray, levels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each detection takes a label, and whether one of the size: (n, S, L) bool each.

    Detections come surest first; iou is (t, n), sized (t, S) says which labels belong to which size.
    """
    iou = np.where(true_classes[:, None] == pred_classes, iou, -1.0)
    taken, right = np.zeros((2, len(pred_classes), len(AREAS), len(levels)), bool)
    for size, wanted in enumerate(sized.T):
        label = match_greedily(iou, levels, wanted)  # (n, L)
        taken[:, size] = label >= 0
        right[:, size] = taken[:, size] & np.append(wanted, False)[label]
    return taken, right


def coco_ap(right: np.ndarray, counted: np.ndarray, count: int) -> np.ndarray:
    """(L,) COCO's AP of a class: the mean of the precision at 101 recalls.

    right and counted are (n, L) bool of its detections, surest first; count is its number of labels.
    """
    hits = right.cumsum(0)
    curves = zip((hits / count).T, (hits / np.maximum(counted.cumsum(0), 1)).T, strict=True)
    return np.array([precision_at(RECALL_POINTS, recall, precision).mean() for recall, precision in curves])


def precision_at(points: np.ndarray, recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """The best precision at each of the recalls `points` or a higher one; 0 beyond the last that was reached.

    recall and precision are (n,), one number for each detection, surest first.
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return np.append(envelope, 0.0)[np.searchsorted(recall, points)]
