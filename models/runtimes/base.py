"""What the runtimes of all formats have in common: batches, fixed sizes, and what a file says of itself.

A class for each format derives from `Runtime` in this folder; load.py chooses among them.

Legend: B images, N boxes, no = 5 + nc numbers of a box, K detections of a file that has its NMS inside.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.runtimes.metadata import Metadata
from models.runtimes.onnx_header import OnnxHeader, Shape
from utils.files.addresses import ModelAddress
from utils.general import LOGGER, resource_advice

STRIDE_OF_FOREIGN = 64  # of files that do not say theirs: sides that every model of this family takes
NMS_OUTPUTS = 4  # num, boxes, scores, classes
METADATA_FILE = "metadata.json"  # in formats that are a folder or an archive
OPENVINO_TELEMETRY = "openvino_telemetry"
Names = Callable[[], Sequence[str]]  # gives the class names of --data, for a file that brings none


class Runtime(nn.Module):
    """A network in an exported file; a class for each runtime says how `compute` is done.

    fixed_batch and fixed_hw say what the file takes, None where it takes any. Batches are divided and filled up here;
    images must come in the fixed height and width. An empty parameter tells, as it does of a network, where images are
    wanted; it costs nothing.
    """

    errors: tuple[type[Exception], ...] = (RuntimeError, ValueError)  # what `compute` raises where a file does not work
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)  # of --precision, those that it can be told; see load_backend
    hints: ClassVar[tuple[str, ...]] = ("latency",)  # of --hint, likewise
    at_a_time: int | None = None  # images of a group, of a file that takes any number; None: all of a batch

    def __init__(self, metadata: Metadata, device: torch.device) -> None:
        super().__init__()
        self.metadata = metadata
        self.names, self.nc, self.imgsz = list(metadata.names), metadata.nc, metadata.trained_size
        self.fixed_batch, self.fixed_hw = metadata.fixed_batch, metadata.fixed_hw
        self.stride = torch.tensor([float(metadata.stride)])
        self.place = nn.Parameter(torch.zeros(0, device=device), requires_grad=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Runtime":
        del recurse  # what the file holds stays in its own type and place: it was made for them
        return super()._apply(fn, recurse=False)

    def compute(self, images: Tensor) -> list[Tensor]:
        """The file's outputs for images (B, 3, H, W) float32 in 0..1; B is fixed_batch, if there is one."""
        raise NotImplementedError

    def compute_groups(self, groups: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """The file's outputs for several groups of images, each as `compute` takes it, in their order."""
        return map(self.compute, groups)

    def outputs(self, images: Tensor) -> list[Tensor]:
        """The file's outputs for any number of images (B, 3, H, W) in 0..1, in FP32, where the images are."""
        if self.fixed_hw not in (None, tuple(images.shape[2:])):
            raise ValueError(
                f"images of {images.shape[2]}x{images.shape[3]} pixels, but this file takes "
                f"{self.fixed_hw[0]}x{self.fixed_hw[1]} (height x width) only; export with --dynamic for any size"
            )
        groups = list(images.float().split(self.fixed_batch or self.at_a_time or len(images)))
        counts = [len(group) for group in groups]
        missing = (self.fixed_batch or counts[-1]) - counts[-1]
        if missing:
            groups[-1] = torch.cat((groups[-1], groups[-1].new_zeros(missing, *images.shape[1:])))
        try:
            found = list(self.compute_groups(groups))
        except self.errors as error:
            if resource_advice(error) is not None:
                raise
            raise ValueError(
                f"{type(self).__name__} cannot compute this file for images {tuple(groups[0].shape)}: {reason(error)}"
            ) from error
        parts = [[output[:count] for output in group] for group, count in zip(found, counts, strict=True)]
        return [torch.cat(output).to(images.device, torch.float32) for output in zip(*parts, strict=True)]

    def forward(self, images: Tensor, augment: bool = False) -> tuple[Tensor, list[Tensor]]:
        """The decoded boxes (B, N, no), xywh in pixels, objectness and class scores; raw maps are not in the file."""
        if augment:
            raise ValueError("--augment changes the size and needs the checkpoint; name the .pt file")
        found = self.outputs(images)
        decoded = from_nms(found, self.nc) if len(found) == NMS_OUTPUTS and found[1].ndim == 3 else found[0]
        if decoded.ndim != 3 or (len(decoded), decoded.shape[2]) != (len(images), 5 + self.nc):
            raise ValueError(
                f"the file gives {tuple(decoded.shape)} where ({len(images)}, boxes, {5 + self.nc}) is wanted, "
                f"that is 5 and one for each of {self.nc} classes; "
                "it is of another family of networks, or exported with --train"
            )
        return decoded, []


def from_nms(outputs: Sequence[Tensor], nc: int) -> Tensor:
    """Rows (B, K, 5 + nc) as before NMS of num (B, 1), boxes xyxy (B, K, 4), scores (B, K) and classes (B, K)."""
    num, boxes_xyxy, scores, classes = outputs
    is_found = torch.arange(scores.shape[1], device=scores.device) < num  # (B, K)
    low, high = boxes_xyxy.split(2, 2)
    one_hot = torch.nn.functional.one_hot(classes.long().clamp(0, nc - 1), nc)
    return torch.cat(((low + high) / 2, high - low, (scores * is_found)[..., None], one_hot.to(scores)), 2)


def reason(error: Exception) -> str:
    """What a runtime says of an error, in one line: its last, which torch and OpenVINO have it in."""
    lines = str(getattr(error, "err", error)).strip().splitlines() or [type(error).__name__]
    return lines[-1][:200]


def silence_telemetry() -> None:
    """Keep ONNX Runtime, OpenVINO and NNCF from reporting their use to their makers; before they are imported.

    OpenVINO and NNCF, which report each import and conversion, run as usual without their package for it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.modules.setdefault(OPENVINO_TELEMETRY, None)  # so that an import of it fails as if it were not installed


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime without its telemetry."""
    silence_telemetry()
    import onnxruntime

    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry."""
    silence_telemetry()
    import openvino

    return openvino


@contextmanager
def require_package(package: str, what: str, hint: str = "") -> Iterator[None]:
    """Raise ImportError with the command that installs the package where an import within the block fails."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{what} needs {package}: pip install {package}{hint}") from error


def check_setting(kind: str, flag: str, value: str, known: Sequence[str]) -> None:
    """ValueError where what runs a kind of file cannot be told a setting, given by its flag."""
    if value not in known:
        raise ValueError(f"{flag} {value}: what runs {kind} files here knows {', '.join(known)} only")


@contextmanager
def preserve_logging(*hushed: str) -> Iterator[None]:
    """Restore the root logger afterwards, which some packages change for all when they are imported.

    hushed: loggers of which only errors are shown within it.
    """
    root, quiet = logging.getLogger(), [logging.getLogger(name) for name in hushed]
    level, handlers, filters = root.level, root.handlers[:], root.filters[:]
    levels = [(item, item.level) for item in (*handlers, *quiet)]
    for logger in quiet:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers, root.filters = handlers, filters
        for item, kept in levels:
            item.setLevel(kept)


def own_metadata(path: Path, content: object, shape: Shape = None) -> Metadata:
    """What a file of export.py says of itself; ValueError where that is missing or cannot be true.

    shape: (B, 3, H, W) of the file's input, where the file states it; see Metadata.from_text.
    """
    try:
        metadata = Metadata.from_text(content, shape) if isinstance(content, dict) else None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if metadata is None:
        raise ValueError(f"{path}: has no class names, stride and shape; export it again with export.py")
    return metadata


def describe(
    path: Path | ModelAddress, texts: dict[str, str], source: OnnxHeader | Shape, names: Callable[[], Sequence[str]]
) -> Metadata:
    """What is known of a file from its texts and its own shapes; class names from `names` where it has none."""
    shape = source.inputs[0].shape if isinstance(source, OnnxHeader) else source
    if shape is None or len(shape) != 4 or shape[1] not in (3, None) or (shape[2] is None) != (shape[3] is None):
        raise ValueError(f"{path}: takes {shape}; wanted is a detector of images (B, 3, H, W)")
    try:
        metadata = Metadata.from_text(texts, shape)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if metadata is not None:
        return metadata
    foreign = {"names": list(names()), "stride": STRIDE_OF_FOREIGN}
    LOGGER.warning(f"{path}: brings no class names; those of --data are used")
    return Metadata.from_text(foreign, shape)
