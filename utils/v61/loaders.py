"""v6.1's data set and data loader for training loops that users own, over the data set of utils/datasets.py.

Legend: N images, n labels of an image, B images of a batch, T targets of a batch.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from utils.base.constants import QUAD
from utils.data.config import Hyp
from utils.data.image_store import buffer_share
from utils.data.labels import as_one_class, cache_path, find_images, label_path, scan
from utils.data.sampling import SampleKey, rectangular_shapes
from utils.datasets import Batch, DetectionDataset, Sample, collate_fn, init_worker, worker_count
from utils.files.yamls import read_yaml
from utils.general import ROOT
from utils.ops.quads import join_quad

DEFAULT_HYP = ROOT / "data" / "hyps" / "hyp.scratch-low.yaml"  # values that a dictionary of hyper-parameters leaves out
ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap width and height
EPOCHS = 2**31  # samples are functions of an epoch, here a random number below this


class LoadImagesAndLabels(Dataset[Sample]):
    """Images with labels, letterboxed or, with `augment`, as hyp's mosaics and warps make them.

    path: a folder, a .txt list, or several. Item i is an image (3, H, W) RGB uint8, targets (n, 6) 0, class, cx, cy, w,
    h in 0..1, the file's path, and ((h, w) of the file, ((ratio_h, ratio_w), (pad_w, pad_h)) or None if augmented).
    labels, shapes (N, 2) width and height, img_files, label_files, segments: of all images, by aspect if `rect` is set.
    indices: which image item i is; an image-weighted training sets it anew. mosaic: set it to False to stop mosaics.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        img_size: int = 640,
        batch_size: int = 16,
        augment: bool = False,
        hyp: Mapping[str, float] | None = None,
        rect: bool = False,
        image_weights: bool = False,
        cache_images: bool | str | None = False,
        single_cls: bool = False,
        stride: int = 32,
        pad: float = 0.0,
        prefix: str = "",
        workers: int = 1,
    ) -> None:
        sources = [Path(place) for place in ([path] if isinstance(path, str | Path) else path)]
        records, _ = scan(
            find_images(sources), None, cache_path(sources), max(workers, 1), prefix.strip(": ") or "labels"
        )
        records = [as_one_class(record) for record in records] if single_cls else records
        self.path, self.img_size, self.augment, self.hyp, self.stride = path, img_size, augment, hyp, stride
        self.image_weights, self.rect = image_weights, rect and not image_weights
        self.mosaic_border = [-img_size // 2, -img_size // 2]
        hw = np.array([record.hw for record in records]).reshape(-1, 2)
        shapes = None
        if self.rect:
            order, shapes = rectangular_shapes(hw, batch_size, img_size, stride, pad)
            records, hw, shapes = [records[i] for i in order], hw[order], shapes[order]
            self.batch_shapes = shapes[::batch_size]
        self.samples = DetectionDataset(
            records,
            img_size,
            hyp=complete_hyp(hyp or {}) if augment else None,
            shapes=shapes,
            cache={True: "ram", False: None, "val": "ram"}.get(cache_images, cache_images),
            buffer_bytes=buffer_share(max(workers, 1)),
        )
        self.img_files = self.im_files = [record.image for record in records]
        self.label_files = img2label_paths(self.img_files)
        self.labels = [record.boxes for record in records]
        self.segments = [[points for points in record.polygons if points is not None] for record in records]
        self.shapes = hw[:, ::-1].astype(np.float64)
        self.n = len(records)
        self.indices: Sequence[int] = range(self.n)
        self.batch = np.arange(self.n) // batch_size

    def __len__(self) -> int:
        """The number of images."""
        return self.n

    def __getitem__(self, index: int) -> Sample:
        """The item; of an augmented one a new variant each time, drawn by torch's random numbers."""
        epoch = int(torch.randint(EPOCHS, ())) if self.augment else 0
        return self.samples[SampleKey(epoch, (int(self.indices[index]),))]

    @property
    def mosaic(self) -> bool:
        """Whether augmented items are mosaics, with hyp's probability."""
        return self.augment and not self.rect and self.samples.mosaic_epochs is None

    @mosaic.setter
    def mosaic(self, value: bool) -> None:
        """Stop mosaics, or make them again."""
        self.samples.mosaic_epochs = None if value else 0

    @staticmethod
    def collate_fn(batch: Sequence[Sample]) -> Batch:
        """Join items into images (B, 3, H, W), targets (T, 6) with the image's number, paths and shapes."""
        return collate_fn([Sample(*item) for item in batch])

    @staticmethod
    def collate_fn4(batch: Sequence[Sample]) -> Batch:
        """Join each four items into one of twice the size, or enlarge the first of them, each with probability 0.5."""
        samples = []
        for start in range(0, len(batch) - len(batch) % QUAD, QUAD):
            four = [Sample(*item) for item in batch[start : start + QUAD]]
            chosen = four if torch.rand(()) < 0.5 else four[:1]
            image, targets = join_quad([item.image for item in chosen], [item.targets for item in chosen])
            samples.append(four[0]._replace(image=image, targets=targets))
        return collate_fn(samples)


def complete_hyp(values: Mapping[str, float]) -> Hyp:
    """The hyper-parameters of a data set; those not given are hyp.scratch-low.yaml's, unknown ones are not used."""
    known = read_yaml(DEFAULT_HYP)
    given = {key: value for key, value in values.items() if key in known}
    return Hyp.from_dict({**known, **given}, "hyp")


class InfiniteDataLoader(DataLoader):
    """A DataLoader whose worker processes live on from epoch to epoch."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        if kwargs.get("num_workers"):
            kwargs.setdefault("persistent_workers", True)
        super().__init__(*args, **kwargs)


def create_dataloader(
    path: str | Path | Sequence[str | Path],
    imgsz: int,
    batch_size: int,
    stride: int | Tensor,
    single_cls: bool = False,
    hyp: Mapping[str, float] | None = None,
    augment: bool = False,
    cache: bool | str | None = False,
    pad: float = 0.0,
    rect: bool = False,
    rank: int = -1,
    workers: int = 8,
    image_weights: bool = False,
    quad: bool = False,
    prefix: str = "",
    shuffle: bool = False,
    seed: int = 0,
) -> tuple[DataLoader, LoadImagesAndLabels]:
    """Return a loader of batches, images (B, 3, H, W) uint8, targets (T, 6), paths and shapes, and its data set.

    batch_size: of this process. rank: -1 for one process alone; of several each gets its part of the images. seed: of
    the order in which they do.
    """
    shuffle = shuffle and not rect  # rectangular batches have a fixed order
    world_size = torch.distributed.get_world_size() if rank != -1 else 1
    dataset = LoadImagesAndLabels(
        path,
        imgsz,
        batch_size,
        augment=augment,
        hyp=hyp,
        rect=rect,
        image_weights=image_weights,
        cache_images=cache,
        single_cls=single_cls,
        stride=int(stride),
        pad=pad,
        prefix=prefix,
        workers=workers,
    )
    batch_size = min(batch_size, len(dataset))
    sampler = None if rank == -1 else DistributedSampler(dataset, shuffle=shuffle, seed=seed)
    kind = DataLoader if image_weights else InfiniteDataLoader  # its workers are new ones, and so know the new indices
    loader = kind(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle and sampler is None,
        num_workers=worker_count(workers, batch_size, world_size),
        sampler=sampler,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=init_worker,
        collate_fn=LoadImagesAndLabels.collate_fn4 if quad else LoadImagesAndLabels.collate_fn,
    )
    return loader, dataset


# Files ----------------------------------------------------------------------------------------------------------------


def img2label_paths(img_paths: Sequence[str]) -> list[str]:
    """The label file of each image."""
    return [label_path(str(path)) for path in img_paths]


def get_hash(paths: Sequence[str]) -> str:
    """A text that changes with the names and the total size of files."""
    size = sum(os.path.getsize(path) for path in paths if os.path.exists(path))
    return hashlib.md5(str(size).encode() + "".join(paths).encode(), usedforsecurity=False).hexdigest()


def exif_size(img: Image.Image) -> tuple[int, int]:
    """Width and height of a PIL image, turned as its EXIF tag says."""
    width, height = img.size
    return (height, width) if img.getexif().get(ORIENTATION, 1) in {5, 6, 7, 8} else (width, height)


def exif_transpose(image: Image.Image) -> Image.Image:
    """A PIL image turned as its EXIF tag says, without the tag."""
    return ImageOps.exif_transpose(image)
