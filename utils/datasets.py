"""Batches for training and validation: datasets of samples, persistent workers, rectangular shapes.

A training sample depends on (seed, epoch, index) alone, not on the number of workers or on what was loaded, cached or
resumed before. Images come from utils/data/image_store.py, augmentations from utils/augmentations.py, the order from
utils/data/sampling.py.

Shapes: N images, B batch size, T targets of a batch, n labels of an image, H and W of the network's input.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from utils.augmentations import (
    Source,
    flip,
    letterbox,
    letterbox_placement,
    letterbox_scene,
    mosaic,
    to_pixels,
)
from utils.base.constants import QUAD
from utils.data.config import Hyp
from utils.data.image_store import BUFFER_BYTES, ImageStore, buffer_share, cpu_count
from utils.data.labels import LabelRecord
from utils.data.pasted import by_albumentations, mixed, recoloured, warped, with_copies
from utils.data.sampling import DRAW_QUAD, EpochBatches, OrderedBatches, SampleKey, rectangular_shapes
from utils.data.tools import autosplit, dataset_stats, extract_boxes, flatten_recursive  # noqa: F401  v6.1's names
from utils.dist import SINGLE, DistEnv
from utils.ops.boxes import PAD_VALUE, xyxy2xywhn
from utils.ops.quads import join_quad
from utils.processes.signals import leave_stopping_to_parent


class ImageShape(NamedTuple):
    """How to map back to the file's pixels: (h, w), ((ratio_h, ratio_w), (pad_w, pad_h)); None if augmented."""

    image_hw: tuple[int, int]
    ratio_pad: tuple[tuple[float, float], tuple[float, float]] | None


class Sample(NamedTuple):
    """One image for the network: image (3, H, W) RGB uint8, targets (n, 6) float32 as in Batch, image index 0."""

    image: Tensor
    targets: Tensor
    path: str
    shape: ImageShape


class Batch(NamedTuple):
    """images (B, 3, H, W) RGB uint8; targets (T, 6) float32: image index, class, cx, cy, w, h in 0..1 of the image."""

    images: Tensor
    targets: Tensor
    paths: tuple[str, ...]
    shapes: tuple[ImageShape, ...]


class RecordTable:
    """Label records as a few arrays. Workers share arrays; Python objects would be copied on access."""

    def __init__(self, records: Sequence[LabelRecord]) -> None:
        polygons = [points for record in records for points in record.polygons or (None,) * len(record.boxes)]
        self.paths = np.array([os.fsencode(record.image) for record in records], np.bytes_)
        self.hw = np.array([record.hw for record in records], np.int64).reshape(-1, 2)
        self._starts = np.cumsum([0, *(len(record.boxes) for record in records)])
        self._boxes = np.concatenate([np.zeros((0, 5), np.float32), *(record.boxes for record in records)])
        self._ends = np.cumsum([0, *(0 if points is None else len(points) for points in polygons)])
        self._points = np.concatenate([np.zeros((0, 2), np.float32), *(p for p in polygons if p is not None)])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.hw)

    def labels(self, index: int) -> np.ndarray:
        """Return the labels of image `index`, (n, 5) class, cx, cy, w, h in 0..1."""
        return self._boxes[self._starts[index] : self._starts[index + 1]]

    def polygons(self, index: int) -> tuple[np.ndarray | None, ...]:
        """Return a polygon (k, 2) in 0..1 or None for each label of image `index`; () if it has no polygon."""
        ends = self._ends[self._starts[index] : self._starts[index + 1] + 1].tolist()
        if ends[0] == ends[-1]:
            return ()
        return tuple(self._points[a:b] if a < b else None for a, b in itertools.pairwise(ends))


class DetectionDataset(Dataset[Sample]):
    """Samples of size imgsz: plain ones by index, with `hyp` augmented ones by SampleKey.

    A key with four indices makes one sample of twice the size, see utils/ops/quads.py. An index i >= N makes a further
    augmented sample of image i % N.

    Args:
        shapes: (N, 2) height and width of each sample; by default square. Only square samples are mosaics.
        mosaic_epochs: From this epoch on neither mosaic nor mixup is used.
        buffer_bytes: Memory per process for the images of augmented samples.

    Attributes:
        partners: Indices (N,) from which mosaics and mixup draw; None for all images.

    Raises:
        ValueError: on access to a plain sample whose file cannot be read; augmented ones are gray and without labels.
    """

    def __init__(
        self,
        records: Sequence[LabelRecord],
        imgsz: int,
        *,
        hyp: Hyp | None = None,
        seed: int = 0,
        shapes: np.ndarray | None = None,
        mosaic_epochs: int | None = None,
        cache: str | None = None,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        if not len(records):
            raise ValueError("the data set has no images")
        self.mosaic_epochs, self.partners = mosaic_epochs, None
        self.table, self.imgsz, self.hyp, self.seed, self.shapes = RecordTable(records), imgsz, hyp, seed, shapes
        buffer = buffer_bytes if hyp else 0  # without mosaics each image is needed but once an epoch
        self.store = ImageStore(
            self.table.paths, self.table.hw, imgsz, strict=not hyp, cache=cache, buffer_bytes=buffer
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.table)

    def __getitem__(self, key: int | SampleKey) -> Sample:
        """Build the sample of a key; a plain index means epoch 0."""
        if not isinstance(key, SampleKey):
            key = SampleKey(0, (key,))
        if len(key.indices) > 1:
            return self._quad(key)
        return self._single(key.epoch, key.indices[0])

    def _single(self, epoch: int, number: int) -> Sample:
        """Build the sample of one image, augmented if there is `hyp`."""
        index = number % len(self)
        image, labels, shape = self._augmented(epoch, number, self.hyp) if self.hyp else self._plain(index)
        h, w = image.shape[:2]
        targets = torch.zeros(len(labels), 6)
        targets[:, 1] = torch.from_numpy(labels[:, 0])
        targets[:, 2:] = torch.from_numpy(xyxy2xywhn(labels[:, 1:], w=w, h=h, clip=True, eps=1e-3))
        pixels = torch.empty(3, h, w, dtype=torch.uint8)
        red, green, blue = pixels.numpy()
        cv2.split(image, [blue, green, red])  # into the tensor: no other copy is made
        return Sample(pixels, targets, self.store.path(index), shape)

    def _quad(self, key: SampleKey) -> Sample:
        """Build a sample of twice the size: the first one enlarged or all four in a square, with equal probability."""
        rng = np.random.default_rng((self.seed, key.epoch, key.indices[0], DRAW_QUAD))
        chosen = key.indices if rng.random() < 0.5 else key.indices[:1]
        samples = [self._single(key.epoch, index) for index in chosen]
        image, targets = join_quad([sample.image for sample in samples], [sample.targets for sample in samples])
        return samples[0]._replace(image=image, targets=targets)

    def _out_hw(self, index: int) -> tuple[int, int]:
        """Return height and width of the sample of image `index`."""
        h, w = (self.imgsz, self.imgsz) if self.shapes is None else self.shapes[index].tolist()
        return h, w

    def _source(self, index: int) -> Source:
        """Return image `index` with its labels; gray and without labels if the file cannot be read."""
        image = self.store.get(index)
        if image is None:
            gray = np.full((*self.store.hw[index], 3), PAD_VALUE, np.uint8)
            return Source(gray, np.zeros((0, 5), np.float32))
        return Source(image, self.table.labels(index), self.table.polygons(index))

    def _plain(self, index: int) -> tuple[np.ndarray, np.ndarray, ImageShape]:
        """Return the letterboxed image, labels (n, 5) class, xyxy in its pixels, and how to map back."""
        source, out_hw = self._source(index), self._out_hw(index)
        placement = letterbox_placement(source.image.shape[:2], out_hw, auto=False, scaleup=False)
        image, _, _ = letterbox(source.image, out_hw, auto=False, scaleup=False)
        labels, _ = to_pixels(source, placement.hw, placement.origin)
        native_h, native_w = self.table.hw[index].tolist()
        ratio = placement.hw[0] / native_h, placement.hw[1] / native_w
        return image, labels, ImageShape((native_h, native_w), (ratio, placement.origin))

    def _augmented(self, epoch: int, number: int, hyp: Hyp) -> tuple[np.ndarray, np.ndarray, ImageShape]:
        """Return the augmented image and labels (n, 5) class, xyxy in its pixels."""
        rng, index = np.random.default_rng((self.seed, epoch, number)), number % len(self)
        is_closed = self.shapes is not None or (self.mosaic_epochs is not None and epoch >= self.mosaic_epochs)
        if rng.random() < (0.0 if is_closed else hyp.mosaic):
            image, labels = self._mosaic(index, hyp, rng)
            if rng.random() < hyp.mixup:
                image, labels = mixed(image, labels, *self._mosaic(self._drawn(1, rng)[0], hyp, rng), rng)
        else:
            scene = letterbox_scene(self._source(index), self._out_hw(index))
            image, labels = warped(scene, scene.hw, warp_ranges(hyp), rng)
        # Further changes of pixels alone (blur, gray, CLAHE) belong here.
        image, labels = by_albumentations(image, labels, rng)
        image = recoloured(image, (hyp.hsv_h, hyp.hsv_s, hyp.hsv_v), rng)
        for axis, probability in ((0, hyp.flipud), (1, hyp.fliplr)):
            if rng.random() < probability:
                image, labels = flip(image, labels, axis)
        h, w = self.table.hw[index].tolist()
        return image, labels, ImageShape((h, w), None)

    def _mosaic(self, index: int, hyp: Hyp, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return a warped mosaic of image `index` and three others, and labels (n, 5) class, xyxy in its pixels."""
        chosen = rng.permutation([index, *self._drawn(3, rng)])
        scene = mosaic([self._source(i) for i in chosen.tolist()], self.imgsz, rng)
        scene = with_copies(scene, hyp.copy_paste, rng)
        return warped(scene, (self.imgsz, self.imgsz), warp_ranges(hyp), rng)

    def _drawn(self, count: int, rng: np.random.Generator) -> list[int]:
        """Draw `count` indices of images; weighted if the epoch's images are."""
        drawn = rng.integers(len(self), size=count)
        return (drawn if self.partners is None else self.partners[drawn]).tolist()


def warp_ranges(hyp: Hyp) -> dict[str, float]:
    """Return the hyper-parameters of random_perspective by name."""
    return {
        "degrees": hyp.degrees,
        "translate": hyp.translate,
        "scale": hyp.scale,
        "shear": hyp.shear,
        "perspective": hyp.perspective,
    }


def collate_fn(samples: Sequence[Sample]) -> Batch:
    """Collate samples into a batch; column 0 of the targets is the image index."""
    images, targets, paths, shapes = zip(*samples, strict=True)
    for i, rows in enumerate(targets):
        rows[:, 0] = i
    return Batch(torch.stack(images), torch.cat(targets), paths, shapes)


class TrainLoader:
    """Batches of successive epochs. Workers persist and prepare the next epoch during validation.

    `epoch(n)` iterates over the batches of any epoch n, from any batch on. Workers are restarted only if n does not
    follow the previous epoch or that one was not finished. The first workers start on construction.

    With image weights each epoch starts its own workers, as its images are drawn after the validation of the previous
    one, by `set_weights`.
    """

    def __init__(
        self, dataset: DetectionDataset, batches: EpochBatches, workers: int, pin_memory: bool = False
    ) -> None:
        self.dataset, self.batches, self.workers, self.pin_memory = dataset, batches, workers, pin_memory
        self._next: tuple[int, int] | None = None  # epoch and batch that the workers are to give next
        self._iterator: Iterator[Batch] | None = None
        self._start(batches.start_epoch, batches.start_batch)

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return len(self.batches)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, one below `epochs`, from start_batch on."""
        assert self.batches.epochs is None or epoch < self.batches.epochs
        if (epoch, start_batch) != self._next:
            self._start(epoch, start_batch)
        self._next = None  # until this one is through
        assert self._iterator is not None
        for _ in range(start_batch, len(self)):
            yield next(self._iterator)
        self._next = (epoch + 1, 0) if self.batches.weights is None else None

    def set_weights(self, weights: np.ndarray) -> None:
        """Draw the images of the following epochs, and their partners in mosaics, by weights (N,) with sum 1."""
        self.close()
        self.batches = replace(self.batches, weights=weights)

    def close(self) -> None:
        """Stop the workers; a later `epoch` starts new ones."""
        self._next = self._iterator = None

    def _start(self, epoch: int, start_batch: int) -> None:
        """Start workers at a batch of an epoch."""
        self.close()
        batches = replace(self.batches, start_epoch=epoch, start_batch=start_batch)
        if batches.weights is not None:
            batches = replace(batches, epochs=epoch + 1)
            self.dataset.partners = batches.order(epoch) % batches.n
        loader = DataLoader(
            self.dataset,
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=collate_fn,
            pin_memory=self.pin_memory,
            worker_init_fn=init_worker,
            generator=torch.Generator(),  # unused by us; without it every start would draw from torch's global one
        )
        self._next, self._iterator = (epoch, start_batch), iter(loader)


def train_loader(
    records: Sequence[LabelRecord],
    imgsz: int,
    batch_size: int,
    hyp: Hyp,
    *,
    seed: int = 0,
    workers: int = 8,
    start_epoch: int = 0,
    start_batch: int = 0,
    epochs: int | None = None,
    rect: bool = False,
    cache: str | None = None,
    stride: int = 32,
    ranks: DistEnv = SINGLE,
    pin_memory: bool = False,
    quad: bool = False,
    weights: np.ndarray | None = None,
    close_mosaic: int = 0,
) -> TrainLoader:
    """Build the loader of training batches of `batch_size` samples over all ranks.

    Args:
        records: Label records of the training split.
        imgsz: Side of the square samples.
        batch_size: Of all ranks together.
        hyp: Hyper-parameters of the augmentations.
        seed: Of sampling and augmentations.
        workers: Worker processes per rank, at most.
        start_epoch: The first epoch.
        start_batch: The first batch of the first epoch.
        epochs: End of the preparation; None for no end.
        rect: Batches of images with similar aspect ratios in a fixed order, without mosaics.
        cache: See utils/data/image_store.py; "val" caches none of these.
        stride: Multiple of the sides of rectangular samples.
        ranks: This process and their number.
        pin_memory: For transfers to a GPU.
        quad: A quarter of the samples at twice the size, see utils/ops/quads.py.
        weights: (N,) sampling weights of the first epoch; `set_weights` sets those of later ones.
        close_mosaic: Number of last epochs without mosaic and mixup.
    """
    assert batch_size % (ranks.size * (QUAD if quad else 1)) == 0
    assert not rect or weights is None, "rectangular batches have a fixed order"
    order, shapes = None, None
    if rect:
        hw = np.array([record.hw for record in records])
        order, shapes = rectangular_shapes(hw, batch_size, imgsz, stride)
    batch_size //= ranks.size
    workers = worker_count(workers, batch_size, ranks.size)
    dataset = DetectionDataset(
        records,
        imgsz,
        hyp=hyp,
        seed=seed,
        shapes=shapes,
        mosaic_epochs=epochs - close_mosaic if close_mosaic and epochs is not None else None,
        cache=None if cache == "val" else cache,
        buffer_bytes=buffer_share(workers * ranks.size),
    )
    batches = EpochBatches(
        len(records),
        batch_size,
        seed=seed,
        start_epoch=start_epoch,
        start_batch=start_batch,
        epochs=epochs,
        fixed_order=order,
        rank=ranks.rank,
        world_size=ranks.size,
        weights=weights,
        quad=quad,
    )
    return TrainLoader(dataset, batches, workers, pin_memory)


def val_loader(
    records: Sequence[LabelRecord],
    imgsz: int,
    batch_size: int,
    *,
    workers: int = 8,
    stride: int = 32,
    pad: float = 0.5,
    rect: bool = True,
    hw: tuple[int, int] | None = None,
    cache: str | None = None,
    pin_memory: bool = False,
    ranks: DistEnv = SINGLE,
) -> DataLoader:
    """Build the loader of plain batches in a fixed order: rectangular by aspect ratio, or square in the records' order.

    Args:
        records: Label records of the split.
        imgsz: Longer side of the samples.
        batch_size: Of all ranks together.
        workers: Worker processes per rank, at most.
        stride: Multiple of the sides of rectangular samples.
        pad: Strides added to rectangular shapes.
        rect: Rectangular batches.
        hw: Height and width of every sample, instead of `rect` and `imgsz`.
        cache: See utils/data/image_store.py; "val" means "ram" here.
        pin_memory: For transfers to a GPU.
        ranks: This process and their number; each rank gets a part of the batches that one process would have.
    """
    order, shapes = np.arange(len(records)), None
    if hw is not None:
        shapes = np.tile(hw, (len(records), 1))
    elif rect and len(records):
        sizes = np.array([record.hw for record in records])
        order, shapes = rectangular_shapes(sizes, batch_size, imgsz, stride, pad)
    return DataLoader(
        DetectionDataset(records, imgsz, shapes=shapes, cache="ram" if cache == "val" else cache),
        batch_sampler=OrderedBatches(order, batch_size, ranks),
        num_workers=worker_count(workers, batch_size, ranks.size),
        collate_fn=collate_fn,
        pin_memory=pin_memory,
        worker_init_fn=init_worker,
        generator=torch.Generator(),  # as in TrainLoader
    )


def worker_count(wanted: int, batch_size: int, world_size: int = 1) -> int:
    """Return the number of workers: at most `wanted`, the batch size and this rank's cores; 0 for a batch of 1."""
    return min(cpu_count() // world_size, batch_size if batch_size > 1 else 0, wanted)


def init_worker(worker: int) -> None:
    """Limit OpenCV to one thread in a worker and end it with its parent; torch limits itself."""
    del worker
    cv2.setNumThreads(0)
    leave_stopping_to_parent()


# Names of v6.1 --------------------------------------------------------------------------------------------------------


def __getattr__(name: str) -> object:
    """Import a v6.1 name on first access; utils/v61 lists where each is."""
    if name == "__path__":  # each import of the module asks for it
        raise AttributeError(name)
    return import_module("utils.v61").find(__name__, name)
