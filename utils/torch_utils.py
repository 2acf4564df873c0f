"""What is done to a network as a whole: its device, initialisation, fusion, summary, moving average and early stop."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils.flop_counter import FlopCounterMode

from utils.general import LOGGER, make_divisible

IN_PLACE = (nn.SiLU, nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardswish)
DEVICE_FORMS = "'' (the first GPU if there is one, else the CPU), cpu, mps, or GPU numbers such as 0 or 0,1"


# Devices --------------------------------------------------------------------------------------------------------------


def select_device(device: str = "") -> torch.device:
    """The device that `--device` means; ValueError where it is none, or not in this machine.

    Of several GPUs it is the first one: a process computes on one. The environment stays as it is.
    """
    name = device.strip().lower().replace(" ", "")
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise ValueError("--device mps: this machine or this build of torch has no Apple GPU; use --device cpu")
        return torch.device("mps")
    if not name:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    parts = [part.removeprefix("cuda:") for part in ("0" if name == "cuda" else name).split(",")]
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise ValueError(f"--device {device}: must be {DEVICE_FORMS}")
    numbers = [int(part) for part in parts]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"--device {device}: names a GPU twice")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    absent = [number for number in numbers if number >= count]
    if absent:
        has = "no GPU that torch can use" if not count else f"GPU 0 to {count - 1}" if count > 1 else "GPU 0 only"
        raise ValueError(f"--device {device}: there is no GPU {absent[0]}, this machine has {has}")
    if len(numbers) > 1:
        LOGGER.warning(f"--device {device}: a process computes on one GPU; {numbers[0]} is used")
    return torch.device("cuda", numbers[0])


# Networks -------------------------------------------------------------------------------------------------------------


def initialize_weights(model: nn.Module) -> None:
    """Gives batch norms v6.1's eps 1e-3 and momentum 0.03 and lets activations work in place; weights stay."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03
        elif isinstance(module, IN_PLACE):
            module.inplace = True


def fuse_conv_and_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """A convolution that gives what conv and then bn give in evaluation; a new one, without gradients."""
    fused = copy.deepcopy(conv).requires_grad_(False)
    fused.weight, fused.bias = fuse_conv_bn_weights(
        fused.weight, fused.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    return fused.requires_grad_(False)


def model_info(model: nn.Module, imgsz: int = 640) -> str:
    """`213 layers, 1867405 parameters, 0 gradients, 4.5 GFLOPs`, the last for one image of imgsz x imgsz.

    Layers are modules, as v6.1 counts them, and a multiplication and an addition are two operations. The model is
    neither run nor changed: a copy without numbers is.
    """
    parameters = list(model.parameters())
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    text = f"{len(list(model.modules()))} layers, {total} parameters, {trained} gradients"
    try:
        return f"{text}, {_count_flops(model, imgsz) / 1e9:.1f} GFLOPs"
    except (RuntimeError, NotImplementedError) as error:  # a user's module that looks at the numbers
        LOGGER.debug("operations cannot be counted", exc_info=error)
        return f"{text}, GFLOPs unknown"


def _count_flops(model: nn.Module, imgsz: int) -> float:
    """Operations for one image, counted on the meta device and so at the cost of shapes only."""
    stride, settings = getattr(model, "stride", None), getattr(model, "yaml", None)
    size = make_divisible(imgsz, int(stride.max()) if isinstance(stride, Tensor) else 32)
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    image = torch.empty(2, settings.get("ch", 3) if isinstance(settings, dict) else 3, size, size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        on_meta(model).train()(image.to(dtype))  # two images, as norms in training want
    return counter.get_total_flops() / 2 * (imgsz / size) ** 2


def on_meta(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers have shapes but no numbers: no memory is taken, whatever the size."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        bare = torch.empty_like(parameter, device="meta", requires_grad=False)
        memo[id(parameter)] = nn.Parameter(bare, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


# Training -------------------------------------------------------------------------------------------------------------


class ModelEMA:
    """Moving average of a model's weights and statistics: `ema`, a copy in evaluation mode and FP32.

    Its decay grows with the number u of updates to the given one: decay * (1 - exp(-u / tau)).
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, tau: float = 2000, updates: int = 0) -> None:
        self.ema = copy.deepcopy(model).float().eval().requires_grad_(False)
        self.decay, self.tau, self.updates = decay, tau, updates

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards the model as it is now; integers, such as batch counts, are taken over."""
        self.updates += 1
        weight = 1 - self.decay * (1 - math.exp(-self.updates / self.tau))
        averages, values = self.ema.state_dict(), model.state_dict()
        moved = [name for name, average in averages.items() if average.is_floating_point()]
        torch._foreach_lerp_([averages[name] for name in moved], [values[n].to(averages[n]) for n in moved], weight)
        for name in averages.keys() - moved:
            averages[name].copy_(values[name])

    def state_dict(self) -> dict[str, object]:
        """The average and the number of updates, for `load_state_dict`."""
        return {"ema": self.ema.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Goes on where `state_dict` was taken."""
        self.ema.load_state_dict(state["ema"])
        self.updates = state["updates"]


class EarlyStopping:
    """Says when a training has had no better epoch for `patience` epochs; 0 never does.

    An epoch as good as the best is no better one, so a plateau ends too (v6.1 let it go on for ever). `possible_stop`
    says that the next epoch will be the last if it is no better.
    """

    def __init__(self, patience: int = 100) -> None:
        self.patience = patience
        self.best_epoch: int | None = None
        self.best_fitness = -math.inf
        self.possible_stop = False

    def __call__(self, epoch: int, fitness: float) -> bool:
        """Whether to stop after this epoch of this fitness."""
        if fitness > self.best_fitness:
            self.best_epoch, self.best_fitness = epoch, float(fitness)
        waited = epoch - (self.best_epoch or 0)
        self.possible_stop = self.patience > 0 and waited >= self.patience - 1
        return self.patience > 0 and waited >= self.patience

    def state_dict(self) -> dict[str, object]:
        """The best epoch so far and its fitness; `patience` is a setting of the run."""
        return {"best_epoch": self.best_epoch, "best_fitness": self.best_fitness}

    def load_state_dict(self, state: dict) -> None:
        """Goes on where `state_dict` was taken."""
        self.best_epoch, self.best_fitness = state["best_epoch"], state["best_fitness"]
