"""The images that a model does best and worst on, kept while an evaluation runs.

The measure is the F1 of an image: detections surer than 0.25 that overlap a label of their class by an IoU of 0.5 or
more are right, one for each label; F1 = 2 right / (2 right + false + missed). Among images of the same F1 the best are
those with more right detections, the worst those with more errors. An image with neither labels nor detections is not
ranked: there is nothing to be right or wrong about.
"""

import heapq
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from utils.datasets import ImageShape
from utils.draw.html_page import jpeg
from utils.evaluation.evaluate import EvaluatedBatch
from utils.metrics import box_iou, match_predictions
from utils.ops.boxes import xyxy2xywhn
from utils.plots import draw_tile

KEPT = 6  # images of each kind
CONFIDENCE = 0.25
IOU = np.array([0.5])
SIDE = 480  # pixels of the longer side of a kept image
MEASURE = (
    f"F1 of the image at confidence {CONFIDENCE} and IoU {IOU[0]}: 2 right / (2 right + false + missed). Where it is "
    "equal, the best have more right detections and the worst more errors. Images with neither labels nor detections "
    "are not ranked."
)


@dataclass(frozen=True)
class ImageScore:
    """What is right and wrong in an image, in detections and labels."""

    right: int
    false: int
    missed: int

    @property
    def errors(self) -> int:
        """False detections and missed labels."""
        return self.false + self.missed

    @property
    def f1(self) -> float | None:
        """The measure; None for an image with nothing in it and nothing found."""
        total = 2 * self.right + self.errors
        return 2 * self.right / total if total else None


def score_image(detections: Tensor, labels: Tensor) -> ImageScore:
    """The score of detections (n, 6), xyxy, confidence, class, surest first, against labels (t, 5), class, xyxy."""
    detections = detections[detections[:, 4] > CONFIDENCE]
    iou = box_iou(labels[:, 1:], detections[:, :4]).numpy()  # (t, n)
    right = int(match_predictions(detections[:, 5].numpy(), labels[:, 0].numpy(), iou, IOU).sum())
    return ImageScore(right, len(detections) - right, len(labels) - right)


@dataclass(frozen=True)
class KeptImage:
    """An image of the page: its file's name, its score, its labels and its detections as JPEGs in base64."""

    name: str
    right: int
    false: int
    missed: int
    labels_jpeg: str
    found_jpeg: str


class BestAndWorst:
    """An observer of `evaluate` that keeps the drawn images with the highest and the lowest scores, and no others."""

    def __init__(self, names: Sequence[str], kept: int = KEPT) -> None:
        self.names, self.kept = names, kept
        self.seen = self.ranked = 0
        # Heaps whose first entry is the next to go; of equals the later image goes.
        self._best: list[tuple[tuple[float, int, int], KeptImage]] = []
        self._worst: list[tuple[tuple[float, int, int], KeptImage]] = []

    def __call__(self, evaluated: EvaluatedBatch) -> None:
        """Ranks the images of a batch, and draws those that are among the best or the worst so far."""
        for i, (detections, labels) in enumerate(zip(evaluated.native, evaluated.labels, strict=True)):
            score = score_image(detections, labels)
            self.seen += 1
            if score.f1 is None:
                continue
            self.ranked += 1
            places = []
            if score.right:
                places.append((self._best, (score.f1, score.right, -self.seen)))
            if score.errors:
                places.append((self._worst, (-score.f1, score.errors, -self.seen)))
            places = [(heap, key) for heap, key in places if len(heap) < self.kept or key > heap[0][0]]
            if places:
                image = self._draw(evaluated, i, score)
            for heap, key in places:
                (heapq.heappush if len(heap) < self.kept else heapq.heapreplace)(heap, (key, image))

    def chosen(self) -> tuple[list[KeptImage], list[KeptImage]]:
        """The best images, the best first, and the worst, the worst first; none is in both.

        The best have something right, the worst have an error. Of few images some would be both: those of an F1 of 0.5
        and more then count as good.
        """
        best, worst = (dict(sorted(heap, reverse=True)) for heap in (self._best, self._worst))
        numbers = {key[2] for key in best} & {key[2] for key in worst}
        good = {key[2] for key in best if key[0] >= 0.5}
        return (
            [image for key, image in best.items() if key[2] not in numbers - good],
            [image for key, image in worst.items() if key[2] not in numbers & good],
        )

    def to_dict(self) -> dict[str, object]:
        """Measure, counts and images as plain values."""
        best, worst = ([asdict(image) for image in images] for images in self.chosen())
        return {"seen": self.seen, "ranked": self.ranked, "measure": MEASURE, "best": best, "worst": worst}

    def _draw(self, evaluated: EvaluatedBatch, i: int, score: ImageScore) -> KeptImage:
        batch = evaluated.batch
        tile = unpadded(batch.images[i], batch.shapes[i])
        found, labels = evaluated.native[i], evaluated.labels[i]
        found = found[found[:, 4] > CONFIDENCE]
        h, w = batch.shapes[i].image_hw
        drawn = []
        for classes, boxes_xyxy, confidences in (
            (labels[:, :1], labels[:, 1:], labels[:, :0]),
            (found[:, 5:6], found[:, :4], found[:, 4:5]),
        ):
            shares = xyxy2xywhn(boxes_xyxy, w, h)
            rows = np.concatenate((np.zeros((len(classes), 1)), classes, shares, confidences), 1)  # (n, 6) or (n, 7)
            drawn.append(jpeg(draw_tile(tile, rows, self.names)))
        return KeptImage(Path(batch.paths[i]).name, score.right, score.false, score.missed, *drawn)


def unpadded(image: Tensor, shape: ImageShape) -> np.ndarray:
    """The picture in the network's image (3, H, W) RGB uint8 as (h, w, 3) BGR, its longer side SIDE pixels."""
    (ratio_h, ratio_w), (pad_w, pad_h) = shape.ratio_pad
    h, w = round(shape.image_hw[0] * ratio_h), round(shape.image_hw[1] * ratio_w)
    top, left = max(round(pad_h - 0.1), 0), max(round(pad_w - 0.1), 0)
    picture = image[:, top : top + h, left : left + w].cpu().permute(1, 2, 0).numpy()[..., ::-1]
    h, w = picture.shape[:2]
    scale = SIDE / max(h, w)
    size = (max(round(w * scale), 1), max(round(h * scale), 1))
    return cv2.resize(
        np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
