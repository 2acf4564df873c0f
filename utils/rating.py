"""How good a network is on a labelled data set whose images all come in one size, as exported files take them.

export.py says with it what INT8 costs, benchmarks/formats.py what each format gives.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.data import DataLoader

from utils.config import DataConfig
from utils.datasets import val_loader
from utils.evaluate import check_classes, evaluate
from utils.labels import load_split
from utils.metrics import EvalResult


def letterboxed_loader(data: DataConfig, hw: tuple[int, int], batch_size: int, workers: int = 0) -> DataLoader:
    """Batches of the val split, each image letterboxed into hw pixels; in the order in which the images lie."""
    data.prepare()
    records = load_split(data, "val", workers)
    return val_loader(records, max(hw), batch_size, workers=workers, rect=False, hw=hw)


def rate(model: nn.Module, loader: DataLoader, names: Sequence[str], device: torch.device) -> EvalResult:
    """Precision, recall and AP of a model on a loader's batches, at val.py's thresholds; ValueError on other classes.

    model: gives (decoded (B, N, 5 + nc), raw maps or []) for images (B, 3, H, W) in 0..1. names: the data set's.
    """
    found = getattr(model, "nc", None)
    if found is not None:
        check_classes(found, len(names))
    return evaluate(model, loader, names, device=device, show_progress=False)
