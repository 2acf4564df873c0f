"""Optimizer and schedule: parameter groups, learning rates, momentum, accumulation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import SGD, Adam, AdamW, Optimizer

from utils.data.config import Hyp
from utils.general import LOGGER

OPTIMIZERS = ("SGD", "Adam", "AdamW")
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
NOMINAL_BATCH = 64  # images of one optimizer step that lr0 and weight_decay are meant for
WARMUP_FLOOR = 1000  # steps
FLOOR_SHARE, WARMUP_SHARE = 0.1, 0.2  # of a run: the most that the floor may ask for, and that warm-up may take


# Optimizer ------------------------------------------------------------------------------------------------------------


def freeze_layers(layers: Sequence[nn.Module], freeze: Sequence[int]) -> None:
    """Freeze the first n layers if `freeze` is a single n, otherwise the layers of these indices.

    Raises:
        ValueError: if there is no such layer.
    """
    wrong = [n for n in freeze if not 0 <= n < len(layers) + (len(freeze) == 1)]
    if wrong:
        raise ValueError(f"--freeze {wrong[0]}: the model's layers are 0 to {len(layers) - 1}")
    frozen = range(freeze[0]) if len(freeze) == 1 else freeze
    for index in frozen:
        layers[index].requires_grad_(False)
    if len(frozen):
        LOGGER.info(f"frozen: layers {', '.join(map(str, frozen))}")


def parameter_groups(model: nn.Module) -> list[list[nn.Parameter]]:
    """Return the trainable parameters in three lists: norm weights and other scales, decayed weights, biases.

    Each parameter is in exactly one list. Decayed are those with several dimensions. Scales are scalars and vectors,
    also of shape (1, C, 1, 1) unless they are called weight: decay towards zero would switch their channels off.
    """
    groups: dict[str, list[nn.Parameter]] = {"scales": [], "weights": [], "biases": []}
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                groups[kind_of(module, name, parameter)].append(parameter)
    wanted = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert seen == wanted, "every parameter must be in a group"
    return list(groups.values())


def kind_of(module: nn.Module, name: str, parameter: nn.Parameter) -> str:
    """Return the group of a module's own parameter: scales, weights or biases."""
    words = name.split("_")
    if "bias" in words and parameter.ndim == 1:  # in_proj_bias and bias_ih_l0 too
        return "biases"
    is_vector = parameter.ndim < 2 or ("weight" not in words and max(parameter.shape) == parameter.numel())
    return "scales" if is_vector or isinstance(module, NORMS) else "weights"


def build_optimizer(model: nn.Module, name: str, hyp: Hyp, batch_size: int, fused: bool | None = None) -> Optimizer:
    """Build SGD with Nesterov momentum, Adam or AdamW over `parameter_groups`; only the second group decays.

    Momentum is beta1 of Adam and AdamW. The decay is scaled to the batch of all processes. `fused`, one kernel for all
    parameters, is the default if the device supports it.

    Raises:
        ValueError: if all layers are frozen.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"--optimizer {name}: must be one of {', '.join(OPTIMIZERS)}")
    scales, weights, biases = parameter_groups(model)
    if not (scales or weights or biases):
        raise ValueError("--freeze: no parameter is left to train; freeze fewer layers")
    groups = [
        {"params": scales, "weight_decay": 0.0},
        {"params": weights, "weight_decay": scaled_decay(hyp.weight_decay, batch_size)},
        {"params": biases, "weight_decay": 0.0},
    ]
    if fused is None:
        fused = {parameter.device.type for parameter in model.parameters()} <= {"cpu", "cuda"}
    if name == "SGD":
        momentum = hyp.momentum
        optimizer = SGD(groups, hyp.lr0, momentum=momentum, nesterov=momentum > 0, fused=fused or None)
        start_momentum(optimizer)
    else:
        adam = {"Adam": Adam, "AdamW": AdamW}[name]
        optimizer = adam(groups, hyp.lr0, betas=(hyp.momentum, 0.999), fused=fused or None)
    optimizer.register_load_state_dict_post_hook(match_layout)
    return optimizer


def start_momentum(optimizer: Optimizer) -> None:
    """Set the missing momentum of SGD to zero, which gives torch's own first step.

    torch's fused kernel leaves it unset if the loss scaler skips the first step, and fails for a parameter that gets
    its first gradient later than others.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)


def match_layout(optimizer: Optimizer) -> None:
    """Give loaded momentum the memory layout of its parameter, which fused kernels assume without a check.

    Missing momentum of SGD starts at zero.
    """
    if isinstance(optimizer, SGD):
        start_momentum(optimizer)
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def accumulation(batch_size: int, nominal: int = NOMINAL_BATCH) -> int:
    """Return the number of batches per optimizer step, for about `nominal` images per step."""
    return max(round(nominal / batch_size), 1)


def scaled_decay(weight_decay: float, batch_size: int, nominal: int = NOMINAL_BATCH) -> float:
    """Scale the weight decay to the number of images per step."""
    return weight_decay * batch_size * accumulation(batch_size, nominal) / nominal


# Schedule -------------------------------------------------------------------------------------------------------------


class StepValues(NamedTuple):
    """The settings of one training step."""

    lrs: tuple[float, float, float]  # of the groups
    momentum: float
    accumulate: int  # batches per optimizer step


def lr_factor(epoch: int, epochs: int, lrf: float, cosine: bool = False) -> float:
    """Return the factor on lr0 in an epoch: from 1 at epoch 0 to lrf at `epochs`, linear or cosine."""
    done = epoch / epochs
    rest = (1 + math.cos(math.pi * done)) / 2 if cosine else 1 - done
    return rest * (1 - lrf) + lrf


def warmup_steps(warmup_epochs: float, batches_per_epoch: int, epochs: int) -> int:
    """Return the number of warm-up batches: warmup_epochs, at least 1000 batches, fewer on short runs.

    The minimum is limited to a tenth of the run and warm-up to a fifth, so that most of any run uses the given
    settings. 0 epochs mean no warm-up.
    """
    if warmup_epochs == 0:
        return 0
    run = batches_per_epoch * epochs
    wanted = max(round(warmup_epochs * batches_per_epoch), min(WARMUP_FLOOR, int(run * FLOOR_SHARE)))
    return min(wanted, int(run * WARMUP_SHARE))


def warmup_values(
    step: int, steps: int, lr: float, momentum: float, start_momentum: float, bias_lr: float, batch_size: int
) -> StepValues:
    """Return the settings at a step of a warm-up of `steps`, which ends at lr, momentum and full accumulation.

    Weights start at a learning rate of 0, biases at bias_lr; each value changes linearly.
    """
    share = min(step / steps, 1.0) if steps else 1.0

    def between(start: float, end: float) -> float:
        return start * (1 - share) + end * share

    rising = between(0.0, lr)
    accumulate = max(round(between(1.0, NOMINAL_BATCH / batch_size)), 1)
    return StepValues((rising, rising, between(bias_lr, lr)), between(start_momentum, momentum), accumulate)


@dataclass(frozen=True)
class Schedule:
    """Learning rates, momentum and accumulation as a function of epoch and step, so a resumed run needs no state.

    batch_size is that of all processes together.
    """

    hyp: Hyp
    epochs: int
    batches_per_epoch: int
    batch_size: int
    cosine: bool = False

    @property
    def warmup_steps(self) -> int:
        """The number of warm-up batches."""
        return warmup_steps(self.hyp.warmup_epochs, self.batches_per_epoch, self.epochs)

    def values(self, epoch: int, step: int) -> StepValues:
        """Return the settings of a batch; `step` counts from the run's start."""
        hyp = self.hyp
        lr = hyp.lr0 * lr_factor(epoch, self.epochs, hyp.lrf, self.cosine)
        return warmup_values(
            step, self.warmup_steps, lr, hyp.momentum, hyp.warmup_momentum, hyp.warmup_bias_lr, self.batch_size
        )

    def apply(self, optimizer: Optimizer, epoch: int, step: int) -> int:
        """Set the values of a batch, momentum for SGD only; return the number of batches per optimizer step."""
        values = self.values(epoch, step)
        for group, lr in zip(optimizer.param_groups, values.lrs, strict=True):
            group["lr"] = lr
            if "momentum" in group:
                group["momentum"] = values.momentum
        return values.accumulate
