"""What an evaluation leaves on disk: curves, confusion matrix, example pictures, label files, numbers.

Legend: n detections of an image, t labels.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from utils.data.label_files import label_rows
from utils.draw.curves import plot_ap_bars, plot_confusion_matrix, plot_metric_curve, plot_pr_curve
from utils.draw.label_maps import LabelMaps
from utils.evaluation.best_and_worst import BestAndWorst
from utils.evaluation.evaluate import EvaluatedBatch, as_one_class
from utils.files.output_names import output_names
from utils.files.results import whole_or_none
from utils.general import atomic_write
from utils.metrics import EvalResult
from utils.ops.boxes import xyxy2xywhn
from utils.ops.confusion import ConfusionMatrix
from utils.ops.size_ap import SIZES
from utils.plots import plot_batch, targets_of

EXAMPLE_BATCHES = 3


class EvalPlots:
    """An observer of `evaluate` that draws the first batches, and when all is done curves and confusion matrix.

    It also gathers what utils/report/page.py tells beside: `examples`, the best and worst images, and `labels`, their
    maps.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names
        self.confusion = ConfusionMatrix(len(names))
        self.examples, self.labels = BestAndWorst(names), LabelMaps(names)

    def __call__(self, evaluated: EvaluatedBatch) -> None:
        """Counts the batch; draws it as val_batch<i>_labels.jpg and val_batch<i>_pred.jpg if it is an early one."""
        for detections, labels in zip(evaluated.native, evaluated.labels, strict=True):
            self.confusion.process_batch(detections, labels)
        for labels, shape in zip(evaluated.labels, evaluated.batch.shapes, strict=True):
            boxes = xyxy2xywhn(labels[:, 1:], *reversed(shape.image_hw))
            self.labels.add(torch.cat((labels[:, :1], boxes), 1).numpy())
        self.examples(evaluated)
        if evaluated.index >= EXAMPLE_BATCHES:
            return
        batch = evaluated.batch
        images, targets, paths = batch.images, batch.targets, batch.paths
        if len(self.names) == 1:  # single_cls has made one of the data set's classes
            targets = as_one_class(targets)
        h, w = images.shape[2:]
        stem = self.folder / f"val_batch{evaluated.index}"
        plot_batch(images, targets, Path(f"{stem}_labels.jpg"), self.names, paths)
        plot_batch(images, targets_of(evaluated.found, (h, w)), Path(f"{stem}_pred.jpg"), self.names, paths)

    def finish(self, result: EvalResult) -> None:
        """Writes PR_curve.png, F1_curve.png, P_curve.png, R_curve.png, AP_bars.png and confusion_matrix.png."""
        stats = result.stats
        names = [self.names[index] for index in stats.classes]
        plot_pr_curve(stats.points, stats.pr_curve, stats.ap[:, 0], names, self.folder / "PR_curve.png")
        curves = {"F1": stats.f1_curve, "P": stats.precision_curve, "R": stats.recall_curve}
        for letter, curve in curves.items():
            threshold = result.threshold if letter == "F1" else None  # where P and R of the log were taken
            ylabel = {"P": "Precision", "R": "Recall"}.get(letter, letter)
            plot_metric_curve(stats.points, curve, names, self.folder / f"{letter}_curve.png", ylabel, threshold)
        plot_ap_bars(stats.ap, names, self.folder / "AP_bars.png")
        plot_confusion_matrix(self.confusion.matrix, self.names, self.folder / "confusion_matrix.png")


class LabelFiles:
    """An observer of `evaluate` that writes folder/<stem>.txt for each image: rows `class cx cy w h [confidence]`.

    Boxes are in shares of the image. Images without detections get no file; one of an earlier run goes. files: all
    images that will come, of which those of one stem are told apart.
    """

    def __init__(self, folder: Path, files: Sequence[str], with_confidence: bool = False) -> None:
        self.folder, self.with_confidence = folder, with_confidence
        distinct = [*dict.fromkeys(files)]  # a list may name an image again: its file is the same
        self.stems = {file: name.stem for file, name in zip(distinct, output_names(distinct), strict=True)}
        self.written = 0
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, evaluated: EvaluatedBatch) -> None:
        """Writes a batch's files."""
        batch = evaluated.batch
        for name, shape, detections in zip(batch.paths, batch.shapes, evaluated.native, strict=True):
            path = self.folder / f"{self.stems[name]}.txt"
            if not len(detections):
                path.unlink(missing_ok=True)
                continue
            with whole_or_none(path) as file:
                file.write_text(label_rows(detections, shape.image_hw, self.with_confidence), encoding="utf-8")
            self.written += 1


def write_thresholds(result: EvalResult, path: Path) -> None:
    """Writes a yaml of `class name: confidence` of highest smoothed F1; null for a class without labels or finds."""
    rounded = {name: None if value is None else round(value, 4) for name, value in result.class_thresholds.items()}
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(rounded, sort_keys=False, allow_unicode=True), encoding="utf-8")


def write_results(result: EvalResult, path: Path) -> None:
    """Writes `results_content` as JSON."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(results_content(result), indent=2) + "\n", encoding="utf-8")


def results_content(result: EvalResult) -> dict[str, object]:
    """An evaluation's means and speed, and those of each class and object size, as plain values; None is unknown."""
    content: dict[str, object] = {
        "images": result.images,
        "labels": int(result.counts.sum()),
        "precision": result.mp,
        "recall": result.mr,
        "threshold": result.threshold,
        "mAP_0.5": result.map50,
        "mAP_0.5:0.95": result.map,
        "speed_ms": dict(zip(("preprocess", "inference", "nms"), result.speed_ms, strict=True)),
        "classes": class_rows(result),
    }
    if result.sizes is not None:
        columns = zip(SIZES, result.sizes.counts.sum(1).tolist(), result.sizes.map50, result.sizes.map, strict=True)
        content["sizes"] = {
            name: {"labels": count, "mAP_0.5": known(map50), "mAP_0.5:0.95": known(mean)}
            for name, count, map50, mean in columns
        }
    return content


def class_rows(result: EvalResult) -> list[dict[str, object]]:
    """What is known of each class; of those without labels their names and None."""
    stats = result.stats
    columns = (stats.precision, stats.recall, stats.ap[:, 0], stats.ap.mean(1))
    keys = ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95")
    rated = {
        int(index): dict(zip(keys, map(float, values), strict=True))
        for index, *values in zip(stats.classes, *columns, strict=True)
    }
    unknown = dict.fromkeys(keys)
    thresholds = result.class_thresholds.values()  # in the order of the classes
    return [
        {"name": name, "labels": int(count), **rated.get(i, unknown), "threshold": threshold}
        for i, (name, count, threshold) in enumerate(zip(result.names, result.counts, thresholds, strict=True))
    ]


def known(value: float) -> float | None:
    """The number, None where it is nan, which JSON does not have."""
    return None if math.isnan(value) else float(value)
