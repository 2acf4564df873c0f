"""Controls of an ablation: what stands where an attention block stood, to tell its effect from that of the place.

In a model yaml they are written as an attention block is: the row states the channels of its input, or []. tools.ablate
puts them into a variant's yaml by `replace: {NAMAttention: IdentityControl}`.

Shapes: all take and give (B, C, H, W).
"""

import torch.nn.functional as F
from torch import Tensor, nn


class IdentityControl(nn.Module):
    """y = x: the same rows, numbers and wiring without the block, so that only a mistake in the plumbing can differ."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """x itself."""
        return x


class HalfControl(nn.Module):
    """y = x / 2: what NAM's gate is at first, 0.500 +/- 0.001 at 256 channels, and stays if it learns nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """x / 2."""
        return x * 0.5


class SiluControl(nn.Module):
    """y = x sigmoid(x): a gate without parameters and without normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """SiLU of x."""
        return F.silu(x)


class ConvControl(nn.Conv2d):
    """y_c = a_c x_c + b_c: a 1 x 1 depthwise convolution with NAM's 2 C parameters but no gate; starts as identity."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1, groups=channels)
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)


CONTROLS = (IdentityControl, HalfControl, SiluControl, ConvControl)
