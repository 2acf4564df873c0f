"""Signals of places on a small network, against what they must be for blocks that are known."""

import math

import pytest
import torch

from models.edit.insertion import Block
from models.yolo import Model
from tools.place.signals import Signals, drift_of, gradient_share, network, ordered, places_of
from utils.data.config import Hyp

NAM, IDENTITY = Block("NAMAttention"), Block("IdentityControl")
TARGETS = torch.tensor([[0, 1, 0.5, 0.5, 0.4, 0.6], [1, 3, 0.3, 0.6, 0.2, 0.1]])


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_places_are_rows_that_a_block_fits_behind():
    places = places_of("yolov5n.yaml", NAM)
    assert {"0", "9", "23"} <= places.keys()
    assert not {"11", "15", "24"} & places.keys()  # upsampling, and the head
    assert "SPPF" in places["9"]


def test_a_block_that_fits_nowhere():
    with pytest.raises(ValueError, match="fits behind no row"):
        places_of("yolov5n.yaml", Block("NAMAttention", (7,)))


def test_an_identity_does_not_drift_and_the_published_gate_does(images):
    plain = network("yolov5n.yaml", None, "", 4, None)
    state = plain.state_dict()

    def inserted(block):
        model = network("yolov5n.yaml", block, "9", 4, None)
        renamed = {f"model.{int(k.split('.')[1]) + (int(k.split('.')[1]) > 9)}.{k.split('.', 2)[2]}": k for k in state}
        model.load_state_dict({new: state[old] for new, old in renamed.items()}, strict=False)
        return model

    assert drift_of(inserted(IDENTITY), plain, images) == 0
    assert drift_of(inserted(NAM), plain, images) > 1e-3


def test_gradient_shares_add_up_to_the_whole(images):
    model = Model("yolov5n.yaml", nc=4, verbose=False)
    hyp = Hyp.from_yaml("hyp.scratch-low.yaml")
    shares = [gradient_share(model, i, images, TARGETS, hyp) for i in range(len(model.model))]
    assert sum(share**2 for share in shares) == pytest.approx(1, abs=1e-3)
    assert shares[11] == 0  # upsampling has no parameters


def test_order_is_by_the_sum_of_ranks():
    best = Signals("1", "", 0.0, 0.9, 0.1)
    middle = Signals("2", "", 0.1, 0.5, 0.05)
    worst = Signals("3", "", 0.2, 0.1, math.nan)
    assert ordered([worst, middle, best]) == [best, middle, worst]
    assert ordered([]) == []
