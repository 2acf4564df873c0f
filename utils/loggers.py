"""What a training leaves to read: results.csv, TensorBoard's events, and the lines and bars of the console."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from torch import Tensor

from utils.datasets import Batch
from utils.general import LOGGER, atomic_write, colorstr, progress
from utils.images import read_image

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from utils.metrics import EvalResult

KEYS = (  # v6.1's columns after `epoch`, by which other tools find them
    *("train/box_loss", "train/obj_loss", "train/cls_loss"),
    *("metrics/precision", "metrics/recall", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95"),
    *("val/box_loss", "val/obj_loss", "val/cls_loss"),
    *("x/lr0", "x/lr1", "x/lr2"),
)
HEADER = ",".join(f"{name:>20}" for name in ("epoch", *KEYS))
BAR_COLUMNS = ("Epoch", "gpu_mem", "box", "obj", "cls", "labels", "img_size")


class RunLogger:
    """Writes a run's numbers to `folder`; a context manager, so that TensorBoard's file is closed whatever happens.

    A run that goes on keeps the rows before start_epoch: what was written after the last checkpoint is written anew.
    """

    def __init__(self, folder: Path, start_epoch: int = 0, is_main: bool = True) -> None:
        self.folder, self.csv, self.is_main = folder, folder / "results.csv", is_main
        self.tensorboard = None
        if not is_main:
            return
        rows = [HEADER]
        if start_epoch and self.csv.exists():
            rows += [
                row
                for row in self.csv.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
                if is_before(row, start_epoch)
            ]
        with atomic_write(self.csv) as temporary:
            temporary.write_text("\n".join(rows) + "\n", encoding="utf-8")
        self.tensorboard = open_tensorboard(folder, start_epoch)

    def __enter__(self) -> Self:
        """The logger."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes TensorBoard's file."""
        if self.tensorboard is not None:
            self.tensorboard.close()

    def log_epoch(
        self, epoch: int, losses: Tensor, result: "EvalResult | None", learning_rates: Sequence[float]
    ) -> None:
        """One row of results.csv and the same numbers as TensorBoard's scalars; losses are (3,), box, obj, cls.

        An epoch that was not validated has nan in the columns of the validation.
        """
        if not self.is_main:
            return
        measured = (math.nan,) * 7
        if result is not None:
            measured = (result.mp, result.mr, result.map50, result.map, *result.losses)
        values = (*losses.tolist(), *measured, *learning_rates)
        cells = (f"{epoch:>20}", *(f"{value:>20.5g}" for value in values))
        with self.csv.open("a", encoding="utf-8") as file:
            file.write(",".join(cells) + "\n")
        if self.tensorboard is not None:
            for key, value in zip(KEYS, values, strict=True):
                if not math.isnan(value):
                    self.tensorboard.add_scalar(key, value, epoch)

    def log_end(self, epoch: int) -> None:
        """The run's pictures for TensorBoard."""
        if self.tensorboard is None:
            return
        for path in sorted(self.folder.glob("*.jpg")) + sorted(self.folder.glob("*.png")):
            self.tensorboard.add_image(path.name, read_image(path)[..., ::-1], epoch, dataformats="HWC")


def is_before(row: str, epoch: int) -> bool:
    """Whether this is a whole row of results.csv of an earlier epoch."""
    cells = row.split(",")
    return len(cells) == len(KEYS) + 1 and cells[0].strip().isdecimal() and int(cells[0]) < epoch


def open_tensorboard(folder: Path, start_epoch: int) -> "SummaryWriter | None":
    """TensorBoard's writer into the run's folder, or None where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        LOGGER.info("TensorBoard is not installed: results.csv alone is written (pip install tensorboard)")
        return None
    LOGGER.info(f"{colorstr('TensorBoard: ')}start with `tensorboard --logdir {folder.parent}`")
    return SummaryWriter(str(folder), purge_step=start_epoch or None)


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
