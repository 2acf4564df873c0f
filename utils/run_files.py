"""The folder of a training: its settings, its checkpoints, its pictures."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Self

import numpy as np
import yaml
from torch import nn

from utils.checkpoint import Checkpoint, save_checkpoint, strip_optimizer
from utils.curves import plot_labels
from utils.dist import SINGLE, Ranks
from utils.engine import Trainer
from utils.general import LOGGER, atomic_write, increment_path, remove_stale
from utils.labels import LabelRecord
from utils.torch_utils import EarlyStopping


@dataclass(frozen=True)
class RunFiles:
    """A run's folder and what each of its checkpoints says of it: options and hyper-parameters as plain values.

    images: how many there are to train on.
    """

    folder: Path
    options: dict[str, object]
    hyp: dict[str, float]
    images: int

    @classmethod
    def create(cls, options: dict[str, object], hyp: dict[str, float], images: int, ranks: Ranks = SINGLE) -> Self:
        """The folder of the run that --resume names, or a new one in project/name; its settings are written.

        Rank 0 makes it, and the others are told.
        """
        if not ranks.is_main:
            return cls(Path(str(ranks.broadcast(None))), options, hyp, images)
        resume = options["resume"]
        if resume:
            folder = Path(str(resume)).parents[1]
        else:
            place = Path(str(options["project"])) / str(options["name"])
            folder = increment_path(place, exist_ok=bool(options["exist_ok"]), mkdir=True)
        run = cls(folder, options, hyp, images)
        run.open(is_new=not resume)
        ranks.broadcast(str(folder))
        return run

    @property
    def is_plotted(self) -> bool:
        """Whether pictures are drawn."""
        return not self.options["noplots"]

    @property
    def last(self) -> Path:
        """The checkpoint of the latest epoch, with all that a resume needs."""
        return self.folder / "weights" / "last.pt"

    @property
    def best(self) -> Path:
        """The weights of the best epoch."""
        return self.folder / "weights" / "best.pt"

    def open(self, is_new: bool) -> None:
        """Makes the folders, writes opt.yaml and hyp.yaml, and takes away what a killed process left half written.

        A new run in an older one's folder (--exist-ok) takes its checkpoints away too: they are another network's.
        """
        self.last.parent.mkdir(parents=True, exist_ok=True)
        if is_new:
            for checkpoint in self.last.parent.glob("*.pt"):
                checkpoint.unlink()
        remove_stale(self.last.parent, older_than_s=0)
        for name, values in (("opt", {**self.options, "save_dir": str(self.folder)}), ("hyp", self.hyp)):
            with atomic_write(self.folder / f"{name}.yaml") as temporary:
                temporary.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")

    def plot_labels(self, records: Sequence[LabelRecord], names: Sequence[str]) -> None:
        """Draws what is labelled, where and how large: labels.jpg and labels_correlogram.jpg."""
        plot_labels(np.concatenate([record.boxes for record in records]), names, self.folder)

    def save(
        self,
        epoch: int,
        trainer: Trainer,
        stopper: EarlyStopping,
        model: nn.Module,
        maps: list[float] | None,
        is_best: bool,
    ) -> None:
        """Writes last.pt, before it best.pt if this epoch is the best, and every save_period epochs epoch<N>.pt.

        maps: the classes' mAPs at the latest validation, of which a run with image weights makes the next epoch's.
        """
        best = None if stopper.best_epoch is None else float(stopper.best_fitness)
        training = {
            **trainer.state_dict(),
            "stopper": stopper.state_dict(),
            "opt": self.options,
            "hyp": self.hyp,
            "images": self.images,
            "maps": maps,
        }
        state = trainer.ema.ema.state_dict()
        checkpoint = Checkpoint(
            model.yaml, tuple(model.names), state, epoch, best, training, datetime.now().isoformat(timespec="seconds")
        )
        if is_best:
            save_checkpoint(self.best, replace(checkpoint, training=None))
        period = self.options["save_period"]
        if period > 0 and epoch > 0 and epoch % period == 0:
            save_checkpoint(self.last.with_name(f"epoch{epoch}.pt"), checkpoint)
        save_checkpoint(self.last, checkpoint)

    def strip(self) -> None:
        """Leaves in last.pt and best.pt only what inference needs."""
        for path in (self.last, self.best):
            if path.exists():
                strip_optimizer(path)


@contextmanager
def telling_how_to_go_on(run: RunFiles) -> Iterator[None]:
    """Says at Ctrl-C with which command the run can go on."""
    try:
        yield
    except KeyboardInterrupt:
        if run.last.exists():
            LOGGER.info(f"\nto go on: python train.py --resume {shlex.quote(str(run.last))}")
        raise
