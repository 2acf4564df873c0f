"""Functions of a whole network: device, initialization, fusion, summary, moving average, early stopping."""

import copy
import math
import os
import time
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode

from utils.base.constants import AUTO_THREADS
from utils.general import LOGGER, one_line, plural
from utils.processes.cores import CoreWatch

IN_PLACE = (nn.SiLU, nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardswish)
DEVICE_FORMS = "'' (the first GPU if there is one, else the CPU), cpu, mps, or GPU numbers such as 0 or 0,1"


# Devices --------------------------------------------------------------------------------------------------------------


def select_device(
    device: str | torch.device = "",
    batch_size: int | None = None,
    newline: bool = True,
    *,
    local_rank: int = 0,
    processes: int = 1,
) -> torch.device:
    """Return the device of `--device`; ValueError if it is malformed or not in this machine.

    A process computes on one GPU. Of several it is the one at local_rank, the process's index on this machine, which
    becomes the current GPU. The environment is not changed. batch_size and newline are v6.1's and ignored.
    """
    del batch_size, newline
    found = _find_device(str(device), local_rank, processes)
    if found.type == "cuda":
        torch.cuda.set_device(found)
    return found


def _find_device(device: str, local_rank: int, processes: int) -> torch.device:
    name = device.strip().lower().replace(" ", "")
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise ValueError("--device mps: this machine or this build of torch has no Apple GPU; use --device cpu")
        return torch.device("mps")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not name and not count:
        return torch.device("cpu")
    name = name or ",".join(map(str, range(count if processes > 1 else 1)))
    parts = [part.removeprefix("cuda:") for part in ("0" if name == "cuda" else name).split(",")]
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise ValueError(f"--device {device}: must be {DEVICE_FORMS}")
    numbers = [int(part) for part in parts]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"--device {device}: names a GPU twice")
    absent = [number for number in numbers if number >= count]
    if absent:
        has = "no GPU that torch can use" if not count else f"GPU 0 to {count - 1}" if count > 1 else "GPU 0 only"
        raise ValueError(f"--device {device}: there is no GPU {absent[0]}, this machine has {has}")
    if local_rank >= len(numbers):
        raise ValueError(
            f"--device {device or name}: fewer GPUs than processes; torchrun --nproc_per_node {len(numbers)} fits them"
        )
    if len(numbers) > 1 and processes == 1:
        LOGGER.warning(
            f"--device {device}: a process computes on one GPU; {numbers[0]} is used. For all of them start it with "
            f"torchrun --nproc_per_node {len(numbers)}"
        )
    return torch.device("cuda", numbers[local_rank])


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from host to device without waiting; the attribute `on_host` of the copy is the original.

    `ComputeLoss` matches targets on the host by `on_host`, which avoids a synchronization with the device.
    """
    moved = tensor.to(device, non_blocking=True)
    if moved is not tensor:
        moved.on_host = tensor
    return moved


def time_sync(device: torch.device | None = None) -> float:
    """Return a monotonic time in seconds after all work queued on the device (None: the GPU) is done."""
    kind = device.type if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


# Networks -------------------------------------------------------------------------------------------------------------


def initialize_weights(model: nn.Module) -> None:
    """Set v6.1's eps 1e-3 and momentum 0.03 of batch norms and make activations work in place; weights are unchanged.

    An activation that is itself a layer of `model.model` is left alone: other layers may read its input.
    """
    rows: set[nn.Module] = set()
    if isinstance(getattr(model, "model", None), nn.Sequential):
        for layer in model.model:
            rows.add(layer)
            if type(layer) is nn.Sequential:
                rows.update(layer)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03
        elif isinstance(module, IN_PLACE) and module not in rows:
            module.inplace = True


def fuse_conv_and_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """Fold a batch norm into a convolution for inference; return a new convolution without gradients."""
    fused = copy.deepcopy(conv).requires_grad_(False)
    fused.weight, fused.bias = fuse_conv_bn_weights(
        fused.weight, fused.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    return fused.requires_grad_(False)


def largest_stride(model: nn.Module) -> int:
    """Return the number that a detector's image sides must be multiples of, at least 32."""
    stride = model.stride
    return max(int(stride.max() if isinstance(stride, Tensor) else stride), 32)


def model_info(model: nn.Module, imgsz: int = 640) -> str:
    """Format `213 layers, 1867405 parameters, 0 gradients, 4.5 GFLOPs`, the last for one image of imgsz x imgsz.

    Layers are modules, as v6.1 counts them; a multiplication and an addition are two operations. A copy of the model is
    run, so the model itself is unchanged.
    """
    parameters = list(model.parameters())
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    text = f"{len(list(model.modules()))} layers, {total} parameters, {trained} gradients"
    try:
        return f"{text}, {_count_flops(model, imgsz) / 1e9:.1f} GFLOPs"
    except Exception as error:  # a user's module can fail in any way
        LOGGER.debug("operations cannot be counted", exc_info=error)
        return f"{text}, GFLOPs unknown"


def _count_flops(model: nn.Module, imgsz: int) -> float:
    """Count operations on a small image and scale by the number of pixels, as v6.1 does."""
    stride, settings = getattr(model, "stride", None), getattr(model, "yaml", None)
    size = 2 * largest_stride(model) if isinstance(stride, Tensor) else 64
    first = next(model.parameters(), torch.zeros(()))
    channels = settings.get("ch", 3) if isinstance(settings, dict) else 3
    image = torch.zeros(2, channels, size, size, device=first.device, dtype=first.dtype)
    with torch.no_grad(), torch.random.fork_rng(), FlopCounter() as counter:
        copy.deepcopy(model).train()(image)  # two images, as norms in training want
    return counter.flops / 2 * (imgsz / size) ** 2


class FlopCounter(TorchDispatchMode):
    """Context that counts operations by torch's formulas.

    torch's own FlopCounterMode first imports torch's compiler, which takes two seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        from torch.utils.flop_counter import flop_registry  # imports triton, which takes a quarter of a second

        self.flops = 0
        self.formulas = flop_registry

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: object, args: tuple = (), kwargs: dict | None = None) -> object:  # noqa: ANN401
        """Run an operation and add its count."""
        result = func(*args, **(kwargs or {}))
        formula = self.formulas.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the reduced precision that a device computes fast and safely in, None for FP32 alone.

    That is bf16 if the hardware has it, as CPUs with AVX-512 BF16 or AMX do; fp16 on older GPUs with tensor cores.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        is_gtx16 = "GTX 16" in torch.cuda.get_device_name(device)  # no tensor cores, and NaN in fp16
        return torch.float16 if torch.cuda.get_device_capability(device) >= (7, 0) and not is_gtx16 else None
    if device.type == "cpu":
        probes = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
        return torch.bfloat16 if any(probe is not None and probe() for probe in probes) else None
    return None


# Threads --------------------------------------------------------------------------------------------------------------


class ThreadLimit:
    """Torch's number of threads as --threads asks for it: a number, 0 for torch's own choice, or `auto`.

    `auto` takes one per free core, at least 1, at most as many as torch has at the start, which OMP_NUM_THREADS
    limits. More threads than free cores are far slower than fewer, since each step waits for the last of them.
    """

    def __init__(self, asked: int | str) -> None:
        self.asked = asked
        self.watch = CoreWatch() if asked == AUTO_THREADS else None
        self.max_threads = torch.get_num_threads()
        self.is_logged = False

    def apply(self) -> int:
        """Set the number, with `auto` by the cores that were free since the last call, and return what was set or 0."""
        if self.watch is None:
            count = int(self.asked)
        else:
            free, reason = self.watch.free()
            count = min(free, self.max_threads)
            if count != torch.get_num_threads() or not self.is_logged:
                LOGGER.info(f"--threads auto: {count} of {plural(self.max_threads, 'thread')}; {reason}")
                self.is_logged = True
        if count:
            torch.set_num_threads(count)
        return count


# Compiling ------------------------------------------------------------------------------------------------------------


def compile_network(model: nn.Module, is_dynamic: bool) -> None:
    """Compile a network, or the members of an ensemble, in place by torch.compile: modules and state dict stay theirs.

    The first call compiles, and takes a minute or more; the time is logged. Kernels are kept for later runs in
    ~/.cache/torch/inductor, unless TORCHINDUCTOR_CACHE_DIR names another folder.

    Args:
        model: A network of torch's modules.
        is_dynamic: One program serves images of any size and number; else there is one for each.

    Raises:
        ValueError: The model is an exported file, or torch.compile does not work on this machine.
    """
    networks = list(model) if isinstance(model, nn.ModuleList) else [model]
    if any(hasattr(network, "metadata") for network in networks):
        raise ValueError("--compile is for checkpoints (.pt): an exported file is compiled by its own runtime")
    # Not torch's default, a folder in /tmp whose name is known: another user could put programs there.
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_home / "torch" / "inductor"))
    _check_compiler(next(model.parameters()).device)
    _log_compile_times()
    for network in networks:
        network.compile(dynamic=is_dynamic)


def _check_compiler(device: torch.device) -> None:
    """Raise ValueError if torch.compile cannot compile a small function for a device."""
    import torch._dynamo  # slow, and for --compile only

    remedy = "install a C++ compiler, such as g++, or leave --compile out"
    try:
        if device.type == "cpu":
            from torch._inductor.cpp_builder import get_cpp_compiler

            get_cpp_compiler()  # a kernel from the cache would not show that there is none
        torch.compile(lambda x: x.exp() + 1)(torch.zeros(8, device=device))
    except (RuntimeError, ImportError, OSError) as error:
        raise ValueError(f"--compile: torch.compile does not work here ({one_line(error)}); {remedy}") from error


@cache
def _log_compile_times() -> None:
    """Log from here on when something is compiled, and how long it took."""
    from torch._dynamo import on_compile_end, on_compile_start

    begun: list[float] = []

    @on_compile_start
    def _(_args: object) -> None:
        LOGGER.info("--compile: compiling; the first time this takes a minute or more")
        begun.append(time.perf_counter())

    @on_compile_end
    def _(_args: object) -> None:
        seconds = time.perf_counter() - begun.pop()
        LOGGER.info(f"--compile: compiled in {seconds:.1f} s; kept in {os.environ['TORCHINDUCTOR_CACHE_DIR']}")


# Training -------------------------------------------------------------------------------------------------------------


class ModelEMA:
    """Exponential moving average of a model's weights and buffers: `ema`, a copy in evaluation mode and FP32.

    After u updates the decay is decay * (1 - exp(-u / tau)). After the first update neither network may get other
    modules; tensors may be replaced.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, tau: float = 2000, updates: int = 0) -> None:
        self.ema = copy.deepcopy(model).float().eval().requires_grad_(False)
        self.decay, self.tau, self.updates = decay, tau, updates
        self._paired: nn.Module | None = None  # the network that the pairs are of
        self._pairs: list[tuple[Holder, Holder]] = []

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average; integers, such as batch counts, are copied."""
        self.updates += 1
        weight = 1 - self.decay * (1 - math.exp(-self.updates / self.tau))
        if self._paired is not model:  # the state dicts of two networks cost more than the rest
            held, averaged = dict(holders(model)), dict(holders(self.ema))
            self._pairs, self._paired = [(averaged[name], held[name]) for name in averaged], model
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for (average_of, key), (value_of, _) in self._pairs:
            average, value = average_of[key], value_of[key]
            if average.is_floating_point():
                averages.append(average)
                values.append(value if value.dtype is average.dtype else value.to(average))
            else:
                average.copy_(value)
        torch._foreach_lerp_(averages, values, weight)

    def update_attr(
        self,
        model: nn.Module,
        include: Sequence[str] = (),
        exclude: Sequence[str] = ("process_group", "reducer", "training"),
    ) -> None:
        """Copy the model's attributes to the average: those in `include`, or all public ones not in `exclude`."""
        for name, value in vars(model).items():
            if not name.startswith("_") and name not in exclude and (name in include or not include):
                setattr(self.ema, name, value)


Holder = tuple[dict[str, Tensor], str]  # a module's parameters or buffers, and the name of one of them


def holders(model: nn.Module) -> Iterator[tuple[str, Holder]]:
    """Yield the module and name of each tensor of the model's state dict; shared tensors once."""
    for prefix, module in model.named_modules():
        for kept in (module._parameters, module._buffers):
            for key, value in kept.items():
                if value is not None and key not in module._non_persistent_buffers_set:
                    yield f"{prefix}.{key}" if prefix else key, (kept, key)


class EarlyStopping:
    """Stops a training after `patience` epochs without improvement; 0 never stops.

    An epoch equal to the best is no improvement, so a plateau ends too; in v6.1 it never did.
    """

    def __init__(self, patience: int = 100) -> None:
        self.patience = patience
        self.best_epoch: int | None = None
        self.best_fitness = -math.inf
        self.stopped = False
        self.possible_stop = False  # whether the next epoch may end the training

    def __call__(self, epoch: int, fitness: float) -> bool:
        """Return True if training should stop after this epoch of this fitness."""
        if fitness > self.best_fitness:
            self.best_epoch, self.best_fitness = epoch, float(fitness)
        waited = epoch - (self.best_epoch or 0)
        self.stopped = self.patience > 0 and waited >= self.patience
        self.possible_stop = self.patience > 0 and waited >= self.patience - 1
        return self.stopped


# Profiling ------------------------------------------------------------------------------------------------------------

PROFILE_RUNS = 10


@torch.no_grad()
def profile_layers(model: nn.Module, images: Tensor) -> list[tuple[float, float]]:
    """Log and return milliseconds and GFLOPs of each of `model.model`'s layers, the mean of PROFILE_RUNS runs.

    A multiplication and an addition are two operations. Layers need `type` and `np`, which `parse_model` sets.
    """
    results: list[tuple[float, float]] = []
    LOGGER.info(f"{'time (ms)':>10s} {'GFLOPs':>10s} {'params':>10s}  module")

    def measure(layer: nn.Module, inputs: tuple[object, ...]) -> None:
        with FlopCounter() as counter:
            layer.forward(*inputs)  # also the warm-up
        start = time_sync(images.device)
        for _ in range(PROFILE_RUNS):
            layer.forward(*inputs)
        results.append(((time_sync(images.device) - start) / PROFILE_RUNS * 1000, counter.flops / 1e9))
        LOGGER.info(f"{results[-1][0]:10.2f} {results[-1][1]:10.2f} {layer.np:10.0f}  {layer.type}")

    training = model.training
    hooks = [layer.register_forward_pre_hook(measure) for layer in model.model]
    try:
        model.eval()(images)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    LOGGER.info(f"{sum(ms for ms, _ in results):10.2f} {sum(flops for _, flops in results):10.2f} {'-':>10s}  total")
    return results


# Names of v6.1 --------------------------------------------------------------------------------------------------------


def __getattr__(name: str) -> object:
    """Import a v6.1 name on first access; utils/v61 lists where each is."""
    if name == "__path__":  # each import of the module asks for it
        raise AttributeError(name)
    return import_module("utils.v61").find(__name__, name)
