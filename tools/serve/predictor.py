"""The network of a server: images made ready for it, several looked at together, and the card that describes it.

Legend: B images, H and W of the network's image, n detections of an image, C channels of a NAM layer.
"""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tools.serve.metrics import Metrics
from utils.augmentations import letterbox
from utils.general import non_max_suppression
from utils.plots import Colors
from utils.predict.features import has_gate, nam_gate
from utils.predict.inference import choose_size, fixed_size, to_native, to_tensor
from utils.torch_utils import largest_stride

GATE_EVERY_S = 2.0  # the gates of a batch are measured that often at most, which costs a few percent


class Thresholds(NamedTuple):
    """Of NMS: least confidence, overlap, the class numbers to keep, whether classes suppress each other, most boxes."""

    conf: float = 0.25
    iou: float = 0.45
    classes: tuple[int, ...] | None = None
    agnostic: bool = False
    max_det: int = 1000


class Task(NamedTuple):
    """An image that is ready for the network, (H, W, 3) uint8 BGR, its own (h, w), and what is asked of it."""

    fitted: np.ndarray
    image_hw: tuple[int, int]
    thresholds: Thresholds


class Predictor:
    """Finds what detect.py finds: a network, ready to run, and the size of its images."""

    def __init__(self, model: nn.Module, imgsz: Sequence[int] | None, metrics: Metrics) -> None:
        self.model, self.metrics = model, metrics
        self.imgsz = choose_size(model, imgsz)
        self.stride, self.is_fixed = largest_stride(model), fixed_size(model) is not None
        self.gates = GateMeter(model)

    def prepare(self, image: np.ndarray, thresholds: Thresholds) -> Task:
        """The task of an image (h, w, 3) uint8 BGR; may be done in any thread."""
        fitted = letterbox(image, self.imgsz, auto=not self.is_fixed, stride=self.stride)[0]
        return Task(fitted, image.shape[:2], thresholds)

    @torch.inference_mode()
    def __call__(self, tasks: Sequence[Task]) -> list[Tensor]:
        """For each task detections (n, 6), surest first: xyxy in the image's whole pixels, confidence, class.

        Those of one shape in the network go through it together. For one thread only.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, task in enumerate(tasks):
            groups.setdefault(task.fitted.shape, []).append(i)
        found: dict[int, Tensor] = {}
        parameter = next(self.model.parameters())
        for indices in groups.values():
            start = time.perf_counter()
            images = to_tensor([tasks[i].fitted for i in indices], parameter.device, parameter.dtype)  # (B, 3, H, W)
            with self.gates:
                prediction = self.model(images)[0].float()  # (B, N, 5 + nc)
            for row, i in enumerate(indices):
                conf, iou, classes, agnostic, max_det = tasks[i].thresholds
                limits = (conf, iou, classes, agnostic)
                (boxes,) = non_max_suppression(prediction[row : row + 1], *limits, max_det=max_det)  # (n, 6)
                found[i] = to_native(boxes, images.shape[2:], tasks[i].image_hw)
            self.metrics.add("network_seconds", time.perf_counter() - start)
            self.metrics.add("batch_images", len(indices))
        self.metrics.add("images_total", len(tasks))
        self.metrics.add("detections_total", sum(len(rows) for rows in found.values()))
        return [found[i] for i in range(len(tasks))]


class GateMeter:
    """What the NAM layers of a checkpoint multiply by: `with meter:` around a pass measures it, now and then.

    rows: for each layer its name, channels, and the gate's mean, standard deviation, least and greatest value in the
    last batch that was measured; None stands for what is not finite.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = {name: part for name, part in model.named_modules() if has_gate(part)}
        self.rows: list[dict[str, object]] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._new: dict[str, dict[str, object]] = {}
        self._last = -math.inf

    def __enter__(self) -> None:
        """Begins to measure, where it is time to."""
        if self.layers and time.monotonic() - self._last > GATE_EVERY_S:
            self._new = {}
            self._handles = [part.register_forward_hook(self._keeper(name)) for name, part in self.layers.items()]

    def __exit__(self, *_: object) -> None:
        """Keeps what was measured."""
        if self._handles:
            for handle in self._handles:
                handle.remove()
            self._handles, self._last = [], time.monotonic()
            self.rows = list(self._new.values())

    def _keeper(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], object], None]:
        """The hook that measures a layer's gate."""

        def keep(layer: nn.Module, inputs: tuple[Tensor, ...], _output: object) -> None:
            gate = nam_gate(layer, inputs[0]).float()  # (B, C, H, W)
            numbers = {"mean": gate.mean(), "std": gate.std(), "min": gate.min(), "max": gate.max()}
            finite = {key: float(value) if torch.isfinite(value) else None for key, value in numbers.items()}
            self._new[name] = {"layer": name, "channels": gate.shape[1], **finite}

        return keep


def model_card(weights: Sequence[Path], model: nn.Module, imgsz: Sequence[int]) -> dict[str, object]:
    """What is known of the network, for people and for the page, but for its gates: JSON's types only."""
    metadata = getattr(model, "metadata", None)
    details: Mapping[str, str] = metadata.details if metadata else {}
    files = [file for path in weights for file in (sorted(path.glob("*.*")) if path.is_dir() else [path])]
    return {
        "files": [{"name": file.name, "bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in files],
        "names": list(model.names),
        "colors": [f"#{code}" for code in Colors.HEX],
        "stride": largest_stride(model),
        "imgsz": list(imgsz),
        "is_fixed": fixed_size(model) is not None,
        "parameters": None if metadata else sum(part.numel() for part in model.parameters()),
        "details": dict(details),
    }


def sha256_of(file: Path) -> str:
    """In hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
