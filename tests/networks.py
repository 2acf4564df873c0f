"""A model small enough to be built in a blink, and one of real size."""

import copy
from collections.abc import Callable

import pytest
import torch

from models.yolo import Model
from tests.models.files import as_trained

TINY = {  # two levels, 8 and 16
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 0.5,
    "anchors": [[10, 12, 20, 24], [40, 48, 80, 96]],
    "backbone": [
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "Conv", [32, 3, 2]],
    ],
    "head": [[-1, 2, "C3", [32]], [-1, 1, "NAMAttention", [32]], [[2, 5], 1, "Detect", ["nc", "anchors"]]],
}


@pytest.fixture
def tiny() -> Callable[..., dict]:
    """A function that gives TINY with other values for some keys."""
    return lambda **changes: {**copy.deepcopy(TINY), **changes}


@pytest.fixture
def tiny_with(tiny: Callable[..., dict]) -> Callable[..., dict]:
    """A function that gives TINY with the rows given in place of NAM's, row 5; Detect reads the last of them."""
    first, _, _ = TINY["head"]
    return lambda *rows: tiny(head=[first, *rows, [[2, 4 + len(rows)], 1, "Detect", ["nc", "anchors"]]])


@pytest.fixture(scope="module")
def nano() -> Model:
    """yolov5n-NAM in evaluation, with norms as after a training."""
    torch.manual_seed(0)
    return as_trained(Model("yolov5n-NAM.yaml", verbose=False))
