"""Weights & Biases: a training's options, numbers, pictures, drawn boxes and weights, by way of its own package.

Used where --wandb asks for it, or an option that has no meaning without it. WANDB_MODE=offline keeps all in the run's
folder, until `wandb sync` is called.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from torch import Tensor

from utils.base.constants import SERVICE_PROJECT
from utils.evaluation.evaluate import EvaluatedBatch
from utils.general import one_line
from utils.loggers.base import EpochNumbers, Logger, RunEnd, RunStart, store_service, stored_service
from utils.loggers.wandb_data import import_wandb, upload_dataset

if TYPE_CHECKING:
    from wandb import Run

BAD_IN_PROJECT = re.compile(r"[/\\#?%:]")
BOX_IMAGES, BOX_CONFIDENCE = 16, 0.25  # how many images with boxes are logged, and which boxes
FINISH_TIMEOUT_S = 600  # a server that is gone must not hold the end of a run for ever


@dataclass(frozen=True)
class WandbFlags:
    """What the user asks of W&B: train.py's --wandb and the options that mean nothing without it."""

    project: str | None = None
    entity: str | None = None
    upload_dataset: str | bool = False
    bbox_interval: int = -1
    artifact_alias: str = "latest"


def wandb_project(flags: WandbFlags) -> str | None:
    """Return the project to log to, or None if no option asks for W&B."""
    if flags.project:
        return flags.project
    is_implied = flags.entity or flags.upload_dataset or flags.bbox_interval != -1 or flags.artifact_alias != "latest"
    return SERVICE_PROJECT if is_implied else None


def check_wandb(flags: WandbFlags) -> None:
    """ValueError where an option of W&B cannot be used, ImportError where its package is missing."""
    project = wandb_project(flags)
    if project is None:
        return
    if BAD_IN_PROJECT.search(project) or len(project) > 128:
        raise ValueError(f"--wandb {project}: a project's name has at most 128 characters and none of / \\ # ? % :")
    if flags.upload_dataset not in (False, True, "train", "val"):
        raise ValueError(f"--upload_dataset {flags.upload_dataset}: val, train, or nothing for both")
    if flags.bbox_interval < -1:
        raise ValueError(f"--bbox_interval {flags.bbox_interval}: a number of epochs, 0 = never, -1 = ten times")
    import_wandb()


def box_interval(asked: int, epochs: int) -> int:
    """Every so many epochs boxes are logged, 0 for never: -1 is ten times in a run, or each epoch of a short one."""
    return max(epochs // 10, 1) if asked == -1 else asked


class WandbLogger(Logger):
    """Logs to a run of a W&B project; a training that goes on goes on with the same run.

    entity: the user or team that the project belongs to. upload: the split of the data set to upload, True for both,
    False for none; data_file: its yaml.
    """

    name = "W&B"

    def __init__(
        self, project: str, entity: str | None = None, upload: str | bool = False, data_file: str | Path = ""
    ) -> None:
        self.project, self.entity, self.upload, self.data_file = project, entity, upload, data_file

    def on_start(self, start: RunStart) -> None:
        """Opens the run, and uploads the data set where that is asked for; ValueError where W&B does not let it."""
        self.wandb = import_wandb()
        stored = stored_service(start.folder, "wandb") if start.start_epoch else {}
        is_same = bool(stored.get("id")) and stored.get("project") == self.project
        self.run = open_run(self.wandb, self.project, self.entity, start.folder, stored["id"] if is_same else None)
        store_service(start.folder, "wandb", {"id": self.run.id, "project": self.project})
        self.run.config.update({**start.options, "hyp": dict(start.hyp)}, allow_val_change=True)
        self.run.define_metric("epoch")
        self.run.define_metric("*", step_metric="epoch")
        self.names = dict(enumerate(start.names))
        if self.upload and not is_same:
            splits = {name: start.splits[name] for name in start.splits if self.upload in (True, name)}
            upload_dataset(self.wandb, self.run, self.data_file, splits)

    def on_images(self, epoch: int, evaluated: EvaluatedBatch) -> None:
        """Images with the boxes found in them."""
        columns = zip(evaluated.batch.images[:BOX_IMAGES], evaluated.found, evaluated.batch.paths, strict=False)
        images = [self.with_boxes(image, found, Path(path).name) for image, found, path in columns]
        self.run.log({"BoundingBoxDebugger": images, "epoch": epoch})

    def with_boxes(self, image: Tensor, found: Tensor, caption: str) -> object:
        """W&B's image of one (3, H, W) uint8 RGB, with boxes of found (n, 6): xyxy in pixels, confidence, class."""
        boxes = [
            {
                "position": dict(zip(("minX", "minY", "maxX", "maxY"), row[:4], strict=True)),
                "class_id": int(row[5]),
                "box_caption": f"{self.names[int(row[5])]} {row[4]:.2f}",
                "scores": {"confidence": row[4]},
                "domain": "pixel",
            }
            for row in found[found[:, 4] > BOX_CONFIDENCE].tolist()
        ]
        layers = {"predictions": {"box_data": boxes, "class_labels": self.names}}
        return self.wandb.Image(image.permute(1, 2, 0).numpy(), boxes=layers, caption=caption)

    def on_epoch(self, record: EpochNumbers) -> None:
        """The numbers by the names of results.csv; the best so far in the run's summary."""
        known = {key: value for key, value in record.numbers.items() if not math.isnan(value)}
        self.run.log({**known, "epoch": record.epoch})
        self.run.summary.update(dict(record.best))

    def on_pictures(self, epoch: int, paths: Sequence[Path]) -> None:
        """The pictures by their files' names."""
        if paths:
            images = {f"pictures/{path.stem}": self.wandb.Image(str(path)) for path in paths}
            self.run.log({**images, "epoch": epoch})

    def on_checkpoint(self, epoch: int, path: Path, is_best: bool) -> None:
        """The checkpoint as a version of the run's model."""
        aliases = ["latest", f"epoch {epoch}"]
        if is_best:
            aliases.append("best")
        self.log_model(path, aliases)

    def on_end(self, end: RunEnd) -> None:
        """The best weights as the last version of the run's model."""
        self.run.summary.update(dict(end.best))
        self.log_model(end.weights, ["latest", "best", "stripped"])

    def log_model(self, path: Path, aliases: list[str]) -> None:
        """Logs a file that will not change as a version of the model."""
        artifact = self.wandb.Artifact(f"run_{self.run.id}_model", type="model")
        artifact.add_file(str(path), policy="immutable", skip_cache=True)
        self.run.log_artifact(artifact, aliases=aliases)

    def close(self, is_complete: bool) -> None:
        """Waits until all is sent, for some minutes at most; of a run that failed W&B learns so."""
        self.run.finish(exit_code=0 if is_complete else 1)


def open_run(wandb: ModuleType, project: str, entity: str | None, folder: Path, run_id: str | None) -> "Run":
    """W&B's run, the one of this id or a new one; what it keeps on this machine lies in the run's folder."""
    settings = wandb.Settings(console="off", save_code=False, quiet=True, finish_timeout=FINISH_TIMEOUT_S)
    try:
        return wandb.init(
            project=project,
            entity=entity,
            dir=str(folder),
            name=folder.name,
            job_type="Training",
            id=run_id,
            resume="allow" if run_id else None,
            settings=settings,
        )
    except wandb.errors.Error as error:
        raise ValueError(
            f"--wandb: {one_line(error)}; log in with `wandb login`, or set WANDB_MODE=offline and call `wandb sync` "
            "later"
        ) from None
