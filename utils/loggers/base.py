"""What every place is told that a training's numbers go to, and when; and what all of these places share.

The places: results.csv (__init__.py in this folder), tensorboard.py, wandb.py and mlflow.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from torch import nn

from utils.data.labels import LabelRecord
from utils.evaluation.evaluate import EvaluatedBatch
from utils.files.yamls import read_yaml
from utils.general import atomic_write
from utils.metrics import EvalResult

KEYS = (  # v6.1's columns after `epoch`, by which other tools find them
    "train/box_loss",
    "train/obj_loss",
    "train/cls_loss",
    "metrics/precision",
    "metrics/recall",
    "metrics/mAP_0.5",
    "metrics/mAP_0.5:0.95",
    "val/box_loss",
    "val/obj_loss",
    "val/cls_loss",
    "x/lr0",
    "x/lr1",
    "x/lr2",
)
BEST_KEYS = ("best/precision", "best/recall", "best/mAP_0.5", "best/mAP_0.5:0.95")  # beside best/epoch
METRIC_KEYS = KEYS[3:7]
SERVICES = "services.yaml"  # in a run's folder: by which name a service knows the run


@dataclass(frozen=True)
class RunStart:
    """What is known when a training begins, or goes on at start_epoch.

    options: train.py's flags by name. splits: the images and labels of train and val.
    """

    folder: Path
    options: Mapping[str, object]
    hyp: Mapping[str, float]
    start_epoch: int
    names: Sequence[str]
    model: nn.Module
    imgsz: int
    splits: Mapping[str, Sequence[LabelRecord]] = field(default_factory=dict)


@dataclass(frozen=True)
class EpochNumbers:
    """The numbers of an epoch by KEYS, nan where nothing was measured, and those of the best epoch so far.

    best: best/epoch and BEST_KEYS; empty while no epoch was validated.
    """

    epoch: int
    numbers: Mapping[str, float]
    best: Mapping[str, float]


@dataclass(frozen=True)
class RunEnd:
    """What is known when a training has ended: the best weights' file, and what their evaluation says."""

    epoch: int
    best: Mapping[str, float]
    weights: Path
    result: EvalResult


class Logger:
    """A place that a training's numbers go to; each overrides what it has a use for.

    What on_start raises ends the training before it begins. Later errors cost the run this one place, no more. Nothing
    that is given here may be changed.
    """

    name = ""

    def on_start(self, start: RunStart) -> None:
        """Before the first epoch."""

    def on_images(self, epoch: int, evaluated: EvaluatedBatch) -> None:
        """The first batch of a validation, with what was found in its images, every --bbox_interval epochs."""

    def on_epoch(self, record: EpochNumbers) -> None:
        """After each epoch."""

    def on_pictures(self, epoch: int, paths: Sequence[Path]) -> None:
        """When picture files are new in the run's folder: after the first epoch, and at the end."""

    def on_checkpoint(self, epoch: int, path: Path, is_best: bool) -> None:
        """When a checkpoint was written that is kept: the epoch<N>.pt of --save-period."""

    def on_end(self, end: RunEnd) -> None:
        """When the training has ended well and its best weights were evaluated."""

    def close(self, is_complete: bool) -> None:
        """At last, whatever happened; is_complete: the run got to its end."""


def stored_service(folder: Path, service: str) -> dict[str, str]:
    """What `store_service` has stored for the run in this folder; empty where nothing was."""
    path = folder / SERVICES
    found = read_yaml(path).get(service) if path.is_file() else None
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def store_service(folder: Path, service: str, names: Mapping[str, str]) -> None:
    """Stores by which names a service knows the run in this folder, so that --resume goes on with the same one."""
    path = folder / SERVICES
    content = (read_yaml(path) if path.is_file() else {}) | {service: dict(names)}
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
