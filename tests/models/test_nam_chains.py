"""NAM's four operators in a graph that a converter has made: which chains are taken for it, and which are not."""

import pytest

from models.nam_chains import Operator, check_gates

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
