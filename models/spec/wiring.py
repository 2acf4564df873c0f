"""A model's wiring looked over: what builds and runs, and still is hardly what its yaml's author meant.

The usual cause is a row put in between others while the row numbers after it stay as they were, which v6.1 builds in
silence: Detect then reads a Concat in front of the block that it should read, or the new layer is read by nobody.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from torch import Tensor, nn

from models.spec.repair import suggest
from models.spec.rows import Row


class Head(Protocol):
    """What is looked at of a detection head."""

    nl: int
    stride: Tensor  # (L,)
    anchors: Tensor  # (L, A, 2)


class Wired(Protocol):
    """What is looked at of a model."""

    yaml: dict
    model: nn.Sequential
    rows: list[Row]
    head: Head
    has_placeholder_anchors: bool


def check_wiring(model: Wired) -> list[str]:
    """What is odd about the model's wiring, a sentence each, naming the yaml and the row; empty where nothing is."""
    return [*check_rows(model.rows, model.yaml), *_levels(model)]


def check_rows(rows: Sequence[Row], content: Mapping[str, object]) -> list[str]:
    """The part of `check_wiring` for which no network is built: rows may name modules that are not known here."""
    warnings = [*_unread(rows), *_detect_inputs(rows)]
    advice = suggest(rows, content, bool(warnings))
    return [*warnings, *([f"{rows[-1].file}: {advice}"] if advice else [])]


def _unread(rows: Sequence[Row]) -> list[str]:
    """Layers whose output nobody reads, so that neither what they compute nor their weights matter."""
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
    """Inputs of Detect that are the plain concatenation in front of a block."""
    detect = rows[-1]
    bare = [rows[source] for source in detect.sources if source >= 0 and rows[source].content[2] == "Concat"]
    return [
        f"{detect.where}: its input {row.index} is {row.text}, what a block reads and not what it gives; {_RENUMBER}"
        for row in bare
    ]


def _levels(model: Wired) -> list[str]:
    """Levels of Detect that do not fit the anchors, in number or order."""
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
