"""v6.1's small functions of a training: weights of classes and images, a schedule, shared weights, evolve.csv."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.data.coco_ids import COCO_IDS
from utils.evolve.files import RESULT_KEYS, EvolveFiles, Generation
from utils.general import LOGGER, colorstr


def one_cycle(y1: float = 0.0, y2: float = 1.0, steps: int = 100) -> Callable[[float], float]:
    """A function of the epoch that goes from y1 to y2 in so many steps, as half a cosine wave (arXiv 1812.01187)."""
    return lambda x: (1 - math.cos(x * math.pi / steps)) / 2 * (y2 - y1) + y1


def labels_to_class_weights(labels: Sequence[np.ndarray], nc: int = 80) -> Tensor:
    """Weights (nc,) of classes, the inverse of how often each occurs in the images' labels (n, 5); their sum is 1."""
    if not len(labels) or labels[0] is None:  # none are loaded
        return torch.Tensor()
    counts = np.bincount(np.concatenate(list(labels), 0)[:, 0].astype(int), minlength=nc)
    weights = 1 / counts.clip(1)
    return torch.from_numpy(weights / weights.sum()).float()


def labels_to_image_weights(
    labels: Sequence[np.ndarray], nc: int = 80, class_weights: np.ndarray | Tensor | None = None
) -> np.ndarray:
    """Weights (N,) of images: the sum of the weights of their labels' (n, 5) classes, without any of 1 each."""
    weights = np.ones(nc) if class_weights is None else np.asarray(class_weights)
    counts = np.array([np.bincount(rows[:, 0].astype(int), minlength=nc) for rows in labels]).reshape(-1, nc)
    return (weights.reshape(1, nc) * counts).sum(1)


def intersect_dicts(
    da: Mapping[str, Tensor], db: Mapping[str, Tensor], exclude: Sequence[str] = ()
) -> dict[str, Tensor]:
    """What of a state dict another one has in the same shape, without names in which a text of `exclude` occurs."""
    return {
        name: value
        for name, value in da.items()
        if name in db and not any(text in name for text in exclude) and value.shape == db[name].shape
    }


def coco80_to_coco91_class() -> list[int]:
    """The category number of COCO's files for each of its 80 classes."""
    return list(COCO_IDS)


def print_mutation(
    results: Sequence[float],
    hyp: Mapping[str, float],
    save_dir: str | Path,
    bucket: str = "",
    prefix: str = "evolve: ",
) -> None:
    """Add a training to evolve.csv in save_dir, write hyp_evolve.yaml of the best one, and log both.

    results: P, R, mAP@.5, mAP@.5:.95 and the three validation losses. bucket is v6.1's and changes nothing.
    """
    del bucket
    files = EvolveFiles(Path(save_dir), tuple(hyp), has_plot=False)
    generations = [*files.read(), Generation(dict(hyp), [float(value) for value in results])]
    files.write(generations)
    row = [*zip(RESULT_KEYS, results, strict=True), *hyp.items()]
    LOGGER.info(f"{colorstr(prefix)}{', '.join(f'{name} {value:.5g}' for name, value in row)}")
