"""An evaluation shared out to several processes: what each of them found, brought together in the data set's order.

Each evaluates batches that follow each other, and they are the same batches that one process makes, so that the result
is that of one process. Observers, which draw and write, run in rank 0 alone.

Legend: B images of a batch, n detections and t labels of an image, T targets of a batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from utils.datasets import Batch, ImageShape, collate_fn
from utils.dist import DistEnv

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class RemoteBatch:
    """A batch that another process has evaluated; its images (B, 3, H, W) are read when they are asked for."""

    targets: Tensor  # (T, 6) as Batch's
    paths: tuple[str, ...]
    shapes: tuple[ImageShape, ...]
    load: Callable[[], Tensor]

    @cached_property
    def images(self) -> Tensor:
        """(B, 3, H, W) RGB uint8."""
        return self.load()


class EvaluatedBatch(NamedTuple):
    """What an observer sees of a batch; all of it is on the CPU, and free to be kept but for the pictures."""

    index: int
    batch: Batch | RemoteBatch
    found: Sequence[Tensor]  # B of (n, 6): xyxy in the network's pixels, confidence, class; surest first
    native: Sequence[Tensor]  # B of (n, 6): the same in pixels of the image file
    labels: Sequence[Tensor]  # B of (t, 5): class, xyxy in pixels of the image file


def without_images(evaluated: EvaluatedBatch) -> EvaluatedBatch:
    """The same, but for the pictures, whose memory is free again."""
    return evaluated._replace(batch=evaluated.batch._replace(images=torch.empty(0)))


def pack(batches: Sequence[EvaluatedBatch]) -> Arrays:
    """All of some batches but the pictures, as arrays."""
    images = [(found, labels) for batch in batches for found, labels in zip(batch.found, batch.labels, strict=True)]
    parts = [batch.batch for batch in batches]
    rows = {
        "found": [torch.zeros(0, 6), *(rows for batch in batches for rows in batch.found)],
        "native": [torch.zeros(0, 6), *(rows for batch in batches for rows in batch.native)],
        "labels": [torch.zeros(0, 5), *(rows for batch in batches for rows in batch.labels)],
        "targets": [torch.zeros(0, 6), *(part.targets for part in parts)],
    }
    shapes = [(*s.image_hw, *s.ratio_pad[0], *s.ratio_pad[1]) for part in parts for s in part.shapes]
    return {name: torch.cat(list(parts)).numpy() for name, parts in rows.items()} | {
        "found_counts": np.array([len(found) for found, _ in images], np.int64),
        "label_counts": np.array([len(labels) for _, labels in images], np.int64),
        "target_counts": np.array([len(part.targets) for part in parts], np.int64),
        "sizes": np.array([len(part.paths) for part in parts], np.int64),
        "paths": np.array([path for part in parts for path in part.paths], np.str_),
        "shapes": np.array(shapes, np.float64).reshape(-1, 6),
    }


def unpack(arrays: Mapping[str, np.ndarray], first: int, load: Callable[[int], Tensor]) -> Iterator[EvaluatedBatch]:
    """The batches that `pack` was given, numbered from `first` on; load(index) reads a batch's pictures."""
    found, native = (split(arrays[name], arrays["found_counts"]) for name in ("found", "native"))
    labels, targets = split(arrays["labels"], arrays["label_counts"]), split(arrays["targets"], arrays["target_counts"])
    ends = arrays["sizes"].cumsum().tolist()
    for i, (end, size) in enumerate(zip(ends, arrays["sizes"].tolist(), strict=True)):
        images = slice(end - size, end)
        shapes = tuple(
            ImageShape((int(h), int(w)), ((ratio_h, ratio_w), (pad_w, pad_h)))
            for h, w, ratio_h, ratio_w, pad_w, pad_h in arrays["shapes"][images].tolist()
        )
        paths = tuple(arrays["paths"][images].tolist())
        batch = RemoteBatch(targets[i], paths, shapes, lambda index=first + i: load(index))
        yield EvaluatedBatch(first + i, batch, found[images], native[images], labels[images])


def split(rows: np.ndarray, counts: np.ndarray) -> tuple[Tensor, ...]:
    """The rows in parts of so many."""
    return torch.from_numpy(rows).split(counts.tolist())


def gather_batches(ranks: DistEnv, batches: Sequence[EvaluatedBatch], loader: DataLoader) -> Iterator[EvaluatedBatch]:
    """In rank 0 the batches that the others have evaluated, in their order; elsewhere nothing."""
    if ranks.size == 1:
        return
    found = ranks.gather(pack(() if ranks.is_main else batches))
    if not ranks.is_main:
        return
    dataset, sampler = loader.dataset, loader.batch_sampler

    def load(index: int) -> Tensor:
        return collate_fn([dataset[i] for i in sampler.batch(index)]).images

    first = len(sampler)
    for arrays in found[1:]:
        yield from unpack(arrays, first, load)
        first += len(arrays["sizes"])
