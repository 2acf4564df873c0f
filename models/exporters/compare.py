"""Runs an exported file beside the network that it was made of: do they give the same, and which one is faster.

Legend: B images, N boxes, no = 5 + nc numbers of a box.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.exporters.onnx import ExportModel
from models.runtimes.load import Runtime
from models.runtimes.metadata import Metadata
from utils.ops.iou import box_iou

GRAINS = (8, 32, 1)  # pixels of the patches that the test images are made of: coarse, coarser, noise
TIMED_RUNS = 5
UNMATCHED = 0.1  # share of an NMS's detections that may differ where another is as sure: which one stays is chance


@dataclass(frozen=True)
class Limits:
    """How far a file may be from PyTorch in any box of any image: boxes in pixels per 640 of the side, and scores."""

    boxes_px: float
    scores: float


FP32_LIMITS, FP16_LIMITS = Limits(0.05, 1e-3), Limits(8.0, 0.03)
SUMS_FP16_LIMITS = Limits(16.0, 0.1)  # where sums are kept in FP16 as well; on bccd that costs no mAP
INT8_LIMITS = Limits(math.inf, math.inf)  # what counts is the mAP, but NaN is too much


@dataclass(frozen=True)
class Comparison:
    """The largest differences to PyTorch over all boxes of all test images, and the milliseconds of one image."""

    boxes_px: float
    scores: float
    ms: float
    pytorch_ms: float
    shapes: tuple[tuple[int, ...], ...]


def check_images(metadata: Metadata, noise_only: bool = False) -> list[Tensor]:
    """Test images (B, 3, H, W) in 0..1 for what a file takes: several of its own shape, and of others where it can.

    noise_only: for an NMS, whose choice among boxes that are exactly as sure, as patches make them, is chance.
    """
    (h, w), stride = metadata.imgsz, metadata.stride
    shapes = [(metadata.batch, h, w)] * len(GRAINS)
    if metadata.fixed_hw is None:
        shapes += [(metadata.batch, h + stride, w), (metadata.batch, max(h // 2 // stride, 1) * stride, w + stride)]
    if metadata.fixed_batch is None:
        shapes += [(metadata.batch + 2, h, w)]
    generator = torch.Generator().manual_seed(0)
    images = []
    for i, (b, height, width) in enumerate(shapes):
        grain = 1 if noise_only else GRAINS[i % len(GRAINS)]
        patches = torch.rand(b, 3, -(-height // grain), -(-width // grain), generator=generator)
        images.append(F.interpolate(patches, scale_factor=grain, mode="nearest")[..., :height, :width].contiguous())
    return images


@contextmanager
def without_tf32() -> Iterator[None]:
    """PyTorch's convolutions on a GPU with all digits of FP32, which what is compared with them has."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@without_tf32()
@torch.no_grad()
def compare(runtime: Runtime, model: ExportModel, images: Sequence[Tensor], limits: Limits) -> Comparison:
    """The differences on the images; ValueError where they are above the limits, or the outputs of other shapes.

    The runtime must give what the model gives: boxes, raw maps (whose every number counts as a score's logit), or
    detections.
    """
    boxes_px = scores = 0.0
    for batch in images:
        wanted, found = as_list(model(batch)), runtime.outputs(batch)
        if [output.shape for output in found] != [output.shape for output in wanted]:
            shapes = [tuple(output.shape) for output in found], [tuple(output.shape) for output in wanted]
            raise ValueError(f"for images {tuple(batch.shape)} it gives {shapes[0]}, PyTorch {shapes[1]}")
        box, score = differences(wanted, found, model, limits)
        scale = 640 / max(batch.shape[2:])
        if not (box * scale <= limits.boxes_px and score <= limits.scores):  # NaN is neither
            raise ValueError(
                f"for images {tuple(batch.shape)} it is {box:.3g} pixels and {score:.3g} in the scores off PyTorch, "
                f"where {limits.boxes_px / scale:.3g} and {limits.scores:g} are allowed"
            )
        boxes_px, scores = max(boxes_px, box), max(scores, score)
    seconds = timed((lambda: model(images[0]), lambda: runtime.outputs(images[0])))
    pytorch_ms, ms = (1000 * value / len(images[0]) for value in seconds)
    return Comparison(boxes_px, scores, ms, pytorch_ms, tuple(tuple(batch.shape) for batch in images))


def as_list(outputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    """The outputs of a network in FP32."""
    return [output.float() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]


def differences(
    wanted: Sequence[Tensor], found: Sequence[Tensor], model: ExportModel, limits: Limits
) -> tuple[float, float]:
    """The largest difference in boxes, in pixels, and in scores."""
    if model.nms is not None:
        return nms_differences(wanted, found, limits, model.nms.iou_thres)
    if model.raw:
        probabilities = [(a.sigmoid(), b.sigmoid()) for a, b in zip(wanted, found, strict=True)]
        return 0.0, max(farthest(a, b) for a, b in probabilities)
    return farthest(wanted[0][..., :4], found[0][..., :4]), farthest(wanted[0][..., 4:], found[0][..., 4:])


def nms_differences(
    wanted: Sequence[Tensor], found: Sequence[Tensor], limits: Limits, iou_thres: float = 0.45
) -> tuple[float, float]:
    """Those between detections and the nearest of their class on the other side, whatever their order.

    Either is num (B, 1), boxes (B, K, 4), scores (B, K), classes (B, K). ValueError where one has no partner that is
    not as sure as another without, or too many have none. Which of two equally sure detections is kept is chance; a
    detection that overlaps the one kept on the other side by more than `iou_thres` is then missing there.
    """
    box = score = 0.0
    total = alone = lost = 0
    for i in range(len(wanted[0])):
        ours, theirs = (
            torch.cat((boxes[i], scores[i, :, None], classes[i, :, None]), 1)[: int(num[i])]
            for num, boxes, scores, classes in (wanted, found)
        )
        gaps = (ours[:, None] - theirs[None]).abs()  # (n, m, 6)
        is_pair = (gaps[..., :4].amax(2) <= limits.boxes_px) & (gaps[..., 4] <= limits.scores) & (gaps[..., 5] == 0)
        total += len(ours) + len(theirs)
        a, b = ~is_pair.any(1), ~is_pair.any(0)  # (n,), (m,) without a partner
        is_tie = (gaps[..., 4] <= limits.scores) & a[:, None] & b
        alone += int(a.sum()) + int(b.sum())
        tied_a, tied_b = is_tie.any(1), is_tie.any(0)
        overlaps = box_iou(ours[:, :4], theirs[:, :4]) > iou_thres  # (n, m)
        lost += int((a & ~tied_a & ~(overlaps & tied_b).any(1)).sum())
        lost += int((b & ~tied_b & ~(overlaps & tied_a[:, None]).any(0)).sum())
        if is_pair.any():
            box, score = max(box, float(gaps[is_pair][:, :4].max())), max(score, float(gaps[is_pair][:, 4].max()))
    if lost or alone > UNMATCHED * total:
        raise ValueError(f"of {total} detections, PyTorch's and the file's, {alone} have no partner on the other side")
    return box, score


def farthest(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors, NaN where one of them has any."""
    return float((a - b).abs().max()) if a.numel() else 0.0


def timed(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Seconds that each call takes, the median of several, which alternate so that all share what disturbs them."""
    seconds = []
    for _ in range(TIMED_RUNS):
        row = []
        for call in calls:
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # what was asked for is not done before
            row.append(time.perf_counter() - start)
        seconds.append(row)
    return np.median(seconds, axis=0).tolist()


def table(rows: Sequence[tuple[str, str, float, Comparison]]) -> list[str]:
    """Lines of a table of format, file, megabytes and comparison."""
    head = ("Format", "MB", "box px", "score", "ms/image", "PyTorch ms", "file")
    lines = ["".join((f"{head[0]:<14}", *(f"{title:>12}" for title in head[1:-1]), f"  {head[-1]}"))]
    for name, file, size, result in rows:
        cells = (f"{size:.1f}", shown(result.boxes_px, ".2g"), shown(result.scores, ".2g"))
        times = (shown(result.ms, ".1f"), shown(result.pytorch_ms, ".1f"))
        lines.append("".join((f"{name:<14}", *(f"{cell:>12}" for cell in (*cells, *times)), f"  {file}")))
    return lines


def shown(value: float, form: str) -> str:
    """A number of a comparison, or what NaN in its place means."""
    return "not run" if math.isnan(value) else format(value, form)
