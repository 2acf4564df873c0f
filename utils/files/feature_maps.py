"""Feature maps as pictures and arrays."""

import math
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

MAX_CHANNELS, COLUMNS = 32, 8
MIN_TILE = 48  # pixels: smaller maps are enlarged
GATE = "_gate"  # ends the name of a gate's map


def save_features(folder: Path, maps: Mapping[str, np.ndarray]) -> None:
    """Writes <name>.png, the first MAX_CHANNELS channels as a grid, and <name>.npy with all, for each map (C, H, W)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in maps.items():
        _, data = cv2.imencode(".png", feature_grid(array, is_joint=name.endswith(GATE)))
        (folder / f"{name}.png").write_bytes(data.tobytes())
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
