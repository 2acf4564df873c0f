"""Does the trainings of an ablation, each in a process and a folder of its own, one after the other.

A worker that is killed takes its training with it, on Linux at once; whoever comes next goes on with it by --resume.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.ablate.plan import Run
from tools.ablate.queue import Claim, RunQueue
from tools.subprocesses import TAIL, TRAINER, Ended, run_logged
from utils.files.reading import read_json
from utils.general import LOGGER, atomic_write
from utils.processes.locks import InUseError, Lock
from utils.training.resume import has_ended

Measure = Callable[[Run, Callable[[], object]], dict[str, object]]


def work(
    queue: RunQueue,
    runs: Sequence[Run],
    measure: Measure,
    trainer: Sequence[str] = TRAINER,
    is_wanted: Callable[[Run], bool] = lambda run: True,
) -> None:
    """Does all runs that nobody else has done or is at; measure(run, beat) rates one that is trained.

    It calls beat() now and then, so that nobody takes the run for lost. A training that fails is
    recorded and the next one is begun. `is_wanted` is asked before each run whether it is still needed.
    """
    for run in runs:
        if not is_wanted(run):
            continue
        claim = queue.claim(run.key)
        if claim is None:
            continue
        try:
            check_same(queue, run)
            do(claim, run, measure, trainer)
        finally:
            claim.release()


def do(claim: Claim, run: Run, measure: Measure, trainer: Sequence[str] = TRAINER) -> None:
    """Trains, or goes on with it, and rates one run, and writes how it ended; nothing if the claim is lost."""
    facts: dict[str, object] = {"train_seconds": None, "peak_mb": None}
    last = run.folder / "weights" / "last.pt"
    if is_in_use(run.folder):
        return
    if not is_trained(run.folder):
        goes_on = last.is_file()
        LOGGER.info(f"{run.key}: {'goes on' if goes_on else 'training'}; log in {claim.folder / 'log.txt'}")
        ended = supervise([*trainer, *(("--resume", str(last)) if goes_on else run.arguments)], claim)
        if ended is None:
            LOGGER.warning(f"{run.key}: another worker has taken it over, and this one lets go of it")
            return
        if ended.status:
            lines = (claim.folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
            claim.end("failed", {"status": ended.status, "log": lines[-TAIL:]})
            LOGGER.error(f"{run.key}: the training failed with status {ended.status}: {' / '.join(lines[-1:])}")
            return
        # Of a run that was cut off only the last part's time is known: it is not the training's.
        facts = {"train_seconds": None if goes_on else ended.seconds, "peak_mb": ended.peak_mb}
    claim.beat()
    who = {"variant": run.variant, "seed": run.seed, "digest": run.digest}
    claim.end("done", who | facts | measure(run, claim.beat))


def is_trained(folder: Path) -> bool:
    """Return whether a training has come to its end; train.py finishes one that was cut off in it."""
    try:
        return has_ended(folder / "weights" / "last.pt", is_plotted=False)
    except ValueError as error:
        LOGGER.debug(f"{error}: train.py --resume will say so")
        return False


def is_in_use(folder: Path) -> bool:
    """Return whether a process trains in the folder: that of a worker which was taken for lost, for instance."""
    try:
        with Lock() as lock:
            if folder.is_dir():
                lock.take_folder(folder)
    except InUseError as error:
        LOGGER.warning(f"{error}")
        return True
    return False


def supervise(command: Sequence[str], claim: Claim) -> Ended | None:
    """Runs a command, its output in the claim's log.txt, and keeps the claim; None where the claim was lost."""
    return run_logged(command, claim.folder / "log.txt", claim.beat)


def check_same(queue: RunQueue, run: Run) -> None:
    """ValueError where the run was begun with other settings or files; notes those of a new one."""
    path = queue.place(run.key) / "run.json"
    record = {"digest": run.digest, "arguments": list(run.arguments)}
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return
    try:
        digest = read_json(path)["digest"]  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); remove its folder and {run.folder}") from error
    if digest != run.digest:
        raise ValueError(
            f"{run.key} was begun with other options or files than the yaml has now (see {path}): choose another "
            f"--name, or remove {path.parent} and {run.folder}"
        )
