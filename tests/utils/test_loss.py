"""The loss: v6.1's numbers, its rules by hand, and what must not matter: order, type, padding, device."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from utils.data.config import Hyp
from utils.general import ROOT
from utils.loss import (
    BCELoss,
    ComputeLoss,
    FocalLoss,
    GatherPredictions,
    match_targets,
    scatter_last,
    smooth_BCE,
)
from utils.torch_utils import to_device

HYP = replace(Hyp.from_yaml(ROOT / "data/hyps/hyp.scratch-low.yaml"), box=0.05, obj=1.0, cls=0.5)
GOLDEN = np.load(ROOT / "tests/golden/loss.npz")
MAPS = ("p3", "p4", "p5")
SETTINGS = {"default": {}, "smooth": {"label_smoothing": 0.1}, "focal": {}, "empty": {}}
LN2 = math.log(2)


def make_head(anchors, nc):
    anchors = torch.as_tensor(anchors)
    levels, per_level = anchors.shape[:2]
    stride = torch.tensor([8.0, 16.0, 32.0, 64.0, 128.0, 256.0][:levels])
    return SimpleNamespace(nc=nc, na=per_level, nl=levels, stride=stride, anchors=anchors)


def golden_inputs(dtype=torch.float32):
    raw = [torch.tensor(GOLDEN[name]).to(dtype).requires_grad_() for name in MAPS]
    return make_head(GOLDEN["anchors_grid_units"], nc=3), raw, torch.tensor(GOLDEN["targets"])


# Numbers of v6.1 ------------------------------------------------------------------------------------------------------


def check_golden(setting):
    head, raw, targets = golden_inputs()
    hyp = replace(HYP, fl_gamma=1.5) if setting == "focal" else HYP
    total, items = ComputeLoss(head, hyp=hyp, **SETTINGS[setting])(raw, targets[:0] if setting == "empty" else targets)
    total.backward()
    assert total.shape == ()
    assert not items.requires_grad
    np.testing.assert_allclose(total.item(), GOLDEN[f"{setting}_total"].item(), rtol=1e-5)
    np.testing.assert_allclose(items.numpy(), GOLDEN[f"{setting}_box_obj_cls"], rtol=1e-5)
    for level, name in zip(raw, MAPS, strict=True):
        wanted = GOLDEN[f"{setting}_grad_{name}"]
        np.testing.assert_allclose(level.grad.numpy(), wanted, rtol=1e-4, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("setting", SETTINGS)
def test_golden(setting):
    check_golden(setting)


def test_golden_matches():
    head, raw, targets = golden_inputs()
    sizes = [(level.shape[3], level.shape[2]) for level in raw]
    matches = match_targets(targets, head.anchors, sizes, 4.0)
    assert matches.rows == GOLDEN["n_matched_per_level"].tolist()


# By hand --------------------------------------------------------------------------------------------------------------


def test_two_boxes_by_hand():
    """Logits of zero answer with the anchor itself, in the middle of the cell; objectness says 2 everywhere."""
    head = make_head([[[2.0, 2.0]]], nc=2)
    raw = torch.zeros(2, 1, 4, 4, 7)
    raw[..., 4] = 2
    # Image 0: the anchor's size, centre (1.3, 2.6): its cell (1, 2), the one to the left and the one below.
    # Image 1: the same in the middle of cell (3, 0), which alone answers, perfectly.
    targets = torch.tensor([[0, 1, 1.3 / 4, 2.6 / 4, 0.5, 0.5], [1, 0, 3.5 / 4, 0.5 / 4, 0.5, 0.5]])
    shifts = [(0.2, 0.1), (0.8, 0.1), (0.2, 0.9), (0, 0)]
    iou = [(2 - x) * (2 - y) / (8 - (2 - x) * (2 - y)) for x, y in shifts]
    far = [(x * x + y * y) / ((2 + x) ** 2 + (2 + y) ** 2) for x, y in shifts]
    ciou = [i - f for i, f in zip(iou, far, strict=True)]

    total, items = ComputeLoss(head, hyp=HYP)([raw], targets)
    box = 1 - sum(ciou) / 4
    obj = 4 * (math.log(1 + math.exp(2)) - 2 * sum(ciou) / 32)  # softplus(2) - 2 t, a balance of 4
    torch.testing.assert_close(items, torch.tensor([0.05 * box, obj, 0.5 * LN2]), rtol=1e-6, atol=0)
    torch.testing.assert_close(total, 2 * items.sum())


@pytest.mark.parametrize(
    ("xy", "cells"),
    [
        ((2.5, 2.5), {(2, 2)}),
        ((2.4, 2.5), {(2, 2), (1, 2)}),
        ((2.6, 2.5), {(2, 2), (3, 2)}),
        ((2.5, 2.4), {(2, 2), (2, 1)}),
        ((2.5, 2.6), {(2, 2), (2, 3)}),
        ((2.25, 2.75), {(2, 2), (1, 2), (2, 3)}),
        ((0.25, 0.25), {(0, 0)}),  # no neighbour outside the map
        ((4.75, 4.75), {(4, 4)}),
        ((1.0, 1.5), {(1, 1)}),  # a neighbour wants more than 1 cell of room
        ((0.0, 0.5), {(0, 0)}),
        ((5.0, 5.0), {(4, 4)}),  # the far edge belongs to the last cell
    ],
)
def test_cells_that_answer(xy, cells):
    size = 5 if max(xy) > 4 else 8  # divisors that keep the numbers exact enough
    target = torch.tensor([[0, 0, xy[0], xy[1], 1, 1]], dtype=torch.float64)
    target[:, 2:] /= size
    matches = match_targets(target, torch.ones(1, 1, 2, dtype=torch.float64), [(size, size)], 4.0)
    assert {tuple(cell) for cell in matches.cell.tolist()} == cells
    torch.testing.assert_close(matches.boxes[:, :2] + matches.cell, target.new_tensor([xy]).expand_as(matches.cell))


@pytest.mark.parametrize(
    ("wh", "is_match"),
    [((4, 4), True), ((15.9, 4), True), ((16, 4), False), ((4, 1.01), True), ((4, 1), False), ((0, 4), False)],
)
def test_ratio_limit(wh, is_match):
    target = torch.tensor([[0, 0, 0.53125, 0.53125, wh[0] / 16, wh[1] / 16]])
    matches = match_targets(target, torch.full((1, 1, 2), 4.0), [(16, 16)], 4.0)
    assert matches.rows == [int(is_match)]


def test_scatter_last_is_a_loop_of_writes():
    generator = torch.Generator().manual_seed(0)
    values, places = torch.rand(500, generator=generator), torch.randint(60, (500,), generator=generator)
    wanted = torch.zeros(64)
    for value, place in zip(values, places, strict=True):
        wanted[place] = value
    assert torch.equal(scatter_last(values, places, 64), wanted)
    assert torch.equal(scatter_last(values[:0], places[:0], 3), torch.zeros(3))


# What must not matter -------------------------------------------------------------------------------------------------


def test_order_of_images_and_levels_of_targets():
    head, raw, targets = golden_inputs()
    total, items = ComputeLoss(head, hyp=HYP)(raw, targets)
    turned = targets.clone()
    turned[:, 0] = 1 - turned[:, 0]
    other_total, other_items = ComputeLoss(head, hyp=HYP)([level.flip(0) for level in raw], turned)
    torch.testing.assert_close(other_total, total)
    torch.testing.assert_close(other_items, items)


def test_memory_layout_and_inputs_stay():
    head, raw, targets = golden_inputs()
    before = [level.detach().clone() for level in raw]
    given = targets.clone()
    convolved = [level.detach().permute(0, 2, 3, 1, 4).contiguous().requires_grad_() for level in raw]  # NHWC
    total, _ = ComputeLoss(head, hyp=HYP)([level.permute(0, 3, 1, 2, 4) for level in convolved], targets)
    expected, _ = ComputeLoss(head, hyp=HYP)(raw, targets)
    (total + expected).backward()
    torch.testing.assert_close(total, expected)
    for level, other, old in zip(raw, convolved, before, strict=True):
        torch.testing.assert_close(other.grad.permute(0, 3, 1, 2, 4), level.grad)
        assert torch.equal(level, old)
    assert torch.equal(targets, given)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_maps_are_computed_in_fp32(dtype):
    head, raw, targets = golden_inputs(dtype)
    exact = [level.detach().float().requires_grad_() for level in raw]
    with torch.autocast("cpu", torch.bfloat16):
        total, items = ComputeLoss(head, hyp=HYP)(raw, targets)
    expected, expected_items = ComputeLoss(head, hyp=HYP)(exact, targets)
    assert total.dtype == items.dtype == torch.float32
    assert torch.equal(items, expected_items)
    total.backward()
    expected.backward()
    for level, other in zip(raw, exact, strict=True):
        scale = other.grad.abs().max().item()
        torch.testing.assert_close(level.grad.float(), other.grad, rtol=0.02, atol=0.004 * scale)


def test_deterministic_mode_is_served():
    head, raw, targets = golden_inputs()
    torch.use_deterministic_algorithms(True)
    try:
        totals = [ComputeLoss(head, hyp=HYP)(raw, targets)[0] for _ in range(2)]
        totals[0].backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*totals)


@pytest.mark.parametrize("setting", ["default", "focal"])
def test_gpu_never_waits(setting):
    """Tensors without values refuse what a GPU would have to send to the host: item, nonzero, a boolean mask."""
    hyp = replace(HYP, fl_gamma=1.5, cls_pw=0.5) if setting == "focal" else HYP
    criterion = ComputeLoss(make_head(torch.ones(3, 3, 2), nc=3), hyp=hyp)
    raw = [torch.zeros(2, 3, n, n, 8, device="meta", dtype=torch.float16, requires_grad=True) for n in (8, 4, 2)]
    targets = torch.tensor([[0, 1, 0.4, 0.4, 0.2, 0.2], [1, 2, 0.6, 0.6, 0.4, 0.4]])
    total, items = criterion(raw, to_device(targets, torch.device("meta")))
    total.backward()
    assert (items.shape, raw[0].grad.dtype) == ((3,), torch.float16)
    with pytest.raises(NotImplementedError):
        criterion(raw, targets.to("meta"))


def test_targets_of_a_device_know_the_hosts():
    targets = torch.rand(5, 6)
    assert to_device(targets, torch.device("meta")).on_host is targets
    assert to_device(targets, torch.device("cpu")) is targets


# Edges ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nc", [1, 2, 80])
@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_any_head_any_targets(nc, levels, count):
    generator = torch.Generator().manual_seed(count)
    head = make_head(torch.full((levels, 2, 2), 2.0), nc)
    raw = [torch.randn(2, 2, n, n + 1, 5 + nc, generator=generator).requires_grad_() for n in range(levels, 0, -1)]
    targets = torch.rand(count, 6, generator=generator)
    targets[:, 0], targets[:, 1] = targets[:, 0] > 0.5, (targets[:, 1] * nc).floor()
    total, items = ComputeLoss(head, hyp=HYP)(raw, targets)
    total.backward()
    assert total.isfinite()
    assert all(level.grad.isfinite().all() for level in raw)
    assert (items[2] > 0) == (nc > 1 and items[0] > 0)
    if count == 0:
        assert items[0] == 0
        assert all(level.grad[..., [*range(4), *range(5, 5 + nc)]].count_nonzero() == 0 for level in raw)


def test_too_many_levels():
    with pytest.raises(ValueError, match="6 detection levels"):
        ComputeLoss(make_head(torch.ones(6, 3, 2), nc=3), hyp=HYP)


@pytest.mark.parametrize("size", [0.0, 1e-12, 0.2, 1.0])
@pytest.mark.parametrize("logit", [-1e4, -90.0, 0.0, 90.0, 1e4])
@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_degenerate_boxes_keep_finite_gradients(size, logit, gamma):
    head = make_head([[[1.0, 1.0], [1e-7, 1e-7]]], nc=2)
    raw = torch.full((1, 2, 4, 4, 7), logit).requires_grad_()
    targets = torch.tensor([[0, 1, x, y, size, size / 2] for x in (0.0, 0.3, 1.0) for y in (0.0, 0.6, 1.0)])
    total, _ = ComputeLoss(head, hyp=replace(HYP, fl_gamma=gamma))([raw], targets)
    total.backward()
    assert total.isfinite()
    assert raw.grad.isfinite().all()


# Parts ----------------------------------------------------------------------------------------------------------------


def test_smoothing():
    assert smooth_BCE(0.1) == pytest.approx((0.95, 0.05))
    assert smooth_BCE(0.0) == (1.0, 0.0)


@pytest.mark.parametrize(("logit", "target", "loss"), [(0.0, 1.0, LN2 * 0.25 / 4), (0.0, 0.0, LN2 * 0.75 / 4)])
def test_focal_by_hand(logit, target, loss):
    value = FocalLoss(BCELoss(), gamma=2.0)(torch.tensor([logit]), torch.tensor([target]))
    assert value.item() == pytest.approx(loss)


@pytest.mark.parametrize("pos_weight", [1.0, 0.5, 3.0])
def test_positive_weight(pos_weight):
    logits, targets = torch.linspace(-3, 3, 7), torch.linspace(0, 1, 7)
    wanted = -pos_weight * targets * F.logsigmoid(logits) - (1 - targets) * F.logsigmoid(-logits)
    torch.testing.assert_close(BCELoss(pos_weight, reduction="none")(logits, targets), wanted)
    torch.testing.assert_close(BCELoss(pos_weight)(logits, targets), wanted.mean())
    torch.testing.assert_close(BCELoss(pos_weight, reduction="sum")(logits, targets), wanted.sum())


def test_gathered_predictions_have_the_right_gradient():
    level = torch.randn(2, 2, 3, 3, 7, dtype=torch.float64).permute(0, 1, 3, 2, 4).requires_grad_()
    place = [torch.tensor(index) for index in ((0, 1, 0, 0), (1, 0, 1, 0), (2, 2, 2, 0), (0, 1, 0, 2))]  # one twice
    assert torch.autograd.gradcheck(GatherPredictions.apply, (level, *place))
    (gradient,) = torch.autograd.grad(GatherPredictions.apply(level, *place)[0].sum(), level)
    assert gradient.stride() == level.stride()


def test_autobalance_moves_towards_equal_losses():
    head, raw, targets = golden_inputs()
    balanced, plain = ComputeLoss(head, hyp=HYP, autobalance=True), ComputeLoss(head, hyp=HYP)
    with torch.no_grad():
        balanced(raw, targets)
    assert balanced.balance == pytest.approx([4, 1, 0.4])  # validation changes nothing
    balanced(raw, targets)
    losses = []
    for i in range(3):
        plain.balance = torch.eye(3)[i].tolist()
        losses.append(plain(raw, targets)[1][1].item())
    moved = [b * 0.9999 + 0.0001 / x for b, x in zip((4, 1, 0.4), losses, strict=True)]
    assert [float(b) for b in balanced.balance] == pytest.approx([b / moved[1] for b in moved])
