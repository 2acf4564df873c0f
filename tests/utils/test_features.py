"""Feature maps: which are kept, and how they are drawn."""

import numpy as np
import torch
from torch import nn

from utils.features import FeatureRecorder, feature_grid
from utils.images import read_image


class Head(nn.Module):
    """Gives a list, as Detect in training."""

    def forward(self, x):
        return [x]


def test_each_layer_is_written_once_per_run(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 40, 3, 2, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), Head())
    recorder = FeatureRecorder(network)
    x = torch.rand(2, 3, 64, 96)
    network(x)
    recorder.save(tmp_path / "bus")
    names = {path.name for path in (tmp_path / "bus").iterdir()}
    stages = ("stage0_Conv2d_features", "stage1_SiLU_features")
    assert names == {f"{stage}{suffix}" for stage in stages for suffix in (".png", ".npy")}
    assert read_image(tmp_path / "bus" / f"{stages[0]}.png").shape == (4 * (2 * 32 + 2), 8 * (2 * 48 + 2), 3)
    recorder.close()
    kept = np.load(tmp_path / "bus" / f"{stages[0]}.npy")
    np.testing.assert_allclose(kept, network[0](x)[0].detach(), atol=1e-6)
    assert not recorder.maps


def test_grid_of_few_flat_and_broken_maps():
    maps = np.zeros((3, 2, 2), np.float32)
    maps[1, 0, 0] = np.nan
    assert feature_grid(maps).shape == (50, 150, 3)
