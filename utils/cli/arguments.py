"""Flags that several commands share, and options given from Python."""

import argparse
import difflib
from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

Options = TypeVar("Options")


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


def add_run_folder(parser: argparse.ArgumentParser, project: str | Path) -> None:
    """Add --project, --name and --exist-ok, which name the folder of a run's results."""
    parser.add_argument("--project", default=str(project), help="results go to project/name")
    parser.add_argument("--name", default="exp", help="results go to project/name; a number is added where that exists")
    parser.add_argument(
        "--exist-ok", action="store_true", help="write into an existing project/name, replacing files of the same names"
    )
