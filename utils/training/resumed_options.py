"""The options that a run is resumed with: its own, with those changed that may be."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin

from utils.files.checkpoint import Checkpoint
from utils.files.yamls import YAML_SUFFIXES
from utils.general import LOGGER, find_file
from utils.training.resume import LAST, check_same_hyp, has_ended, why_finished


def resumed_options(
    path: Path,
    checkpoint: Checkpoint,
    defaults: Mapping[str, object],
    named: Mapping[str, object],
    changeable: Collection[str],
    types: Mapping[str, object],
) -> dict[str, object]:
    """Merge the checkpoint's options and the named ones.

    Args:
        path: The checkpoint's file.
        checkpoint: The checkpoint.
        defaults: Defaults of all options.
        named: Options of the command line.
        changeable: Names of the options that may change.
        types: Type annotations of all options.

    Raises:
        ValueError: if nothing is left to do, or as `merged_options`.
    """
    stored = checkpoint.training["opt"]
    named = dict(named)
    check_same_hyp(path, checkpoint.training["hyp"], named.pop("hyp", None), stored.get("hyp"))
    if "data" in named:
        named["data"] = str(find_file(str(named["data"]), YAML_SUFFIXES).resolve())  # as it is stored
    options = merged_options(path, stored, defaults, named, changeable, types)
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
    types: Mapping[str, object],
) -> dict[str, object]:
    """Merge stored options, defaults of options that are not stored, and named ones; log what changes.

    Raises:
        ValueError: if a named option may not change, or a stored one is of another type.
    """
    options = {name: stored.get(name, default) for name, default in defaults.items()}
    for name in defaults:
        if not _has_type(options[name], types[name]):
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


def _has_type(value: object, annotation: object) -> bool:
    """Return True if a value fits an annotation such as `int`, `str | None` or `list[int]`; a bool is not an int."""
    members = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    kinds = tuple(get_origin(member) or member for member in members)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, (*kinds, int) if float in kinds else kinds)
