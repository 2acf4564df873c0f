"""Find rows that were inserted by hand without renumbering the rows after them; give the command that does it right.

If the other rows are those of a shipped yaml, each `from` is compared with what models/edit/insertion.py would write,
so partial renumbering is found too. For other yamls, look for rows without which all indices are right.
"""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.spec.rows import HEAD, IMAGE, Row, as_list, read_rows
from utils.files.yamls import read_yaml
from utils.general import LOGGER, ROOT

MOST_PUT_IN = 8  # rows
STOCK = {  # of which networks are made; one is taken for put in only where a shipped yaml comes out without it
    "Bottleneck",
    "BottleneckCSP",
    "C3",
    "C3Ghost",
    "C3SPP",
    "C3TR",
    "Conv",
    "DWConv",
    "Focus",
    "GhostConv",
    "SPP",
    "SPPF",
    "nn.MaxPool2d",
    "nn.Upsample",
    "nn.ZeroPad2d",
}


def suggest(rows: Sequence[Row], content: Mapping[str, object], is_odd: bool = True) -> str:
    """Return advice for rows that were inserted without renumbering; empty if that is not the fault.

    is_odd: another check has found the rows wrong, so a guess without a shipped yaml is allowed.
    """
    repairs = [repair for base in _shipped() if (repair := _compare(rows, base, _gains(content)))]
    fewest = min((len(repair.removed) for repair in repairs), default=0)
    nearest = [repair for repair in repairs if len(repair.removed) == fewest]
    if not all(repair.is_wrong or repair.passing for repair in nearest):
        return ""
    if nearest:
        return min(nearest, key=lambda repair: not repair.has_gains).text(rows)
    return _guess(rows) if is_odd else ""


def advise(content: Mapping[str, object], file: str) -> str:
    """Return `suggest`'s advice for a yaml that cannot be built, after `; `; empty if there is none."""
    if not all(isinstance(content[key], list) for key in ("backbone", "head")):
        return ""
    contents = [*content["backbone"], *content["head"]]
    try:
        rows = read_rows(dict(content), file)
        advice = suggest(rows, content, not _is_sound(contents))
    except ValueError:
        advice = _behind_detect(content, contents, file)
    return f"; {advice}" if advice else ""


def _behind_detect(content: Mapping[str, object], contents: list, file: str) -> str:
    """Return advice for rows after Detect; empty if there are none."""
    ends = [i for i, row in enumerate(contents) if isinstance(row, list) and row[2:3] == [HEAD]]
    behind = contents[ends[0] + 1 :] if len(ends) == 1 else []
    try:
        rows = read_rows({"backbone": contents[: ends[0] + 1] if behind else [], "head": []}, file)
    except ValueError:
        return ""
    modules = list(dict.fromkeys(str(row[2]) for row in behind if isinstance(row, list) and len(row) > 2))
    if len(modules) != 1:
        return ""
    yamls = [base.name for base in _shipped() if base.gains == _gains(content) and _is_base(rows, base)]
    where = f"{'rows' if len(behind) > 1 else 'row'} {', '.join(str(len(rows) + i) for i in range(len(behind)))}"
    take_out = "" if yamls else f"take {where} out again, and "
    name = yamls[0] if yamls else file
    command = _insert(name, modules[0], behind[0][3] if len(behind[0]) > 3 else [], "--before detect")
    return f"{where} ({modules[0]}) cannot read {HEAD}; {take_out}to let {HEAD} read through it: {command}"


# Against shipped yamls ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Base:
    """A shipped yaml: its gains, its rows, and the kind of each row, which is all but its `from`."""

    name: str
    gains: tuple[object, object]
    rows: list[Row]
    kinds: list[str]


@dataclass(frozen=True)
class Repair:
    """A base's rows with others inserted, and the faults in their indices."""

    base: Base
    removed: list[int]  # the numbers of those put in
    right: dict[int, object]  # the `from` that rows should have, of those that have another
    has_gains: bool  # it is the base's very network
    is_untouched: bool  # no number was corrected
    is_wrong: bool
    passing: list[int]  # rows that read what they read in the base, in front of the rows put in

    def text(self, rows: Sequence[Row]) -> str:
        """Return the advice."""
        named = _named(self.removed, list(dict.fromkeys(rows[i].content[2] for i in self.removed)))
        some = "" if self.is_untouched else "some of "
        what = f"it looks as if {named} came in and {some}the numbers behind stayed; "
        if not self.is_wrong:
            passing, goes = ", ".join(map(str, self.passing)), "read" if len(self.passing) > 1 else "reads"
            what = f"row {passing} {goes} past {named}, which others read; if that is not meant, "
        command = self.command(rows)
        what += f"take {named} out again, and " if command and not self.has_gains else ""
        numbers = ", ".join(f"row {index} {_text(source)}" for index, source in self.right.items())
        by_hand = f"the right numbers are: {numbers}" if numbers else ""
        return what + "; or by hand, ".join(filter(None, (command and f"let this do it: {command}", by_hand)))

    def command(self, rows: Sequence[Row]) -> str:
        """Return the command that inserts the same rows; empty if no single command does."""
        put_in, places = [rows[i].content for i in self.removed], _places(self.removed)
        is_one_block = len({str(row[1:4]) for row in put_in}) == 1 and put_in[0][1] == 1
        if not is_one_block or len(set(places)) < len(places) or not (self.has_gains or self.is_untouched):
            return ""
        name = self.base.name if self.has_gains else rows[0].file
        return _insert(name, *put_in[0][2:4], _flags(places))


@functools.cache
def _shipped() -> list[Base]:
    """Return the model yamls in models/, skipping other yamls."""
    found = []
    paths = (ROOT / "models").rglob("yolo*.yaml")
    for path in sorted(paths, key=lambda path: (len(path.parts), path)):  # of several alike, not one of hub/
        try:
            content = read_yaml(path)
            rows = read_rows(content, path.name)
            if _is_sound([row.content for row in rows]):
                found.append(Base(path.name, _gains(content), rows, [_kind(row) for row in rows]))
        except (KeyError, ValueError) as error:  # a user's own, half written
            LOGGER.debug(f"{path} is not compared with: {error}")
    return found


def _gains(content: Mapping[str, object]) -> tuple[object, object]:
    return content["depth_multiple"], content["width_multiple"]


def _kind(row: Row) -> str:
    return str(row.content[1:4])


def _is_base(rows: Sequence[Row], base: Base) -> bool:
    return [row.content for row in rows] == [row.content for row in base.rows]


def _compare(rows: Sequence[Row], base: Base, gains: tuple[object, object]) -> Repair | None:
    """Match rows with a base's plus inserted ones, each of which reads the row before it; None if they do not match.

    A base row's `from` may be what an insertion would write, the same past the inserted rows, or, which is a fault, any
    index between that and the base's own.
    """
    if not 0 <= len(rows) - len(base.rows) <= MOST_PUT_IN:
        return None
    new, removed = _align([_kind(row) for row in rows], base.kinds)
    if len(new) < len(base.rows) or any(rows[i].sources != (i - 1,) for i in removed):
        return None
    right, passing, is_untouched, is_wrong = {}, [], True, False
    for old, index in zip(base.rows, new, strict=True):
        given, before = (as_list(row.content[0]) for row in (rows[index], old))
        if len(given) != len(before) or isinstance(old.content[0], list) != isinstance(rows[index].content[0], list):
            return None
        numbers = []
        for item, was, source, now in zip(given, before, old.sources, rows[index].sources, strict=True):
            past = new[source] if source != IMAGE else IMAGE
            through = _behind(past, removed)
            number = through - index if was < 0 else through
            if now not in (past, through):
                if not min(number, was) <= item <= max(number, was):
                    return None
                is_wrong = True
            is_untouched &= item == was
            if now == past != through and item == was and index not in passing:
                passing.append(index)
            numbers.append(number if now != through else item)
        if numbers != given:
            right[index] = numbers if isinstance(old.content[0], list) else numbers[0]
    read = {source for row in rows for source in row.sources}
    is_wrong |= any(index not in read for index in removed)
    return Repair(base, removed, right, gains == base.gains, is_untouched, is_wrong, passing)


def _align(kinds: Sequence[str], wanted: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the positions of the `wanted` kinds among `kinds`, as far as they match in order, and the rest."""
    found: list[int] = []
    others = []
    for i, kind in enumerate(kinds):
        (found if len(found) < len(wanted) and kind == wanted[len(found)] else others).append(i)
    return found, others


def _behind(index: int, removed: Sequence[int]) -> int:
    """Return the last of the inserted rows that directly follow a row; the row itself if none does."""
    while index + 1 in removed:
        index += 1
    return index


# By guess -------------------------------------------------------------------------------------------------------------


def _guess(rows: Sequence[Row]) -> str:
    """Return advice for a user's own yaml: rows of one module without which all indices are right."""
    found = [removed for removed in _candidates(rows) if _is_sound(_without(rows, removed))]
    found = [removed for removed in found if rows[removed[0]].content[2] not in STOCK]
    if not found:
        return ""
    removed = found[0]
    module, args = rows[removed[0]].content[2:4]
    what = _named(removed, [module])
    command = _insert(rows[0].file, module, args, _flags(_places(removed)))
    return (
        f"it looks as if {what} came in and the numbers behind stayed; take {what} out again, and let this do it: "
        f"{command}"
    )


def _candidates(rows: Sequence[Row]) -> list[list[int]]:
    """Return sets of rows that may be inserted: all of a module, or one; rare modules first, all before one."""
    able = [row for row in rows[:-1] if row.content[0] == -1]
    counts = Counter(row.content[2] for row in rows)
    modules = sorted({row.content[2] for row in able}, key=counts.__getitem__)
    groups = [[row.index for row in able if row.content[2] == module] for module in modules]
    alike = [group for group in groups if len({str(rows[index].content[3]) for index in group}) == 1]
    lone = [[index] for group in groups for index in group]
    return [group for group in alike if len(group) > 1] + lone


def _without(rows: Sequence[Row], removed: Sequence[int]) -> list[list]:
    """Return the rows' content without the removed ones, indices unchanged."""
    return [row.content for row in rows if row.index not in removed]


def _is_sound(contents: list[list]) -> bool:
    """Return True if all rows can be read, every one but the last is used, and Detect reads no bare Concat."""
    try:
        rows = read_rows({"backbone": contents, "head": []})
    except ValueError:
        return False
    read = {source for row in rows for source in row.sources}
    inputs = [rows[source] for source in rows[-1].sources if source >= 0]
    return all(row.index in read for row in rows[:-1]) and "Concat" not in {row.content[2] for row in inputs}


# Telling --------------------------------------------------------------------------------------------------------------


def _named(removed: Sequence[int], modules: Sequence[str]) -> str:
    return f"row{'s' * (len(removed) > 1)} {', '.join(map(str, removed))} ({', '.join(modules)})"


def _places(removed: Sequence[int]) -> list[int]:
    """Return the row after which each was inserted, in the yaml's indices without them; -1 before the first."""
    return [index - sum(other < index for other in removed) - 1 for index in removed]


def _flags(places: Sequence[int]) -> str:
    after = [str(place) for place in places if place >= 0]
    return " ".join([*(["--after", *after] if after else []), *(["--before 0"] if len(after) < len(places) else [])])


def _insert(name: str, module: str, args: object, places: str) -> str:
    block = f'"{module}{_text(args)}"' if args else module
    out = f"{Path(name).stem}-{module.rpartition('.')[2]}.yaml"
    return f"python -m tools.insert {name} --module {block} {places} --out {out}"


def _text(value: object) -> str:
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, list) else str(value)
