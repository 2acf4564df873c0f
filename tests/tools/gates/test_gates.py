"""Gates counted against numpy, and blocks put to another gate."""

import numpy as np
import pytest
import torch
from torch import nn

from models.blocks.nam import NAMAttention
from models.blocks.peers import SE
from tools.gates.gates import BINS, GateTally, as_constant, as_identity, attention_blocks, hooked

# Statistics -----------------------------------------------------------------------------------------------------------


def test_tally_equals_numpy() -> None:
    torch.manual_seed(0)
    tally = GateTally("x", NAMAttention(4))
    gates = [torch.rand(b, 4, h, 3) for b, h in ((2, 5), (1, 4))]
    for gate in gates:
        tally.add(gate, gate.shape)
    stats = tally.stats()
    flat = np.concatenate([gate.transpose(0, 1).flatten(1).numpy() for gate in gates], 1)  # (4, n)
    np.testing.assert_allclose(stats.mean, flat.mean(1), rtol=1e-5)
    np.testing.assert_allclose(stats.sd, flat.std(1), rtol=1e-5)
    np.testing.assert_allclose(stats.low, flat.min(1), rtol=1e-5)
    np.testing.assert_allclose(stats.high, flat.max(1), rtol=1e-5)
    np.testing.assert_allclose(stats.left, (np.abs(flat - 0.5) > 0.05).mean(1))
    np.testing.assert_array_equal(stats.histogram, np.histogram(flat, BINS, (0, 1))[0])
    assert stats.sd_all == pytest.approx(flat.std(), rel=1e-5)
    assert not stats.alarm


def test_a_gate_of_a_whole_channel_counts_at_each_place() -> None:
    tally = GateTally("x", SE(2))
    tally.add(torch.tensor([0.5, 0.9]).view(1, 2, 1, 1), torch.Size((1, 2, 3, 5)))
    stats = tally.stats()
    assert tally.values == 15
    assert stats.left.tolist() == [0, 1]
    assert stats.histogram.sum() == 30
    assert "each channel's gate is constant" in stats.alarm


@pytest.mark.parametrize(("noise", "alarm"), [(0.001, "the gate is constant at 0.500"), (0.02, "")])
def test_alarm(noise: float, alarm: str) -> None:
    torch.manual_seed(0)
    tally = GateTally("x", NAMAttention(8))
    gate = 0.5 + noise * torch.randn(4, 8, 6, 6)
    tally.add(gate, gate.shape)
    assert tally.stats().alarm.startswith(alarm)
    assert bool(tally.stats().alarm) == bool(alarm)


def test_rest_follows_the_gain() -> None:
    tally = GateTally("x", NAMAttention(2, gain_out=2))
    gate = torch.tensor([1.09, 1.11]).view(1, 2, 1, 1)
    tally.add(gate, gate.shape)
    assert tally.stats().left.tolist() == [0, 1]  # 0.1 of a gate that rests at 1
    assert tally.top == 2


# Replacing ------------------------------------------------------------------------------------------------------------


def test_hooks_replace_and_leave() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), SE(4)).eval()
    x = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        before, inner = net(x), net[0](x)
        blocks = attention_blocks(net)
        assert list(blocks) == ["1"]
        with hooked(blocks, lambda _: as_identity):
            assert torch.equal(net(x), inner)
        mean = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
        with hooked(blocks, lambda _: as_constant(mean)):
            torch.testing.assert_close(net(x), inner * mean[:, None, None].float())
        assert torch.equal(net(x), before)


def test_a_network_without_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="no attention block"):
        attention_blocks(nn.Conv2d(1, 1, 1))
