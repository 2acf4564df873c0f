"""Resume a run that was interrupted or has finished: find its checkpoint, options and data.

An interrupted run continues exactly, also if only its ending is left, which validates the best weights and writes the
report; last.pt is stripped at the very end. A finished run needs more --epochs, or after early stopping a larger
--patience. Its learning rates, warm-up and --close-mosaic are then those of a run of the new number of epochs, as if it
had been interrupted in its last one. Data may change and the change is recorded; hyper-parameters may not change.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from utils.data.config import Hyp
from utils.data.labels import LabelRecord
from utils.files.checkpoint import Checkpoint, load_checkpoint
from utils.files.weights import newest
from utils.general import LOGGER, one_line, plural
from utils.training.fingerprint import describe_changes, fingerprint

LAST = "last.pt"
KEPT = "resume.pt"  # beside last.pt: what last.pt held before the end of the run left only weights in it

# What the trainer and its run write into a checkpoint's `training`, and of which type each part is.
TRAINING_PARTS = {
    "model": dict,
    "optimizer": dict,
    "scaler": dict,
    "rng": dict,
    "stopper": dict,
    "opt": dict,
    "hyp": dict,
    "amp": str,
    "updates": int,
    "skipped": int,
    "data": dict,
    "changes": list,
}
PARTIAL = {"epoch", "batch_count", "batches", "pending", "steps", "total", "counted", "epoch_skipped", "gradients"}


# Which run ------------------------------------------------------------------------------------------------------------


def find_run(resume: str | Path | bool, project: Path) -> Path:
    """Return the last.pt to resume: a file, that of a folder, or for True of the newest run below project."""
    if isinstance(resume, bool):
        path = newest(project, LAST)
        if path is None:
            raise FileNotFoundError(f"--resume: there is no run with a last.pt below {project}; name one")
        return path.resolve()
    path = Path(resume).expanduser().resolve()
    if path.is_dir():
        path = path / "last.pt" if path.name == "weights" else path / "weights" / "last.pt"
    if not path.is_file():
        hint = "; a run with --nosave has none before its last epoch" if path.parent.is_dir() else ""
        raise FileNotFoundError(f"--resume {resume}: no such file{hint if path.name == 'last.pt' else ''}")
    if path.parent.name != "weights" or not (path.parents[1] / "opt.yaml").is_file():
        raise ValueError(f"--resume {resume}: not in a run's folder; <run>/weights/last.pt is wanted, beside opt.yaml")
    return path


def load_run(path: Path) -> Checkpoint:
    """Load the checkpoint of a run; for the last.pt of a finished run the resume.pt beside it.

    Raises:
        ValueError: if the file lacks what a resume needs.
    """
    checkpoint = load_checkpoint(path)
    kept = path.with_name(KEPT)
    if checkpoint.training is None and path.name == "last.pt" and kept.is_file():
        path, checkpoint = kept, load_checkpoint(kept)
    training = checkpoint.training
    if training is None:
        beside = f" and there is no {KEPT} beside it" if path.name == "last.pt" else "; name the run's last.pt"
        raise ValueError(f"{path}: holds weights only{beside}; a new run can start from it with --weights")
    wrong = [name for name, kind in TRAINING_PARTS.items() if not isinstance(training.get(name), kind)]
    partial = training.get("partial")
    if partial is not None and not (isinstance(partial, dict) and partial.keys() == PARTIAL):
        wrong.append("partial")
    if wrong:
        raise ValueError(f"{path}: cannot be resumed, {wrong[0]!r} is missing or damaged; start from it with --weights")
    return checkpoint


# With which options ---------------------------------------------------------------------------------------------------


def why_finished(path: Path, checkpoint: Checkpoint, epochs: int, patience: int) -> str:
    """Return the reason if no epoch is left: all are done, or early stopping would end the run at once; else empty."""
    done, stopper = checkpoint.epoch + 1, checkpoint.training["stopper"]
    best = int(stopper.get("best_epoch") or 0)
    if stopper.get("stopped") and 0 < patience <= checkpoint.epoch - best:
        return (
            f"{path}: stopped early after epoch {checkpoint.epoch}, {plural(checkpoint.epoch - best, 'epoch')} after "
            f"its best, {best}; to go on name a larger --patience (0 = never stop)"
        )
    if done >= epochs:
        return f"{path}: finished with {plural(done, 'epoch')}; to go on name more with --epochs"
    return ""


def has_ended(last: Path, is_plotted: bool) -> bool:
    """Return True if a run is complete: last.pt is stripped, which is the last step, and its files exist.

    is_plotted: the report is one of them.
    """
    names = ("results.json", "report.html") if is_plotted else ("results.json",)
    is_written = all((last.parents[1] / name).is_file() for name in names)
    return is_written and last.is_file() and load_checkpoint(last).training is None


def check_same_hyp(path: Path, trained: Mapping[str, float], named: object, stored: object) -> None:
    """Raise ValueError if the --hyp file differs from the values that the run was trained with.

    Without --hyp the run's values apply; warn if the file that they came from has changed.
    """
    files = [named] if named else [stored, path.parents[1] / "hyp.yaml"]
    for file in files:
        try:
            values = Hyp.from_yaml(str(file)).to_dict()
        except (ValueError, FileNotFoundError) as error:
            if named:
                raise
            LOGGER.debug(f"{error}: not compared with the run's hyper-parameters")  # it is gone: nothing depends on it
            continue
        differ = [
            f"{key} {trained.get(key)} -> {values.get(key)}"
            for key in dict.fromkeys((*trained, *values))
            if trained.get(key) != values.get(key)
        ]
        if differ and named:
            raise ValueError(f"--hyp {file} cannot change when resuming; {path} has other values: {', '.join(differ)}")
        if differ:
            LOGGER.warning(f"{file} is not what the run was trained with, which it keeps to: {', '.join(differ)}")


@contextmanager
def telling_of_moved_data(data: str) -> Iterator[None]:
    """Add advice to a FileNotFoundError if the run's data yaml, or a path in it, has moved."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{one_line(error)}; --resume looks for the data set where the run had it ({data}): if it has moved, name "
            "its yaml with --data"
        ) from None


# On which data --------------------------------------------------------------------------------------------------------


def check_same_data(path: Path, checkpoint: Checkpoint, names: Collection[str]) -> None:
    """Raise ValueError if the data set has other classes than the run was trained with."""
    if tuple(checkpoint.names) != tuple(names):
        before, now = (f"{len(classes)} ({', '.join(classes)[:80]})" for classes in (checkpoint.names, names))
        raise ValueError(
            f"{path}: its classes were {before}, those of the data set are {now}; put the data set back, or start anew "
            "with --weights"
        )


def data_record(
    training: Mapping[str, object], epoch: int, splits: Mapping[str, Sequence[LabelRecord]], root: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the fingerprints of the splits and the run's record of changes in its data.

    Changes since the checkpoint of this epoch are added and warned of; `training` is empty for a new run.
    """
    now = {name: fingerprint(records, root) for name, records in splits.items()}
    if not training:
        return now, []
    found = [f"from epoch {epoch + 1} on: {line}" for line in describe_changes(training["data"], now)]
    for line in found:
        LOGGER.warning(f"--resume: the data set is not what it was, {line}; opt.yaml keeps a record of it")
    return now, [*map(str, training["changes"]), *found]
