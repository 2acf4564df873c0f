"""What attention does to its input: its gates counted over a data set, and blocks put to another gate.

A gate is what a block multiplies its input by. tools/gates/cli.py shows it, tools/gates/layer_cam.py what the network
looks at because of it.

Legend: B batch, C channels of a block, H W height and width of its map.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.blocks.nam import Gated

LEAVES = 0.1  # share of its rest that a gate must move by to count as left: 0.05 of a gate that rests at 0.5
CONSTANT = 0.01  # share of its rest; a gate whose standard deviation is below it is called constant
BINS = 100


@dataclass(frozen=True)
class GateStats:
    """What the gate of one block did on a data set; the arrays are by channel, (C,), but for the histogram."""

    name: str
    module: str
    rest: float  # the gate where all sigmoids get 0
    mean: np.ndarray
    sd: np.ndarray  # over images and places
    low: np.ndarray
    high: np.ndarray
    left: np.ndarray  # share of the gates that are further than LEAVES of their rest from it
    histogram: np.ndarray  # (BINS,) counts from 0 to `top`
    top: float

    @property
    def sd_within(self) -> float:
        """The standard deviation over images and places, of all channels together."""
        return float(np.sqrt(np.square(self.sd).mean()))

    @property
    def sd_all(self) -> float:
        """The standard deviation over channels, images and places."""
        return float(np.sqrt(np.square(self.sd).mean() + self.mean.var()))

    @property
    def alarm(self) -> str:
        """What is wrong with the gate; empty where nothing is."""
        limit = CONSTANT * self.rest
        if self.sd_all < limit:
            return f"the gate is constant at {self.mean.mean():.3f} (sd {self.sd_all:.2g}): the block only scales"
        if self.sd_within < limit:
            return (
                f"each channel's gate is constant (sd {self.sd_within:.2g}): the block is a fixed scale per channel, "
                "which a convolution could hold"
            )
        return ""


@dataclass(frozen=True)
class Counterfactual:
    """The AP of a network in which a block, or all, has another gate; `carried` is by how much that is less."""

    block: str
    gate: str
    map50: float
    map: float
    carried50: float
    carried: float


class GateTally:
    """Adds up the gates of one block, batch by batch, as deviations from their rest, which keeps their digits."""

    def __init__(self, name: str, block: Gated) -> None:
        self.name, self.module, self.rest = name, type(block).__name__, float(block.rest)
        self.top = max(1.0, 2 * self.rest)
        self.values = 0  # of each channel
        self.sums: Tensor | None = None  # (3, C): deviations, their squares, left
        self.least = self.most = torch.zeros(0)  # (C,)
        self.counts = torch.zeros(BINS)

    def add(self, gate: Tensor, shape: torch.Size) -> None:
        """Counts the gate of an input of this shape (B, C, H, W), to which it is broadcast."""
        gate = gate.float().expand(shape)
        off = gate - self.rest
        parts = torch.stack([v.sum((0, 2, 3), dtype=torch.float64) for v in (off, off.square(), off.abs() > self.far)])
        low, high = off.amin((0, 2, 3)), off.amax((0, 2, 3))
        first = self.sums is None
        self.sums = parts if first else self.sums + parts
        self.least = low if first else torch.minimum(self.least, low)
        self.most = high if first else torch.maximum(self.most, high)
        self.values += shape[0] * shape[2] * shape[3]
        self.counts += torch.histc(gate.cpu(), BINS, 0, self.top)

    @property
    def far(self) -> float:
        """How far from its rest a gate has left it."""
        return LEAVES * self.rest

    def stats(self) -> GateStats:
        """The statistics of all that was added."""
        assert self.sums is not None, "no batch was looked at"
        off, squares, left = (self.sums / self.values).cpu().numpy()
        return GateStats(
            self.name,
            self.module,
            self.rest,
            mean=off + self.rest,
            sd=np.sqrt(np.maximum(squares - off**2, 0)),
            low=self.least.cpu().numpy() + self.rest,
            high=self.most.cpu().numpy() + self.rest,
            left=left,
            histogram=self.counts.numpy(),
            top=self.top,
        )


def gated_blocks(model: nn.Module) -> dict[str, Gated]:
    """The attention blocks of a network by their names, in order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Gated)}


def attention_blocks(model: nn.Module) -> dict[str, Gated]:
    """`gated_blocks`; ValueError where there is none."""
    found = gated_blocks(model)
    if not found:
        raise ValueError("the network has no attention block, such as NAMAttention or C3NAM: nothing to look at")
    return found


Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]


@contextmanager
def hooked(blocks: dict[str, Gated], make: Callable[[str], Hook]) -> Iterator[None]:
    """Lets make(name) see, and replace, what each block gives, until the context ends."""
    handles = [block.register_forward_hook(make(name)) for name, block in blocks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def counting(tally: GateTally) -> Hook:
    """The hook that adds a block's gate to its tally."""

    def count(block: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        tally.add(block.gate(inputs[0]), inputs[0].shape)

    return count


def as_identity(_block: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
    """The hook that takes a block out."""
    return inputs[0]


def as_constant(gate: Tensor) -> Hook:
    """The hook that holds a block's gate at (C,)."""
    return lambda _block, inputs, _output: (inputs[0] * gate.to(inputs[0])[:, None, None]).to(inputs[0].dtype)
