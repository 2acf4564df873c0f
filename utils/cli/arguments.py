"""What a run takes and writes: options given from Python, weights, its folder, names given once, rows of labels.

Legend: n detections of an image.
"""

import argparse
import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.ops.quads import QUAD

AUTO_BATCH = -1  # in place of a batch size: the largest that fits
LEAST = {"epochs": 1, "imgsz": 1, "workers": 0, "patience": 0, "seed": 0, "close_mosaic": 0}


def normalized(
    options: dict[str, object], several: Collection[str] = (), allowed: Collection[str] = ()
) -> dict[str, object]:
    """The options as the command line would give them: a Path is a str, and of the options `several` each is a list.

    One value will do where the command line takes several; None stays None. ValueError for a name that is not among
    those `allowed`, where they are given.
    """
    unknown = [name for name in options if allowed and name not in allowed]
    if unknown:
        close = difflib.get_close_matches(unknown[0], sorted(allowed), n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(allowed))}"
        raise ValueError(f"no option is called {unknown[0]}; {hint}")

    def plain(value: object) -> object:
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    found = {name: plain(value) for name, value in options.items()}
    lone = [name for name in several if name in found and not isinstance(found[name], list | None)]
    return found | {name: [found[name]] for name in lone}


def tool_parser(name: str, description: str, example: str) -> argparse.ArgumentParser:
    """Create the parser of `python -m tools.<name>`, whose --help ends with an example of its arguments."""
    command = f"python -m tools.{name}"
    return argparse.ArgumentParser(prog=command, description=description, epilog=f"Example: {command} {example}")


def add_weights(parser: argparse.ArgumentParser, what: str) -> None:
    """Lets a parser take one checkpoint, `what` it is, by --weights as all scripts do, or without a flag."""
    parser.add_argument("--weights", default="", help=what)
    parser.add_argument("file", nargs="?", default="", metavar="WEIGHTS", help="the same, without its flag")


def read_weights(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, default: str = ""
) -> dict[str, object]:
    """What a parser of `add_weights` reads, its checkpoint as `weights`; ends the script where it is not one."""
    options = vars(parser.parse_args(arguments))
    named = [name for name in (options["weights"], options.pop("file")) if name]
    if len(named) > 1:
        parser.error(f"two checkpoints are named, {' and '.join(named)}; one is wanted")
    if not (named or default):
        parser.error("which checkpoint? --weights best.pt names it")
    return options | {"weights": (named or [default])[0]}


def check_training(options: Mapping[str, Any]) -> None:
    """ValueError where an option of train.py, by its name, is out of its range, or two exclude each other."""
    for name, least in LEAST.items():
        if options[name] < least:
            raise ValueError(f"--{name.replace('_', '-')} {options[name]}: {least} or more")
    batch_size = options["batch_size"]
    if batch_size < 1 and batch_size != AUTO_BATCH:
        raise ValueError(f"--batch-size {batch_size}: 1 or more, or {AUTO_BATCH} for the largest that fits")
    if not 0 <= options["label_smoothing"] < 1:
        raise ValueError(f"--label-smoothing {options['label_smoothing']}: from 0 to below 1")
    if options["cache"] not in (None, "ram", "disk", "val"):
        raise ValueError(f"--cache {options['cache']}: ram, disk or val")
    if options["quad"] and batch_size > 0 and batch_size % QUAD:
        raise ValueError(f"--quad: a multiple of {QUAD} is needed, not --batch-size {batch_size}")
    if options["rect"] and options["image_weights"]:
        raise ValueError("--rect has a fixed order, --image-weights draws a new one each epoch: leave one of them out")


def check_shares(options: Mapping[str, Any], processes: int) -> None:
    """ValueError where a batch of train.py cannot be shared out to so many processes."""
    if processes == 1:
        return
    batch_size, least = options["batch_size"], processes * (QUAD if options["quad"] else 1)
    if batch_size == AUTO_BATCH:
        raise ValueError(f"--batch-size {AUTO_BATCH} is for one process; name a size, a multiple of {least}")
    if batch_size % least:
        if options["resume"]:
            raise ValueError(
                f"--resume: the run's --batch-size {batch_size} is not a multiple of {least}, as {processes} processes "
                "need it; start another number of them"
            )
        raise ValueError(f"--batch-size {batch_size} is shared out to {processes} processes: a multiple of {least}")
