"""Anchors for a data set's labels: measure how well a model's anchors fit, and search better ones.

python -m tools.anchors --data custom.yaml --n 9 --img 640   # prints anchors for a model yaml

An anchor matches a label whose sides are within a factor of `anchor_t` of its own (utils/loss.py). BPR, the best
possible recall, is the share of labels with a matching anchor; AAT is the average number of matching anchors.

Shapes: N labels, A anchors of all levels, I images, L levels, K centroids.
"""

# Imports with "noqa" are not used by ours: functions that are pasted here know these names from v6.1.
import random  # noqa: F401
from collections.abc import Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import NamedTuple, Protocol

import numpy as np
import torch  # noqa: F401
from torch import Tensor
from tqdm import tqdm  # noqa: F401

from utils.base.pasted import pasted_function
from utils.data.labels import LabelRecord
from utils.general import LOGGER, colorstr

GOOD_BPR = 0.98  # anchors that reach more labels stay
SMALLEST = 2.0  # pixels of an anchor's side; labels with both sides below count as too small to fit anchors to
SMALL = 3.0  # pixels of a side; labels below are told
MOST_FITTED = 20_000  # labels that anchors are fitted to, drawn from all; more take longer and change nothing
RESTARTS = 30  # of k-means, the best of which counts
GENERATIONS = 1000
MUTATED, MUTATION, LEAST_FACTOR, MOST_FACTOR = 0.9, 0.1, 0.3, 3.0  # share of sides, spread, bounds of a mutation
PREFIX = "AutoAnchor: "
PASTED = ("check_anchors", "kmean_anchors")  # of v6.1: those that a user has pasted into this file are called


class Head(Protocol):
    """The attributes of a detection head that are used."""

    nl: int
    na: int
    stride: Tensor  # (L,) pixels of a cell
    anchors: Tensor  # (L, A / L, 2) width and height in cells


class Anchored(Protocol):
    """A model whose anchors can be replaced."""

    @property
    def head(self) -> Head:
        """The detection head."""

    @property
    def has_placeholder_anchors(self) -> bool:
        """True if the yaml gives only the number of anchors."""

    def set_anchors(self, anchors: list[list[float]]) -> None:
        """Set anchors, w, h, w, h, ... in pixels for each level."""


class Fit(NamedTuple):
    """How well anchors fit labels."""

    bpr: float  # share of labels that an anchor can answer for, 0..1
    aat: float  # anchors that can answer for a label, on average

    def __str__(self) -> str:
        """Format v6.1's two numbers."""
        return f"{self.aat:.2f} anchors/target, {self.bpr:.3f} Best Possible Recall (BPR)"


# Measuring ------------------------------------------------------------------------------------------------------------


def label_sizes(records: Sequence[LabelRecord], imgsz: int, rng: np.random.Generator) -> np.ndarray:
    """Return widths and heights (N, 2) float32 of all labels, in pixels of images whose longer side is imgsz.

    Each image is scaled by a random factor in 0.9..1.1, to approximate augmentation.
    """
    if not records:
        return np.zeros((0, 2), np.float32)
    hw = np.array([record.hw for record in records], np.float64)  # (I, 2)
    scale = imgsz * rng.uniform(0.9, 1.1, len(hw)) / hw.max(1)  # (I,)
    sides = hw[:, ::-1] * scale[:, None]  # (I, 2) width and height
    shares = np.concatenate([record.boxes[:, 3:5] for record in records])  # (N, 2)
    counts = [len(record.boxes) for record in records]
    return (shares * sides.repeat(counts, 0)).astype(np.float32)


def likeness(sizes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Compute the similarity (A, N) of anchors (A, 2) and labels (N, 2): the smaller ratio of widths or heights.

    Ratios are smaller side over larger: 1 for equal sizes, above 1 / anchor_t for a match.
    """
    w, h = (np.minimum(a, b) / np.maximum(a, b) for a, b in ((anchors[:, i, None], sizes[:, i]) for i in (0, 1)))
    return np.minimum(w, h)


def measure(sizes: np.ndarray, anchors: np.ndarray, anchor_t: float) -> Fit:
    """Measure the fit of anchors (A, 2) to labels (N, 2), both in pixels; without labels it is 0."""
    if not len(sizes):
        return Fit(1.0, 0.0)
    matches = likeness(sizes, anchors.astype(np.float32)) > 1 / anchor_t  # (A, N)
    return Fit(float(matches.any(0).mean()), float(matches.sum(0).mean()))


def fitness(sizes: np.ndarray, anchors: np.ndarray, anchor_t: float) -> float:
    """Average over labels the similarity of the best anchor, 0 if it does not match; 0..1."""
    best = likeness(sizes, anchors.astype(np.float32)).max(0)  # (N,)
    return float(np.where(best > 1 / anchor_t, best, 0).mean(dtype=np.float64))


# Fitting --------------------------------------------------------------------------------------------------------------


def search_anchors(
    sizes: np.ndarray, n: int, anchor_t: float = 4.0, generations: int = GENERATIONS, seed: int = 0
) -> np.ndarray:
    """Search the n anchors (n, 2) in pixels, sorted by area, that fit labels (N, 2): k-means, then random mutation.

    Raises:
        ValueError: if there are no labels.
    """
    assert n > 0
    if not len(sizes):
        raise ValueError("no label to fit anchors to")
    rng = np.random.default_rng(seed)
    large = sizes[(sizes >= SMALLEST).any(1)]
    kept = (large if len(large) else sizes).astype(np.float32)
    if len(kept) > MOST_FITTED:
        kept = kept[rng.choice(len(kept), MOST_FITTED, replace=False)]
    anchors = refine(kept, initial_anchors(kept, n, rng), anchor_t, generations, rng)
    return anchors[anchors.prod(1).argsort(kind="stable")]


def initial_anchors(sizes: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Find centroids (n, 2) of labels (N, 2) by k-means, no side below 2 pixels.

    If there are fewer distinct labels than n, the rest are random variants of them.
    """
    from scipy.cluster.vq import kmeans

    spread = sizes.std(0, dtype=np.float64)
    unit = np.where(spread > 1e-3, spread, 1.0)  # of equal widths or heights the spread is nothing to divide by
    found = np.unique(sizes, axis=0).astype(np.float64)  # (K, 2)
    if len(found) > n:
        found = kmeans(sizes / unit, n, iter=RESTARTS, rng=rng)[0] * unit
    missing = n - len(found)
    if missing > 0:
        variants = found[rng.integers(len(found), size=missing)] * 2 ** rng.uniform(-1, 1, (missing, 2))
        found = np.concatenate((found, variants))
    return np.maximum(found, SMALLEST)


def refine(
    sizes: np.ndarray, anchors: np.ndarray, anchor_t: float, generations: int, rng: np.random.Generator
) -> np.ndarray:
    """Mutate the sides of anchors (A, 2) and keep mutations that raise `fitness`."""
    best = fitness(sizes, anchors, anchor_t)
    for _ in range(generations):
        is_changed = rng.random(anchors.shape) < MUTATED
        change = is_changed * rng.normal(scale=MUTATION, size=anchors.shape) * rng.random()
        changed = np.maximum(anchors * (1 + change).clip(LEAST_FACTOR, MOST_FACTOR), SMALLEST)
        found = fitness(sizes, changed, anchor_t)
        if found > best:
            best, anchors = found, changed
    return anchors


# A model's anchors ----------------------------------------------------------------------------------------------------


def adapt_anchors(model: Anchored, records: Sequence[LabelRecord], imgsz: int, anchor_t: float, seed: int = 0) -> Fit:
    """Log how well the model's anchors fit the labels and replace them if they do not; return the final fit.

    New ones are used only if they match more labels, and always if the yaml gives only the number of anchors.
    """
    head, prefix = model.head, colorstr(PREFIX)
    pasted, labelled = {name: pasted_function(__name__, name) for name in PASTED}, as_dataset(records)
    if pasted["check_anchors"]:
        pasted["check_anchors"](labelled, model=model, thr=anchor_t, imgsz=imgsz)
        model.set_anchors((head.anchors * head.stride[:, None, None]).flatten(1).tolist())
    sizes = label_sizes(records, imgsz, np.random.default_rng(seed))
    small = int((sizes < SMALL).any(1).sum())
    if small:
        LOGGER.warning(f"{prefix}{small} of {len(sizes)} labels are below {SMALL:g} pixels at --imgsz {imgsz}")
    current = None
    if not model.has_placeholder_anchors:
        pixels = (head.anchors * head.stride[:, None, None]).cpu().double().numpy()  # (L, A / L, 2)
        current = measure(sizes, pixels.reshape(-1, 2), anchor_t)
        LOGGER.info(f"{prefix}{current}")
        if current.bpr > GOOD_BPR or pasted["check_anchors"]:
            return current
    count = head.nl * head.na
    if pasted["kmean_anchors"]:
        found = np.asarray(
            pasted["kmean_anchors"](labelled, n=count, img_size=imgsz, thr=anchor_t, gen=GENERATIONS, verbose=False)
        ).round(2)
    else:
        found = search_anchors(sizes, count, anchor_t, seed=seed).round(2)
    fit = measure(sizes, found, anchor_t)
    if current and fit.bpr <= current.bpr:
        LOGGER.info(f"{prefix}no others reach more labels ({fit}); they stay")
        return current
    order = head.stride.cpu().argsort().argsort().numpy()  # the rank of each level's stride
    levels = found.reshape(head.nl, -1)[order].tolist()
    model.set_anchors(levels)
    LOGGER.info(f"{prefix}{fit} with new anchors, which the checkpoints keep:\n{yaml_text(levels)}")
    return fit


def as_dataset(records: Sequence[LabelRecord]) -> SimpleNamespace:
    """Return what v6.1's functions read of a data set: `labels`, (n, 5) each, and `shapes`, width and height (I, 2)."""
    shapes = np.array([record.hw[::-1] for record in records], np.float64).reshape(-1, 2)
    return SimpleNamespace(labels=[record.boxes for record in records], shapes=shapes)


def yaml_text(levels: Sequence[Sequence[float]]) -> str:
    """Format anchors, w, h, w, h, ... in pixels for each level, as in a model yaml."""
    rows = (", ".join(f"{w:g},{h:g}" for w, h in zip(row[::2], row[1::2], strict=True)) for row in levels)
    return "\n".join(["anchors:", *(f"  - [{row}]" for row in rows)])


# Names of v6.1 --------------------------------------------------------------------------------------------------------


def __getattr__(name: str) -> object:
    """Import a v6.1 name on first access; utils/v61 lists where each is."""
    if name == "__path__":  # each import of the module asks for it
        raise AttributeError(name)
    return import_module("utils.v61").find(__name__, name)
