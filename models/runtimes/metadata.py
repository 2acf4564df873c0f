"""What an exported file says of itself: class names, stride, the shape that it takes, and where it came from."""

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from utils.files.reading import parse_json

AXES = ("batch", "height", "width")  # those that an exported file may leave open
MAX_CLASSES, MAX_STRIDE, MAX_SIDE = 100_000, 1024, 65_536  # beyond these a file is damaged, or made to do harm
MOST_PIXELS = 1 << 26  # of all images of a batch, where both are fixed: 64 of 1024 x 1024
MOST_PYTHON = 1 << 20  # characters in Python's form, which takes some hundred times as much memory to read
PROGRAM = "yolov5-nam"
TRAINED_SIZE = "trained_imgsz"  # key of details


@dataclass(frozen=True)
class Metadata:
    """names; stride: what the sides of images are multiples of; batch and imgsz (h, w): what the file was made with.

    dynamic: those of AXES that are left open. details: what else there is to know, by key, as text.
    """

    names: tuple[str, ...]
    stride: int
    batch: int
    imgsz: tuple[int, int]
    dynamic: tuple[str, ...] = ()
    details: dict[str, str] = field(default_factory=dict)

    @property
    def nc(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def trained_size(self) -> int | None:
        """The longer side of the images that the network was trained on, in pixels; None where the file is silent."""
        text = self.details.get(TRAINED_SIZE, "")
        return int(text) if text.isdecimal() and _is_count(int(text), MAX_SIDE) else None

    @property
    def fixed_batch(self) -> int | None:
        """Images that the file takes at a time; None where any number will do."""
        return None if "batch" in self.dynamic else self.batch

    @property
    def fixed_hw(self) -> tuple[int, int] | None:
        """Height and width of the images that the file takes; None where any multiples of the stride will do."""
        return None if "height" in self.dynamic else self.imgsz

    def to_text(self) -> dict[str, str]:
        """All of it as texts by key, JSON where it is more than a text; what an ONNX file stores."""
        values = {
            "names": list(self.names),
            "nc": self.nc,
            "stride": self.stride,
            "batch": self.batch,
            "imgsz": list(self.imgsz),
            "dynamic": list(self.dynamic),
        }
        return {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()} | self.details

    def to_json(self) -> str:
        """All of it in one text; `shape` stands in it as v6.1's TorchScript files have it."""
        shape = [self.batch, 3, *self.imgsz]
        return json.dumps({"shape": shape, **self.to_text(), "stride": self.stride, "names": list(self.names)})

    @classmethod
    def from_text(cls, texts: Mapping[str, object], shape: tuple[int | None, ...] | None = None) -> Self | None:
        """What a file's texts say, ours or YOLOv5's; None where they name no classes.

        shape: (B, 3, H, W) of the file's input, None for what it leaves open; it counts more than the texts.
        ValueError where they cannot be true.
        """
        if "names" not in texts or "stride" not in texts:
            return None
        names, stride = _names(_value(texts["names"])), _value(texts["stride"])
        _check(_is_count(stride, MAX_STRIDE), "stride", stride)
        shape = shape or _shape(texts)
        _check(all(size is None or _is_count(size, MAX_SIDE) for size in shape), "shape", shape)
        dynamic = tuple(axis for axis, size in zip(AXES, (shape[0], *shape[2:]), strict=True) if size is None)
        if "shape" in texts and "dynamic" in texts:  # a TorchScript file, whose own input has no shape
            listed = _value(texts["dynamic"])
            _check(isinstance(listed, list) and all(axis in AXES for axis in listed), "dynamic", listed)
            dynamic = tuple(listed)
        known = {"names", "nc", "stride", "batch", "imgsz", "dynamic", "shape"}
        details = {key: str(value) for key, value in texts.items() if key not in known}
        made = _value(texts["imgsz"]) if "imgsz" in texts else [640, 640]
        _check(isinstance(made, list) and len(made) == 2 and all(_is_count(n, MAX_SIDE) for n in made), "imgsz", made)
        hw = (shape[2] or made[0], shape[3] or made[1])
        _check((shape[0] or 1) * hw[0] * hw[1] <= MOST_PIXELS, "shape", [*shape[:2], *hw])
        return cls(names, stride, shape[0] or 1, hw, dynamic, details)


def _shape(texts: Mapping[str, object]) -> tuple[int, ...]:
    shape = _value(texts.get("shape", ""))
    _check(isinstance(shape, list) and len(shape) == 4 and None not in shape, "shape", shape)
    return tuple(shape)


def _value(text: object) -> object:
    """What a text means, in JSON or as Python writes it; nothing in it is run."""
    if not isinstance(text, str):
        return text
    for read in (parse_json, _python_value):
        try:
            return read(text)  # v7.0 writes Python's own form of a mapping
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def _python_value(text: str) -> object:
    if len(text) > MOST_PYTHON:
        raise ValueError("too long")
    return ast.literal_eval(text)


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, dict):
        keys = [int(key) if str(key).isdecimal() else key for key in value]
        _check(keys == list(range(len(keys))), "names", value)
        value = list(value.values())
    fits = isinstance(value, list) and 0 < len(value) <= MAX_CLASSES and all(isinstance(name, str) for name in value)
    _check(fits, "names", value)
    return tuple(value)


def _is_count(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _check(fits: bool, key: str, value: object) -> None:
    if not fits:
        raise ValueError(f"its metadata is damaged: {key} is {value!r:.60}")
