"""Text in a row: what is looked up means what v6.1's does, and nothing is run."""

import os
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from models.spec.arguments import UnknownNameError, find_dotted, read_argument, split_named
from models.yolo import Model, find_module

NAMES = {"nn": nn, "torch": torch, "os": os, "nc": 80, "na": 3, "anchors": [[1, 2]], "none": SimpleNamespace(x=1)}


def look_up(name):
    return NAMES[name]


def read(argument, takes_text=False):
    return read_argument(argument, look_up, takes_text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("nc", 80),
        ("anchors", [[1, 2]]),
        ("None", None),
        ("True", True),
        ("nn.SiLU", nn.SiLU),
        ("torch.nn.ReLU", nn.ReLU),
        ("na * (nc + 5)", 255),
        ("nc // 3 - 1", 25),
        ("-1", -1),
        ("(3, 3)", (3, 3)),
        ("[1, nc]", [1, 80]),
        (64, 64),
        ([1, "x"], [1, "x"]),
    ],
)
def test_words_names_and_sums(text, value):
    assert read(text) == value


def test_a_call_makes_a_module():
    act = read("nn.LeakyReLU(0.1, inplace=True)")
    assert (type(act), act.negative_slope, act.inplace) == (nn.LeakyReLU, 0.1, True)


@pytest.mark.parametrize(
    "text",
    [
        *("nearest", "nn.Nothing", "nn.functional", "os", "os.getcwd()", "torch.zeros(9)", "torch.save", "sum"),
        *(
            "nn.__class__",
            "nn.Module.__subclasses__()",
            "().__class__",
            "[x for x in [1]]",
            "lambda: 1",
            "nc if na else 1",
        ),
        *("9 ** 9", "'a' * 3", "[1] * 3", "nc / 0", "nn.ReLU(*anchors)", "nn.ReLU(**{})", "none.x", "(", "", "x" * 300),
    ],
)
def test_other_text_stays_text_where_text_is_due(text):
    assert read(text, takes_text=True) == text
    with pytest.raises(ValueError, match="argument "):
        read(text)


@pytest.mark.parametrize("text", ["", ".", "nn.", "nn._reduction", "_x", "nn.SiLU.x.y", "1", "nn SiLU"])
def test_what_is_no_name(text):
    with pytest.raises(UnknownNameError):
        find_dotted(text, look_up)


@pytest.mark.parametrize(
    "name", ["os.remove", "sys.exit", "general.run_script", "main", "load_model_yaml", "Path", "LOGGER", "common", "nn"]
)
def test_a_row_names_networks_alone(name):
    with pytest.raises(ValueError, match="unknown module"):
        find_module(name)


class Named(nn.Module):
    def __init__(self, c1, mode="a", gain=1):
        super().__init__()


def test_a_mapping_gives_arguments_by_name():
    assert split_named([1, {"gain": 2}], Named, is_ours=False) == ([1], {"gain": 2})
    assert split_named([1, {"other": 2}], Named, is_ours=False) == ([1, {"other": 2}], {})
    assert split_named([1, {"other": 2}], Named, is_ours=True) == ([1], {"other": 2})
    assert split_named([], Named, is_ours=True) == ([], {})


def test_sums_and_classes_in_a_yaml(tiny_with):
    model = Model(tiny_with([-1, 1, "Conv", ["nc * 16", 1, 1, None, 1, "nn.ReLU()"]]), verbose=False)
    assert (model.model[5].conv.out_channels, type(model.model[5].act)) == (16, nn.ReLU)
