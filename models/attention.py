"""NAM, normalization-based attention (Liu, Shao, Teng and Hoffmann 2021, arXiv 2111.12419), with its variants.

A batch norm has scale factors gamma that say how much each channel varies; NAM takes their shares as the weights of a
gate. All variants are arguments of one block, so that a row of a yaml says which mathematics it has:

    [-1, 1, NAMAttention, [1024]]                              as published code has it: channels, w without gradient
    [-1, 1, NAMAttention, [1024, {gradient: True}]]            the gradient passes through w too
    [-1, 1, NAMAttention, [1024, {no_spatial: False}]]         pixels are gated as well, after the channels
    [-1, 1, NAMAttention, [1024, {gain_out: 2}]]               starts as identity
    [-1, 1, NAMAttention, [1024, {gain: C, gain_out: 2}]]      and with weights of mean one

Legend: B batch, C channels, H W height and width of a map, S side of the grid of lambdas.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

MEAN_ONE = "C"  # as a gain: the number of weights, so that their mean is one
GRID = 20  # the stride 32 map of an image of 640 x 640 pixels
Gain = float | str


class Gated(nn.Module):
    """A block that gives x * gate(x): the base of all attention here, so that each one's gate can be looked at.

    `rest` is the gate of a block whose sigmoids all get 0.
    """

    rest = 0.5

    def gate(self, x: Tensor) -> Tensor:
        """The factors for x (B, C, H, W), in a shape that is broadcast to x's."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same, in x's type."""
        return (x * self.gate(x)).to(x.dtype)


def read_gain(gain: object, count: int, name: str) -> float:
    """The factor that a yaml means; "C" is the count of weights. ValueError where it is no number above 0."""
    if gain == MEAN_ONE:
        return float(count)
    if isinstance(gain, bool) or not isinstance(gain, int | float) or not 0 < gain < math.inf:
        raise ValueError(f"NAMAttention: {name} {gain!r}: must be a number above 0 or, before the sigmoid, C")
    return float(gain)


def shares(factors: Tensor, has_gradient: bool) -> Tensor:
    """|factors| / sum |factors|; all 0 where every factor is 0, so that the gate is at rest there."""
    sizes = (factors if has_gradient else factors.detach()).abs()
    return sizes / sizes.sum().clamp(min=torch.finfo(sizes.dtype).tiny)


# Channels -------------------------------------------------------------------------------------------------------------


class NAMChannel(nn.Module):
    """The channel part of NAM: gain_out * x * sigmoid(gain * w * BN(x)) with w = |gamma| / sum |gamma| of that norm."""

    def __init__(self, channels: int, gain: Gain = 1.0, gain_out: float = 1.0, gradient: bool = False) -> None:
        super().__init__()
        self.bn2 = nn.BatchNorm2d(channels)
        self.gain, self.gain_out = read_gain(gain, channels, "gain"), gain_out
        self.gradient = gradient

    def weights(self) -> Tensor:
        """The shares w (C, 1, 1), cut off from the gradient unless `gradient` is set."""
        return shares(self.bn2.weight, self.gradient)[:, None, None]

    def open(self, x: Tensor) -> Tensor:
        """The sigmoid (B, C, H, W) in the weights' type, as its spread is below bf16's steps."""
        return torch.sigmoid(self.gain * self.weights() * self.bn2(x))

    def gate(self, x: Tensor) -> Tensor:
        """What x is multiplied by."""
        return self.open(x) * self.gain_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same, in x's type."""
        y = x * self.open(x)
        return (y if self.gain_out == 1 else y * self.gain_out).to(x.dtype)

    def folded(self) -> "ChannelSwish":
        """The same with the batch norm's running statistics as constants."""
        bn = self.bn2
        gamma, beta, mean, var = (v.detach().double() for v in (bn.weight, bn.bias, bn.running_mean, bn.running_var))
        scale = gamma * torch.rsqrt(var + bn.eps)
        w = self.gain * shares(gamma, has_gradient=False)
        a, b = w * scale, w * (beta - mean * scale)
        dtype = bn.weight.dtype
        return ChannelSwish(a[:, None, None].to(dtype), b[:, None, None].to(dtype), self.gain_out)


class ChannelSwish(nn.Module):
    """gain_out * x * sigmoid(a * x + b) with buffers a and b (C, 1, 1): what NAM's channel part is in inference."""

    def __init__(self, a: Tensor, b: Tensor, gain_out: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("a", a)
        self.register_buffer("b", b)
        self.gain_out = gain_out

    def gate(self, x: Tensor) -> Tensor:
        """What x is multiplied by."""
        return torch.sigmoid(self.a * x + self.b) * self.gain_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same."""
        y = x * torch.sigmoid(self.a * x + self.b)
        y = y if self.gain_out == 1 else y * self.gain_out  # an export has no node for a factor of 1
        return y if y.dtype == x.dtype else y.to(x.dtype)  # nor for a type that is right


# Pixels ---------------------------------------------------------------------------------------------------------------


def hats(count_out: int, count_in: int, like: Tensor) -> Tensor:
    """The matrix (count_out, count_in) of linear interpolation between the centres of cells; rows add up to one.

    As a product of matrices its gradient is the same each time, which that of torch's own is not on every GPU.
    """
    cells_out = torch.arange(count_out, device=like.device, dtype=like.dtype)
    cells_in = torch.arange(count_in, device=like.device, dtype=like.dtype)
    places = ((cells_out + 0.5) * (count_in / count_out) - 0.5).clamp(0, count_in - 1)
    return (1 - (places[:, None] - cells_in).abs()).clamp(min=0)


def spread(grid: Tensor, height: int, width: int) -> Tensor:
    """A map (h, w) at the size (height, width), bilinear; itself where that is its size."""
    rows = (hats(height, grid.shape[0], grid)[:, :, None] * grid).sum(1)  # (height, w)
    return (rows[:, None] * hats(width, grid.shape[1], grid)).sum(2)


class PixelNorm(_NormBase):
    """A batch norm whose features are the places of a map: statistics over images and channels, lambda for each place.

    Everything that is learned or counted lies on a grid of S x S places, spread over maps of any size.
    """

    def __init__(self, side: int) -> None:
        super().__init__(side * side)
        self.side = side

    def spread(self, values: Tensor, x: Tensor) -> Tensor:
        """Values (S * S,) at the places of x, (H, W)."""
        return spread(values.view(self.side, self.side), x.shape[2], x.shape[3])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same, in the weights' type."""
        x = x.to(self.weight.dtype)
        if self.training:
            mean, var = x.mean((0, 1)), x.var((0, 1), unbiased=False)  # (H, W)
            self.count(mean.detach(), var.detach(), x.shape[0] * x.shape[1])
        else:
            mean, var = (self.spread(values, x) for values in (self.running_mean, self.running_var))
        scale = torch.rsqrt(var + self.eps) * self.spread(self.weight, x)
        return (x - mean) * scale + self.spread(self.bias, x)

    def count(self, mean: Tensor, var: Tensor, values: int) -> None:
        """Moves the running statistics towards a batch's mean and variance (H, W), which are of so many values."""
        if values < 2:
            raise ValueError("NAM's spatial part cannot learn from a single value per place")
        self.num_batches_tracked += 1
        for running, found in ((self.running_mean, mean), (self.running_var, var * values / (values - 1))):
            running.lerp_(spread(found, self.side, self.side).flatten(), self.momentum)


class NAMSpatial(nn.Module):
    """The spatial part of NAM: gain_out * x * sigmoid(gain * w * BN_s(x)) with w = |lambda| / sum |lambda|.

    BN_s normalises over places in place of channels (section 3 of the paper). The paper's lambdas are one for each
    pixel, which ties a network to one size; here they, beta and the running statistics lie on a grid that is
    interpolated, and w's sum is over the grid, so that the gate of a place does not change with the image's size. Maps
    of exactly grid x grid places get what the paper says.
    """

    def __init__(self, grid: int, gain: Gain = 1.0, gain_out: float = 1.0, gradient: bool = False) -> None:
        super().__init__()
        if isinstance(grid, bool) or not isinstance(grid, int) or not 1 <= grid <= 1024:
            raise ValueError(f"NAMAttention: grid {grid!r}: must be a whole number from 1 to 1024")
        self.bn = PixelNorm(grid)
        self.gain, self.gain_out = read_gain(gain, grid * grid, "gain"), gain_out
        self.gradient = gradient

    def gate(self, x: Tensor) -> Tensor:
        """What x is multiplied by, (B, C, H, W)."""
        weights = self.bn.spread(shares(self.bn.weight, self.gradient), x)
        return torch.sigmoid(self.gain * weights * self.bn(x)) * self.gain_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same, in x's type."""
        return (x * self.gate(x)).to(x.dtype)


# The block ------------------------------------------------------------------------------------------------------------


class NAMAttention(Gated):
    """Normalization-based attention (arXiv 2111.12419), (B, C, H, W) -> same.

    Channels: y = gain_out * x * sigmoid(gain * w * BN(x)), w_c = |gamma_c| / sum |gamma|. As the authors' code has it,
    w is a constant to the gradient, and gamma learns through BN(x) alone; `gradient` lets it learn through w as well.
    `no_spatial=False` puts the paper's spatial part behind it: the same over places, with lambda in place of gamma, on
    a grid of grid x grid (see NAMSpatial for where that differs from the paper). The gains are of each part.

    The caveat: with the published gain of 1 w is about 1 / C, so the gate is nearly a constant half at first (0.500 +/-
    0.001 at 256 channels), which halves the features of a pretrained network. In inference the channel part is a Swish
    per channel, which mixes neither channels nor pixels. gain "C" makes the mean weight one, so that the gate opens and
    closes from the start; gain_out 2 makes a gate at rest one, so that the block with gain 1 starts as identity (1.000
    +/- 0.002 at 256 channels). Both are ours and not the paper's.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        no_spatial: bool = True,
        gain: Gain = 1.0,
        gain_out: float = 1.0,
        gradient: bool = False,
        grid: int = GRID,
    ) -> None:
        super().__init__()
        if out_channels not in (None, channels):
            raise ValueError(f"NAMAttention keeps its {channels} channels; {out_channels} out of it are not possible")
        for name, value in (("no_spatial", no_spatial), ("gradient", gradient)):
            if not isinstance(value, bool):
                raise ValueError(f"NAMAttention: {name} {value!r}: must be True or False")
        if gain_out == MEAN_ONE:
            raise ValueError("NAMAttention: gain_out C: must be a number; C is for the gain before the sigmoid")
        gain_out = read_gain(gain_out, channels, "gain_out")
        self.Channel_Att: NAMChannel | ChannelSwish = NAMChannel(channels, gain, gain_out, gradient)
        self.Spatial_Att = None if no_spatial else NAMSpatial(grid, gain, gain_out, gradient)
        self.rest = (gain_out / 2) ** (1 if no_spatial else 2)

    def gate(self, x: Tensor) -> Tensor:
        """What x is multiplied by in all, (B, C, H, W)."""
        gate = self.Channel_Att.gate(x)
        return gate if self.Spatial_Att is None else gate * self.Spatial_Att.gate((x * gate).to(x.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """x, gated."""
        y = self.Channel_Att(x)
        return y if self.Spatial_Att is None else self.Spatial_Att(y)

    def fuse(self) -> bool:
        """Turns the channels' batch norm into constants, for inference; whether that leaves nothing to compute.

        That is one multiplication, addition, sigmoid, multiplication, and one more where gain_out is not 1. The spatial
        part stays as it is, since its statistics are interpolated to the size of each image.
        """
        if isinstance(self.Channel_Att, NAMChannel):
            self.Channel_Att = self.Channel_Att.folded().train(self.training)
        return self.Spatial_Att is None
