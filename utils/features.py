"""Pictures of what the layers of a network put out, for `--visualize`."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from utils.images import write_image

MAX_CHANNELS, COLUMNS = 32, 8
MIN_TILE = 48  # pixels: smaller maps are enlarged


class FeatureRecorder:
    """Keeps every layer's feature maps of a batch's first image while the network runs; the head has none."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.maps: dict[str, np.ndarray] = {}
        self.handles: list[RemovableHandle] = [
            layer.register_forward_hook(self._keeper(f"stage{i}_{type(layer).__name__}_features"))
            for i, layer in enumerate(layers)
        ]

    def _keeper(self, name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        """The hook that keeps a layer's output under this name."""

        def keep(_layer: nn.Module, _inputs: tuple[object, ...], output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
                self.maps[name] = output[0].detach().float().cpu().numpy()  # (C, H, W)

        return keep

    def save(self, folder: Path) -> None:
        """Writes <stage>.png, the first MAX_CHANNELS channels as a grid, and <stage>.npy with all, for each layer."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, maps in self.maps.items():
            write_image(folder / f"{name}.png", feature_grid(maps))
            np.save(folder / f"{name}.npy", maps, allow_pickle=False)
        self.maps.clear()

    def close(self) -> None:
        """Takes the hooks off the network."""
        for handle in self.handles:
            handle.remove()


def feature_grid(maps: np.ndarray) -> np.ndarray:
    """The first channels of (C, H, W), each stretched from its least to its greatest value, in a grid; uint8 BGR."""
    maps = maps[:MAX_CHANNELS]
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
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
