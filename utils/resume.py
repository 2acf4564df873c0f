"""Going on with a run that was cut off: which checkpoint, with which options, on the same data."""

from collections.abc import Collection, Mapping
from pathlib import Path

from utils.checkpoint import Checkpoint, load_checkpoint
from utils.general import LOGGER
from utils.runs import newest

# What the trainer and its run write into a checkpoint's `training`, and of which type each part is.
TRAINING_PARTS = {
    **{"model": dict, "optimizer": dict, "scaler": dict, "rng": dict, "stopper": dict, "opt": dict, "hyp": dict},
    **{"amp": str, "updates": int, "skipped": int},
}


def find_run(resume: str | Path | bool, project: Path) -> Path:
    """The last.pt to go on from: the one named, or with True that of the newest run below project."""
    if isinstance(resume, bool):
        path = newest(project, "last.pt")
        if path is None:
            raise FileNotFoundError(f"--resume: there is no run with a last.pt below {project}; name one")
        return path.resolve()
    path = Path(resume).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"--resume {resume}: no such file")
    if path.parent.name != "weights" or not (path.parents[1] / "opt.yaml").is_file():
        raise ValueError(f"--resume {resume}: not in a run's folder; <run>/weights/last.pt is wanted, beside opt.yaml")
    return path


def load_run(path: Path) -> Checkpoint:
    """The checkpoint of a run that has not ended; ValueError for any other."""
    checkpoint = load_checkpoint(path)
    training = checkpoint.training
    if training is None:
        raise ValueError(f"{path}: this run has ended, there is nothing to resume; start from it with --weights")
    wrong = [name for name, kind in TRAINING_PARTS.items() if not isinstance(training.get(name), kind)]
    if wrong:
        raise ValueError(f"{path}: cannot be resumed, {wrong[0]!r} is missing or damaged; start from it with --weights")
    return checkpoint


def merged_options(
    path: Path,
    stored: Mapping[str, object],
    defaults: Mapping[str, object],
    named: Mapping[str, object],
    changeable: Collection[str],
) -> dict[str, object]:
    """The options to go on with: those stored, by default those that came later, and named ones that may change.

    What changes is said in the log; ValueError where one is named with another value that may not.
    """
    options = {name: stored.get(name, default) for name, default in defaults.items()}
    for name, value in named.items():
        if value == options[name]:
            continue
        flag = f"--{name.replace('_', '-')}"
        if name not in changeable:
            raise ValueError(f"{flag} {value!r} cannot change when resuming; {path} has {options[name]!r}")
        LOGGER.info(f"{flag} {value} from here on, {options[name]} before")
        options[name] = value
    return options


def check_same_data(path: Path, checkpoint: Checkpoint, names: Collection[str]) -> None:
    """ValueError where the data set has other classes than the run that goes on was trained with."""
    if tuple(checkpoint.names) != tuple(names):
        before, now = (f"{len(classes)} ({', '.join(classes)[:80]})" for classes in (checkpoint.names, names))
        raise ValueError(
            f"{path}: its classes were {before}, those of the data set are {now}; put the data set back, or start anew "
            "with --weights"
        )


def check_same_images(before: object, now: int) -> None:
    """Warns where the training images are not as many as they were: the run is then not what it would have been."""
    if before not in (None, now):
        LOGGER.warning(
            f"--resume: {now} images to train on, {before} before; the run goes on with those that are there"
        )
