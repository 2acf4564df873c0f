"""NAM's four operators in a graph that a converter has made: which chains are taken for it, and which are not."""

import pytest
import torch
from torch import nn

from models.blocks.nam import NAMAttention
from models.exporters.nam_chains import Operator, check_gates, summed_layers

KINDS = ("mul", "add", "sigmoid", "mul")
NAM = [
    Operator("conv", ("x", "w"), "c"),
    Operator("mul", ("c", "a"), "m"),
    Operator("add", ("m", "b"), "s"),
    Operator("sigmoid", ("s",), "g"),
    Operator("mul", ("c", "g"), "y"),
]


def changed(place, **values):
    return [operator._replace(**values) if i == place else operator for i, operator in enumerate(NAM)]


def test_nam_is_found_with_its_factor_and_without():
    check_gates(NAM, ["model.7"], KINDS)
    check_gates([*NAM, Operator("mul", ("y", "two"), "z")], ["model.7"], KINDS)
    check_gates([Operator("conv", ("x",), "c"), Operator("sigmoid", ("c",), "g")], [], KINDS)


@pytest.mark.parametrize(
    "operators",
    [
        changed(1, kind="batch_norm"),
        changed(2, kind="sub"),
        changed(3, kind="softmax"),
        changed(4, kind="add"),
        [*NAM, Operator("add", ("g", "c"), "z")],
        NAM[:4],
        [*NAM[:1], *NAM[2:]],
        [],
    ],
)
def test_what_is_no_nam(operators):
    with pytest.raises(ValueError, match="of 1 NAM blocks 0 came out as mul, add, sigmoid, mul"):
        check_gates(operators, ["model.7"], KINDS)


def test_each_layer_counts():
    with pytest.raises(ValueError, match="of 2 NAM blocks 1 came out"):
        check_gates(NAM, ["model.7", "model.9"], KINDS)


def test_a_sum_with_nothing_is_not_looked_for():
    """As converters leave it out: an untrained block has no mean and no shift."""
    blocks = nn.Sequential(NAMAttention(4), nn.Conv2d(4, 4, 1), NAMAttention(4)).eval()
    nn.init.constant_(blocks[2].Channel_Att.bn2.bias, 0.1)
    for block in (blocks[0], blocks[2]):
        block.fuse()
    assert summed_layers(blocks) == ["2"]
    assert (blocks[0](torch.ones(1, 4, 2, 2)) > 0.5).all()
