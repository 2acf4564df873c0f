"""The options that a run is resumed with: its own, with those changed that may be."""

from collections.abc import Collection, Mapping
from pathlib import Path

from utils.files.checkpoint import Checkpoint
from utils.files.yamls import YAML_SUFFIXES
from utils.general import LOGGER, find_file
from utils.training.resume import LAST, check_same_hyp, has_ended, why_finished

KINDS = {  # of an option's value, by that of its default
    int: int,
    float: int | float,
    str: str | None,
    bool: bool | str,
    list: list,
    type(None): int | str | None,
}


def resumed_options(
    path: Path,
    checkpoint: Checkpoint,
    defaults: Mapping[str, object],
    named: Mapping[str, object],
    changeable: Collection[str],
) -> dict[str, object]:
    """The options to go on with, from the checkpoint's and those named; ValueError where they leave nothing to do."""
    stored = checkpoint.training["opt"]
    named = dict(named)
    check_same_hyp(path, checkpoint.training["hyp"], named.pop("hyp", None), stored.get("hyp"))
    if "data" in named:
        named["data"] = str(find_file(str(named["data"]), YAML_SUFFIXES).resolve())  # as it is stored
    options = merged_options(path, stored, defaults, named, changeable)
    reason = why_finished(path, checkpoint, int(str(options["epochs"])), int(str(options["patience"])))
    if reason and (path.name != LAST or has_ended(path, is_plotted=not options["noplots"])):
        raise ValueError(reason)
    return options


def merged_options(
    path: Path,
    stored: Mapping[str, object],
    defaults: Mapping[str, object],
    named: Mapping[str, object],
    changeable: Collection[str],
) -> dict[str, object]:
    """The options to go on with: those stored, by default those that came later, and named ones that may change.

    What changes is said in the log; ValueError where one is named with another value that may not, or a stored one is
    of another type.
    """
    options = {name: stored.get(name, default) for name, default in defaults.items()}
    for name, default in defaults.items():
        if not isinstance(options[name], KINDS.get(type(default), object)):
            raise ValueError(f"{path}: cannot be resumed, its option {name} is {options[name]!r:.60}")
    for name, value in named.items():
        if value == options[name]:
            continue
        flag = f"--{name.replace('_', '-')}"
        if name not in changeable:
            raise ValueError(f"{flag} {value!r} cannot change when resuming; {path} has {options[name]!r}")
        LOGGER.info(f"{flag} {value} from here on, {options[name]} before")
        options[name] = value
    return options
