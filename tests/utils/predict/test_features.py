"""Feature maps: which are kept, and how they are drawn."""

import numpy as np
import pytest
import torch
from torch import nn

from models.common import NAMAttention
from utils.files.feature_maps import TITLE_HEIGHT, TITLE_WIDTH, feature_grid, gate_picture, save_features
from utils.files.images import read_image
from utils.predict.features import FeatureRecorder


class Head(nn.Module):
    """Gives a list, as Detect in training."""

    def forward(self, x):
        return [x]


def test_each_layer_is_written_once_per_run(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 40, 3, 2, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), Head())
    recorder = FeatureRecorder(network)
    x = torch.rand(2, 3, 64, 96)
    network(x)
    _, taken = recorder.take()
    save_features(tmp_path / "bus", taken)
    names = {path.name for path in (tmp_path / "bus").iterdir()}
    stages = ("stage0_Conv2d_features", "stage1_SiLU_features")
    assert names == {f"{stage}{suffix}" for stage in stages for suffix in (".png", ".npy")}
    assert read_image(tmp_path / "bus" / f"{stages[0]}.png").shape == (4 * (2 * 32 + 2), 8 * (2 * 48 + 2), 3)
    recorder.close()
    kept = np.load(tmp_path / "bus" / f"{stages[0]}.npy")
    np.testing.assert_allclose(kept, network[0](x)[1].detach(), atol=1e-6)
    assert not recorder.maps


def test_grid_of_few_flat_and_broken_maps():
    maps = np.zeros((3, 2, 2), np.float32)
    maps[1, 0, 0] = np.nan
    assert feature_grid(maps).shape == (50, 150, 3)
    assert feature_grid(maps, (0, 1)).shape == (50, 150, 3)


@pytest.mark.parametrize("is_fused", [False, True], ids=["plain", "fused"])
def test_gate_of_nam_is_output_over_input(tmp_path, is_fused):
    torch.manual_seed(0)
    attention = NAMAttention(8).eval()
    bn = attention.Channel_Att.bn2
    torch.nn.init.uniform_(bn.weight, -2, 2)
    bn.bias.data.uniform_(-3, 3)
    bn.running_mean.uniform_(-1, 1)
    bn.running_var.uniform_(0.5, 2)
    if is_fused:
        attention.fuse()
    network = nn.Sequential(nn.Sequential(nn.Identity(), attention))
    recorder = FeatureRecorder(network)
    x = torch.rand(2, 8, 4, 6) + 0.5
    with torch.inference_mode():
        out = network(x)
    first, second = recorder.take()
    recorder.close()
    name = "stage0_Sequential_1_gate"
    assert set(first) == {"stage0_Sequential_features", name}
    np.testing.assert_allclose(second[name], (out / x)[1], rtol=1e-5)
    assert np.ptp(second[name]) > 0.01
    save_features(tmp_path, first)
    np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), first[name])
    assert read_image(tmp_path / f"{name}.png").shape == (TITLE_HEIGHT + 50, TITLE_WIDTH, 3)
    assert not network(x).isnan().any()
    assert recorder.take() == []


def test_gate_shows_equal_channels_as_equal():
    maps = np.zeros((2, 2, 2), np.float32)
    maps[0, 0, 0], maps[1, 0, 0] = 1, 0.5
    tiles = feature_grid(maps, (0, 1))
    assert (tiles[5, 5] != tiles[5, 55]).any()
    assert (feature_grid(maps)[5, 5] == feature_grid(maps)[5, 55]).all()


def test_gate_is_drawn_on_a_fixed_scale():
    """A gate that is nearly constant shows nearly one colour; its title has the statistics."""
    flat, wide = (
        np.linspace(low, high, 48 * 48, dtype=np.float32).reshape(1, 48, 48) for low, high in ((0.4975, 0.5092), (0, 1))
    )
    spread = [np.ptp(gate_picture(gate, "a")[TITLE_HEIGHT + 1 : -1, 1:49].astype(int), (0, 1)) for gate in (flat, wide)]
    assert spread[0].max() <= 5
    assert spread[1].max() > 100
    titles = [gate_picture(gate, "a")[:TITLE_HEIGHT] for gate in (flat, wide)]
    assert (titles[0] != titles[1]).any()
