"""What a model yaml may ask for: real networks pass, and what would take gigabytes or minutes is refused before."""

import time

import pytest
import torch

from models.spec import budget as budget_module
from models.spec.budget import Budget, within_budget
from models.yolo import Model

ROWS = {  # after a first layer of 8 channels; each takes tens of gigabytes or minutes, of a small file
    "wide": ["nn.Linear", [50_000, 100_000]],
    "wide, on the CPU by name": ["nn.Linear", [50_000, 100_000, {"device": "cpu"}]],
    "wide, on the CPU by place": ["nn.Linear", [50_000, 100_000, True, "cpu"]],
    "padded": ["nn.ZeroPad2d", [30_000]],
    "padded convolution": ["Conv", [8, 3, 1, 30_000]],
    "large kernel": ["Conv", [8, 100_000]],
    "long convolution": ["nn.Conv2d", [8, 8, 2001, 1, 1000, 1, 8]],
    "upsampled by a factor": ["nn.Upsample", ["None", 1000]],
    "upsampled to a size": ["nn.Upsample", [[40_000, 40_000]]],
    "upsampled by weights": ["nn.ConvTranspose2d", [8, 8, 3, 20_000]],
    "pooled to more": ["nn.AdaptiveAvgPool2d", [50_000]],
    "unfolded": ["nn.Unfold", [101, 1, 50]],
    "embedded": ["nn.Embedding", [2_000_000_000, 10]],
}


def network(row, gain=1.0, number=1):
    return {
        **{"nc": 2, "depth_multiple": gain, "width_multiple": 1.0, "anchors": [[10, 13]]},
        "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, number, *row]],
        "head": [[[-1], 1, "Detect", ["nc", "anchors"]]],
    }


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_row_that_asks_for_too_much_is_named(row):
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"row 1 \[-1, 1, ") as caught:
        Model(network(row), verbose=False)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("row", "what"), [(["nn.LSTM", [8, 8, 10_000_000]], "tensors"), (["nn.Transformer", [8, 8, 1_000_000]], "tensors")]
)
def test_a_row_that_makes_layers_without_end(monkeypatch, row, what):
    monkeypatch.setattr(budget_module, "MOST_TENSORS", 1000)
    with pytest.raises(ValueError, match=rf"row 1 .* more than 1000 {what}"):
        Model(network(row), verbose=False)


def test_repeats_have_an_end(monkeypatch):
    monkeypatch.setattr(budget_module, "MOST_MODULES", 1000)
    with pytest.raises(ValueError, match=r"row 1 .* more than \d+ modules"):
        Model(network(["nn.Identity", []], 2, 1000), verbose=False)


def test_the_largest_network_of_the_family_passes():
    """On the meta device: what it would take is counted all the same, but for its weights."""
    with torch.device("meta"):
        model = Model("yolov5x6.yaml", verbose=False, warn=False)
    assert sum(parameter.numel() for parameter in model.parameters()) > 140e6


def test_numbers_are_counted_wherever_they_would_be():
    with Budget() as budget:
        torch.nn.Linear(10, 20)
        torch.nn.Linear(10, 20, device="meta")  # takes no memory
    assert (budget.numbers, budget.tensors) == (220, 4)


def test_counting_ends_with_the_block():
    @within_budget
    def build():
        raise KeyError("x")

    with pytest.raises(KeyError):
        build()
    with Budget() as budget:
        torch.zeros(3)
    torch.zeros(5)
    torch.nn.Sequential(torch.nn.Identity())
    assert (budget.numbers, budget.modules) == (3, 0)
