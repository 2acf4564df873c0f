"""A model yaml as checked values: its numbers, anchors and rows, from which models/yolo.py builds layers."""

import copy
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.files.yamls import YAML_SUFFIXES, read_yaml, report_unknown
from utils.general import find_file

PREVIOUS = -1  # in `from` and in a plan: the row before
IMAGE = -1  # among the rows that a row reads
HEAD = "Detect"
NAME = re.compile(r"[A-Za-z_][\w-]*")  # of a row
KEYS = ("nc", "depth_multiple", "width_multiple", "anchors", "backbone", "head")
OPTIONAL_KEYS = ("ch", "inplace", "pruned")
NEWER_KEYS = ("activation", "channel_multiple")  # of the line after v6.1; without them another network would come out
MOST_CLASSES, MOST_CHANNELS, MOST_REPEATS, LARGEST_GAIN = 100_000, 100_000, 1000, 100


@dataclass(frozen=True)
class Row:
    """One row [from, number, module, args] of a model yaml; `index` counts backbone and head together.

    A row may have a name as its fifth item, `p5` or `name: p5`, which a later `from` may use instead of the index.
    """

    file: str
    index: int
    content: list  # four parts, numbers in place of names
    sources: tuple[int, ...]  # absolute numbers of the rows it reads; -1 is the image
    name: str = ""
    written: list | None = None  # where that is not `content`

    @property
    def text(self) -> str:
        """The row as the yaml has it: `[-1, 1, NAMAttention, [1024]]`."""
        return _plain(self.content if self.written is None else self.written)

    @property
    def where(self) -> str:
        """The row's position for messages: `yolov5s.yaml: row 24 [-1, 1, NAMAttention, [1024]]`."""
        return f"{self.file}: row {self.index} {self.text}"

    def error(self, reason: object) -> ValueError:
        """Return the error to raise if this row cannot become a layer."""
        return ValueError(f"{self.where}: {reason}")


def _plain(value: object) -> str:
    """Format a value as in a yaml, without quotes."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    return f"[{', '.join(map(_plain, value))}]" if isinstance(value, list) else str(value)


def load_model_yaml(cfg: str | Path | dict) -> tuple[dict, str]:
    """Load a model yaml; return its content (a copy of a mapping) and its name for errors.

    A file is found as `find_file` does. `read_rows` checks the rows.

    Raises:
        ValueError: if a key is missing or has an invalid value.
    """
    if isinstance(cfg, dict):
        content, file = copy.deepcopy(cfg), "model yaml"
    else:
        path = find_file(cfg, YAML_SUFFIXES)
        content, file = read_yaml(path), str(path)
    missing = [key for key in KEYS if key not in content]
    if missing:
        hint = "; this is a data set's yaml, for --data" if "train" in content else ""
        raise ValueError(f"{file}: a model yaml needs {', '.join(KEYS)}; {', '.join(missing)} is missing{hint}")
    newer = [key for key in NEWER_KEYS if content.get(key) is not None]
    if newer:
        raise ValueError(f"{file}: {newer[0]}: a key of YOLOv5 after v6.1, which is not known here")
    report_unknown(content, (*KEYS, *OPTIONAL_KEYS, *NEWER_KEYS), file)
    check_numbers(content, file)
    return content, file


def check_numbers(content: dict, file: str) -> None:
    """Check classes, channels, width and depth multiples and anchors of a model yaml; ValueError if one is invalid."""
    for key, most in (("nc", MOST_CLASSES), ("ch", MOST_CHANNELS)):
        value = content.get(key, 3)
        if not is_whole(value) or not 1 <= value <= most:
            raise ValueError(f"{file}: {key}: {value!r} is not a whole number from 1 to {most}")
    for key in ("depth_multiple", "width_multiple"):
        value = content[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST_GAIN:
            raise ValueError(f"{file}: {key}: {value!r} is not a number above 0 and up to {LARGEST_GAIN}")
    check_anchors(content["anchors"], file)


def check_anchors(anchors: object, file: str) -> None:
    """Check that anchors are a number per level or lists of w, h, w, h, ... in pixels; ValueError if not."""
    if is_whole(anchors):
        if not 1 <= anchors <= 100:
            raise ValueError(f"{file}: anchors: {anchors} per level; 1 to 100 are possible")
        return
    wanted = "a number per level, or for each level a list of w, h, w, h, ... in pixels"
    if not isinstance(anchors, list) or not anchors or not all(isinstance(level, list) for level in anchors):
        raise ValueError(f"{file}: anchors: {anchors!r} is not {wanted}")
    for i, level in enumerate(anchors):
        if not all(isinstance(side, int | float) and not isinstance(side, bool) for side in level):
            raise ValueError(f"{file}: anchors: level {i}, {level}, is not a list of numbers")
        if not all(math.isfinite(side) and side > 0 for side in level):
            raise ValueError(f"{file}: anchors: level {i}, {level}, has a side that is not above 0")
        if not level or len(level) % 2 or len(level) != len(anchors[0]):
            raise ValueError(
                f"{file}: anchors: level {i} has {len(level)} numbers; pairs, as many in each level, are wanted"
            )


def read_rows(content: dict, file: str = "model yaml") -> list[Row]:
    """Parse the rows of backbone and head; ValueError if one is malformed or reads a row that is not before it."""
    for key in ("backbone", "head"):
        if not isinstance(content[key], list):
            raise ValueError(f"{file}: {key}: a list of rows [from, number, module, args] is wanted")
    rows = [*content["backbone"], *content["head"]]
    if not rows:
        raise ValueError(f"{file}: backbone and head have no rows")
    names: dict[str, int] = {}
    checked = []
    for i, row in enumerate(rows):
        checked.append(_read_row(row, i, file, names))
        if checked[-1].name:
            names[checked[-1].name] = i
    for row in checked[:-1]:
        if row.content[2] == HEAD:
            raise row.error(f"{HEAD} must be the last row, and only that")
    return checked


def _read_row(row: object, index: int, file: str, names: dict[str, int]) -> Row:
    """Parse one row. `names` maps the names of earlier rows to their indices."""
    if not isinstance(row, list) or len(row) not in (4, 5):
        wanted = "must be [from, number, module, args], four parts, or five where it has a name"
        raise ValueError(f"{file}: row {index} {_plain(row)}: {wanted}")
    source, number, module, args = row[:4]
    bare = Row(file, index, row, ())
    if not is_whole(number) or not 1 <= number <= MOST_REPEATS:
        raise bare.error(f"number {number!r} is not a whole number from 1 to {MOST_REPEATS}")
    if not isinstance(module, str):
        raise bare.error(f"module {module!r} is not a name")
    if not isinstance(args, list):
        raise bare.error(f"args {args!r} is not a list; [] where there are none")
    name = _read_name(row[4], names, bare) if len(row) == 5 else ""
    items = [_number_of(item, names, bare) for item in (source if isinstance(source, list) else [source])]
    content = [items if isinstance(source, list) else items[0], number, module, args]
    return Row(file, index, content, _absolute(items, bare), name, None if content == row else row)


def _read_name(part: object, names: dict[str, int], row: Row) -> str:
    """Parse the name of a row from its fifth item, `p5` or `name: p5`."""
    name = part["name"] if isinstance(part, dict) and [*part] == ["name"] else part
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise row.error(f"{_plain(part)!r} is no name for a row: p5 or name: p5, of letters, digits, - and _")
    if name in names:
        raise row.error(f"the name {name} is taken by row {names[name]}")
    return name


def _number_of(source: object, names: dict[str, int], row: Row) -> int:
    """Return the index in a `from`, or that of the row it names."""
    if isinstance(source, str) and source in names:
        return names[source]
    if not is_whole(source):
        known = f", and no name of a row before it ({', '.join(names) or 'none has one'})"
        raise row.error(f"from: {source!r} is not a row's number{known if isinstance(source, str) else ''}")
    return source


def _absolute(sources: list[int], row: Row) -> tuple[int, ...]:
    """Return the absolute indices of the rows in a `from`."""
    source = _plain(row.content[0])
    found = []
    for number in sources:
        absolute = number if number >= 0 else row.index + number
        if absolute >= row.index:
            raise row.error(f"from {source}: a row can read only rows before it, below {row.index}")
        if absolute < 0 and (number, row.index) != (-1, 0):
            raise row.error(f"from {source}: there are only {row.index} rows before it")
        found.append(absolute)
    if not found:
        raise row.error("from []: names no row")
    return tuple(found)


Plan = list[tuple[int | list[int] | None, bool, list[int]]]


def plan_reads(froms: Sequence[int | list[int]], save: Collection[int]) -> Plan:
    """Plan a forward pass, given each row's `from` and the rows that later rows read.

    Returns:
        For each row: its inputs (None for the previous row), whether its output is kept, and the rows that it is the
        last to read. Among the inputs PREVIOUS is the previous row, which need not be kept.
    """
    reads: list[list[int]] = []
    for i, source in enumerate(froms):
        reads.append([number if number == PREVIOUS or number >= 0 else i + number for number in as_list(source)])
    last = {j: i for i, read in enumerate(reads) for j in read if j != PREVIOUS}
    plan: Plan = []
    for i, (source, read) in enumerate(zip(froms, reads, strict=True)):
        what = read if isinstance(source, list) else read[0]
        frees = [j for j, reader in last.items() if reader == i]
        plan.append((None if what == PREVIOUS else what, i in last or i in save, frees))
    return plan


def as_list(value: int | list[int]) -> list[int]:
    """Wrap an int in a list."""
    return value if isinstance(value, list) else [value]


def is_whole(value: object) -> bool:
    """Return True for an int that is not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)
