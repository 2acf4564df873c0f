"""Warnings about settings of a training that are allowed but hardly meant, and the commands that follow it."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from utils.data.config import Hyp
from utils.general import plural
from utils.training.optim import warmup_steps

HIGHEST_ADAM_LR0 = 0.005  # above it the rate is one for SGD, whose default is 0.01


def setting_warnings(hyp: Hyp, optimizer: str, batches_per_epoch: int, epochs: int) -> list[str]:
    """Return warnings about a learning rate that does not suit the optimizer, and about a shortened warm-up."""
    found = []
    if optimizer != "SGD" and hyp.lr0 > HIGHEST_ADAM_LR0:
        found.append(
            f"--optimizer {optimizer} with lr0 {hyp.lr0:g}, a learning rate for SGD; "
            f"set lr0 to about {hyp.lr0 / 10:g} in the --hyp file"
        )
    wished = math.ceil(hyp.warmup_epochs * batches_per_epoch)
    granted = warmup_steps(hyp.warmup_epochs, batches_per_epoch, epochs)
    if granted < wished:
        found.append(
            f"--epochs {epochs} is short for warmup_epochs {hyp.warmup_epochs:g}: warm-up takes "
            f"{plural(granted, 'batch')} of {batches_per_epoch * epochs}, not {wished}; train for more epochs"
        )
    return found


def loss_warning(losses: Sequence[float] | None) -> str | None:
    """Return a warning if validation losses (box, obj, cls) are not finite, else None."""
    names = ("box", "obj", "cls")
    broken = [name for name, loss in zip(names, losses or (), strict=False) if not math.isfinite(loss)]
    if not broken:
        return None
    return (
        f"validation loss {', '.join(broken)} is not finite; the training diverges: "
        "lower lr0 in the --hyp file, or train with --amp off"
    )


def next_commands(weights: Path, data: Path, imgsz: int) -> list[str]:
    """Return the commands that evaluate and use a checkpoint, to paste into a shell."""
    file, size = shlex.quote(str(weights)), f"--imgsz {imgsz}"
    return [
        f"python val.py --weights {file} --data {shlex.quote(str(data))} {size}",
        f"python detect.py --weights {file} --source path/to/images {size}",
    ]
