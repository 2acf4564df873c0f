"""Rows put in by hand while the numbers behind them stayed: which they are, and the command that does it right.

Where the rows without them are those of a shipped yaml, each `from` is compared with what models/edit/insertion.py
would write, so that numbers of which only some were corrected are found too. Of other yamls, rows are looked for
without which all numbers are right.
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
    """How to put in what was put into a yaml without renumbering; empty where that is not what is wrong with its rows.

    `is_odd`: something else tells that the rows are wrong, so that it may be guessed which, without a shipped yaml.
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
    """`suggest` for a yaml that makes no network, `; ` in front of it; empty where nothing is known."""
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
    """What to do about rows that are behind Detect; empty where that is not what is wrong."""
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
    """A shipped yaml: its gains, its rows, and what each row is apart from what it reads."""

    name: str
    gains: tuple[object, object]
    rows: list[Row]
    kinds: list[str]


@dataclass(frozen=True)
class Repair:
    """Rows that are a base's with others put in, and what is wrong about their numbers."""

    base: Base
    removed: list[int]  # the numbers of those put in
    right: dict[int, object]  # the `from` that rows should have, of those that have another
    has_gains: bool  # it is the base's very network
    is_untouched: bool  # no number was corrected
    is_wrong: bool
    passing: list[int]  # rows that read what they read in the base, in front of the rows put in

    def text(self, rows: Sequence[Row]) -> str:
        """The advice."""
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
        """The command that puts in what was put in; empty where one does not."""
        put_in, places = [rows[i].content for i in self.removed], _places(self.removed)
        is_one_block = len({str(row[1:4]) for row in put_in}) == 1 and put_in[0][1] == 1
        if not is_one_block or len(set(places)) < len(places) or not (self.has_gains or self.is_untouched):
            return ""
        name = self.base.name if self.has_gains else rows[0].file
        return _insert(name, *put_in[0][2:4], _flags(places))


@functools.cache
def _shipped() -> list[Base]:
    """The yamls in models/; those that are none of a model are left out."""
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
    """The rows as the base's and others, each of which reads the row before it; None where they are not that.

    A `from` of the base's may be what an insertion makes it, the same past the rows put in, or, which is wrong, any
    number between that and the base's own.
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
    """Where the wanted ones are among the kinds, in order, as far as they are there; and the numbers of the others."""
    found: list[int] = []
    others = []
    for i, kind in enumerate(kinds):
        (found if len(found) < len(wanted) and kind == wanted[len(found)] else others).append(i)
    return found, others


def _behind(index: int, removed: Sequence[int]) -> int:
    """The last of the rows put in that follow a row one by one; the row itself where none does."""
    while index + 1 in removed:
        index += 1
    return index


# By guess -------------------------------------------------------------------------------------------------------------


def _guess(rows: Sequence[Row]) -> str:
    """The advice for a user's own yaml: rows of one module without which all the numbers are right."""
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
    """Rows that may have been put in: all of a module, or one; of rare modules first, of several all of them first."""
    able = [row for row in rows[:-1] if row.content[0] == -1]
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


# Telling --------------------------------------------------------------------------------------------------------------


def _named(removed: Sequence[int], modules: Sequence[str]) -> str:
    return f"row{'s' * (len(removed) > 1)} {', '.join(map(str, removed))} ({', '.join(modules)})"


def _places(removed: Sequence[int]) -> list[int]:
    """After which row each came in, in the numbers of the yaml without them; -1 before the first."""
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
