"""Control blocks for ablations: they replace an attention block to separate its effect from that of its position.

A model yaml lists them like an attention block: the row states the input channels, or []. tools.ablate inserts them
into a variant's yaml by `replace: {NAMAttention: IdentityControl}`.

Shapes: input and output are (B, C, H, W).
"""

import torch.nn.functional as F
from torch import Tensor, nn


class IdentityControl(nn.Module):
    """y = x. Rows, indices and wiring are the block's, so a difference from plain is a bug in the plumbing."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Return x."""
        return x


class HalfControl(nn.Module):
    """y = x / 2: NAM's gate at the start (0.500 +/- 0.001 at 256 channels), and after training if it learns nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Return x / 2."""
        return x * 0.5


class SiluControl(nn.Module):
    """y = x sigmoid(x): a gate without parameters and without normalization."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Apply SiLU to x."""
        return F.silu(x)


class ConvControl(nn.Conv2d):
    """y_c = a_c x_c + b_c: a 1x1 depthwise convolution with NAM's 2 C parameters and no gate; starts as identity."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1, groups=channels)
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)


CONTROLS = (IdentityControl, HalfControl, SiluControl, ConvControl)
