"""v6.1's activations: their formulas, gradients, shapes and types."""

import pytest
import torch
from torch import nn

from utils.activations import AconC, FReLU, Hardswish, MemoryEfficientMish, MetaAconC, Mish, SiLU

PLAIN = [(SiLU, nn.SiLU), (Hardswish, nn.Hardswish), (Mish, nn.Mish), (MemoryEfficientMish, nn.Mish)]


@pytest.mark.parametrize(("ours", "torchs"), PLAIN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_torchs(ours, torchs, dtype):
    x = (torch.randn(2, 4, 5, 6) * 4).to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(ours()(x), torchs()(x), rtol=tolerance, atol=tolerance)
    assert ours()(x).dtype == dtype


def test_gradient_of_the_memory_efficient_mish():
    x = (torch.randn(3, 4, dtype=torch.float64) * 3).requires_grad_()
    assert torch.autograd.gradcheck(MemoryEfficientMish(), x)


@pytest.mark.parametrize("make", [FReLU, AconC, MetaAconC])
@pytest.mark.parametrize("channels", [8, 48])
def test_of_channels(make, channels):
    torch.manual_seed(0)
    act, x = make(channels), torch.randn(2, channels, 5, 6)
    y = act(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in act.parameters())


def test_formulas():
    x = torch.randn(2, 8, 5, 6)
    frelu = FReLU(8).eval()
    assert (frelu(x) >= x).all()
    acon = AconC(8)
    with torch.no_grad():
        acon.p1.fill_(1)
        acon.p2.zero_()
    torch.testing.assert_close(acon(x), nn.functional.silu(x))
    meta = MetaAconC(8)
    assert meta.fc1.out_channels == 16
    with torch.no_grad():
        meta.p1.copy_(meta.p2)
    torch.testing.assert_close(meta(x), meta.p2 * x)
