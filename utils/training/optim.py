"""The optimizer and its schedule: who decays, learning rates and momentum at each step, batches per step."""

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
    """Takes layers out of the training: the first n for a single n, those of these numbers otherwise.

    ValueError for a number that no layer has.
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
    """The parameters to train in three lists: norm weights and other scales, decayed weights, biases.

    Each belongs to exactly one, whatever its name; frozen ones to none. Decayed is what has several dimensions. Scales
    are single numbers and vectors, those laid out as (1, C, 1, 1) too unless they are called weight: pulling them to
    zero would switch their channels off.
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
    """The group, scales, weights or biases, of a module's own parameter."""
    words = name.split("_")
    if "bias" in words and parameter.ndim == 1:  # in_proj_bias and bias_ih_l0 too
        return "biases"
    is_vector = parameter.ndim < 2 or ("weight" not in words and max(parameter.shape) == parameter.numel())
    return "scales" if is_vector or isinstance(module, NORMS) else "weights"


def build_optimizer(model: nn.Module, name: str, hyp: Hyp, batch_size: int, fused: bool | None = None) -> Optimizer:
    """SGD with Nesterov momentum, Adam or AdamW over `parameter_groups`, of which only the second decays.

    Momentum is beta1 of the Adams; the decay is scaled to the batch of all processes together. `fused`, one kernel for
    all parameters, is on by default where the device has it. ValueError where all is frozen.
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
    """Lets the momentum of an SGD that has none yet start at zero, which gives torch's own first step.

    Left to itself its fused kernel never fills the momentum of a first step that the loss scaler skips, and fails on a
    parameter that gets its first gradient later than others.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)


def match_layout(optimizer: Optimizer) -> None:
    """Lays loaded momentum out as its parameter is: fused kernels read both by their place in memory, unchecked.

    Where an SGD's file has none, it starts at zero.
    """
    if isinstance(optimizer, SGD):
        start_momentum(optimizer)
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def accumulation(batch_size: int, nominal: int = NOMINAL_BATCH) -> int:
    """How many batches make one optimizer step, so that it sees about `nominal` images."""
    return max(round(nominal / batch_size), 1)


def scaled_decay(weight_decay: float, batch_size: int, nominal: int = NOMINAL_BATCH) -> float:
    """The weight decay for the images that one step really sees."""
    return weight_decay * batch_size * accumulation(batch_size, nominal) / nominal


# Schedule -------------------------------------------------------------------------------------------------------------


class StepValues(NamedTuple):
    """What one training step uses."""

    lrs: tuple[float, float, float]  # of the groups
    momentum: float
    accumulate: int  # batches per optimizer step


def lr_factor(epoch: int, epochs: int, lrf: float, cosine: bool = False) -> float:
    """The share of lr0 in an epoch: from 1 at epoch 0 towards lrf at `epochs`, in a line or as half a cosine wave."""
    done = epoch / epochs
    rest = (1 + math.cos(math.pi * done)) / 2 if cosine else 1 - done
    return rest * (1 - lrf) + lrf


def warmup_steps(warmup_epochs: float, batches_per_epoch: int, epochs: int) -> int:
    """How many batches warm-up takes: warmup_epochs, at least 1000 batches, but on short runs less.

    The floor asks for no more than a tenth of the run, and warm-up never takes more than a fifth, so that most of a
    run, however short, has the settings that were asked for. 0 epochs are no warm-up at all.
    """
    if warmup_epochs == 0:
        return 0
    run = batches_per_epoch * epochs
    wanted = max(round(warmup_epochs * batches_per_epoch), min(WARMUP_FLOOR, int(run * FLOOR_SHARE)))
    return min(wanted, int(run * WARMUP_SHARE))


def warmup_values(
    step: int, steps: int, lr: float, momentum: float, start_momentum: float, bias_lr: float, batch_size: int
) -> StepValues:
    """The values at a step of a warm-up of so many steps, which ends at lr, momentum and full accumulation.

    Weights start at a learning rate of 0 and biases at bias_lr; each value moves in a line.
    """
    share = min(step / steps, 1.0) if steps else 1.0

    def between(start: float, end: float) -> float:
        return start * (1 - share) + end * share

    rising = between(0.0, lr)
    accumulate = max(round(between(1.0, NOMINAL_BATCH / batch_size)), 1)
    return StepValues((rising, rising, between(bias_lr, lr)), between(start_momentum, momentum), accumulate)


@dataclass(frozen=True)
class Schedule:
    """Learning rates, momentum and accumulation of a run, a function of epoch and step alone: a resume needs no state.

    batch_size is that of all processes together.
    """

    hyp: Hyp
    epochs: int
    batches_per_epoch: int
    batch_size: int
    cosine: bool = False

    @property
    def warmup_steps(self) -> int:
        """How many batches warm-up takes."""
        return warmup_steps(self.hyp.warmup_epochs, self.batches_per_epoch, self.epochs)

    def values(self, epoch: int, step: int) -> StepValues:
        """The values for a batch, `step` counted from the run's start."""
        hyp = self.hyp
        lr = hyp.lr0 * lr_factor(epoch, self.epochs, hyp.lrf, self.cosine)
        return warmup_values(
            step, self.warmup_steps, lr, hyp.momentum, hyp.warmup_momentum, hyp.warmup_bias_lr, self.batch_size
        )

    def apply(self, optimizer: Optimizer, epoch: int, step: int) -> int:
        """Sets the values for a batch, momentum for SGD only; how many batches make an optimizer step."""
        values = self.values(epoch, step)
        for group, lr in zip(optimizer.param_groups, values.lrs, strict=True):
            group["lr"] = lr
            if "momentum" in group:
                group["momentum"] = values.momentum
        return values.accumulate
