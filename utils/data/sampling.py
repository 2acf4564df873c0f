"""Select the images of an epoch's batches: shuffled, by aspect ratio, or weighted by rare classes.

The selection depends on seed, epoch and, with image weights, those weights, so a resumed run draws the same.

Shapes: N images, n labels of an image, T labels of all.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from utils.base.constants import QUAD
from utils.data.labels import LabelRecord
from utils.dist import SINGLE, DistEnv

# Keep the numbers drawn for one purpose apart from those for another: the last of (seed, ..., purpose).
DRAW_WEIGHTED, DRAW_QUAD, DRAW_SCALE = 1, 2, 3


class SampleKey(NamedTuple):
    """Identifies a training sample: its epoch and its image index, or four image indices for a quad."""

    epoch: int
    indices: tuple[int, ...]  # (1,) or (4,), see utils/ops/quads.py


def rectangular_shapes(
    hw: np.ndarray, batch_size: int, imgsz: int, stride: int = 32, pad: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Sort images by aspect ratio: (N,) order and, per image in its native order, the (h, w) of its batch (N, 2).

    The aspect ratio of a batch is that of its least extreme image; `pad` adds that many strides.
    """
    aspect = hw[:, 0] / hw[:, 1]
    order = np.argsort(aspect, kind="stable")
    shapes = np.empty((len(hw), 2), np.int64)
    for start in range(0, len(hw), batch_size):
        members = order[start : start + batch_size]
        low, high = aspect[members].min(), aspect[members].max()
        shape = (high, 1) if high < 1 else (1, 1 / low) if low > 1 else (1, 1)
        shapes[members] = np.ceil(np.array(shape) * imgsz / stride + pad) * stride
    return order, shapes


class ImageWeights:
    """Sampling weights of images: higher with more labels of rare classes and of classes with low mAP."""

    def __init__(self, records: Sequence[LabelRecord], nc: int) -> None:
        self.n, self.nc = len(records), nc
        self._image = np.repeat(np.arange(self.n), [len(record.boxes) for record in records])  # (T,)
        self._class = np.concatenate([record.boxes[:, 0] for record in records]).astype(np.int64)  # (T,)

    def __call__(self, maps: Sequence[float] | np.ndarray | None = None) -> np.ndarray:
        """Compute weights (N,) with sum 1 from the mAP (nc,) of each class in 0..1; by default 0.

        A label weighs (1 - mAP)^2 / (labels of its class); an image without labels weighs 0.
        """
        found = np.zeros(self.nc) if maps is None else np.asarray(maps, np.float64)
        assert found.shape == (self.nc,)
        of_class = (1 - found) ** 2 / np.bincount(self._class, minlength=self.nc).clip(1)  # (nc,)
        weights = np.bincount(self._image, of_class[self._class], self.n)
        total = weights.sum()
        return weights / total if total > 0 else np.full(self.n, 1 / self.n)  # all classes are found perfectly


def numbered_repeats(indices: np.ndarray) -> np.ndarray:
    """Add N to indices (N,), each below N, at their second occurrence, 2N at the third, and so on."""
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    repeats = np.empty_like(indices)
    repeats[order] = np.arange(len(indices)) - np.searchsorted(ordered, ordered)
    return indices + len(indices) * repeats


@dataclass(frozen=True, eq=False)
class OrderedBatches:
    """One process's part of the batches of indices in a fixed order."""

    order: np.ndarray  # (N,)
    batch_size: int
    ranks: DistEnv = SINGLE

    @property
    def share(self) -> range:
        """Return the indices of this process's batches."""
        return self.ranks.share(math.ceil(len(self.order) / self.batch_size))

    def batch(self, number: int) -> list[int]:
        """Return the image indices of a batch, which may be another process's."""
        return self.order[number * self.batch_size : (number + 1) * self.batch_size].tolist()

    def __len__(self) -> int:
        """Return the number of batches of this process."""
        return len(self.share)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the image indices of each batch."""
        return map(self.batch, self.share)


@dataclass(frozen=True, eq=False)
class EpochBatches:
    """Batches of sample keys, epoch after epoch: one rank's share of n images.

    Every epoch has its own order, drawn from (seed, epoch), or the fixed one of rectangular batches; its last batch may
    be smaller. With `weights` (n,) an epoch's n images are drawn with replacement; occurrences of image i are i, n + i,
    2n + i, ..., which are augmented differently. With `quad` each key has four indices and there are a quarter as many
    keys; the last image is repeated if it takes that to complete a four. The ranks' batches together are those of one
    process, except that the last sample is repeated up to world_size - 1 times to give all ranks the same number.
    """

    n: int
    batch_size: int
    seed: int = 0
    start_epoch: int = 0
    start_batch: int = 0  # of the first epoch, the first batch to make
    epochs: int | None = None  # the first one not to make; None: go on for ever
    fixed_order: np.ndarray | None = None
    rank: int = 0
    world_size: int = 1
    weights: np.ndarray | None = None
    quad: bool = False

    def order(self, epoch: int) -> np.ndarray:
        """Return the indices of an epoch over all ranks, (n,)."""
        if self.fixed_order is not None:
            return self.fixed_order
        if self.weights is not None:
            rng = np.random.default_rng((self.seed, epoch, 0, DRAW_WEIGHTED))
            return numbered_repeats(rng.choice(self.n, self.n, p=self.weights))
        return np.random.default_rng((self.seed, epoch)).permutation(self.n)

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        per_rank = math.ceil(math.ceil(self.n / self.group) / self.world_size)
        return math.ceil(per_rank / (self.batch_size // self.group))

    @property
    def group(self) -> int:
        """The number of images of a sample."""
        return QUAD if self.quad else 1

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yield the keys of each batch, from start_epoch and its start_batch on until `epochs`."""
        samples_per_batch = self.batch_size // self.group
        for epoch in itertools.count(self.start_epoch):
            if self.epochs is not None and epoch >= self.epochs:
                return
            groups = np.pad(self.order(epoch), (0, -self.n % self.group), mode="edge").reshape(-1, self.group)
            even = np.pad(groups, ((0, -len(groups) % self.world_size), (0, 0)), mode="edge")
            share = even[self.rank :: self.world_size].tolist()
            first = self.start_batch * samples_per_batch if epoch == self.start_epoch else 0
            for start in range(first, len(share), samples_per_batch):
                yield [SampleKey(epoch, tuple(indices)) for indices in share[start : start + samples_per_batch]]
