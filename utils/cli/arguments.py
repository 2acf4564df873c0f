"""Flags that several commands share, and options given from Python."""

import argparse
import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from utils.base.constants import AUTO_THREADS

Options = TypeVar("Options")

OTHER_NAMES = {  # what other programs and flags of ours call an option
    "img": "imgsz",
    "img_size": "imgsz",
    "image_size": "imgsz",
    "size": "imgsz",
    "model": "weights",
    "path": "weights",
    "show": "view_img",
    "view": "view_img",
    "plots": "noplots",
    "save_dir": "project",
    "input": "source",
    "images": "source",
}
MIN_WORD = 3  # letters of an option's first word that are looked for
MAX_HINTS = 3
MIN_SLICE = 32  # pixels
MAX_OVERLAP = 0.9  # of slices: with more they hardly advance


def normalized(
    options: dict[str, object], several: Collection[str] = (), allowed: Collection[str] = ()
) -> dict[str, object]:
    """The options as the command line would give them: a Path is a str, and of the options `several` each is a list.

    One value will do where the command line takes several; None stays None. A device may be a number, several, or a
    torch.device; a name may be a number. ValueError for a name that is not among those `allowed`, where they are given.
    """
    unknown = [name for name in options if allowed and name not in allowed]
    if unknown:
        close = meant_options(unknown[0], allowed)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(sorted(allowed))}"
        raise ValueError(f"no option is called {unknown[0]}; {hint}")

    def plain(value: object) -> object:
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    found = {name: plain(value) for name, value in options.items()}
    if "device" in found:
        found["device"] = device_text(found["device"])
    if isinstance(found.get("name"), int):
        found["name"] = str(found["name"])
    lone = [name for name in several if name in found and not isinstance(found[name], list | None)]
    return found | {name: [found[name]] for name in lone}


def meant_options(name: str, allowed: Collection[str]) -> list[str]:
    """Return the options that an unknown name may stand for: one that others call so, of the same first word, alike."""
    other = OTHER_NAMES.get(name)
    if other in allowed:
        return [other]
    begun = [option for option in sorted(allowed) if option.startswith(f"{name}_")]
    first_words = {option: option.partition("_")[0] for option in sorted(allowed) if "_" in option}
    longer = [option for option, word in first_words.items() if len(word) >= MIN_WORD and name.startswith(word)]
    alike = difflib.get_close_matches(name, sorted(allowed), n=1, cutoff=0.75)
    return alike or begun[:MAX_HINTS] or longer[:MAX_HINTS] or difflib.get_close_matches(name, sorted(allowed), n=1)


def device_text(device: object) -> str:
    """Return a device as --device takes it: `0` of 0, `0,1` of [0, 1], `1` of torch.device("cuda", 1), "" of None."""
    if device is None:
        return ""
    if isinstance(device, list | tuple):
        return ",".join(map(device_text, device))
    return str(device).removeprefix("cuda:")


def read_options(
    kind: type[Options], parser: argparse.ArgumentParser, arguments: Sequence[str] | None, several: Collection[str] = ()
) -> Options:
    """Read the command line, or `arguments`, into a dataclass that has a field for each flag.

    Defaults may be paths, and a single value where the flag takes `several`. Ends the script for a flag without field.
    """
    values = normalized(vars(parser.parse_args(arguments)), several)
    unknown = sorted(values.keys() - {field.name for field in fields(kind)})
    if unknown:
        name = unknown[0]
        parser.error(
            f"--{name.replace('_', '-')} has no field: add `{name}: <type>` to {kind.__name__} in "
            f"{kind.__module__.replace('.', '/')}.py"
        )
    return kind(**values)


def given_names(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> frozenset[str]:
    """Return the names of the options that the command line has, whatever their values.

    The parser's defaults are suppressed for this; it is of no use afterwards.
    """
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return frozenset(vars(parser.parse_args(arguments)))


def check_limits(conf_thres: float, iou_thres: float, counts: Mapping[str, int]) -> None:
    """ValueError where a threshold is no share, or one of the counts, by their flags, is below 1."""
    for flag, value in (("--conf-thres", conf_thres), ("--iou-thres", iou_thres)):
        if not 0 <= value <= 1:
            raise ValueError(f"{flag} {value}: a share between 0 and 1")
    for flag, value in counts.items():
        if value < 1:
            raise ValueError(f"{flag} {value}: 1 or more")


def check_size(imgsz: int | Sequence[int] | None) -> None:
    """ValueError where --imgsz is no size, or of a flag that takes several neither one nor two; None is not given."""
    if imgsz is None:
        return
    if isinstance(imgsz, int):
        if imgsz < 1:
            raise ValueError(f"--imgsz {imgsz}: 1 or more")
    elif len(imgsz) not in {1, 2} or min(imgsz) < 1:
        raise ValueError(f"--imgsz {' '.join(map(str, imgsz))}: one size, or height and width, in pixels")


def thread_count(text: str) -> int | str:
    """Parse the value of --threads: a number or auto."""
    return text if text == AUTO_THREADS else int(text)


def check_threads(threads: int | str) -> None:
    """Raise ValueError unless --threads is auto or a number of 0 or more."""
    if threads != AUTO_THREADS and (not isinstance(threads, int) or threads < 0):
        raise ValueError(f"--threads {threads}: 0 or more, or {AUTO_THREADS}")


class DefaultsFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Append each option's default to its help, unless the help states it itself or the default is empty."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "") or "(default: " in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def tool_parser(name: str, description: str, example: str) -> argparse.ArgumentParser:
    """Create the parser of `python -m tools.<name>`, whose --help has the defaults and ends with an example."""
    command = f"python -m tools.{name}"
    return argparse.ArgumentParser(
        prog=command,
        description=description,
        epilog=f"Example: {command} {example}",
        formatter_class=DefaultsFormatter,
    )


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


def add_run_folder(parser: argparse.ArgumentParser, project: str | Path) -> None:
    """Add --project, --name and --exist-ok, which name the folder of a run's results."""
    parser.add_argument("--project", default=str(project), help="results go to project/name")
    parser.add_argument("--name", default="exp", help="results go to project/name; a number is added where that exists")
    parser.add_argument(
        "--exist-ok", action="store_true", help="write into an existing project/name, replacing files of the same names"
    )


def check_slices(size: int | None, overlap: float) -> None:
    """Raise ValueError unless slices have MIN_SLICE pixels or more and advance."""
    if size is not None and size < MIN_SLICE:
        raise ValueError(f"--slice {size}: {MIN_SLICE} or more pixels")
    if not 0 <= overlap <= MAX_OVERLAP:
        raise ValueError(f"--overlap {overlap}: a share between 0 and {MAX_OVERLAP}")
