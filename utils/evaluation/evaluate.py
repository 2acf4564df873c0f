"""Run a model over a labelled data set and say how good it is: in training after each epoch, and in val.py.

Pictures go to the device as bytes, what was found comes back once per batch, and nothing of a batch is kept but whether
each detection is right, so that memory does not grow with the pictures. Plots and files are the observers' (on_batch).

Legend: B images of a batch, H and W of the network's image, N boxes before NMS, n detections and t labels of an image.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from utils.data.config import DataConfig
from utils.datasets import Batch, ImageShape
from utils.dist import SINGLE, DistEnv
from utils.evaluation.shards import EvaluatedBatch, gather_batches, without_images
from utils.general import LOGGER, non_max_suppression, plural, progress
from utils.metrics import IOU_LEVELS, EvalResult, average_precision, box_iou, match_predictions
from utils.ops.boxes import scaled_coords, xywhn2xyxy
from utils.ops.nms import load_nms
from utils.ops.size_ap import SIZES, SizeTally
from utils.torch_utils import time_sync, to_device

Network = Callable[..., tuple[Tensor, list[Tensor]]]
Criterion = Callable[[list[Tensor], Tensor], tuple[Tensor, Tensor]]
TABLE_COLUMNS = ("Images", "Labels", "P", "R", "mAP@.5", "mAP@.5:.95")
Refine = Callable[[Batch, Sequence[Tensor]], Sequence[Tensor]]
Observer = Callable[[EvaluatedBatch], None]
PART_PIXELS = 2**21  # that a CPU computes at a time: five images of 640 x 640


@dataclass(frozen=True)
class EvalSettings:
    """Say what `evaluate` lets count as a detection, and how it runs the model.

    conf_thres, iou_thres and max_det per image limit what NMS keeps. single_cls: all classes count as one. augment: is
    passed on to the model. hybrid: the labels join the detections, with confidence 1. by_size: AP by object size as
    well. half: images are FP16, as a Module must be already.
    """

    conf_thres: float = 0.001
    iou_thres: float = 0.6
    max_det: int = 300
    single_cls: bool = False
    augment: bool = False
    hybrid: bool = False
    by_size: bool = False
    half: bool = False


DEFAULT_SETTINGS = EvalSettings()


def evaluate(
    model: nn.Module | Network,
    loader: Iterable[Batch],
    names: Sequence[str],
    *,
    device: torch.device,
    settings: EvalSettings = DEFAULT_SETTINGS,
    compute_loss: Criterion | None = None,
    refine: Refine | None = None,
    on_batch: Observer | None = None,
    show_progress: bool = True,
    ranks: DistEnv = SINGLE,
) -> EvalResult:
    """Measure precision, recall, AP, speed and, with compute_loss, losses of a model on all batches of a loader.

    model: gives (decoded (B, N, 5 + nc), raw maps) for images (B, 3, H, W) in 0..1 on `device`. A Module is put into
    evaluation mode and left there. names: the data set's. compute_loss(raw, targets): (loss, its three parts (3,)).
    refine: adds to a batch's detections, B of (n, 6) in the network's pixels, or takes from them.
    on_batch: is called after each batch, in rank 0 alone. ranks: each evaluates its loader's batches and gets the
    result of all. ValueError where model and data differ in classes.
    """
    if isinstance(model, nn.Module):
        model.eval()
    single_cls = settings.single_cls
    names = ("item",) if single_cls and len(names) > 1 else tuple(names)
    load_nms(device.type)
    accumulator = EvalAccumulator(names, settings.conf_thres, SizeTally(IOU_LEVELS) if settings.by_size else None)
    kept: list[EvaluatedBatch] = []
    losses = torch.zeros(3, device=device)
    # Not inference_mode: a head may keep the grids that it makes here, and training could not use such tensors.
    with torch.no_grad():
        for batch in progress(loader, desc="Evaluating", disable=not (show_progress and ranks.is_main)):
            targets = as_one_class(batch.targets) if single_cls else batch.targets  # (T, 6)
            known = known_objects(targets, batch.images) if settings.hybrid else ()
            watch = Stopwatch(device)
            images = on_device(batch.images, device, torch.float16 if settings.half else torch.float32)  # (B, 3, H, W)
            watch.lap()
            decoded, raw = run_in_parts(model, images, settings.augment)
            watch.lap()
            check_classes(len(names) if single_cls else decoded.shape[2] - 5, len(names))
            found = non_max_suppression(
                decoded,
                settings.conf_thres,
                settings.iou_thres,
                agnostic=single_cls,
                multi_label=True,
                labels=known,
                max_det=settings.max_det,
            )
            if refine is not None:
                found = refine(batch, found)
            watch.lap()
            if compute_loss is not None:
                losses += compute_loss(raw, to_device(targets, device))[1]
            evaluated = in_native_pixels(accumulator.batches, batch, targets, found, single_cls)
            accumulator.add(evaluated, watch)
            if on_batch is None:
                continue
            if ranks.is_main:
                on_batch(evaluated)
            else:
                kept.append(without_images(evaluated))
    accumulator.merge(ranks)
    if on_batch is not None:
        for evaluated in gather_batches(ranks, kept, loader):
            on_batch(evaluated)
    mean_losses = None if compute_loss is None else ranks.sum_(losses) / max(accumulator.batches, 1)
    return accumulator.result(mean_losses)


def run_in_parts(model: nn.Module | Network, images: Tensor, augment: bool) -> tuple[Tensor, list[Tensor]]:
    """Run a network on images (B, 3, H, W), on a CPU a few at a time: large maps cost more to allocate than to compute.

    An exported file gets all of them, as it has its own ways to divide them.
    """
    size = len(images)
    if images.device.type == "cpu" and not hasattr(model, "metadata"):
        size = max(PART_PIXELS // images[0, 0].numel(), 1)
    outputs = [model(part, augment=True) if augment else model(part) for part in images.split(size)]
    if len(outputs) == 1:
        return outputs[0]
    levels = zip(*(raw or () for _, raw in outputs), strict=True)
    return torch.cat([decoded for decoded, _ in outputs]), [torch.cat(maps) for maps in levels]


def on_device(images: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Move images (B, 3, H, W) of bytes to the device, in 0..1."""
    images = images.to(device, non_blocking=True)
    return images.to(dtype, memory_format=torch.channels_last).div_(255)


def as_one_class(targets: Tensor) -> Tensor:
    """Copy the targets (T, 6), all of class 0."""
    return torch.cat((targets[:, :1], torch.zeros_like(targets[:, 1:2]), targets[:, 2:]), 1)


def check_classes(model_nc: int, data_nc: int, or_else: str = "") -> None:
    """Raise ValueError where model and data set differ in their number of classes; `or_else`: what may be done too."""
    if model_nc != data_nc:
        raise ValueError(
            f"the model has {plural(model_nc, 'class')}, the data set {data_nc}: evaluate on the data set (--data) "
            f"that the model was trained for{or_else}"
        )


def check_names(names: Sequence[str], data: DataConfig, or_else: str = "") -> None:
    """Check the classes of a model with these names, and warn where the data set's are others."""
    check_classes(len(names), data.nc, or_else)
    others = [i for i in range(data.nc) if names[i] != data.names[i]]
    if others:
        model_name, data_name = names[others[0]], data.names[others[0]]
        LOGGER.warning(f"class {others[0]} is {model_name!r} to the model and {data_name!r} in {data.file}")


# Parts ----------------------------------------------------------------------------------------------------------------


class Stopwatch:
    """Take the seconds between laps; on a GPU they are those of its own clock, and taking one waits for nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.is_gpu = device, device.type == "cuda"
        self.marks: list[float | torch.cuda.Event] = []
        self.lap()

    def lap(self) -> None:
        """End a lap and begin the next."""
        if not self.is_gpu:
            self.marks.append(time_sync(self.device))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        self.marks.append(event)

    def seconds(self) -> np.ndarray:
        """Return the duration of each lap, (laps,), once the last one has ended."""
        if not self.is_gpu:
            return np.diff(self.marks)
        self.marks[-1].synchronize()
        return np.array([begin.elapsed_time(end) / 1000 for begin, end in itertools.pairwise(self.marks)])


# Geometry -------------------------------------------------------------------------------------------------------------


def in_native_pixels(
    index: int, batch: Batch, targets: Tensor, found: Sequence[Tensor], single_cls: bool
) -> EvaluatedBatch:
    """Bring a batch's detections and labels to the CPU and into the pixels of the image files.

    index: the batch's number. targets: (T, 6) as Batch's. found: B of (n, 6) in the network's pixels; with single_cls
    all are of class 0.
    """
    counts = [len(rows) for rows in found]
    detections = torch.cat(tuple(found)).cpu()  # (n of all, 6): the results come over at once
    if single_cls:
        detections[:, 5] = 0
    h, w = batch.images.shape[2:]
    image_of_detection = np.repeat(np.arange(len(counts)), counts)
    native_boxes = to_native(detections[:, :4], image_of_detection, (h, w), batch.shapes)
    native = torch.cat((native_boxes, detections[:, 4:]), 1)  # (n of all, 6)
    targets = targets[targets[:, 0].argsort(stable=True)]
    image_of_label = targets[:, 0].long()
    label_boxes = to_native(xywhn2xyxy(targets[:, 2:], w, h), image_of_label.numpy(), (h, w), batch.shapes)
    labels = torch.cat((targets[:, 1:2], label_boxes), 1)  # (T, 5)
    label_counts = torch.bincount(image_of_label, minlength=len(counts)).tolist()
    return EvaluatedBatch(index, batch, detections.split(counts), native.split(counts), labels.split(label_counts))


def known_objects(targets: Tensor, images: Tensor) -> list[Tensor]:
    """Split targets (T, 6) by images (B, 3, H, W) into B of (t, 5), class and xywh in the network's pixels."""
    h, w = images.shape[2:]
    scaled = targets[:, 1:] * targets.new_tensor((1, w, h, w, h))
    return [scaled[targets[:, 0] == i] for i in range(len(images))]


def to_native(boxes_xyxy: Tensor, image: np.ndarray, net_hw: tuple[int, int], shapes: Sequence[ImageShape]) -> Tensor:
    """Scale boxes (n, 4) from the network's pixels to those of the image files; `image` (n,): the index of each's."""
    assert all(shape.ratio_pad is not None for shape in shapes), "nothing leads back from augmented images"
    table = np.array([(*shape.image_hw, *shape.ratio_pad[0], *shape.ratio_pad[1]) for shape in shapes], np.float32)
    h, w, ratio_h, ratio_w, pad_w, pad_h = table.reshape(-1, 6)[image].T  # (n,) each: all boxes of a batch at once
    return torch.from_numpy(
        scaled_coords(net_hw, boxes_xyxy.numpy(), (h, w), ((ratio_h, ratio_w), (pad_w, pad_h))).astype(np.float32)
    )


# Matching -------------------------------------------------------------------------------------------------------------


def overlaps(evaluated: EvaluatedBatch) -> list[np.ndarray]:
    """Compute the IoU (t, n) of labels and detections for each of B images, in pixels of the image file."""
    return [overlap(rows, known) for rows, known in zip(evaluated.native, evaluated.labels, strict=True)]


def overlap(detections: Tensor, labels: Tensor) -> np.ndarray:
    """Compute the IoU (t, n) of an image's labels (t, 5), class and xyxy, and detections (n, 6), xyxy first.

    In float64 and without an epsilon to speak of, so that what overlaps by exactly a level reaches it.
    """
    return box_iou(labels[:, 1:].double(), detections[:, :4].double(), eps=1e-16).numpy()


def true_positives(evaluated: EvaluatedBatch, ious: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Match detections with labels: for each of B images (n, L) bool, from its IoU (t, n)."""
    images = zip(evaluated.native, evaluated.labels, ious, strict=True)
    return [match_predictions(rows[:, 5].numpy(), known[:, 0].numpy(), iou) for rows, known, iou in images]


# Counting -------------------------------------------------------------------------------------------------------------


@dataclass
class EvalAccumulator:
    """Add up batches: of each detection whether it is a true positive, of each label its class.

    In the end detections lie in the order of their images' paths, so that those of one confidence have the same order
    in batches of any size, and that of pycocotools where image numbers follow the names.
    """

    names: tuple[str, ...]
    conf_thres: float
    sizes: SizeTally | None = None
    images: int = 0
    batches: int = 0
    shape: tuple[int, ...] = ()
    seconds: np.ndarray = field(default_factory=lambda: np.zeros(3))
    paths: list[np.ndarray] = field(default_factory=lambda: [np.zeros(0, np.str_)])  # (B,) of each batch
    found: list[np.ndarray] = field(default_factory=lambda: [np.zeros(0, np.int64)])  # (B,) detections of each image
    true_positives: list[np.ndarray] = field(default_factory=lambda: [np.zeros((0, len(IOU_LEVELS)), bool)])  # (n, L)
    scores: list[np.ndarray] = field(default_factory=lambda: [np.zeros((0, 2), np.float32)])  # (n, 2) confidence, class
    classes: list[np.ndarray] = field(default_factory=lambda: [np.zeros(0, np.float32)])  # (t,) each

    def add(self, evaluated: EvaluatedBatch, watch: Stopwatch) -> None:
        """Count a batch, whose three laps the watch has taken."""
        ious = overlaps(evaluated)
        self.paths.append(np.array(evaluated.batch.paths, np.str_))
        self.found.append(np.array([len(rows) for rows in evaluated.native], np.int64))
        self.true_positives += true_positives(evaluated, ious)
        if self.sizes is not None:
            for rows, known, iou in zip(evaluated.native, evaluated.labels, ious, strict=True):
                self.sizes.add(rows.numpy(), known.numpy(), iou)
        self.scores += [rows[:, 4:].numpy() for rows in evaluated.native]
        self.classes += [known[:, 0].numpy() for known in evaluated.labels]
        self.images += len(evaluated.native)
        self.batches += 1
        self.shape = tuple(evaluated.batch.images.shape)
        self.seconds += watch.seconds()

    def merge(self, ranks: DistEnv) -> None:
        """Add up what the processes have counted, in their order."""
        if ranks.size == 1:
            return
        lists = {"true_positives": self.true_positives, "scores": self.scores, "classes": self.classes}
        lists |= {"paths": self.paths, "found": self.found}
        if self.sizes is not None:
            lists |= {f"sizes_{name}": parts for name, parts in self.sizes.parts().items()}
        own = {name: np.concatenate(parts) for name, parts in lists.items()}
        own |= {"counts": np.array([self.images, self.batches]), "seconds": self.seconds, "shape": np.array(self.shape)}
        found = ranks.gather(own)
        for name, parts in lists.items():
            parts[:] = [arrays[name] for arrays in found]
        self.images, self.batches = sum(arrays["counts"] for arrays in found).tolist()
        self.seconds = sum(arrays["seconds"] for arrays in found)
        shapes = [tuple(arrays["shape"].tolist()) for arrays in found if len(arrays["shape"])]
        self.shape = shapes[-1] if shapes else ()

    def order_by_path(self) -> np.ndarray:
        """Return the order (n,) of all detections by their images' paths; those of an image stay as they are."""
        paths = np.concatenate(self.paths)
        place = np.empty(len(paths), np.int64)
        place[paths.argsort(kind="stable")] = np.arange(len(paths))
        return place.repeat(np.concatenate(self.found)).argsort(kind="stable")

    def result(self, losses: Tensor | None) -> EvalResult:
        """Return the result of all batches, with their mean losses (3,)."""
        order = self.order_by_path()
        scores, right = np.concatenate(self.scores)[order], np.concatenate(self.true_positives)[order]
        classes = np.concatenate(self.classes).astype(np.int64)
        box, obj, cls = (0.0, 0.0, 0.0) if losses is None else losses.tolist()
        pre, inference, nms = (self.seconds / max(self.images, 1) * 1000).tolist()
        return EvalResult(
            names=self.names,
            images=self.images,
            counts=np.bincount(classes, minlength=len(self.names)),
            stats=average_precision(right, scores[:, 0], scores[:, 1], classes, conf_thres=self.conf_thres),
            losses=None if losses is None else (box, obj, cls),
            speed_ms=(pre, inference, nms),
            shape=self.shape,
            sizes=None if self.sizes is None else self.sizes.result(len(self.names), order),
        )


# Console --------------------------------------------------------------------------------------------------------------


def log_table(result: EvalResult, per_class: bool = False) -> None:
    """Log what a result holds: a line for all classes, and with per_class one for each that has labels."""
    LOGGER.info(f"{'Class':>20}" + "".join(f"{title:>11}" for title in TABLE_COLUMNS))
    means = (result.mp, result.mr, result.map50, result.map)
    LOGGER.info(table_row("all", result.images, int(result.counts.sum()), means))
    if not per_class:
        return
    stats = result.stats
    columns = zip(stats.precision, stats.recall, stats.ap[:, 0], stats.ap.mean(1), strict=True)
    for index, values in zip(stats.classes, columns, strict=True):
        LOGGER.info(table_row(result.names[index], result.images, int(result.counts[index]), values))


def log_sizes(result: EvalResult) -> None:
    """Log the AP of small, medium and large objects, parted at 32 x 32 and 96 x 96 pixels."""
    if result.sizes is None:
        return
    LOGGER.info(f"{'Size':>20}{'Labels':>11}" + "".join(f"{title:>11}" for title in TABLE_COLUMNS[-2:]))
    sizes = result.sizes
    for name, count, *values in zip(SIZES, sizes.counts.sum(1), sizes.map50, sizes.map, strict=True):
        cells = (f"{value:>11.3g}" if count else f"{'-':>11}" for value in values)
        LOGGER.info(f"{name:>20}{count:>11}" + "".join(cells))


def table_row(name: str, images: int, labels: int, values: Sequence[float]) -> str:
    """Format a row of the table: v6.1's columns, 20 and then 11 characters wide."""
    return f"{name:>20}{images:>11}{labels:>11}" + "".join(f"{value:>11.3g}" for value in values)


def log_speed(result: EvalResult) -> None:
    """Log how long an image took."""
    pre, inference, nms = result.speed_ms
    speeds = f"{pre:.1f}ms pre-process, {inference:.1f}ms inference, {nms:.1f}ms NMS"
    LOGGER.info(f"Speed: {speeds} per image at shape {result.shape}")
