"""Who decays, what a step uses: v6.1's numbers at known steps, and shorter warm-up where a run is short."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from utils.data.config import Hyp
from utils.general import ROOT
from utils.training.optim import (
    Schedule,
    StepValues,
    accumulation,
    build_optimizer,
    lr_factor,
    parameter_groups,
    scaled_decay,
    warmup_steps,
    warmup_values,
)

HYP = replace(
    Hyp.from_yaml(ROOT / "data/hyps/hyp.scratch-low.yaml"),
    **{"lr0": 0.01, "lrf": 0.01, "momentum": 0.937, "weight_decay": 0.0005},
    **{"warmup_epochs": 3.0, "warmup_momentum": 0.8, "warmup_bias_lr": 0.1},
)


class Odd(nn.Module):
    """Parameters of all kinds, with and without the names that v6.1 looked for."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.group, self.layer, self.rms = nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.RMSNorm(4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.one_channel = nn.Conv2d(4, 1, 1, bias=False)
        self.prelu = nn.PReLU(4)
        self.scale = nn.Parameter(torch.ones(()))
        self.p1 = nn.Parameter(torch.ones(1, 4, 1, 1))
        self.mixing = nn.Parameter(torch.ones(2, 4))
        self.tied = self.conv


EXPECTED = {
    "scales": {"bn.weight", "group.weight", "layer.weight", "rms.weight", "prelu.weight", "scale", "p1"},
    "weights": {"conv.weight", "attention.in_proj_weight", "attention.out_proj.weight", "one_channel.weight", "mixing"},
    "biases": {"conv.bias", "bn.bias", "group.bias", "layer.bias", "attention.in_proj_bias", "attention.out_proj.bias"},
}


def names_of(model, group):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for parameter in group]


# Groups and optimizer -------------------------------------------------------------------------------------------------


def test_every_parameter_is_in_its_group_once():
    model = Odd()
    groups = [names_of(model, group) for group in parameter_groups(model)]
    assert [set(group) for group in groups] == list(EXPECTED.values())
    assert sum(map(len, groups)) == len(list(model.parameters()))


def test_frozen_parameters_are_left_out():
    model = Odd()
    for parameter in [*model.conv.parameters(), model.scale]:
        parameter.requires_grad = False
    left = {name for group in parameter_groups(model) for name in names_of(model, group)}
    assert left == set.union(*EXPECTED.values()) - {"conv.weight", "conv.bias", "scale"}
    with pytest.raises(ValueError, match="no parameter is left"):
        build_optimizer(model.requires_grad_(False), "SGD", HYP, 16)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SGD", {"momentum": 0.937, "nesterov": True}),
        ("Adam", {"betas": (0.937, 0.999)}),
        ("AdamW", {"betas": (0.937, 0.999)}),
    ],
)
def test_only_weights_decay(name, expected):
    model = Odd()
    optimizer = build_optimizer(model, name, HYP, 16)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 0.0005, 0]
    assert all(group["lr"] == 0.01 for group in optimizer.param_groups)
    assert all(optimizer.param_groups[1][key] == value for key, value in expected.items())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert moved == EXPECTED["weights"]


def test_momentum_may_be_zero():
    assert build_optimizer(Odd(), "SGD", replace(HYP, momentum=0.0), 16).param_groups[0]["nesterov"] is False


def test_unknown_optimizer():
    with pytest.raises(ValueError, match=r"--optimizer sgd: must be one of SGD, Adam, AdamW"):
        build_optimizer(Odd(), "sgd", HYP, 16)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_fused_equals_plain_and_survives_another_layout(name):
    """Momentum from a checkpoint keeps its layout in memory, which need not be that of the weights it is loaded for."""
    torch.manual_seed(0)
    start = nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))
    models = (copy.deepcopy(start), copy.deepcopy(start).to(memory_format=torch.channels_last))
    plain, fused = (
        build_optimizer(model, name, HYP, 16, fused) for model, fused in zip(models, (False, None), strict=True)
    )
    assert fused.param_groups[0]["fused"]
    assert not plain.param_groups[0]["fused"]

    def steps(model, optimizer):
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(2, 4, 8, 8, generator=generator)).square().mean().backward()
            optimizer.step()

    steps(models[0], plain)
    steps(models[1], fused)
    state = copy.deepcopy(plain.state_dict())
    for group in state["param_groups"]:
        group["fused"] = True
    fused.load_state_dict(state)
    steps(models[0], plain)
    steps(models[1], fused)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def small_start(**options):
    """Two equal networks in the layout of a training, one with the fused kernel of SGD, one without."""
    torch.manual_seed(0)
    start = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)).to(memory_format=torch.channels_last)
    models = start, copy.deepcopy(start)
    fused, plain = (
        build_optimizer(model, "SGD", HYP, 16, fused=fused) for model, fused in zip(models, (True, False), strict=True)
    )
    return models, fused, plain


def give_gradients(*models, seed=1):
    for model in models:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))


def assert_equal_weights(models):
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_momentum_after_a_first_step_that_was_skipped():
    """What a loss scaler does at its first overflow: the kernel gets found_inf and leaves all as it is."""
    models, fused, plain = small_start()
    before = copy.deepcopy(models[0].state_dict())
    give_gradients(models[0], seed=0)
    fused.grad_scale, fused.found_inf = None, torch.ones(())
    fused.step()
    assert all(torch.equal(value, before[name]) for name, value in models[0].state_dict().items())
    assert all((state["momentum_buffer"] == 0).all() for state in fused.state.values())
    fused.found_inf = torch.zeros(())
    for seed in (1, 2):
        give_gradients(*models, seed=seed)
        fused.step()
        plain.step()
    assert_equal_weights(models)


def test_momentum_of_a_gradient_that_comes_late():
    models, fused, plain = small_start()
    for late in (True, False):
        give_gradients(*models)
        for model in models:
            model[0].bias.grad = None if late else model[0].bias.grad
        fused.step()
        plain.step()
    assert_equal_weights(models)


def test_first_step_is_torchs_own():
    models, fused, _ = small_start()
    groups = [
        {**group, "params": list(parameters)}
        for group, parameters in zip(fused.param_groups, parameter_groups(models[1]), strict=True)
    ]
    reference = torch.optim.SGD(
        [{key: group[key] for key in ("params", "lr", "momentum", "nesterov", "weight_decay")} for group in groups],
        lr=0.01,
    )
    for seed in (1, 2):
        give_gradients(*models, seed=seed)
        fused.step()
        reference.step()
    assert_equal_weights(models)


@pytest.mark.parametrize("steps", [0, 2])
def test_momentum_survives_a_file(steps):
    models, fused, _ = small_start()
    for seed in range(steps):
        give_gradients(models[0], seed=seed)
        fused.step()
    state = copy.deepcopy(fused.state_dict())
    models[1].load_state_dict(models[0].state_dict())
    other = build_optimizer(models[1], "SGD", HYP, 16)
    other.load_state_dict(state)
    for key, values in other.state_dict()["state"].items():
        assert torch.equal(values["momentum_buffer"], state["state"][key]["momentum_buffer"])
        assert values["momentum_buffer"].stride() == state["state"][key]["momentum_buffer"].stride()
    give_gradients(*models)
    fused.step()
    other.step()
    assert all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in models), strict=True))


def test_a_file_without_momentum_starts_it_at_zero():
    models, fused, _ = small_start()
    give_gradients(models[0])
    fused.step()
    fused.load_state_dict({**fused.state_dict(), "state": {}})
    assert len(fused.state) == 4
    assert all((state["momentum_buffer"] == 0).all() for state in fused.state.values())


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "decay"),
    [(1, 64, 5e-4), (16, 4, 5e-4), (24, 3, 5.625e-4), (40, 2, 6.25e-4), (64, 1, 5e-4), (128, 1, 1e-3)],
)
def test_nominal_batch(batch_size, accumulate, decay):
    assert accumulation(batch_size) == accumulate
    assert scaled_decay(5e-4, batch_size) == pytest.approx(decay)


@pytest.mark.parametrize(
    ("epoch", "cosine", "factor"),
    [
        (0, False, 1),
        (150, False, 0.505),
        (299, False, 0.0133),
        (0, True, 1),
        (100, True, 0.7525),
        (150, True, 0.505),
        (300, True, 0.01),
    ],
)
def test_lr_factor(epoch, cosine, factor):
    assert lr_factor(epoch, 300, 0.01, cosine) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("warmup_epochs", "batches", "epochs", "steps"),
    [
        (3.0, 7393, 300, 22179),  # COCO: v6.1's
        (3.0, 100, 300, 1000),  # v6.1's floor
        (3.0, 20, 50, 100),  # the floor would be the whole run: a tenth of it
        (3.0, 13, 30, 39),  # bccd: just the epochs asked for
        (3.0, 13, 5, 13),  # never more than a fifth
        (0.0, 100, 300, 0),
        (3.4278, 1000, 50, 3428),
        (3.0, 1, 1, 0),
    ],
)
def test_warmup_steps(warmup_epochs, batches, epochs, steps):
    assert warmup_steps(warmup_epochs, batches, epochs) == steps


@pytest.mark.parametrize(
    ("step", "batch_size", "expected"),
    [
        (0, 16, StepValues((0, 0, 0.1), 0.8, 1)),
        (250, 16, StepValues((0.002, 0.002, 0.077), 0.83425, 2)),  # 1.75 batches of 16 in a step are 2
        (500, 16, StepValues((0.004, 0.004, 0.054), 0.8685, 2)),  # 2.5 rounds to even
        (750, 16, StepValues((0.006, 0.006, 0.031), 0.90275, 3)),
        (1000, 16, StepValues((0.008, 0.008, 0.008), 0.937, 4)),
        (5000, 16, StepValues((0.008, 0.008, 0.008), 0.937, 4)),
        (500, 256, StepValues((0.004, 0.004, 0.054), 0.8685, 1)),
    ],
)
def test_warmup_values(step, batch_size, expected):
    values = warmup_values(step, 1000, 0.008, 0.937, 0.8, 0.1, batch_size)
    assert values.lrs == pytest.approx(expected.lrs)
    assert values.momentum == pytest.approx(expected.momentum)
    assert values.accumulate == expected.accumulate


def test_no_warmup():
    assert warmup_values(0, 0, 0.01, 0.9, 0.8, 0.1, 32) == StepValues((0.01, 0.01, 0.01), 0.9, 2)


@pytest.mark.parametrize(("name", "has_momentum"), [("SGD", True), ("AdamW", False)])
def test_schedule_sets_the_optimizer(name, has_momentum):
    optimizer = build_optimizer(Odd(), name, HYP, 16)
    schedule = Schedule(HYP, epochs=100, batches_per_epoch=50, batch_size=16, cosine=True)
    assert schedule.warmup_steps == 500
    assert schedule.apply(optimizer, epoch=5, step=250) == 2
    lr = 0.01 * ((1 + math.cos(math.pi * 0.05)) / 2 * 0.99 + 0.01)
    lrs = [group["lr"] for group in optimizer.param_groups]
    assert lrs == pytest.approx([lr / 2, lr / 2, (0.1 + lr) / 2])
    assert [group.get("momentum") for group in optimizer.param_groups] == (
        pytest.approx([0.8685] * 3) if has_momentum else [None] * 3
    )
    assert schedule.apply(optimizer, epoch=99, step=4999) == 4
    last = 0.01 * ((1 + math.cos(math.pi * 0.99)) / 2 * 0.99 + 0.01)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([last] * 3)
