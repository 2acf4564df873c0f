"""TensorBoard: a training's scalars, its network as a graph, curves of precision over recall, and its pictures."""

import copy
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from utils.files.images import read_image
from utils.general import LOGGER, colorstr, one_line
from utils.loggers.base import EpochNumbers, Logger, RunEnd, RunStart
from utils.metrics import EvalResult, distinct_names

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CURVE_STEP = 9  # of the 1000 confidences of a curve: TensorBoard draws little more than a hundred


def summary_writer() -> "type[SummaryWriter] | None":
    """TensorBoard's writer of events, or None where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        LOGGER.info("TensorBoard is not installed: its events are not written (pip install tensorboard)")
        return None
    return SummaryWriter


class TensorBoardLogger(Logger):
    """Writes events into the run's folder, for `tensorboard --logdir`."""

    name = "TensorBoard"

    def __init__(self, writer: "type[SummaryWriter]") -> None:
        self.open_writer = writer

    def on_start(self, start: RunStart) -> None:
        """Opens the file; a new run's has the network's graph. A run that goes on takes later numbers back."""
        LOGGER.info(f"{colorstr('TensorBoard: ')}start with `tensorboard --logdir {start.folder.parent}`")
        self.writer = self.open_writer(str(start.folder), purge_step=start.start_epoch or None)
        if not start.start_epoch:
            self.add_graph(start)

    def add_graph(self, start: RunStart) -> None:
        """The graph of a copy of the network in evaluation mode, on the CPU; left out where it cannot be traced."""
        try:
            model = copy.deepcopy(start.model).to("cpu", torch.float32).eval()
            images = torch.zeros(1, 3, start.imgsz, start.imgsz)
            with quiet(), torch.no_grad():
                model(images)  # a pasted head may keep its grid from now on: the trace's check runs it twice
                self.writer.add_graph(model, images, use_strict_trace=False)
        except Exception as error:  # a user's block can fail in any way, and a check of the trace in one of its own
            LOGGER.debug(f"TensorBoard: no graph, the network cannot be traced: {one_line(error)}")

    def on_epoch(self, record: EpochNumbers) -> None:
        """The numbers as scalars, by the names of results.csv."""
        for key, value in record.numbers.items():
            if not math.isnan(value):
                self.writer.add_scalar(key, value, record.epoch)

    def on_pictures(self, epoch: int, paths: Sequence[Path]) -> None:
        """The pictures by their files' names."""
        for path in paths:
            self.writer.add_image(path.name, read_image(path)[..., ::-1], epoch, dataformats="HWC")

    def on_end(self, end: RunEnd) -> None:
        """A curve of precision over recall for each class that has labels."""
        for name, counts in pr_counts(end.result).items():
            self.writer.add_pr_curve_raw(f"PR/{name}", *counts, end.epoch, num_thresholds=counts.shape[1])

    def close(self, is_complete: bool) -> None:
        """Closes the file."""
        self.writer.close()


def pr_counts(result: EvalResult) -> dict[str, np.ndarray]:
    """Of each class that has labels (6, P): right, wrong, 0, missed, precision and recall at rising confidences."""
    stats, names = result.stats, distinct_names(result.names)
    found = {}
    for row, index in enumerate(stats.classes):
        precision, recall = (curve[row, ::CURVE_STEP] for curve in (stats.precision_curve, stats.recall_curve))  # (P,)
        right = recall * stats.counts[row]
        wrong = np.divide(right, precision, out=np.zeros_like(right), where=precision > 0) - right
        missed = stats.counts[row] - right
        counts = np.stack((right, np.maximum(wrong, 0), np.zeros_like(right), missed)).round()
        found[names[index]] = np.concatenate((counts, (precision, recall)))
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps warnings of tracing, and what torch prints where it fails, from the console."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
