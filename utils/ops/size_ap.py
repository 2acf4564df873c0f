"""Average precision for small, medium and large objects by COCO's rules, equal to pycocotools.

A size is a range of areas in pixels of the image file. Labels of other sizes are ignored: a detection matched with one
is neither a true nor a false positive. Unmatched detections of another size are ignored too. A detection takes the free
label of its class with the highest IoU, of this size if possible; precision is read at 101 recalls.

COCO's annotations give the area of an object's mask; here it is the area of its box.

Shapes: n detections and t labels of an image, S sizes, L IoU thresholds.
"""

from dataclasses import dataclass

import numpy as np

from utils.ops.iou import match_greedily

SIZES = ("small", "medium", "large")
AREAS = np.array([(0, 32**2), (32**2, 96**2), (96**2, np.inf)])  # (S, 2) square pixels; both ends belong to a size
RECALL_POINTS = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class SizeAP:
    """Results of a `SizeTally`, in the order of SIZES."""

    counts: np.ndarray  # (S, nc) labels
    ap: np.ndarray  # (S, nc, L), nan for a class without labels of that size

    @property
    def map(self) -> np.ndarray:
        """(S,) mean AP over all thresholds and the classes with labels of the size; nan if there are none."""
        return self.means(self.ap.mean(2))

    @property
    def map50(self) -> np.ndarray:
        """(S,) mean AP at the first threshold."""
        return self.means(self.ap[..., 0])

    def means(self, values: np.ndarray) -> np.ndarray:
        """Compute (S,) means of values (S, nc) over the classes with labels."""
        known = self.counts > 0
        sums, classes = np.where(known, values, 0).sum(1), known.sum(1)
        return np.where(classes > 0, sums / np.maximum(classes, 1), np.nan)


class SizeTally:
    """Collects the detections and labels of an evaluation, image by image."""

    def __init__(self, levels: np.ndarray) -> None:
        self.levels = levels
        nothing = np.zeros((0, len(SIZES), len(levels)), bool)
        self.right, self.counted = [nothing], [nothing]  # (n, S, L) each
        self.scores = [np.zeros((0, 2), np.float32)]  # (n, 2) confidence, class
        self.classes = [np.zeros(0, np.int64)]  # (t,)
        self.sized = [np.zeros((0, len(SIZES)), bool)]  # (t, S)

    def add(self, detections: np.ndarray, labels: np.ndarray, iou: np.ndarray) -> None:
        """Add an image: detections (n, 6) xyxy, confidence, class, sorted; labels (t, 5) class, xyxy; IoU (t, n).

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
        """Return the lists of counts, by name."""
        return {
            "right": self.right,
            "counted": self.counted,
            "scores": self.scores,
            "classes": self.classes,
            "sized": self.sized,
        }

    def result(self, nc: int, order: np.ndarray | None = None) -> SizeAP:
        """Compute the AP of each size and class. order (n,): indices of the detections before sorting by confidence."""
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
    """Return (n, S) bool: the sizes of boxes (n, 4). A box on a border has two."""
    w, h = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).astype(np.float64).T
    areas = (w * h).round(1)[:, None]  # labels are shares of the image's sides: 32 x 32 pixels come a little off
    return (areas >= AREAS[:, 0]) & (areas <= AREAS[:, 1])


def claims(
    pred_classes: np.ndarray, true_classes: np.ndarray, iou: np.ndarray, sized: np.ndarray, levels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Match detections: (n, S, L) bool for a match with any label, and with a label of the size.

    Detections are in order of confidence; iou is (t, n), sized (t, S) the sizes of the labels.
    """
    iou = np.where(true_classes[:, None] == pred_classes, iou, -1.0)
    taken, right = np.zeros((2, len(pred_classes), len(AREAS), len(levels)), bool)
    for size, wanted in enumerate(sized.T):
        label = match_greedily(iou, levels, wanted)  # (n, L)
        taken[:, size] = label >= 0
        right[:, size] = taken[:, size] & np.append(wanted, False)[label]
    return taken, right


def coco_ap(right: np.ndarray, counted: np.ndarray, count: int) -> np.ndarray:
    """Compute COCO's AP of a class (L,): the mean precision at 101 recalls.

    right and counted are (n, L) bool, true positives and detections not ignored, by confidence; count is the number of
    labels.
    """
    hits = right.cumsum(0)
    curves = zip((hits / count).T, (hits / np.maximum(counted.cumsum(0), 1)).T, strict=True)
    return np.array([precision_at(RECALL_POINTS, recall, precision).mean() for recall, precision in curves])


def precision_at(points: np.ndarray, recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Return the highest precision at each of the recalls `points` or above; 0 beyond the highest recall reached.

    recall and precision are (n,), by confidence.
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return np.append(envelope, 0.0)[np.searchsorted(recall, points)]
