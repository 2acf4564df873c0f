"""The folder of a training run: its settings, checkpoints and plots."""

import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Self

import numpy as np
import yaml
from torch import Tensor, nn

from utils.data.labels import LabelRecord
from utils.dist import SINGLE, DistEnv
from utils.draw.curves import plot_labels
from utils.draw.label_maps import write_label_maps
from utils.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, strip_optimizer
from utils.general import LOGGER, atomic_write, increment_path, remove_stale
from utils.processes.locks import Lock
from utils.processes.signals import Stopped
from utils.torch_utils import EarlyStopping
from utils.training.engine import Trainer
from utils.training.resume import KEPT, LAST

STOPPER = ("best_epoch", "best_fitness", "stopped")  # what a checkpoint keeps of EarlyStopping, also of a pasted one
MADE_AT_THE_END = ("results.json", "thresholds.yaml", "labels.json", "report.json", "report.html")


@dataclass(frozen=True)
class RunFiles:
    """A run's folder, and the options and hyper-parameters stored in each of its checkpoints.

    data: fingerprints of the images by split. changes: a line for each change of the data since the run began.
    save_period: keep a checkpoint every n epochs, below 1 never. is_plotted: draw figures.
    """

    folder: Path
    options: dict[str, object]
    hyp: dict[str, float]
    data: dict[str, Tensor]
    changes: list[str]
    save_period: int = -1
    is_plotted: bool = True

    def opened(
        self, *, is_new: bool, lock: Lock, exist_ok: bool = False, weights: str = "", ranks: DistEnv = SINGLE
    ) -> Self:
        """Return the run with its folder created, locked and its settings written, by rank 0.

        is_new: increment the name of an existing folder, unless exist_ok; otherwise it is the folder of the resumed
        run.

        Raises:
            ValueError: if the initial weights would be removed with those of an older run.
            InUseError: if another process trains in the folder.
        """
        if not ranks.is_main:
            return replace(self, folder=Path(str(ranks.broadcast(None))))
        run = self
        if is_new:
            folder = increment_path(self.folder, exist_ok=exist_ok, mkdir=True)
            if Path(weights).is_file() and Path(weights).resolve().parent == (folder / "weights").resolve():
                raise ValueError(f"--weights {weights} is of the run that --exist-ok replaces; name another --name")
            run = replace(self, folder=folder)
        lock.take_folder(run.folder)
        run.open(is_new)
        ranks.broadcast(str(run.folder))
        return run

    @property
    def last(self) -> Path:
        """The checkpoint of the latest epoch, with all that a resume needs."""
        return self.folder / "weights" / LAST

    @property
    def resumable(self) -> Path:
        """The content of last.pt before it was stripped at the end; more epochs can resume from it."""
        return self.last.with_name(KEPT)

    @property
    def best(self) -> Path:
        """The weights of the best epoch."""
        return self.folder / "weights" / "best.pt"

    @property
    def final(self) -> Path:
        """The weights of the run: best.pt, or last.pt if no epoch was validated."""
        return self.best if self.best.exists() else self.last

    def epoch_checkpoint(self, epoch: int) -> Path | None:
        """Return the epoch<N>.pt of an epoch if it is to be kept, else None."""
        if self.save_period < 1 or epoch == 0 or epoch % self.save_period:
            return None
        return self.last.with_name(f"epoch{epoch}.pt")

    def open(self, is_new: bool) -> None:
        """Create the folders, write opt.yaml and hyp.yaml, and remove temporary files of killed processes.

        A new run in an older one's folder (--exist-ok) removes its checkpoints and results, which are another
        network's.
        """
        self.last.parent.mkdir(parents=True, exist_ok=True)
        if is_new:
            for checkpoint in self.last.parent.glob("*.pt"):
                checkpoint.unlink()
            for name in MADE_AT_THE_END:
                (self.folder / name).unlink(missing_ok=True)
        for folder in (self.folder, self.last.parent):
            remove_stale(folder, is_ours=True)
        options = {**self.options, "save_dir": str(self.folder)}
        if self.changes:
            options["data_changes"] = self.changes
        for name, values in (("opt", options), ("hyp", self.hyp)):
            with atomic_write(self.folder / f"{name}.yaml") as temporary:
                temporary.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")

    def plot_labels(self, records: Sequence[LabelRecord], names: Sequence[str]) -> None:
        """Plot the labels: labels.jpg, labels_correlogram.jpg, and labels.json for the report."""
        plot_labels(np.concatenate([record.boxes for record in records]), names, self.folder)
        write_label_maps([record.boxes for record in records], names, self.folder / "labels.json")

    def save(
        self,
        epoch: int,
        trainer: Trainer,
        stopper: EarlyStopping,
        model: nn.Module,
        maps: list[float] | None,
        is_best: bool,
    ) -> None:
        """Write last.pt, before it best.pt if this epoch is the best, and every save_period epochs epoch<N>.pt.

        maps: AP per class of the latest validation, from which --image-weights draws the next epoch.
        """
        trainer.end_epoch()
        checkpoint = self._checkpoint(epoch, trainer, stopper, model, maps)
        if is_best:
            save_checkpoint(self.best, replace(checkpoint, training=None))
        kept = self.epoch_checkpoint(epoch)
        if kept is not None:
            save_checkpoint(kept, checkpoint)
        save_checkpoint(self.last, checkpoint)
        self.resumable.unlink(missing_ok=True)  # of an earlier end of this run

    def save_partial(
        self, trainer: Trainer, stopper: EarlyStopping, model: nn.Module, maps: list[float] | None
    ) -> None:
        """Write last.pt within an epoch; a resume continues with the next batch.

        Between epochs it does nothing, as last.pt exists already unless --nosave was given.
        """
        done = trainer.progress
        if done is None:
            return
        save_checkpoint(self.last, self._checkpoint(done.epoch - 1, trainer, stopper, model, maps))
        self.resumable.unlink(missing_ok=True)
        LOGGER.info(f"\nsaved in epoch {done.epoch}, after {done.batches} of its {done.batch_count} batches")

    def _checkpoint(
        self, epoch: int, trainer: Trainer, stopper: EarlyStopping, model: nn.Module, maps: list[float] | None
    ) -> Checkpoint:
        """Collect the state of the run; epoch: the last complete one, -1 during the first."""
        training = {
            **trainer.state_dict(),
            "stopper": {name: getattr(stopper, name) for name in STOPPER if hasattr(stopper, name)},
            "opt": self.options,
            "hyp": self.hyp,
            "data": self.data,
            "changes": self.changes,
            "maps": maps,
        }
        return Checkpoint(
            yaml=model.yaml,
            names=tuple(model.names),
            state=trainer.ema.ema.state_dict(),
            epoch=epoch,
            best_fitness=None if stopper.best_epoch is None else float(stopper.best_fitness),
            training=training,
            date=datetime.now().isoformat(timespec="seconds"),
            imgsz=model.imgsz,
        )

    def reopen(self, checkpoint: Checkpoint) -> None:
        """Restore last.pt after the end of the run stripped it, with the current options.

        The run can then be resumed if it is interrupted before its next epoch is complete.
        """
        if Path(str(self.options["resume"])).name == LAST and load_checkpoint(self.last).training is None:
            training = {**(checkpoint.training or {}), "opt": self.options}
            save_checkpoint(self.last, replace(checkpoint, training=training))

    def strip_best(self) -> None:
        """Keep only what inference needs in best.pt."""
        if self.best.exists():
            strip_optimizer(self.best)

    def strip_last(self) -> None:
        """Keep only what inference needs in last.pt and move the rest to resume.pt; the last step of a run."""
        if not self.last.exists() or load_checkpoint(self.last).training is None:
            return
        with atomic_write(self.resumable) as temporary:
            shutil.copyfile(self.last, temporary)
        strip_optimizer(self.last)


@contextmanager
def log_resume_hint(run: RunFiles, save: Callable[[], None] | None = None) -> Iterator[None]:
    """Log the command that resumes the run if a signal or a full disk ends it.

    save: called first if a signal has ended it; saves within an epoch.
    """
    try:
        yield
    except (KeyboardInterrupt, OSError) as error:
        if save is not None and isinstance(error, Stopped):
            save()
        if run.last.exists():
            LOGGER.info(f"\nto go on: python train.py --resume {shlex.quote(str(run.last))}")
        raise
