"""Limits, and a network made ready to run: its number format, its layout, its first pass."""

import logging

import pytest
import torch
from torch import nn

from utils.general import non_max_suppression
from utils.ops import nms
from utils.predict.inference import check_limits, ready, warm_up


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((1.1, 0.5), "--conf-thres 1.1: a share"),
        ((float("nan"), 0.5), "--conf-thres nan: a share"),
        ((0.5, -0.1), "--iou-thres -0.1: a share"),
        ((0.5, 0.5, 0), "--max-det 0: 1 or more"),
    ],
)
def test_limits(limits, message):
    with pytest.raises(ValueError, match=message):
        check_limits(*limits[:2], {"--max-det": limits[2] if len(limits) > 2 else 1})
    check_limits(0, 1, {"--max-det": 1})


@pytest.mark.parametrize("half", [False, True])
def test_a_network_on_the_cpu_computes_in_full(half, caplog):
    caplog.set_level(logging.INFO, "yolov5")
    model = ready(nn.Conv2d(3, 4, 3).double(), half)
    assert model.weight.dtype == torch.float32
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    assert ["FP32 is used on this cpu" in record.getMessage() for record in caplog.records] == [True] * half


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("half", [False, True])
def test_a_network_on_a_gpu(half):
    model = ready(nn.Conv2d(3, 4, 3).cuda(), half)
    assert model.weight.dtype == (torch.float16 if half else torch.float32)
    seen = []
    model.register_forward_hook(lambda module, args, output: seen.append((args[0].shape, output.requires_grad)))
    warm_up(model, (32, 64))
    assert seen == [((1, 3, 32, 64), False)]


def test_no_first_pass_on_the_cpu():
    model = nn.Conv2d(3, 4, 3)
    model.register_forward_hook(lambda *_: pytest.fail("the CPU needs none"))
    warm_up(model, (32, 64))


def test_the_suppression_is_loaded_before_the_first_image():
    nms._backend.cache_clear()
    warm_up(nn.Conv2d(3, 4, 3), (8, 8))
    assert nms._backend.cache_info().misses == 1
    non_max_suppression(torch.tensor([[[8.0, 8, 4, 4, 1, 1]]]))
    assert nms._backend.cache_info().misses == 1
