"""The graph of a Core ML package: its operators, and what they give when torch computes them one after another.

So a file can be compared with PyTorch where there is no Mac. What it shows is that the graph and the weights in the
file are the network's; what Apple's library makes of them, and how fast, only a Mac can show.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.exporters.nam_chains import Operator
from models.runtimes.base import Runtime, preserve_logging, require_package
from models.runtimes.coreml import COREML_HINT, COREML_INPUT, WEIGHTS, read_package

MilOperation = Any  # coremltools.converters.mil.mil.Operation; the package is optional
Values = Mapping[str, Any]  # an operator's arguments by name: tensors, or numbers where they are settings
TYPES = {"fp16": torch.float16, "fp32": torch.float32, "int32": torch.int32}


class UnknownOperatorError(ValueError):
    """A graph has operators, or forms of them, that are not computed here."""


class GraphRuntime(Runtime):
    """An .mlpackage whose operators torch computes; UnknownOperatorError where it has one that is not known here."""

    def __init__(self, path: Path, device: torch.device) -> None:
        metadata, _ = read_package(path)
        super().__init__(metadata, device)
        self.operations = read_operations(path)
        unknown = sorted({operation.op_type for operation in self.operations} - OPERATORS.keys() - {"const"})
        if unknown:
            raise UnknownOperatorError(f"it has {', '.join(unknown)}")

    def compute(self, images: Tensor) -> list[Tensor]:
        """See Runtime."""
        known: dict[str, Tensor] = {COREML_INPUT: images.cpu()}
        output = COREML_INPUT
        for operation in self.operations:
            if operation.op_type == "const":
                continue
            given = {name: _value(known, value) for name, value in operation.inputs.items()}
            output = operation.outputs[0].name
            known[output] = OPERATORS[operation.op_type](given)
        return [known[output]]


def read_operations(path: Path) -> list[MilOperation]:
    """The operators of a package in their order, as coremltools reads them from the file with their weights."""
    with require_package("coremltools", str(path), COREML_HINT), preserve_logging("coremltools"):
        from coremltools.converters.mil.frontend.milproto.load import load
    _, spec = read_package(path)
    program = load(spec, spec.specificationVersion, str((path / WEIGHTS).parent))
    return list(program.functions["main"].operations)


def coreml_operators(path: Path) -> list[Operator]:
    """What the operators of a package are, and how they hang together."""
    found = []
    for operation in read_operations(path):
        inputs = [value for value in operation.inputs.values() if not isinstance(value, list | tuple)]
        names = tuple(value.name for value in inputs if value is not None)
        found.append(Operator(operation.op_type, names, operation.outputs[0].name))
    return found


def _value(known: Mapping[str, Tensor], value: Any) -> Any:  # noqa: ANN401 tensors, numbers, texts and lists of them
    """What an argument is: a tensor that was computed, or a constant as tensor, number or text."""
    if isinstance(value, list | tuple):
        return [_value(known, part) for part in value]
    if value is None or value.name in known:
        return None if value is None else known[value.name]
    constant = value.val
    return torch.from_numpy(np.array(constant)) if isinstance(constant, np.ndarray) else constant


def _numbers(value: Any) -> list[int]:  # noqa: ANN401
    return [int(number) for number in value]


def _conv(v: Values) -> Tensor:
    x = _padded(v, v["weight"].shape[2:], 0.0)
    return F.conv2d(
        x, v["weight"], v.get("bias"), _numbers(v["strides"]), 0, _numbers(v["dilations"]), int(v["groups"])
    )


def _max_pool(v: Values) -> Tensor:
    if bool(v.get("ceil_mode")):
        raise UnknownOperatorError("max_pool with ceil_mode")
    sizes = _numbers(v["kernel_sizes"])
    return F.max_pool2d(_padded(v, sizes, -torch.inf), sizes, _numbers(v["strides"]))


def _padded(v: Values, sizes: list[int] | torch.Size, fill: float) -> Tensor:
    """An operator's input with its padding round it."""
    kind = str(v["pad_type"])
    if kind not in {"custom", "valid"}:
        raise UnknownOperatorError(f"padding {kind} around {sizes}")
    top, bottom, left, right = _numbers(v["pad"]) if kind == "custom" else (0, 0, 0, 0)
    return F.pad(v["x"], (left, right, top, bottom), value=fill)


def _upsample(v: Values) -> Tensor:
    scale = float(v["scale_factor_height"]), float(v["scale_factor_width"])
    return F.interpolate(v["x"], scale_factor=scale, mode="nearest")


def _slice(v: Values) -> Tensor:
    x: Tensor = v["x"]
    begin, end = _numbers(v["begin"]), _numbers(v["end"])
    steps = [1] * x.ndim if v.get("stride") is None else _numbers(v["stride"])
    from_first, to_last, is_squeezed = (
        [False] * x.ndim if v.get(name) is None else _numbers(v[name])
        for name in ("begin_mask", "end_mask", "squeeze_mask")
    )
    parts = []
    for i in range(x.ndim):
        part = slice(None if from_first[i] else begin[i], None if to_last[i] else end[i], steps[i])
        parts.append(begin[i] if is_squeezed[i] else part)
    return x[tuple(parts)]


OPERATORS: dict[str, Callable[[Values], Tensor]] = {
    "conv": _conv,
    "max_pool": _max_pool,
    "upsample_nearest_neighbor": _upsample,
    "slice_by_index": _slice,
    "silu": lambda v: F.silu(v["x"]),
    "sigmoid": lambda v: torch.sigmoid(v["x"]),
    "relu": lambda v: torch.relu(v["x"]),
    "leaky_relu": lambda v: F.leaky_relu(v["x"], float(v["alpha"])),
    "add": lambda v: v["x"] + v["y"],
    "sub": lambda v: v["x"] - v["y"],
    "mul": lambda v: v["x"] * v["y"],
    "concat": lambda v: torch.cat(v["values"], int(v["axis"])),
    "reshape": lambda v: v["x"].reshape(_numbers(v["shape"])),
    "transpose": lambda v: v["x"].permute(_numbers(v["perm"])),
    "cast": lambda v: v["x"].to(TYPES[str(v["dtype"])]),
}
