"""Pictures of what the layers of a network put out, and of the gates of its NAM attention, for `--visualize`."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from utils.files.feature_maps import GATE

ATTENTION = "NAMAttention"


class FeatureRecorder:
    """Keeps every layer's feature maps while the network runs, and the gate of each NAMAttention; the head has none."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.maps: dict[str, np.ndarray] = {}
        self.handles: list[RemovableHandle] = []
        for i, layer in enumerate(layers):
            stage = f"stage{i}_{type(layer).__name__}"
            self.handles.append(layer.register_forward_hook(self._keeper(f"{stage}_features")))
            for name, module in layer.named_modules():
                if has_gate(module):
                    inner = f"_{name.replace('.', '_')}" if name else ""
                    self.handles.append(module.register_forward_hook(self._gate_keeper(f"{stage}{inner}{GATE}")))

    def _keeper(self, name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        """The hook that keeps a layer's output under this name."""

        def keep(_layer: nn.Module, _inputs: tuple[object, ...], output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
                self.maps[name] = output.detach().float().cpu().numpy()  # (B, C, H, W)

        return keep

    def _gate_keeper(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], object], None]:
        """The hook that keeps a NAM layer's gate under this name."""

        def keep(layer: nn.Module, inputs: tuple[Tensor, ...], _output: object) -> None:
            self.maps[name] = nam_gate(layer, inputs[0]).float().cpu().numpy()  # (B, C, H, W)

        return keep

    def take(self) -> list[dict[str, np.ndarray]]:
        """The maps (C, H, W) by name of each image of the last batch; they are kept no longer."""
        count = max((len(maps) for maps in self.maps.values()), default=0)
        taken = [{name: maps[i] for name, maps in self.maps.items()} for i in range(count)]
        self.maps = {}
        return taken

    def close(self) -> None:
        """Takes the hooks off the network."""
        for handle in self.handles:
            handle.remove()


def has_gate(module: nn.Module) -> bool:
    """Return whether a module is our NAMAttention; a user's own of that name has no gate to look at."""
    return type(module).__name__ == ATTENTION and hasattr(module, "gate")


@torch.no_grad()
def nam_gate(attention: nn.Module, x: Tensor) -> Tensor:
    """What a NAMAttention, trained or fused, multiplies its input x (B, C, H, W) by: (B, C, H, W), above 0."""
    assert not attention.training, "the batch norm would count this pass"
    return attention.gate(x)
