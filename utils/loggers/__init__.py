"""What a training leaves to read: results.csv, the services its numbers go to, the lines and bars of the console."""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from utils.data.labels import LabelRecord
from utils.datasets import Batch
from utils.evaluation.evaluate import EvaluatedBatch, Observer
from utils.general import LOGGER, atomic_write, one_line, progress
from utils.loggers.base import BEST_KEYS, KEYS, METRIC_KEYS, EpochNumbers, Logger, RunEnd, RunStart
from utils.loggers.mlflow import MlflowLogger, import_mlflow
from utils.loggers.tensorboard import TensorBoardLogger, summary_writer
from utils.loggers.wandb import WandbFlags, WandbLogger, box_interval, check_wandb, wandb_project
from utils.metrics import EvalResult
from utils.training.run_files import RunFiles

HEADER = ",".join(f"{name:>20}" for name in ("epoch", *KEYS))
BAR_COLUMNS = ("Epoch", "gpu_mem", "box", "obj", "cls", "labels", "img_size")


def check_services(wandb: WandbFlags, experiment: str | None) -> None:
    """ValueError or ImportError where what is asked of W&B, or logging to an MLflow experiment, cannot be had."""
    check_wandb(wandb)
    if experiment:
        import_mlflow()


def open_loggers(
    run: RunFiles,
    start_epoch: int,
    model: nn.Module,
    imgsz: int,
    names: Sequence[str],
    splits: Mapping[str, Sequence[LabelRecord]],
    *,
    epochs: int,
    data_file: str | Path,
    wandb: WandbFlags,
    experiment: str | None = None,
    is_main: bool = True,
) -> "RunLogger":
    """Make the loggers of a run, to be entered with `with`; none where the process is not main.

    names: the classes. splits: the images of train and val, and data_file the yaml that describes them. epochs: of the
    whole run. wandb: what is asked of W&B. experiment: of MLflow, None without it.
    """
    project = wandb_project(wandb)
    interval = box_interval(wandb.bbox_interval, epochs) if project else 0
    if not is_main:
        return RunLogger(interval=interval)
    loggers: list[Logger] = [CsvLogger()]
    writer = summary_writer()
    if writer is not None:
        loggers.append(TensorBoardLogger(writer))
    if project:
        loggers.append(WandbLogger(project, wandb.entity, wandb.upload_dataset, data_file))
    if experiment:
        loggers.append(MlflowLogger(experiment))
    options = {**run.options, "save_dir": str(run.folder)}
    start = RunStart(run.folder, options, run.hyp, start_epoch, tuple(names), model, imgsz, splits)
    return RunLogger(loggers, start, interval)


class RunLogger:
    """Tells all loggers of a run what happens; a context manager, so that each is closed whatever happens.

    A logger that fails is dropped with a warning: no service ends a training, nor changes it. Without loggers it does
    nothing. interval: every so many epochs images with boxes are logged, 0 for never.
    """

    def __init__(self, loggers: Sequence[Logger] = (), start: RunStart | None = None, interval: int = 0) -> None:
        assert start is not None or not loggers, "loggers are told of a start"
        self.loggers, self.start, self.interval = list(loggers), start, interval
        self.rows: dict[int, dict[str, float]] = {}
        self.best: dict[str, float] = {}
        self.shown: set[Path] = set()

    def __enter__(self) -> Self:
        """The logger, once all have started; what keeps one from it is raised."""
        if self.start is None:
            return self
        rows = rows_before(self.start.folder, self.start.start_epoch)
        self.rows = {epoch: numbers for epoch, numbers in map(parse_row, rows)}
        started: list[Logger] = []
        try:
            for logger in self.loggers:
                started.append(logger)
                with kept_random_state():
                    logger.on_start(self.start)
        except BaseException:
            self.loggers = started[:-1]
            self.close(is_complete=False)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes all."""
        self.close(is_complete=error is None)

    def close(self, is_complete: bool) -> None:
        """Closes all; is_complete: the run got to its end."""
        self._tell(lambda logger: logger.close(is_complete))
        self.loggers.clear()

    def observer(self, epoch: int) -> Observer | None:
        """What is to see the batches of an epoch's validation; None where nothing is logged of them.

        It depends on the options alone, and so is the same in all processes of a training.
        """
        if not self.interval or (epoch + 1) % self.interval:
            return None

        def observe(evaluated: EvaluatedBatch) -> None:
            if evaluated.index == 0:
                self._tell(lambda logger: logger.on_images(epoch, evaluated))

        return observe

    def log_epoch(
        self,
        epoch: int,
        losses: Tensor,
        result: EvalResult | None,
        learning_rates: Sequence[float],
        best_epoch: int | None = None,
    ) -> None:
        """One row of results.csv, and the same numbers elsewhere; losses are (3,), box, obj, cls.

        An epoch that was not validated has nan in the columns of the validation. best_epoch: the best one so far.
        """
        measured = (math.nan,) * 7
        if result is not None:
            measured = (result.mp, result.mr, result.map50, result.map, *(result.losses or (math.nan,) * 3))
        numbers = dict(zip(KEYS, (*losses.tolist(), *measured, *learning_rates), strict=True))
        self.rows[epoch] = numbers
        if best_epoch in self.rows:
            row = self.rows[best_epoch]
            metrics = {best: row[key] for best, key in zip(BEST_KEYS, METRIC_KEYS, strict=True)}
            self.best = {"best/epoch": best_epoch, **metrics}
        record = EpochNumbers(epoch, numbers, self.best)
        self._tell(lambda logger: logger.on_epoch(record))
        if len(self.rows) == 1:
            self.log_pictures(epoch)

    def log_checkpoint(self, epoch: int, path: Path | None, is_best: bool) -> None:
        """The checkpoint of an epoch that is kept; None where none is."""
        if path is not None:
            self._tell(lambda logger: logger.on_checkpoint(epoch, path, is_best))

    def log_end(self, epoch: int, weights: Path, result: EvalResult | None) -> None:
        """The run's last pictures, its best weights and their evaluation."""
        self.log_pictures(epoch)
        if result is not None:
            end = RunEnd(epoch, self.best, weights, result)
            self._tell(lambda logger: logger.on_end(end))

    def log_pictures(self, epoch: int) -> None:
        """The pictures that are new in the run's folder."""
        if self.start is None:
            return
        found = sorted(self.start.folder.glob("*.jpg")) + sorted(self.start.folder.glob("*.png"))
        paths = [path for path in found if path not in self.shown]
        self.shown |= set(paths)
        self._tell(lambda logger: logger.on_pictures(epoch, paths))

    def _tell(self, call: Callable[[Logger], None]) -> None:
        for logger in tuple(self.loggers):
            try:
                with kept_random_state():
                    call(logger)
            except Exception as error:  # of whatever kind: packages of others, and networks
                LOGGER.warning(f"{logger.name}: {one_line(error)}; the run goes on without it")
                LOGGER.debug("the error in full", exc_info=error)
                self.loggers.remove(logger)


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Puts Python's, numpy's and torch's random states back: loggers draw names and the like."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


# results.csv ----------------------------------------------------------------------------------------------------------


class CsvLogger(Logger):
    """Writes results.csv.

    A run that goes on keeps the rows before start_epoch: what was written after the last checkpoint is written anew.
    """

    name = "results.csv"

    def on_start(self, start: RunStart) -> None:
        """Writes the head, and the rows that are kept."""
        self.path = start.folder / "results.csv"
        rows = [HEADER, *rows_before(start.folder, start.start_epoch)]
        with atomic_write(self.path) as temporary:
            temporary.write_text("\n".join(rows) + "\n", encoding="utf-8")

    def on_epoch(self, record: EpochNumbers) -> None:
        """Writes a row."""
        cells = (f"{record.epoch:>20}", *(f"{value:>20.5g}" for value in record.numbers.values()))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(",".join(cells) + "\n")


def rows_before(folder: Path, epoch: int) -> list[str]:
    """The whole rows of results.csv of earlier epochs."""
    path = folder / "results.csv"
    if not epoch or not path.exists():
        return []
    rows = path.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    return [row for row in rows if is_before(row, epoch)]


def is_before(row: str, epoch: int) -> bool:
    """Whether this is a whole row of results.csv of an earlier epoch."""
    cells = row.split(",")
    return len(cells) == len(KEYS) + 1 and cells[0].strip().isdecimal() and int(cells[0]) < epoch


def parse_row(row: str) -> tuple[int, dict[str, float]]:
    """The epoch of a row and its numbers; nan for what is none."""
    epoch, *cells = row.split(",")
    return int(epoch), {key: number_of(cell) for key, cell in zip(KEYS, cells, strict=True)}


def number_of(cell: str) -> float:
    """The number in a cell, nan where it is damaged."""
    try:
        return float(cell)
    except ValueError:
        return math.nan


# Console --------------------------------------------------------------------------------------------------------------


class EpochBar:
    """The progress bar of a training epoch, with v6.1's columns."""

    def __init__(
        self, epoch: int, epochs: int, batches: Iterable[Batch], batch_count: int, disable: bool = False
    ) -> None:
        self.epoch = f"{epoch}/{epochs - 1}"
        LOGGER.info(("\n" + "%10s" * len(BAR_COLUMNS)) % BAR_COLUMNS)
        self.bar = progress(batches, total=batch_count, disable=disable)
        self.losses = ("",) * 3

    def __iter__(self) -> Iterator[Batch]:
        """The batches."""
        return iter(self.bar)

    def show(self, memory: str, batch: Batch, losses: Tensor | None) -> None:
        """Renews the numbers; losses (3,) are those so far, None where they are not known yet."""
        if losses is not None:
            self.losses = tuple(f"{value:.4g}" for value in losses.tolist())
        cells = (self.epoch, memory, *self.losses, len(batch.targets), batch.images.shape[-1])
        self.bar.set_description_str(("%10s" * len(BAR_COLUMNS)) % cells, refresh=False)


# Names of v6.1 --------------------------------------------------------------------------------------------------------


def __getattr__(name: str) -> object:
    """Import a further name of v6.1 when it is asked for; utils/v61 says where each is."""
    return import_module("utils.v61").find(__name__, name)
