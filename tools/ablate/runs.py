"""Train and rate the runs of an ablation one after the other, each in a process and a folder of its own.

A worker that is killed takes its training with it, on Linux at once; the next worker resumes the run.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.ablate.plan import Run
from tools.ablate.queue import Claim, RunFailedError, RunQueue, RunReleasedError
from tools.subprocesses import TAIL, TRAINER, run_logged
from utils.general import LOGGER, duration, plural
from utils.processes.locks import InUseError, Lock
from utils.training.resume import has_ended

Measure = Callable[[Run], dict[str, object]]


def work(
    queue: RunQueue,
    runs: Sequence[Run],
    measure: Measure,
    trainer: Sequence[str] = TRAINER,
    is_needed: Callable[[Run], bool] = lambda run: True,
) -> None:
    """Do all runs that are open.

    A training that fails is recorded, and the next run is begun.

    Args:
        measure: rates a trained run
        is_needed: called before each run; False skips it
    """
    began, done = time.monotonic(), 0
    for run in runs:
        if is_needed(run) and queue.state(run.key) in ("open", "running"):
            queue.check_digest(run.key, run.digest)
            queue.do(run.key, lambda claim, run=run: do(queue, claim, run, measure, trainer))
            done += 1
            left = sum(queue.state(other.key) == "open" for other in runs)
            if left:
                seconds = left * (time.monotonic() - began) / done
                LOGGER.info(f"{plural(left, 'run')} left, about {duration(seconds)} for this process alone")


def do(
    queue: RunQueue, claim: Claim, run: Run, measure: Measure, trainer: Sequence[str] = TRAINER
) -> dict[str, object]:
    """Train or resume a run, rate it, and return its record.

    RunFailedError if the training fails; RunReleasedError if another process trains in the folder or owns the run.
    """
    facts: dict[str, object] = {"train_seconds": None, "peak_mb": None}
    last, log = run.folder / "weights" / "last.pt", queue.log(run.key)
    if is_in_use(run.folder):
        raise RunReleasedError
    if not is_trained(run.folder):
        is_resumed = last.is_file()
        LOGGER.info(f"{run.key}: {'resumed' if is_resumed else 'training'}; log in {log}")
        arguments = ("--resume", str(last)) if is_resumed else run.arguments
        ended = run_logged([*trainer, *arguments], log, claim.is_held)
        if ended is None:
            LOGGER.warning(f"{run.key}: another worker has taken the run over; its training here is ended")
            raise RunReleasedError
        if ended.status:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            LOGGER.error(f"{run.key}: the training failed with status {ended.status}: {' / '.join(lines[-1:])}")
            raise RunFailedError({"status": ended.status, "log": lines[-TAIL:]})
        # Of a resumed run only the last part's time is known, which is not the training's.
        facts = {"train_seconds": None if is_resumed else ended.seconds, "peak_mb": ended.peak_mb}
    return {"variant": run.variant, "seed": run.seed, "digest": run.digest} | facts | measure(run)


def is_trained(folder: Path) -> bool:
    """Return whether a training has ended; train.py --resume finishes one that was cut off after its last epoch."""
    try:
        return has_ended(folder / "weights" / "last.pt", is_plotted=False)
    except ValueError as error:
        LOGGER.debug(f"{error}: train.py --resume reports it")
        return False


def is_in_use(folder: Path) -> bool:
    """Return whether a process trains in the folder, such as that of a worker that was taken for lost."""
    try:
        with Lock() as lock:
            if folder.is_dir():
                lock.take_folder(folder)
    except InUseError as error:
        LOGGER.warning(f"{error}")
        return True
    return False
