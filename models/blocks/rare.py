"""Rarely used blocks of v6.1's experimental module. Argument names are those of models/common.py."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.common import Conv


class CrossConv(nn.Module):
    """A 1 x k and a k x 1 convolution instead of k x k; a residual connection if `shortcut` is set and c1 equals c2."""

    def __init__(
        self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, e: float = 1.0, shortcut: bool = False
    ) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, (1, k), (1, s))
        self.cv2 = Conv(hidden, c2, (k, 1), (s, 1), g=g)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H / s, W / s)."""
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class Sum(nn.Module):
    """Sum of n maps. With `weight` all but the first have a learned weight in 0..2."""

    def __init__(self, n: int, weight: bool = False) -> None:
        super().__init__()
        self.w = nn.Parameter(-torch.arange(1.0, n) / 2) if weight else None  # (n - 1,)

    def forward(self, x: list[Tensor]) -> Tensor:
        """Add n tensors of one shape."""
        first, *others = x
        if self.w is not None:
            others = [2 * w * y for w, y in zip(self.w.sigmoid(), others, strict=True)]
        return sum(others, first)


class MixConv2d(nn.Module):
    """Convolutions of several kernel sizes in parallel, batch norm, SiLU (MixConv, arXiv 1907.09595).

    equal_ch: the same number of output channels for each size; otherwise about the same number of weights.
    """

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (1, 3), s: int = 1, equal_ch: bool = True) -> None:
        super().__init__()
        shares = [1.0 if equal_ch else 1 / size**2 for size in k]
        ends = [round(c2 * sum(shares[: i + 1]) / sum(shares)) for i in range(len(k))]
        widths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        if min(widths) < 1:
            raise ValueError(f"{c2} channels are too few for {len(k)} kernel sizes")
        self.m = nn.ModuleList(
            nn.Conv2d(c1, width, size, s, size // 2, groups=math.gcd(c1, width), bias=False)
            for width, size in zip(widths, k, strict=True)
        )
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H / s, W / s)."""
        return self.act(self.bn(torch.cat([conv(x) for conv in self.m], 1)))
