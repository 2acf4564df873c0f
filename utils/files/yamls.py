"""YAML files as plain values, read strictly."""

import difflib
from collections.abc import Hashable, Sequence
from pathlib import Path

import yaml

from utils.general import LOGGER

YAML_SUFFIXES = (".yaml", ".yml")


class _Loader(yaml.SafeLoader):
    """Builds plain values only; refuses a key that is given twice, of which YAML would drop one unseen, and aliases.

    Aliases can make a short file fill the memory, or a list hold itself; no file that is read here needs them.
    """

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            problem = f"aliases (*{event.anchor}) are not allowed; write the value out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                problem = f"{key.value!r} is given twice, first in line {lines[key.value]}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict:
    """The mapping in a YAML file; ValueError with file, line and column where it is none."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8-sig"), _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ValueError(f"{path}{place}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date like 2022-02-30
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(f"{path}: not valid YAML: nested too deeply") from None
    if content is None:
        raise ValueError(f"{path}: is empty; it must hold `key: value` rows")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold `key: value` rows, not {type(content).__name__}")
    return content


def report_unknown(content: dict, known: Sequence[str], source: str) -> None:
    """Says in the log which keys are not used, as a warning where one may be a known key misspelt."""
    unknown = [str(key) for key in content if key not in known]
    near = {key: difflib.get_close_matches(key, known, n=1, cutoff=0.75) for key in unknown}
    for key, close in near.items():
        if close:
            LOGGER.warning(f"{source}: unknown key {key} is not used; is {close[0]} meant?")
    others = [key for key in unknown if not near[key]]
    if others:
        s, verb = ("s", "are") if len(others) > 1 else ("", "is")
        LOGGER.info(f"{source}: unknown key{s} {', '.join(others)} {verb} not used")
