"""Limits for building a network: measure what a yaml asks for before memory or time is spent on it.

A row of a few characters can ask for tens of gigabytes: a wide layer, a padding of 30000, a kernel of 10^5. Inside a
`Budget` each operation that creates or enlarges a tensor first runs on the meta device, whatever the tensor's device.
"""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

MOST_NUMBERS = 350_000_000  # of all layers: 1.4 GB. yolov5x6 has 141 million
MOST_IN_MAP = 100_000_000  # of one map in the dry run, at 256 pixels; yolov5x6's largest has 1.3 million
MOST_OPERATIONS = 4e11  # of the dry run; yolov5x6's takes 3.4e10
MOST_MODULES, MOST_TENSORS = 10_000, 20_000  # yolov5x6 has some 700, and 3000 with those that are gone again
# Operators that can give more than they take, by how their names begin, but for convolutions.
ENLARGING = (
    *("constant_pad", "reflection_pad", "replication_pad", "_upsample_", "repeat", "im2col", "col2im"),
    *("mm", "bmm", "addmm", "baddbmm", "adaptive_", "_adaptive_", "embedding", "max_unpool", "index", "gather"),
)
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")
ON_META = {"device": torch.device("meta")}
ADVICE = "; reduce this row, width_multiple or depth_multiple"
Given = ParamSpec("Given")
Found = TypeVar("Found")


class Budget(TorchDispatchMode):
    """Context in which an operation that exceeds a limit raises ValueError before it runs.

    `most_numbers` and `most_in_map` may be lower than the limits above, as for a file, whose weights give its size.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from loading its compiler on this query, which takes seconds."""
        return False

    def __init__(self, most_numbers: int = MOST_NUMBERS, most_in_map: int = MOST_IN_MAP) -> None:
        super().__init__()
        self.most_numbers, self.most_in_map = most_numbers, most_in_map
        self.numbers = self.tensors = self.modules = self.operations = 0

    def __enter__(self) -> Self:
        """Start counting."""
        self._hook = register_module_module_registration_hook(self._count_module)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:  # noqa: ANN401 as the class above has it
        """Stop counting."""
        self._hook.remove()
        super().__exit__(*error)

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 an operator of torch's
        types: object,
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        """Run an operation if it is within the limits."""
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if name == "convolution":
            size, each = convolved(*args)
            self._check_map(size, each)
        elif name.startswith("upsample_"):
            self._check_map(upsampled(*args[:3]), 0)
        elif name.startswith(ENLARGING):
            bare_args, bare_kwargs = tree_map_only(Tensor, _without_numbers, (args, kwargs))
            size = _numel(func(*bare_args, **bare_kwargs))
            self._check_map(size, bare_args[-1].shape[-2] if name in PRODUCTS else 0)
        elif name == "clone":
            self._count_numbers(args[0].numel() if args[0].device.type != "meta" else 0)
        elif "device" in kwargs and not any(map(_is_tensor, tree_leaves((args, kwargs)))):
            is_bare = torch.device(kwargs["device"] or "cpu").type == "meta"  # takes no memory
            self._count_numbers(0 if is_bare else _numel(func(*args, **(kwargs | ON_META))))
        return func(*args, **kwargs)

    def _count_numbers(self, numbers: int) -> None:
        """Count values that are created from sizes alone, such as weights, or copied."""
        self.numbers += numbers
        self.tensors += 1
        if self.tensors > MOST_TENSORS:
            raise ValueError(f"the layers up to here make more than {MOST_TENSORS} tensors{ADVICE}")
        if self.numbers > self.most_numbers:
            raise ValueError(f"the layers up to here take more than {self.most_numbers} numbers{ADVICE}")

    def _check_map(self, size: int, each: int) -> None:
        """Check the number of an operator's output values, and of the products that each takes."""
        if size > self.most_in_map:
            raise ValueError(
                f"gives a map of {size} numbers for a small image, more than {self.most_in_map} numbers{ADVICE}"
            )
        self.operations += 2 * size * each
        if self.operations > MOST_OPERATIONS:
            raise ValueError(f"takes more than {MOST_OPERATIONS:.0e} operations for a small image{ADVICE}")

    def _count_module(self, _parent: nn.Module, _name: str, _module: nn.Module | None) -> None:
        self.modules += 1
        if self.modules > MOST_MODULES:
            raise ValueError(f"more than {MOST_MODULES} modules; reduce the number in this row, or depth_multiple")


def within_budget(build: Callable[Given, Found]) -> Callable[Given, Found]:
    """Wrap a function so that it builds under a `Budget`."""

    @wraps(build)
    def limited(*args: Given.args, **kwargs: Given.kwargs) -> Found:
        with Budget():
            return build(*args, **kwargs)

    return limited


def convolved(
    x: Tensor,
    weight: Tensor,
    _bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> tuple[int, int]:
    """Compute a convolution's number of output values and of products for each; arguments as torch passes them.

    This is a formula, as torch's shape inference takes a second to load.
    """
    kernel = weight.shape[2:]
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    size = x.shape[0] * channels
    for side, k, s, p, d, more in zip(x.shape[2:], kernel, stride, padding, dilation, output_padding, strict=False):
        reach = d * (k - 1) + 1
        given = (side - 1) * s - 2 * p + reach + more if transposed else (side + 2 * p - reach) // s + 1
        size *= max(given, 0)
    return size, weight.shape[1] * math.prod(kernel)


def upsampled(x: Tensor, hw: Sequence[int] | None, factors: object = None) -> int:
    """Compute the number of output values of an upsampling, to a size or by factors."""
    if hw is None:
        known = factors if isinstance(factors, Sequence) else ()
        hw = [int(side * factor) for side, factor in zip(x.shape[2:], known, strict=False)]
    return x.shape[0] * x.shape[1] * math.prod(hw)


def _numel(made: object) -> int:
    return max((part.numel() for part in tree_leaves(made) if _is_tensor(part)), default=0)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _without_numbers(tensor: Tensor) -> Tensor:
    """Return a meta tensor of the same shape."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
