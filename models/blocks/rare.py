"""Blocks of v6.1's experimental part that a row of a model yaml may name; letters as in models/common.py."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.common import Conv


class CrossConv(nn.Module):
    """A 1 x k and a k x 1 convolution in place of k x k; added to the input where shortcut is set and widths agree."""

    def __init__(
        self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, e: float = 1.0, shortcut: bool = False
    ) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, (1, k), (1, s))
        self.cv2 = Conv(hidden, c2, (k, 1), (s, 1), g=g)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) -> (B, c2, H / s, W / s)."""
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class Sum(nn.Module):
    """The sum of n maps; with `weight` all but the first are weighed by numbers from 0 to 2 that are learned."""

    def __init__(self, n: int, weight: bool = False) -> None:
        super().__init__()
        self.w = nn.Parameter(-torch.arange(1.0, n) / 2) if weight else None  # (n - 1,)

    def forward(self, x: list[Tensor]) -> Tensor:
        """n tensors of one shape -> same."""
        first, *others = x
        if self.w is not None:
            others = [2 * w * y for w, y in zip(self.w.sigmoid(), others, strict=True)]
        return sum(others, first)


class MixConv2d(nn.Module):
    """Convolutions of several kernel sizes side by side, batch norm, SiLU (MixConv, arXiv 1907.09595).

    With equal_ch each size gives the same number of channels, else about the same number of weights per group's input.
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
        """(B, c1, H, W) -> (B, c2, H / s, W / s)."""
        return self.act(self.bn(torch.cat([conv(x) for conv in self.m], 1)))
