"""Activations under v6.1's names, for `Conv(..., act=FReLU(c2))` and for pasted classes.

Shapes: B batch, C channels, H and W height and width of a feature map. r is the reduction.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SiLU(nn.Module):
    """x * sigmoid(x) (arXiv 1606.08415, 1702.03118), for exports without nn.SiLU."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Apply to x of any shape."""
        return x * torch.sigmoid(x)


class Hardswish(nn.Module):
    """x * relu6(x + 3) / 6 (MobileNetV3, arXiv 1905.02244), for exports without nn.Hardswish."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Apply to x of any shape."""
        return x * F.hardtanh(x + 3, 0.0, 6.0) / 6.0


class Mish(nn.Module):
    """x * tanh(softplus(x)) (arXiv 1908.08681)."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Apply to x of any shape."""
        return x * F.softplus(x).tanh()


class MishFunction(torch.autograd.Function):
    """Mish that saves only its input for the backward pass and recomputes the rest."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        """Apply to x of any shape."""
        ctx.save_for_backward(x)
        return x * F.softplus(x).tanh()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        """Compute the gradient by the input: grad * (t + x (1 - t^2) sigmoid(x)) with t = tanh(softplus(x))."""
        (x,) = ctx.saved_tensors
        t = F.softplus(x).tanh()
        return grad * (t + x * (1 - t * t) * torch.sigmoid(x))


class MemoryEfficientMish(nn.Module):
    """Mish with less memory and more time in training."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Apply to x of any shape."""
        return MishFunction.apply(x)


class FReLU(nn.Module):
    """max(x, BN(depthwise conv_k(x))) (funnel activation, arXiv 2007.11824)."""

    def __init__(self, c1: int, k: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c1, k, 1, k // 2, groups=c1, bias=False)
        self.bn = nn.BatchNorm2d(c1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to x (B, C, H, W)."""
        return torch.maximum(x, self.bn(self.conv(x)))


class AconC(nn.Module):
    """(p1 - p2) x sigmoid(beta (p1 - p2) x) + p2 x, all three learned per channel (ACON, arXiv 2009.04759)."""

    def __init__(self, c1: int) -> None:
        super().__init__()
        self.p1 = nn.Parameter(torch.randn(1, c1, 1, 1))
        self.p2 = nn.Parameter(torch.randn(1, c1, 1, 1))
        self.beta = nn.Parameter(torch.ones(1, c1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to x (B, C, H, W)."""
        dpx = (self.p1 - self.p2) * x
        return dpx * torch.sigmoid(self.beta * dpx) + self.p2 * x


class MetaAconC(nn.Module):
    """ACON with beta = sigmoid(W2 W1 mean(x)), W1 to max(r, C / r) channels (arXiv 2009.04759)."""

    def __init__(self, c1: int, k: int = 1, s: int = 1, r: int = 16) -> None:
        super().__init__()
        hidden = max(r, c1 // r)
        self.p1 = nn.Parameter(torch.randn(1, c1, 1, 1))
        self.p2 = nn.Parameter(torch.randn(1, c1, 1, 1))
        self.fc1 = nn.Conv2d(c1, hidden, k, s, bias=True)
        self.fc2 = nn.Conv2d(hidden, c1, k, s, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to x (B, C, H, W)."""
        beta = torch.sigmoid(self.fc2(self.fc1(x.mean((2, 3), keepdim=True))))
        dpx = (self.p1 - self.p2) * x
        return dpx * torch.sigmoid(beta * dpx) + self.p2 * x
