"""A row put in by hand while the numbers behind it stayed: which one it is, and the command that does it right."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.model_yaml import Row, read_rows
from utils.config import read_yaml
from utils.general import ROOT

STOCK = {  # of which networks are made; one is taken for put in only where a shipped yaml comes out without it
    *("Conv", "DWConv", "Focus", "GhostConv", "SPP", "SPPF", "nn.Upsample", "nn.MaxPool2d", "nn.ZeroPad2d"),
    *("Bottleneck", "BottleneckCSP", "C3", "C3Ghost", "C3SPP", "C3TR"),
}


def suggest(rows: Sequence[Row], content: Mapping[str, object]) -> str:
    """How to put in what was put into a yaml without renumbering; empty where that is not what is wrong with its rows.

    They are those without which all the numbers are right: rows of one module, each reading the row before it.
    """
    found = [removed for removed in _candidates(rows) if _is_sound(_without(rows, removed))]
    if not found:
        return ""
    yamls = _shipped()
    known = [(removed, yamls.get(_key(content, _without(rows, removed)))) for removed in found]
    removed, base = min(known, key=lambda pair: pair[1] is None)
    if base is None:
        found = [removed for removed in found if rows[removed[0]].content[2] not in STOCK]
        if not found:
            return ""
        removed = found[0]
    places = [str(index - sum(other < index for other in removed) - 1) for index in removed]
    module, args = rows[removed[0]].content[2:4]
    block = f'"{module}{_text(args)}"' if args else module
    name = base or rows[0].file
    out = f"{Path(name).stem}-{module.rpartition('.')[2]}.yaml"
    what = f"row{'s' * (len(removed) > 1)} {', '.join(map(str, removed))} ({module})"
    take_out = "" if base else f"take {what} out again, and "
    return (
        f"it looks as if {what} came in and the numbers behind stayed; {take_out}let this do it: "
        f"python -m models.insert {name} --module {block} --after {' '.join(places)} --out {out}"
    )


def _candidates(rows: Sequence[Row]) -> list[list[int]]:
    """Rows that may have been put in: all of a module, or one; of rare modules first, of several all of them first."""
    able = [row for row in rows[1:-1] if row.content[0] == -1]
    counts = Counter(row.content[2] for row in rows)
    modules = sorted({row.content[2] for row in able}, key=counts.__getitem__)
    groups = [[row.index for row in able if row.content[2] == module] for module in modules]
    alike = [group for group in groups if len({str(rows[index].content[3]) for index in group}) == 1]
    lone = [[index] for group in groups for index in group]
    return [group for group in alike if len(group) > 1] + lone


def _without(rows: Sequence[Row], removed: Sequence[int]) -> list[list]:
    """The rows' content without those, their numbers as they stand."""
    return [row.content for row in rows if row.index not in removed]


def _is_sound(contents: list[list]) -> bool:
    """Whether these rows can be read, each but the last is read by one, and Detect reads no bare Concat."""
    try:
        rows = read_rows({"backbone": contents, "head": []})
    except ValueError:
        return False
    read = {source for row in rows for source in row.sources}
    inputs = [rows[source] for source in rows[-1].sources if source >= 0]
    return all(row.index in read for row in rows[:-1]) and "Concat" not in {row.content[2] for row in inputs}


@functools.cache
def _shipped() -> dict[str, str]:
    """The names of the yamls in models/ by what `_key` makes of them; of several alike the first."""
    names: dict[str, str] = {}
    for path in sorted((ROOT / "models").rglob("yolo*.yaml")):
        content = read_yaml(path)
        names.setdefault(_key(content, [*content["backbone"], *content["head"]]), path.name)
    return names


def _key(content: Mapping[str, object], rows: list[list]) -> str:
    """The rows and gains of a yaml, which tell it from others."""
    return str([content["depth_multiple"], content["width_multiple"], rows])


def _text(value: object) -> str:
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, list) else str(value)
