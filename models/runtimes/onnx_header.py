"""What an ONNX file says of itself, read without any package: its texts, its opset, its inputs and outputs.

An ONNX file is a protobuf message: a row of fields, each a number, a kind and a value; of kind 2, the length comes
first, and the value may be a message in turn. Weights are stepped over, so a large file is read as quickly as a small
one. The field numbers are those of onnx.proto (https://onnx.ai).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

Shape = tuple[int | None, ...]  # None where a dimension is left open
MODEL_GRAPH, MODEL_OPSETS, MODEL_TEXTS = 7, 8, 14
GRAPH_INPUTS, GRAPH_OUTPUTS = 11, 12
FLOAT, FLOAT16 = 1, 10  # element types
TENSOR_EXTERNAL = 13  # the entries that say where a tensor's numbers lie
# Where a message has tensors, or messages that have: what the field of this number is.
PARTS = {
    "model": {MODEL_GRAPH: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
MOST_FIELDS = 1_000_000  # that are looked at for tensors; yolov5x6 has some 30 thousand
MOST_NESTED = 64  # graphs within graphs
MOST_KEY = 2**32 - 1  # of a field: its number and kind


@dataclass(frozen=True)
class Port:
    """An input or output: its name, element type (FLOAT, FLOAT16, ...) and shape, None where the file states none."""

    name: str
    kind: int
    shape: Shape | None


@dataclass(frozen=True)
class OnnxHeader:
    """texts: the metadata by key; opset: of ONNX's own operators."""

    texts: dict[str, str]
    opset: int
    inputs: list[Port]
    outputs: list[Port]


def read_onnx_header(path: str | Path) -> OnnxHeader:
    """The header of a file; ValueError where it is no ONNX file, or a damaged one."""
    try:
        return _read(memoryview(np.memmap(path, np.uint8, "r")))
    except (ValueError, LookupError, TypeError):
        raise ValueError(f"{path}: not an ONNX file, or a damaged one") from None


def check_external_data(path: Path) -> None:
    """ValueError where weights lie in another file that is not an ordinary one in the file's own folder.

    Some readers would follow any path there, `../../key` or a link, and wait for ever at a pipe.
    """
    try:
        places = _external_places(memoryview(np.memmap(path, np.uint8, "r")))
    except (ValueError, LookupError, TypeError):
        raise ValueError(f"{path}: not an ONNX file, or a damaged one") from None
    folder = path.resolve().parent
    for place in sorted(places):
        is_outside = (
            not place
            or "\0" in place
            or PurePosixPath(place).is_absolute()
            or PureWindowsPath(place).drive
            or PureWindowsPath(place).root
            or ".." in PureWindowsPath(place).parts
        )
        file = folder if is_outside else folder / place
        if is_outside or not file.resolve().is_relative_to(folder):
            raise ValueError(
                f"{path}: its weights lie in {place!r:.80}, outside its folder; export it with its weights within"
            )
        if os.path.islink(file) or not file.is_file():
            raise ValueError(f"{path}: its weights, {place!r:.80}, are no ordinary file in its folder; put them there")


def _external_places(model: memoryview) -> set[str]:
    """The files that tensors anywhere in a model name for their numbers."""
    found: set[str] = set()
    waiting = [("model", model, 0)]
    fields = 0
    while waiting:
        kind, data, depth = waiting.pop()
        if depth > MOST_NESTED:
            raise ValueError("graphs within graphs without end")
        for number, value in _fields(data):
            fields += 1
            if fields > MOST_FIELDS:
                raise ValueError("more parts than a detector has")
            if kind == "tensor" and number == TENSOR_EXTERNAL:
                entry = dict(_fields(_message(value)))
                if _text(entry.get(1, b"")) == "location":
                    found.add(_text(entry.get(2, b"")))
            elif number in PARTS.get(kind, {}):
                waiting.append((PARTS[kind][number], _message(value), depth + 1))
    return found


def _read(model: memoryview) -> OnnxHeader:
    texts, opset, inputs, outputs = {}, 0, [], []
    for number, value in _fields(model):
        if number == MODEL_TEXTS:
            entry = dict(_fields(_message(value)))
            texts[_text(entry[1])] = _text(entry.get(2, b""))
        elif number == MODEL_OPSETS:
            entry = dict(_fields(_message(value)))
            if not _text(entry.get(1, b"")):
                opset = int(entry.get(2, 0))
        elif number == MODEL_GRAPH:
            for part, content in _fields(_message(value)):
                if part == GRAPH_INPUTS:
                    inputs.append(_port(_message(content)))
                elif part == GRAPH_OUTPUTS:
                    outputs.append(_port(_message(content)))
    if not inputs or not outputs:
        raise ValueError("no graph")
    return OnnxHeader(texts, opset, inputs, outputs)


def _port(data: memoryview) -> Port:
    """ValueInfoProto: name 1, type 2 (tensor_type 1 (elem_type 1, shape 2 (dim 1 (dim_value 1))))."""
    info = dict(_fields(data))
    tensor = dict(_fields(_message(dict(_fields(_message(info.get(2, b"")))).get(1, b""))))
    shape = None
    if 2 in tensor:
        sizes = [dict(_fields(_message(dim))).get(1) for _, dim in _fields(_message(tensor[2]))]
        shape = tuple(size if isinstance(size, int) and size > 0 else None for size in sizes)
    return Port(_text(info[1]), int(tensor.get(1, 0)), shape)


def _message(value: int | bytes | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message is wanted")
    return memoryview(value)


def _text(value: int | bytes | memoryview) -> str:
    return bytes(_message(value)).decode("utf-8")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field; values of fixed length, which no header has, are stepped over."""
    place = count = 0
    while place < len(data):
        count += 1
        if count > MOST_FIELDS:
            raise ValueError("more parts than a detector has")
        key, place = _varint(data, place)
        if key > MOST_KEY:  # some readers drop the upper bits and see another field
            raise ValueError("no protobuf message")
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield number, value
            continue
        size, place = _varint(data, place) if kind == 2 else ({1: 8, 5: 4}[kind] if kind in (1, 5) else -1, place)
        if not number or size < 0 or place + size > len(data):
            raise ValueError("no protobuf message")
        if kind == 2:
            yield number, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """A number in groups of 7 bits, lowest first, and the place behind it."""
    value = 0
    for shift in range(0, 64, 7):
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number of more than 64 bits")
