"""Parse a label file into boxes and polygons; errors name the line.

A label file has one object per row, `class x_centre y_centre width height` or a polygon `class x1 y1 x2 y2 x3 y3 ...`,
normalized by the image's width and height. Boxes and polygons may be mixed.

Shapes: n objects of an image, k points of a polygon.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.files.reading import read_plain
from utils.files.texts import decode_text
from utils.general import plural
from utils.ops.boxes import xyxy2xywhn

TOLERANCE = 1e-3  # a coordinate this far outside 0..1 is a rounding error of the tool that wrote it, and is clipped
MAX_LABEL_BYTES = 64 << 20  # a larger label file is none
MAX_CLASS = 1 << 24  # float32 counts exactly up to here


class Labels(NamedTuple):
    """The objects of a label file, as in LabelRecord, and a message for each fault."""

    boxes: np.ndarray  # (n, 5)
    polygons: tuple[np.ndarray | None, ...]
    problems: tuple[str, ...]


def read_labels(path: Path | str, nc: int | None = None) -> Labels:
    """Read the objects of a label file, in order; nc None allows any class from 0.

    A row of 5 values is a box; of 6 a box with the confidence that detect.py and val.py write with --save-conf, which
    is ignored; of 7, 9, ... a polygon, whose box is its bounds. Other rows, values that are not finite or outside 0..1,
    duplicates and boxes without area are dropped; `problems` names each.

    Raises:
        ValueError: for a class below 0 or >= nc, a file that is not text, or one whose rows are all dropped.
    """
    return parse_labels(read_bytes(str(path)), str(path), nc)


def read_bytes(path: str) -> bytes:
    """Read a label file; ValueError if it is too large to be one, and OSError."""
    return read_plain(path, MAX_LABEL_BYTES, "label file")


def parse_labels(data: bytes, name: str, nc: int | None, any_class: bool = False) -> Labels:
    """Parse a file's content as `read_labels`; any_class leaves the check of classes to the caller."""
    limit = MAX_CLASS if nc is None else nc
    objects: dict[tuple[float, ...], np.ndarray | None] = {}  # box row -> polygon; a dict, to find copies
    problems: list[str] = []
    confidences = clipped = flat = copies = 0
    for number, line in enumerate(decode_text(data, name).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            box, polygon, outside = _parse_row(words)
        except ValueError as error:
            problems.append(f"{name}:{number}: row left out: {error}")
            continue
        if not any_class and not 0 <= box[0] < limit:
            raise ValueError(class_error(f"{name}:{number}", int(box[0]), nc))
        confidences += len(words) == 6
        clipped += outside
        if min(box[3:]) <= 0:
            flat += 1
        elif box in objects:
            copies += 1
        else:
            objects[box] = polygon
    if problems and not (objects or flat):
        raise ValueError(f"{problems[0]}; no other row can be used either")
    for count, noun, what in (
        (clipped, "value", f"up to {TOLERANCE} outside 0..1 clipped"),
        (confidences, "row", "of 6 values: taken for boxes with a confidence, which is not used"),
        (flat, "box", "without area left out"),
        (copies, "repeated row", "left out"),
    ):
        if count:
            problems.append(f"{name}: {plural(count, noun)} {what}")
    boxes = np.array(list(objects), dtype=np.float32).reshape(-1, 5)
    polygons = tuple(objects.values())
    return Labels(boxes, polygons if any(p is not None for p in polygons) else (), tuple(problems))


def find_faults(data: bytes, name: str, nc: int) -> list[str]:
    """Return a line `file:number: ...` for each row that training drops or refuses; ValueError if it is not text."""
    faults = []
    seen: dict[tuple[float, ...], int] = {}
    for number, line in enumerate(decode_text(data, name).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        place = f"{name}:{number}"
        try:
            box, _, _ = _parse_row(words)
        except ValueError as error:
            faults.append(f"{place}: {error}")
            continue
        if not 0 <= box[0] < nc:
            faults.append(class_error(place, int(box[0]), nc))
        elif min(box[3:]) <= 0:
            faults.append(f"{place}: a box without area")
        elif seen.setdefault(box, number) != number:
            faults.append(f"{place}: repeats line {seen[box]}")
    return faults


def _parse_row(words: list[str]) -> tuple[tuple[float, ...], np.ndarray | None, int]:
    """Return (class, x centre, y centre, width, height), polygon, number of clipped values; ValueError if malformed."""
    try:
        label, *values = (float(word) for word in words)
    except ValueError:
        raise ValueError(f"{' '.join(words)[:60]!r} is not a row of numbers parted by spaces") from None
    count = len(words)
    if count not in {5, 6} and (count < 7 or count % 2 == 0):
        raise ValueError(f"{count} values; a box has 5, a polygon 7 or more, an odd number")
    if count == 6:
        values.pop()
    if not all(map(math.isfinite, values)) or not math.isfinite(label):
        raise ValueError("a value is not finite")
    if label % 1 or abs(label) >= MAX_CLASS:
        raise ValueError(f"class {words[0]} is not a whole number below {MAX_CLASS}")
    low, high = min(values), max(values)
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        worst = high if high > 1 + TOLERANCE else low
        hint = " (pixels? They must be divided by the image's width and height)" if high > 2 else ""
        raise ValueError(f"value {worst:g} outside 0..1{hint}")
    outside = 0
    if low < 0 or high > 1:
        outside = sum(not 0 <= value <= 1 for value in values)
        values = [min(max(value, 0.0), 1.0) for value in values]
    if count < 7:
        return (label, *values), None, outside
    x0, x1 = min(values[::2]), max(values[::2])
    y0, y1 = min(values[1::2]), max(values[1::2])
    points = np.array(values, dtype=np.float32).reshape(-1, 2)  # (k, 2)
    return (label, (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), points, outside


def class_error(place: str, label: int, nc: int | None) -> str:
    """Return the message for a class outside the data set's names."""
    allowed = "0 or more" if nc is None else f"0 to {nc - 1}, as the data yaml has nc {nc} and {nc} names"
    return f"{place}: label class {label} {'is negative' if label < 0 else f'>= nc {nc}'}; allowed is {allowed}"


def label_rows(
    detections: Tensor, image_hw: tuple[int, int], with_confidence: bool, ids: Sequence[int] | None = None
) -> str:
    """Format a label file: rows `class cx cy w h [confidence] [id]`, normalized.

    detections are (n, 6): xyxy in pixels of the image, confidence, class. ids: (n,) of their tracks.
    """
    h, w = image_hw
    parts = [detections[:, 5:6], xyxy2xywhn(detections[:, :4], w, h), detections[:, 4:5]]  # (n, 1), (n, 4), (n, 1)
    rows = torch.cat(parts if with_confidence else parts[:2], 1).tolist()
    lines = [" ".join(f"{value:g}" for value in row) for row in rows]
    if ids is not None:
        lines = [f"{line} {track_id}" for line, track_id in zip(lines, ids, strict=True)]
    return "".join(f"{line}\n" for line in lines)
