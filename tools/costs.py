"""What networks cost in inference: parameters, multiplications, time, memory, each fused as it is deployed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from utils.torch_utils import time_sync

WARM_UP = 3  # rounds that are not counted


@dataclass(frozen=True)
class Cost:
    """Of a fused network and one image: latency in milliseconds; peak_mb is the GPU's, None on a CPU.

    The parameters are those that are trained: fused, a NAM has constants in their place.
    """

    parameters: int
    gmacs: float
    p50_ms: float
    p95_ms: float
    peak_mb: float | None


@torch.inference_mode()
def measure_costs(
    models: Mapping[str, nn.Module], imgsz: int, device: torch.device, rounds: int = 50
) -> dict[str, Cost]:
    """The cost of each network for an image (1, 3, imgsz, imgsz), by its name. The networks are fused and moved.

    Each round times every network once, so that a machine that slows down slows down all of them. Multiplications are
    those of convolutions and matrix products; what works on single numbers, as a gate does, is not counted.
    """
    assert rounds >= 1
    image = torch.rand(1, 3, imgsz, imgsz, device=device).to(memory_format=torch.channels_last)
    parameters = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    ready = {name: model.eval().fuse().to(device, memory_format=torch.channels_last) for name, model in models.items()}
    counted = {name: _count(model, image) for name, model in ready.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for i in range(WARM_UP + rounds):
        for name, model in ready.items():
            start = time_sync(device)
            model(image)
            if i >= WARM_UP:
                seconds[name].append(time_sync(device) - start)
    return {
        name: Cost(parameters[name], gmacs, *_percentiles(seconds[name]), peak)
        for name, (gmacs, peak) in counted.items()
    }


def _percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    p50, p95 = (np.percentile(seconds, (50, 95)) * 1000).tolist()
    return p50, p95


def _count(model: nn.Module, image: torch.Tensor) -> tuple[float, float | None]:
    """1e9 multiplications, and on a GPU the most MB that were in use."""
    is_gpu = image.is_cuda
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(image.device)
    with FlopCounterMode(display=False) as counter:
        model(image)
    peak = torch.cuda.max_memory_allocated(image.device) / 2**20 if is_gpu else None
    return counter.get_total_flops() / 2e9, peak
