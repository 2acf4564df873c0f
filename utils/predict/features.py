"""Pictures of what the layers of a network put out, and of the gates of its NAM attention, for `--visualize`."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from utils.files.images import write_image

MAX_CHANNELS, COLUMNS = 32, 8
MIN_TILE = 48  # pixels: smaller maps are enlarged
GATE = "_gate"  # ends the name of a gate's map
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
                if type(module).__name__ == ATTENTION:
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


@torch.no_grad()
def nam_gate(attention: nn.Module, x: Tensor) -> Tensor:
    """What a NAMAttention, trained or fused, multiplies its input x (B, C, H, W) by: (B, C, H, W), above 0."""
    assert not attention.training, "the batch norm would count this pass"
    return attention.gate(x)


def save_features(folder: Path, maps: Mapping[str, np.ndarray]) -> None:
    """Writes <name>.png, the first MAX_CHANNELS channels as a grid, and <name>.npy with all, for each map (C, H, W)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in maps.items():
        write_image(folder / f"{name}.png", feature_grid(array, is_joint=name.endswith(GATE)))
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def feature_grid(maps: np.ndarray, is_joint: bool = False) -> np.ndarray:
    """The first channels of (C, H, W) in a grid, uint8 BGR, each stretched from its least to its greatest value.

    is_joint: all of them from the least to the greatest value of any, so that channels can be compared.
    """
    maps = maps[:MAX_CHANNELS]
    axes = None if is_joint else (1, 2)
    low, high = maps.min(axes, keepdims=True), maps.max(axes, keepdims=True)
    gray = np.nan_to_num((maps - low) / np.maximum(high - low, 1e-9) * 255).astype(np.uint8)
    count, h, w = gray.shape
    enlarge = max(math.ceil(MIN_TILE / min(h, w)), 1)
    h, w = h * enlarge + 2, w * enlarge + 2
    canvas = np.full((math.ceil(count / COLUMNS) * h, min(count, COLUMNS) * w, 3), 255, np.uint8)
    for i, channel in enumerate(gray):
        tile = cv2.resize(channel, (w - 2, h - 2), interpolation=cv2.INTER_NEAREST)
        top, left = i // COLUMNS * h + 1, i % COLUMNS * w + 1
        canvas[top : top + h - 2, left : left + w - 2] = cv2.applyColorMap(tile, cv2.COLORMAP_VIRIDIS)
    return canvas
