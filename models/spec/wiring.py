"""Check a model's wiring for what builds and runs but is hardly what the author of the yaml meant.

The usual cause is a row inserted without renumbering the rows after it, which v6.1 builds silently: Detect then reads a
Concat before the block that it should read, or no layer reads the new one.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from torch import Tensor, nn

from models.spec.repair import suggest
from models.spec.rows import Row


class Head(Protocol):
    """The attributes of a detection head that are checked."""

    nl: int
    stride: Tensor  # (L,)
    anchors: Tensor  # (L, A, 2)


class Wired(Protocol):
    """The attributes of a model that are checked."""

    yaml: dict
    model: nn.Sequential
    rows: list[Row]
    head: Head
    has_placeholder_anchors: bool


def check_wiring(model: Wired) -> list[str]:
    """Return a warning for each suspicious piece of wiring, with the yaml and the row."""
    return [*check_rows(model.rows, model.yaml), *_levels(model)]


def check_rows(rows: Sequence[Row], content: Mapping[str, object]) -> list[str]:
    """Return the warnings that need no network; rows may name unknown modules."""
    warnings = [*_unread(rows), *_detect_inputs(rows)]
    advice = suggest(rows, content, bool(warnings))
    return [*warnings, *([f"{rows[-1].file}: {advice}"] if advice else [])]


def _unread(rows: Sequence[Row]) -> list[str]:
    """Return a warning for each layer whose output is never read."""
    read = {source for row in rows for source in row.sources}
    warnings = []
    for row in rows[:-1]:
        if row.index in read:
            continue
        before = [
            reader.index for reader in rows if set(row.sources) & set(reader.sources) and reader.index > row.index
        ]
        meant = f"; row {before[0]} reads row {row.sources[0]} in front of it" if before else ""
        warnings.append(f"{row.where}: nobody reads its output, so the layer does nothing{meant}; {_RENUMBER}")
    return warnings


def _detect_inputs(rows: Sequence[Row]) -> list[str]:
    """Return a warning for each input of Detect that is the bare Concat before a block."""
    detect = rows[-1]
    bare = [rows[source] for source in detect.sources if source >= 0 and rows[source].content[2] == "Concat"]
    return [
        f"{detect.where}: its input {row.index} is {row.text}, what a block reads and not what it gives; {_RENUMBER}"
        for row in bare
    ]


def _levels(model: Wired) -> list[str]:
    """Return warnings for levels of Detect that do not match the anchors in number or order."""
    head, detect = model.head, model.rows[-1]
    warnings = []
    if len(detect.sources) > head.nl:
        extra = ", ".join(map(str, detect.sources[head.nl :]))
        warnings.append(
            f"{detect.where}: reads {len(detect.sources)} rows, the anchors have {head.nl} levels: {extra} goes unread"
        )
    if head.stride.is_meta:
        return warnings
    strides = head.stride.tolist()
    rising, falling = (all(compare(a, b) for a, b in pairwise(strides)) for compare in (float.__lt__, float.__gt__))
    if not rising and not falling:
        warnings.append(
            f"{detect.where}: the strides of its inputs are {_numbers(strides)}; they should grow from input to input"
        )
    elif not model.has_placeholder_anchors:
        areas = (head.anchors * head.stride[:, None, None]).prod(-1).mean(-1).tolist()  # square pixels
        if any((a >= b) == rising for a, b in pairwise(areas)):
            sides = _numbers([round(area**0.5) for area in areas])
            warnings.append(
                f"{detect.where}: strides {_numbers(strides)} have anchors of {sides} pixels; larger ones should be on "
                "larger strides"
            )
    return warnings


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


_RENUMBER = "after a row is put in, the numbers of the rows behind it grow by one wherever a `from` names them"
