"""YAML files as plain values, read strictly."""

import difflib
import re
from collections.abc import Collection, Hashable, Sequence
from pathlib import Path

import yaml

from utils.files.reading import read_plain
from utils.general import LOGGER

YAML_SUFFIXES = (".yaml", ".yml")
MOST_BYTES, MOST_NODES = 4 << 20, 150_000  # of a file; a list of 100000 class names fits, and takes seconds
LONGEST_PROBLEM = 300  # characters of an error
LONGEST_NUMBER = 100  # characters; long ones of base 60 take hours
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
LEAST, MOST = -(2**63), 2**63 - 1  # whole numbers that torch and numpy can hold
SURROGATES = re.compile("[\ud800-\udfff]")  # which cannot be written to a file or a console
# What PyYAML raises for values that are none of the kind that their tag says, besides its own errors.
STUMBLES = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError)
TEXT_TAG, INTEGER_TAG, NULL_TAG = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "null"))


class _Loader(yaml.SafeLoader):
    """Builds plain values only; refuses a key that is given twice, of which YAML would drop one unseen, and aliases.

    Aliases can make a short file fill the memory, or a list hold itself; no file that is read here needs them.
    """

    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            problem = f"aliases (*{event.anchor}) are not allowed; write the value out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.nodes += 1
        if self.nodes > MOST_NODES:
            problem = f"more than {MOST_NODES} values, which no file that is read here has"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        """The value of a node; an error with its place, whatever PyYAML stumbles over."""
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        kind = node.tag.rpartition(":")[2]
        if node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:
            problem = f"a number of {len(node.value)} characters; {LONGEST_NUMBER} are possible"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        try:
            value = super().construct_object(node, deep)
        except STUMBLES as error:
            problem = _in_line(error) if type(error) is ValueError else f"{node.value!r:.60} is no {kind}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None
        if isinstance(value, str) and SURROGATES.search(value):
            problem = "a text with half of a character"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        if isinstance(value, int) and not LEAST <= value <= MOST:
            problem = f"{node.value:.60} is beyond 64 bits"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return value

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
    return parse_yaml(read_plain(path, MOST_BYTES, "YAML file"), str(path), text_keys)


def parse_yaml(data: bytes, source: str, text_keys: Collection[str] = ()) -> dict:
    """The mapping in a YAML text, as `read_yaml`; `source` names it in errors."""
    try:
        content = _load(data.decode("utf-8-sig"), text_keys)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ValueError(f"{source}{place}: not valid YAML: {_in_line(error.problem or error.context)}") from None
    except RecursionError:
        raise ValueError(f"{source}: not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, *STUMBLES) as error:  # ValueError: not UTF-8
        raise ValueError(f"{source}: not valid YAML: {_in_line(error)}") from None
    if content is None:
        raise ValueError(f"{source}: is empty; it must hold `key: value` rows")
    if not isinstance(content, dict):
        raise ValueError(f"{source}: must hold `key: value` rows, not {type(content).__name__}")
    return content


def _in_line(error: object) -> str:
    return " ".join(str(error).split())[:LONGEST_PROBLEM]


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
