"""How good a network is on a labelled data set whose images all come in one size, as exported files take them.

export.py says with it what INT8 costs, benchmarks/formats.py what each format gives.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from utils.augmentations import letterbox
from utils.data.config import DataConfig
from utils.data.labels import find_images, load_split
from utils.datasets import val_loader
from utils.evaluation.evaluate import check_classes, evaluate
from utils.files.images import read_image
from utils.general import LOGGER, one_line
from utils.metrics import EvalResult


def letterboxed_loader(data: DataConfig, hw: tuple[int, int], batch_size: int, workers: int = 0) -> DataLoader:
    """Batches of the val split, each image letterboxed into hw pixels; in the order in which the images lie."""
    data.prepare()
    records = load_split(data, "val", workers)
    return val_loader(records, max(hw), batch_size, workers=workers, rect=False, hw=hw)


def training_images(data: DataConfig, hw: tuple[int, int], most: int) -> Iterator[Tensor]:
    """Images (1, 3, H, W) RGB of 0..255 of the train split letterboxed into hw, so many at most, spread over the split.

    Of the val split where the data set names no other. One that cannot be read is passed over, with a warning.
    """
    data.prepare()
    paths = find_images(data.split("train" if data.train else "val"))
    for i in np.linspace(0, len(paths) - 1, min(len(paths), most)).round().astype(int):
        try:
            image = letterbox(read_image(paths[i]), hw, auto=False)[0]  # (H, W, 3) BGR
        except (ValueError, OSError) as error:
            LOGGER.warning(f"passed over: {one_line(error)}")
            continue
        yield torch.from_numpy(image[None, ..., ::-1].copy()).permute(0, 3, 1, 2)


def rate(model: nn.Module, loader: DataLoader, names: Sequence[str], device: torch.device) -> EvalResult:
    """Precision, recall and AP of a model on a loader's batches, at val.py's thresholds; ValueError on other classes.

    model: gives (decoded (B, N, 5 + nc), raw maps or []) for images (B, 3, H, W) in 0..1. names: the data set's.
    """
    found = getattr(model, "nc", None)
    if found is not None:
        check_classes(found, len(names))
    return evaluate(model, loader, names, device=device, show_progress=False)
