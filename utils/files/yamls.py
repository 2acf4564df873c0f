"""YAML files as plain values, read strictly."""

import difflib
from collections.abc import Collection, Hashable, Sequence
from pathlib import Path

import yaml

from utils.general import LOGGER

YAML_SUFFIXES = (".yaml", ".yml")
TEXT_TAG, INTEGER_TAG, NULL_TAG = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "null"))


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


def read_yaml(path: str | Path, text_keys: Collection[str] = ()) -> dict:
    """The mapping in a YAML file; ValueError with file, line and column where it is none.

    Values of `text_keys`, at any depth, are texts as they are written: YAML 1.1 would make 1126 of the class name
    02146, 90 of 1:30 and False of no.
    """
    try:
        content = _load(Path(path).read_text(encoding="utf-8-sig"), text_keys)
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


def _load(text: str, text_keys: Collection[str]) -> object:
    """The value that a YAML text stands for."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value in text_keys and not (isinstance(value, yaml.ScalarNode) and value.tag == NULL_TAG):
                    _keep_text(value)
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _keep_text(node: yaml.Node) -> None:
    """Make texts of all scalars of a node that are not empty; keys that count, as 08, become decimal numbers."""
    if isinstance(node, yaml.ScalarNode):
        if node.value:
            node.tag = TEXT_TAG
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _keep_text(item)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.style is None and key.value.isdecimal():
                key.tag, key.value = INTEGER_TAG, str(int(key.value))
            _keep_text(value)


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
