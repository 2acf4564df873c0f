"""v6.1's calls of AutoAnchor and AutoBatch, over ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from utils.autoanchor import GENERATIONS, Head, adapt_anchors, label_sizes, measure, search_anchors
from utils.autobatch import DEFAULT_BATCH, SHARE, TOO_LARGE, free_memory, largest_batch
from utils.data.config import DataConfig
from utils.data.labels import LabelRecord, load_split
from utils.general import LOGGER, colorstr

IN_PLACE_OF_PROCESSES = 1  # workers of a scan


class LabelledImages(Protocol):
    """What is read of v6.1's data set."""

    labels: Sequence[np.ndarray]  # (n, 5) class, cx, cy, w, h in 0..1 of each image
    shapes: np.ndarray  # (N, 2) width and height of each image


def records_of(dataset: LabelledImages) -> list[LabelRecord]:
    """The labels and sizes of v6.1's data set as records; of the images only that much is known."""
    return [
        LabelRecord("", (int(height), int(width)), np.asarray(boxes, np.float32).reshape(-1, 5))
        for (width, height), boxes in zip(np.asarray(dataset.shapes).tolist(), dataset.labels, strict=True)
    ]


def check_anchor_order(m: Head) -> None:
    """Turn the levels of a head's anchors round, in place, if they run against its strides."""
    area = m.anchors.prod(-1).mean(-1).view(-1)  # (L,)
    if (area[-1] * m.stride[-1] ** 2 - area[0] * m.stride[0] ** 2) * (m.stride[-1] - m.stride[0]) < 0:
        LOGGER.info(f"{colorstr('AutoAnchor: ')}the levels of the anchors are turned round")
        m.anchors[:] = m.anchors.flip(0)


def check_anchors(dataset: LabelledImages, model: nn.Module, thr: float = 4.0, imgsz: int = 640) -> None:
    """Log how well a model's anchors fit the labels of v6.1's data set, and replace them if they do not."""
    adapt_anchors(model.module if hasattr(model, "module") else model, records_of(dataset), imgsz, thr)


def kmean_anchors(
    dataset: str | Path | LabelledImages = "./data/coco128.yaml",
    n: int = 9,
    img_size: int = 640,
    thr: float = 4.0,
    gen: int = GENERATIONS,
    verbose: bool = True,
) -> np.ndarray:
    """The n anchors (n, 2) in pixels that fit the labels of a data yaml, or of v6.1's data set, best, by area."""
    if isinstance(dataset, str | Path):
        data = DataConfig.from_yaml(dataset)
        data.prepare()
        records = load_split(data, "train", IN_PLACE_OF_PROCESSES)
    else:
        records = records_of(dataset)
    sizes = label_sizes(records, img_size, np.random.default_rng(0))
    anchors = search_anchors(sizes, n, thr, gen)
    if verbose:
        LOGGER.info(f"{colorstr('AutoAnchor: ')}{measure(sizes, anchors, thr)}")
    return anchors


def check_train_batch_size(model: nn.Module, imgsz: int = 640, amp: bool = True) -> int:
    """The batch size that a training of the model fits the GPU with; on a CPU 16."""
    with torch.autocast("cuda", enabled=amp and next(model.parameters()).is_cuda):
        return autobatch(model, imgsz)


def autobatch(model: nn.Module, imgsz: int = 640, fraction: float = SHARE, batch_size: int = DEFAULT_BATCH) -> int:
    """The largest batch whose forward and backward pass take this share of a GPU's free memory; batch_size on a CPU."""
    device = next(model.parameters()).device
    prefix = colorstr("AutoBatch: ")
    if device.type != "cuda":
        LOGGER.info(f"{prefix}only a GPU's memory is measured, and this is a {device.type}: batch size {batch_size}")
        return batch_size
    free_memory()
    budget = torch.cuda.memory_reserved(device) + fraction * torch.cuda.mem_get_info(device)[0]
    found = largest_batch(lambda images: _peak(model, images, imgsz, device), budget)
    free_memory()
    if not found:
        raise ValueError(f"not even one image of {imgsz} pixels fits {device}; choose a smaller imgsz or model")
    LOGGER.info(f"{prefix}batch size {found} for {imgsz} pixels on {device}")
    return found


def _peak(model: nn.Module, images: int, imgsz: int, device: torch.device) -> int | None:
    """The bytes that a forward and a backward pass of so many images reserve; None if there are not so many."""
    free_memory()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        raw: list[Tensor] = model.train()(torch.zeros(images, 3, imgsz, imgsz, device=device))
        sum(level.float().sum() for level in raw).backward()
        model.zero_grad(set_to_none=True)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(text in str(error) for text in TOO_LARGE):
            raise
        return None
    return torch.cuda.max_memory_reserved(device)
