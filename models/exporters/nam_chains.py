"""What NAM is in a graph that a converter has made: four operators, whatever the format calls them."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from models.blocks.nam import NAMAttention


class Operator(NamedTuple):
    """One operator of a graph: what it is, and the names of the values that it takes and gives."""

    kind: str
    inputs: tuple[str, ...]
    output: str


def summed_layers(network: nn.Module) -> list[str]:
    """The fused NAM blocks that add anything: converters leave out a sum with 0, as of an untrained one."""
    blocks = [(name, module) for name, module in network.named_modules() if isinstance(module, NAMAttention)]
    return [name for name, block in blocks if block.Channel_Att.b.any()]


def check_gates(operators: Sequence[Operator], layers: Sequence[str], wanted: tuple[str, ...]) -> None:
    """ValueError where there are not as many chains of `wanted`, a product, sum, sigmoid and product, as NAM layers."""
    product, total, sigmoid, _ = wanted
    maker = {operator.output: operator for operator in operators}
    gates = 0
    for operator in (operator for operator in operators if operator.kind == sigmoid):
        add = maker.get(operator.inputs[0])
        first = {maker[name].kind for name in add.inputs if name in maker} if add is not None else set()
        after = [other.kind for other in operators if operator.output in other.inputs]
        gates += add is not None and add.kind == total and product in first and after == [product]
    if gates < len(layers):
        raise ValueError(f"of {len(layers)} NAM blocks {gates} came out as {', '.join(wanted)}, which each of them is")
