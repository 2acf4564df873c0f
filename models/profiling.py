"""How long each layer of a network takes, and how much it computes."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from utils.general import LOGGER
from utils.torch_utils import time_sync

RUNS = 10


@torch.no_grad()
def profile_layers(model: nn.Module, images: Tensor) -> list[tuple[float, float]]:
    """Logs and returns milliseconds and GFLOPs of each of `model.model`'s layers, in evaluation, mean of RUNS runs.

    A multiplication and an addition are two operations. The layers need `type` and `np`, as `parse_model` gives them.
    """
    results: list[tuple[float, float]] = []
    LOGGER.info(f"{'time (ms)':>10s} {'GFLOPs':>10s} {'params':>10s}  module")

    def measure(layer: nn.Module, inputs: tuple[object, ...]) -> None:
        with FlopCounterMode(display=False) as counter:
            layer.forward(*inputs)  # also the warm-up
        start = time_sync(images.device)
        for _ in range(RUNS):
            layer.forward(*inputs)
        results.append(((time_sync(images.device) - start) / RUNS * 1000, counter.get_total_flops() / 1e9))
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
