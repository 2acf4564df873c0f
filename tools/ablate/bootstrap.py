"""Bootstrap of AP over images: evaluations stored by image, and resampled.

Shapes: N images, n detections, t labels, L IoU levels.
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
    """An evaluation by image, sorted by path."""

    images: tuple[str, ...]  # N
    owner: np.ndarray  # (n,) int64, the image of each detection
    right: np.ndarray  # (n, L) bool
    scores: np.ndarray  # (n, 2) float32, confidence and class
    label_owner: np.ndarray  # (t,) int64
    label_class: np.ndarray  # (t,) int64

    def save(self, path: Path) -> None:
        """Write an .npz of plain arrays."""
        arrays = {name: getattr(self, name) for name in ("owner", "right", "scores", "label_owner", "label_class")}
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, images=np.array(self.images, np.str_), **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; raise ValueError if the file is something else."""
        try:
            with np.load(path) as arrays:
                names = ("owner", "right", "scores", "label_owner", "label_class")
                return cls(tuple(arrays["images"].tolist()), *(arrays[name] for name in names))
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{path}: not an evaluation by image ({error}); remove it and run tools.ablate again"
            ) from error

    def map(self, counts: np.ndarray | None = None) -> float:
        """Return mAP@.5:.95 of all images, or with each image repeated counts (N,) times."""
        chosen, labels = np.arange(len(self.owner)), np.arange(len(self.label_owner))
        if counts is not None:
            chosen = chosen.repeat(counts[self.owner])
            labels = labels.repeat(counts[self.label_owner])
        confidence, category = self.scores[chosen].T
        ap = average_precision(self.right[chosen], confidence, category, self.label_class[labels], smooth=False).ap
        return float(ap.mean()) if ap.size else 0.0


class ImageRecorder:
    """Callback of `evaluate` that collects `ImageStats`; paths are relative to a root."""

    def __init__(self, root: Path) -> None:
        self.start = f"{root}{os.sep}"
        self.parts: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def __call__(self, evaluated: EvaluatedBatch) -> None:
        """Add a batch."""
        for path, rows, known in zip(evaluated.batch.paths, evaluated.native, evaluated.labels, strict=True):
            right = match_predictions(rows[:, 5].numpy(), known[:, 0].numpy(), overlap(rows, known))
            self.parts[path.removeprefix(self.start)] = (
                right,
                rows[:, 4:6].numpy(),
                known[:, 0].numpy().astype(np.int64),
            )

    def result(self) -> ImageStats:
        """Return the statistics of all batches."""
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
    """Return mAP@.5:.95 (draws,) of bootstrap samples of the images; the same samples for the same seed."""
    import scipy.stats

    count = len(stats.images)
    if count < 2:  # every sample is the same
        return np.full(draws, stats.map())
    found = scipy.stats.bootstrap(
        (np.arange(count),),
        lambda images: stats.map(np.bincount(images, minlength=count)),
        n_resamples=draws,
        vectorized=False,
        method="percentile",
        rng=seed,
    )
    return found.bootstrap_distribution


def interval(
    variant: Sequence[np.ndarray], baseline: Sequence[np.ndarray], confidence: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of the mean difference over seeds, from their `drawn_maps`; nan without draws.

    The draws are kept for each run, so a baseline is resampled once and not again for each variant.
    """
    assert len(variant) == len(baseline) > 0
    differences = np.mean([own - other for own, other in zip(variant, baseline, strict=True)], 0)
    if not len(differences):
        return float("nan"), float("nan")
    low, high = np.quantile(differences, (0.5 - confidence / 2, 0.5 + confidence / 2)).tolist()
    return low, high
