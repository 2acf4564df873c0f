"""Feature maps as pictures and arrays."""

import math
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

MAX_CHANNELS, COLUMNS = 32, 8
MIN_TILE = 48  # pixels: smaller maps are enlarged
GATE = "_gate"  # ends the name of a gate's map
TITLE_WIDTH, TITLE_HEIGHT = 620, 64  # pixels at least, above the picture of a gate
FONT = cv2.FONT_HERSHEY_SIMPLEX


def save_features(folder: Path, maps: Mapping[str, np.ndarray]) -> None:
    """Writes <name>.png, the first MAX_CHANNELS channels as a grid, and <name>.npy with all, for each map (C, H, W)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in maps.items():
        picture = gate_picture(array, name) if name.endswith(GATE) else feature_grid(array)
        _, data = cv2.imencode(".png", picture)
        (folder / f"{name}.png").write_bytes(data.tobytes())
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def gate_picture(gate: np.ndarray, title: str) -> np.ndarray:
    """Draw a gate (C, H, W) in colours from 0 to 1, below its title, mean, sd and range: uint8 BGR.

    The scale is fixed, so that a gate that is nearly constant looks so. One that exceeds 1 is drawn from 0 to 2.
    """
    top = 1.0 if gate.max() <= 1 else 2.0
    grid = feature_grid(gate, (0.0, top))
    canvas = np.full((TITLE_HEIGHT + len(grid), max(TITLE_WIDTH, grid.shape[1]), 3), 255, np.uint8)
    canvas[TITLE_HEIGHT:, : grid.shape[1]] = grid
    shown = f", first {MAX_CHANNELS} of {len(gate)} channels" if len(gate) > MAX_CHANNELS else ""
    numbers = f"mean {gate.mean():.4f}, sd {gate.std():.4f}, from {gate.min():.4f} to {gate.max():.4f}"
    bar = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None].repeat(10, 0), cv2.COLORMAP_VIRIDIS)
    canvas[46:56, 20:276] = bar
    for text, corner in (
        (title + shown, (6, 16)),
        (numbers, (6, 35)),
        ("0", (6, 56)),
        (f"{top:g}", (281, 56)),
    ):
        cv2.putText(canvas, text, corner, FONT, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas


def feature_grid(maps: np.ndarray, scale: tuple[float, float] | None = None) -> np.ndarray:
    """Draw the first channels of (C, H, W) in a grid, uint8 BGR, in colours from the lower to the upper end of `scale`.

    Without a scale each channel is stretched from its least to its greatest value.
    """
    maps = maps[:MAX_CHANNELS]
    low, high = scale or (maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True))
    gray = np.nan_to_num((maps - low) / np.maximum(high - low, 1e-9) * 255).clip(0, 255).astype(np.uint8)
    count, h, w = gray.shape
    enlarge = max(math.ceil(MIN_TILE / min(h, w)), 1)
    h, w = h * enlarge + 2, w * enlarge + 2
    canvas = np.full((math.ceil(count / COLUMNS) * h, min(count, COLUMNS) * w, 3), 255, np.uint8)
    for i, channel in enumerate(gray):
        tile = cv2.resize(channel, (w - 2, h - 2), interpolation=cv2.INTER_NEAREST)
        top, left = i // COLUMNS * h + 1, i % COLUMNS * w + 1
        canvas[top : top + h - 2, left : left + w - 2] = cv2.applyColorMap(tile, cv2.COLORMAP_VIRIDIS)
    return canvas
