"""Normalization-based attention, NAM (Liu, Shao, Teng and Hoffmann 2021, arXiv 2111.12419), and its variants.

The scale factors gamma of a batch norm grow with the variance of their channel. NAM normalizes them to weights that sum
to one and gates each channel by them. All variants are arguments of one block:

    [-1, 1, NAMAttention, [1024]]                              channel gate, w detached, as in the published code
    [-1, 1, NAMAttention, [1024, {gradient: True}]]            w takes part in the gradient
    [-1, 1, NAMAttention, [1024, {no_spatial: False}]]         channel gate, then spatial gate
    [-1, 1, NAMAttention, [1024, {gain_out: 2}]]               starts as identity
    [-1, 1, NAMAttention, [1024, {gain: C, gain_out: 2}]]      starts as identity, weights of mean one

Shapes: B batch, C channels, H and W height and width of a feature map, S side of the grid of lambdas.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

MEAN_ONE = "C"  # as a gain: the number of weights, so that their mean is one
GRID = 20  # the stride 32 map of an image of 640 x 640 pixels
Gain = float | str


class Gated(nn.Module):
    """Base of the attention blocks: y = x * gate(x). Tools read the gate through this class.

    `rest` is the value of the gate when the input of every sigmoid is 0.
    """

    rest = 0.5

    def gate(self, x: Tensor) -> Tensor:
        """Compute the factors for x (B, C, H, W), in a shape that broadcasts to it."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Gate x (B, C, H, W); same shape and dtype."""
        return (x * self.gate(x)).to(x.dtype)


def read_gain(gain: object, count: int, name: str) -> float:
    """Parse a gain from a yaml: a positive number, or "C" for `count`, the number of weights.

    Raises:
        ValueError: if it is neither.
    """
    if gain == MEAN_ONE:
        return float(count)
    if isinstance(gain, bool) or not isinstance(gain, int | float) or not 0 < gain < math.inf:
        raise ValueError(f"NAMAttention: {name} {gain!r}: must be a number above 0 or, before the sigmoid, C")
    return float(gain)


def normalized_weights(factors: Tensor, has_gradient: bool) -> Tensor:
    """Compute |factors| / sum |factors|; all 0 if every factor is 0, which leaves the gate at rest."""
    magnitudes = (factors if has_gradient else factors.detach()).abs()
    return magnitudes / magnitudes.sum().clamp(min=torch.finfo(magnitudes.dtype).tiny)


# Channels -------------------------------------------------------------------------------------------------------------


class NAMChannel(nn.Module):
    """Channel part of NAM: y = gain_out * x * sigmoid(gain * w * BN(x)), w = |gamma| / sum |gamma|."""

    def __init__(self, channels: int, gain: Gain = 1.0, gain_out: float = 1.0, gradient: bool = False) -> None:
        super().__init__()
        self.bn2 = nn.BatchNorm2d(channels)
        self.gain, self.gain_out = read_gain(gain, channels, "gain"), gain_out
        self.gradient = gradient

    def weights(self) -> Tensor:
        """Compute w (C, 1, 1), detached unless `gradient` is set."""
        return normalized_weights(self.bn2.weight, self.gradient)[:, None, None]

    def sigmoid_gate(self, x: Tensor) -> Tensor:
        """Compute the sigmoid (B, C, H, W) in the dtype of the weights: its spread is finer than bf16 resolves."""
        return torch.sigmoid(self.gain * self.weights() * self.bn2(x))

    def gate(self, x: Tensor) -> Tensor:
        """Compute the gate (B, C, H, W)."""
        return self.sigmoid_gate(x) * self.gain_out

    def forward(self, x: Tensor) -> Tensor:
        """Gate x (B, C, H, W); same shape and dtype."""
        y = x * self.sigmoid_gate(x)
        return (y if self.gain_out == 1 else y * self.gain_out).to(x.dtype)

    def folded(self) -> "ChannelSwish":
        """Fold the batch norm's running statistics into one affine function per channel."""
        bn = self.bn2
        gamma, beta, mean, var = (v.detach().double() for v in (bn.weight, bn.bias, bn.running_mean, bn.running_var))
        scale = gamma * torch.rsqrt(var + bn.eps)
        w = self.gain * normalized_weights(gamma, has_gradient=False)
        a, b = w * scale, w * (beta - mean * scale)
        dtype = bn.weight.dtype
        return ChannelSwish(a[:, None, None].to(dtype), b[:, None, None].to(dtype), self.gain_out)


class ChannelSwish(nn.Module):
    """NAM's channel part at inference: y = gain_out * x * sigmoid(a * x + b), with buffers a and b (C, 1, 1)."""

    def __init__(self, a: Tensor, b: Tensor, gain_out: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("a", a)
        self.register_buffer("b", b)
        self.gain_out = gain_out

    def gate(self, x: Tensor) -> Tensor:
        """Compute the gate (B, C, H, W)."""
        return torch.sigmoid(self.a * x + self.b) * self.gain_out

    def forward(self, x: Tensor) -> Tensor:
        """Gate x (B, C, H, W); same shape and dtype."""
        y = x * torch.sigmoid(self.a * x + self.b)
        y = y if self.gain_out == 1 else y * self.gain_out  # no node in an export for a factor of 1
        return y if y.dtype == x.dtype else y.to(x.dtype)  # nor for a cast to the same dtype


# Pixels ---------------------------------------------------------------------------------------------------------------


def linear_interp_matrix(count_out: int, count_in: int, like: Tensor) -> Tensor:
    """Build the (count_out, count_in) matrix of linear interpolation between cell centres; rows sum to one.

    Interpolation as a matrix product has a deterministic gradient on every GPU; F.interpolate does not.
    """
    cells_out = torch.arange(count_out, device=like.device, dtype=like.dtype)
    cells_in = torch.arange(count_in, device=like.device, dtype=like.dtype)
    places = ((cells_out + 0.5) * (count_in / count_out) - 0.5).clamp(0, count_in - 1)
    return (1 - (places[:, None] - cells_in).abs()).clamp(min=0)


def resize_to(grid: Tensor, height: int, width: int) -> Tensor:
    """Resize a map (h, w) to (height, width), bilinear; exact if the size does not change."""
    rows = (linear_interp_matrix(height, grid.shape[0], grid)[:, :, None] * grid).sum(1)  # (height, w)
    return (rows[:, None] * linear_interp_matrix(width, grid.shape[1], grid)).sum(2)


class PixelNorm(_NormBase):
    """Batch norm over pixels: statistics over images and channels, one lambda for each pixel.

    Parameters and running statistics lie on a grid of S x S cells, which is resized to the feature map.
    """

    def __init__(self, side: int) -> None:
        super().__init__(side * side)
        self.side = side

    def resize(self, values: Tensor, x: Tensor) -> Tensor:
        """Resize values (S * S,) to the height and width of x."""
        return resize_to(values.view(self.side, self.side), x.shape[2], x.shape[3])

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (B, C, H, W); same shape, in the dtype of the weights."""
        x = x.to(self.weight.dtype)
        if self.training:
            mean, var = x.mean((0, 1)), x.var((0, 1), unbiased=False)  # (H, W)
            self.update_running_stats(mean.detach(), var.detach(), x.shape[0] * x.shape[1])
        else:
            mean, var = (self.resize(values, x) for values in (self.running_mean, self.running_var))
        scale = torch.rsqrt(var + self.eps) * self.resize(self.weight, x)
        return (x - mean) * scale + self.resize(self.bias, x)

    def update_running_stats(self, mean: Tensor, var: Tensor, n: int) -> None:
        """Update the running statistics by a batch's mean and biased variance (H, W), each over n values."""
        if n < 2:
            raise ValueError("NAMAttention: the spatial part needs at least 2 values per pixel; use a larger batch")
        self.num_batches_tracked += 1
        for running, found in ((self.running_mean, mean), (self.running_var, var * n / (n - 1))):
            running.lerp_(resize_to(found, self.side, self.side).flatten(), self.momentum)


class NAMSpatial(nn.Module):
    """Spatial part of NAM: y = gain_out * x * sigmoid(gain * w * BN_s(x)), w = |lambda| / sum |lambda|.

    BN_s normalizes over pixels instead of channels (section 3 of the paper). The paper has one lambda per pixel, which
    ties a network to one image size. Here lambda, beta and the running statistics lie on a grid that is interpolated.
    The sum of w runs over the grid, so the gate at a position does not depend on the image size. On maps of exactly
    grid x grid pixels the result is the paper's.
    """

    def __init__(self, grid: int, gain: Gain = 1.0, gain_out: float = 1.0, gradient: bool = False) -> None:
        super().__init__()
        if isinstance(grid, bool) or not isinstance(grid, int) or not 1 <= grid <= 1024:
            raise ValueError(f"NAMAttention: grid {grid!r}: must be a whole number from 1 to 1024")
        self.bn = PixelNorm(grid)
        self.gain, self.gain_out = read_gain(gain, grid * grid, "gain"), gain_out
        self.gradient = gradient

    def gate(self, x: Tensor) -> Tensor:
        """Compute the gate (B, C, H, W)."""
        weights = self.bn.resize(normalized_weights(self.bn.weight, self.gradient), x)
        return torch.sigmoid(self.gain * weights * self.bn(x)) * self.gain_out

    def forward(self, x: Tensor) -> Tensor:
        """Gate x (B, C, H, W); same shape and dtype."""
        return (x * self.gate(x)).to(x.dtype)


# The block ------------------------------------------------------------------------------------------------------------


class NAMAttention(Gated):
    """Normalization-based attention (arXiv 2111.12419); input and output (B, C, H, W).

    Channel part: y = gain_out * x * sigmoid(gain * w * BN(x)) with w_c = |gamma_c| / sum |gamma|.

    With the published gain of 1, w is about 1 / C. At the start the gate is then nearly a constant half (0.500 +/-
    0.001 at 256 channels), which halves the features of a pretrained network. At inference the channel part is a Swish
    per channel: it mixes neither channels nor pixels. `gain` and `gain_out` are ours, not the paper's.

    Args:
        channels: C.
        out_channels: must equal `channels` if given; recipes pass both.
        no_spatial: leave out the spatial part (see NAMSpatial), as the published code does.
        gain: factor before the sigmoid; "C" makes the mean weight one, so that the gate varies from the start.
        gain_out: factor after the sigmoid; 2 with a gain of 1 starts as identity (1.000 +/- 0.002 at 256 channels).
        gradient: let gamma learn through w too. The authors' code detaches w, so gamma learns through BN(x) only.
        grid: S, the side of the spatial part's grid of lambdas.

    Raises:
        ValueError: if an argument is of the wrong type or out of range.
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
            raise ValueError(f"NAMAttention: {channels} input and {out_channels} output channels; they must be equal")
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
        """Compute the product of both gates, (B, C, H, W)."""
        gate = self.Channel_Att.gate(x)
        return gate if self.Spatial_Att is None else gate * self.Spatial_Att.gate((x * gate).to(x.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Gate x (B, C, H, W); same shape and dtype."""
        y = self.Channel_Att(x)
        return y if self.Spatial_Att is None else self.Spatial_Att(y)

    def fuse(self) -> bool:
        """Fold the channel part's batch norm for inference; return True if no batch norm is left.

        The folded part costs two multiplications, an addition and a sigmoid, and one more multiplication if gain_out is
        not 1. The spatial part is not folded: its statistics are interpolated to the size of each image.
        """
        if isinstance(self.Channel_Att, NAMChannel):
            self.Channel_Att = self.Channel_Att.folded().train(self.training)
        return self.Spatial_Att is None
