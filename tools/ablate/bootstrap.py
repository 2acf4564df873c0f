"""How much an AP depends on which images it was taken from: evaluations kept by image, and drawn again.

Legend: N images, n detections, t labels, L IoU levels.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from utils.evaluation.evaluate import EvaluatedBatch, overlap
from utils.general import atomic_write
from utils.metrics import IOU_LEVELS, average_precision, match_predictions


@dataclass(frozen=True, eq=False)
class ImageStats:
    """An evaluation, image by image, the images in the order of their paths."""

    images: tuple[str, ...]  # N
    owner: np.ndarray  # (n,) int64, the image of each detection
    right: np.ndarray  # (n, L) bool
    scores: np.ndarray  # (n, 2) float32, confidence and class
    label_owner: np.ndarray  # (t,) int64
    label_class: np.ndarray  # (t,) int64

    def save(self, path: Path) -> None:
        """Writes an .npz of plain arrays."""
        arrays = {name: getattr(self, name) for name in ("owner", "right", "scores", "label_owner", "label_class")}
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, images=np.array(self.images, np.str_), **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote; ValueError where the file is something else."""
        try:
            with np.load(path) as arrays:
                names = ("owner", "right", "scores", "label_owner", "label_class")
                return cls(tuple(arrays["images"].tolist()), *(arrays[name] for name in names))
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{path}: no evaluation by image ({error}); remove it and run tools.ablate again"
            ) from error

    def map(self, counts: np.ndarray | None = None) -> float:
        """mAP@.5:.95 of all images, or of each so many times as counts (N,) says."""
        chosen, labels = np.arange(len(self.owner)), np.arange(len(self.label_owner))
        if counts is not None:
            chosen = chosen.repeat(counts[self.owner])
            labels = labels.repeat(counts[self.label_owner])
        confidence, category = self.scores[chosen].T
        ap = average_precision(self.right[chosen], confidence, category, self.label_class[labels], smooth=False).ap
        return float(ap.mean()) if ap.size else 0.0


class ImageRecorder:
    """An observer of `evaluate` that keeps what `ImageStats` holds, with the images' paths below a root."""

    def __init__(self, root: Path) -> None:
        self.start = f"{root}{os.sep}"
        self.parts: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def __call__(self, evaluated: EvaluatedBatch) -> None:
        """Takes a batch in."""
        for path, rows, known in zip(evaluated.batch.paths, evaluated.native, evaluated.labels, strict=True):
            right = match_predictions(rows[:, 5].numpy(), known[:, 0].numpy(), overlap(rows, known))
            self.parts[path.removeprefix(self.start)] = (
                right,
                rows[:, 4:6].numpy(),
                known[:, 0].numpy().astype(np.int64),
            )

    def result(self) -> ImageStats:
        """All that was taken in."""
        images = sorted(self.parts)
        right, scores, classes = zip(*(self.parts[image] for image in images), strict=True) if images else ((), (), ())
        index = np.arange(len(images))
        return ImageStats(
            tuple(images),
            index.repeat([len(rows) for rows in right]) if images else index,
            np.concatenate((np.zeros((0, len(IOU_LEVELS)), bool), *right)),
            np.concatenate((np.zeros((0, 2), np.float32), *scores)),
            index.repeat([len(rows) for rows in classes]) if images else index,
            np.concatenate((np.zeros(0, np.int64), *classes)),
        )


def drawn_maps(stats: ImageStats, draws: int, seed: int = 0) -> np.ndarray:
    """mAP@.5:.95 (draws,) of as many images as there are, drawn with replacement; of the same ones for the same seed.

    Without images all are 0.
    """
    generator, count, found = np.random.default_rng(seed), len(stats.images), np.zeros(draws)
    for i in range(draws if count else 0):
        found[i] = stats.map(np.bincount(generator.integers(0, count, count), minlength=count))
    return found


def interval(
    variant: Sequence[np.ndarray], baseline: Sequence[np.ndarray], confidence: float = 0.95
) -> tuple[float, float]:
    """The interval of the mean difference over the seeds, each of which has its `drawn_maps`; nan without draws."""
    assert len(variant) == len(baseline) > 0
    differences = np.mean([own - other for own, other in zip(variant, baseline, strict=True)], 0)
    if not len(differences):
        return float("nan"), float("nan")
    low, high = np.quantile(differences, (0.5 - confidence / 2, 0.5 + confidence / 2)).tolist()
    return low, high
