"""Attention blocks to compare NAM with, each after its paper.

    [-1, 1, SE, [1024]]        SE, ECA, CBAM, CoordAttention, SimAM, EMA or GAM; the channels may be left out: []

Each computes x * gate(x) and keeps channels and size. None uses adaptive pooling, so gradients are deterministic on a
GPU. The forms are those that detectors use.

Shapes: B batch, C channels, H and W height and width of a feature map. r is the reduction.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks.nam import Gated


def reduced(channels: int, reduction: int, name: str, least: int = 1) -> int:
    """Return channels / reduction, at least `least`; ValueError if the reduction is out of range."""
    if isinstance(reduction, bool) or not isinstance(reduction, int) or reduction < 1:
        raise ValueError(f"{name}: reduction {reduction!r}: must be a whole number of 1 or more")
    return max(channels // reduction, least)


def bottleneck(channels: int, hidden: int) -> nn.Sequential:
    """Build two 1x1 convolutions with a ReLU between them: a perceptron over each pixel's channels."""
    return nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1))


def odd(kernel: object, name: str) -> int:
    """Check that a kernel size is odd, so that it keeps the map's size; ValueError if not."""
    if isinstance(kernel, bool) or not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"{name}: kernel {kernel!r}: must be an odd whole number")
    return kernel


class SE(Gated):
    """Squeeze-and-excitation (Hu et al. 2018, arXiv 1709.01507): g = sigmoid(W2 relu(W1 mean(x))), W1 to C / r.

    Limit: one gate for the whole image, so small objects share the background's.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc = bottleneck(channels, reduced(channels, reduction, "SE"))

    def gate(self, x: Tensor) -> Tensor:
        """Compute the gate (B, C, 1, 1)."""
        return torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class ECA(Gated):
    """Efficient channel attention (Wang et al. 2020, arXiv 1910.03151): g = sigmoid(conv1d_k(mean(x))) over channels.

    The default k is int(|log2(C) + 1| / 2), made odd by adding one. Limit: neighbouring channels are arbitrary until
    training gives their order a meaning.
    """

    def __init__(self, channels: int, kernel: int | None = None) -> None:
        super().__init__()
        kernel = int(abs(math.log2(channels) + 1) / 2) | 1 if kernel is None else odd(kernel, "ECA")
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def gate(self, x: Tensor) -> Tensor:
        """Compute the gate (B, C, 1, 1)."""
        return torch.sigmoid(self.conv(x.mean((2, 3))[:, None]))[:, 0, :, None, None]


class CBAM(Gated):
    """Convolutional block attention (Woo et al. 2018, arXiv 1807.06521): channels, then pixels.

    g_c = sigmoid(MLP(mean(x)) + MLP(max(x))), one MLP to C / r and back; y = x * g_c; g_s = sigmoid(conv_k([mean_c(y),
    max_c(y)])); g = g_c * g_s. Limit: it starts at about 0.25, which disturbs a pretrained network more than one
    sigmoid.
    """

    rest = 0.25

    def __init__(self, channels: int, kernel: int = 7, reduction: int = 16) -> None:
        super().__init__()
        self.fc = bottleneck(channels, reduced(channels, reduction, "CBAM"))
        self.conv = nn.Conv2d(2, 1, kernel, padding=odd(kernel, "CBAM") // 2, bias=False)

    def gate(self, x: Tensor) -> Tensor:
        """Compute the gate (B, C, H, W)."""
        channel = torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)) + self.fc(x.amax((2, 3), keepdim=True)))
        y = x * channel
        seen = torch.cat((y.mean(1, keepdim=True), y.amax(1, keepdim=True)), 1)  # (B, 2, H, W)
        return channel * torch.sigmoid(self.conv(seen))


class CoordAttention(Gated):
    """Coordinate attention (Hou et al. 2021, arXiv 2103.02907): a gate per row times a gate per column.

    Means along rows and columns share a 1x1 convolution to max(8, C / r), batch norm and h-swish; one more convolution
    each gives g = sigmoid(.)_h * sigmoid(.)_w. Limits: rows are independent of columns, so two objects open four
    positions; it starts at about 0.25.
    """

    rest = 0.25

    def __init__(self, channels: int, reduction: int = 32) -> None:
        super().__init__()
        hidden = reduced(channels, reduction, "CoordAttention", least=8)
        self.shared = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.Hardswish())
        self.conv_h = nn.Conv2d(hidden, channels, 1)
        self.conv_w = nn.Conv2d(hidden, channels, 1)

    def gate(self, x: Tensor) -> Tensor:
        """Compute the gate (B, C, H, W)."""
        h, w = x.shape[2:]
        strips = torch.cat((x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)), 2)  # (B, C, H + W, 1)
        rows, columns = self.shared(strips).split((h, w), 2)
        return torch.sigmoid(self.conv_h(rows)) * torch.sigmoid(self.conv_w(columns.transpose(2, 3)))


class SimAM(Gated):
    """Parameter-free attention (Yang et al. 2021, ICML, PMLR 139): g = sigmoid((x - m)^2 / (4 (v + l)) + 1 / 2).

    m and v are mean and variance (over H * W - 1) of each channel, l is e_lambda. Limits: the energy is never negative,
    so no gate is below 0.62; values far from the mean count as important whatever their sign.
    """

    rest = 1 / (1 + math.exp(-0.5))

    def __init__(self, channels: int, e_lambda: float = 1e-4) -> None:
        super().__init__()
        if isinstance(e_lambda, bool) or not isinstance(e_lambda, int | float) or not 0 < e_lambda < math.inf:
            raise ValueError(f"SimAM: e_lambda {e_lambda!r}: must be a number above 0")
        self.e_lambda = float(e_lambda)

    def gate(self, x: Tensor) -> Tensor:
        """Compute the gate (B, C, H, W)."""
        x = x.float()  # squares in half precision overflow
        squares = (x - x.mean((2, 3), keepdim=True)).square()
        variance = squares.sum((2, 3), keepdim=True) / max(x.shape[2] * x.shape[3] - 1, 1)
        return torch.sigmoid(squares / (4 * (variance + self.e_lambda)) + 0.5)


class EMA(Gated):
    """Efficient multi-scale attention (Ouyang et al. 2023, ICASSP, arXiv 2305.13563) in `groups` groups of channels.

    For a group u: a 1x1 convolution of its means along rows and columns gates it to a = norm(u * sigmoid(.)_h *
    sigmoid(.)_w); a 3x3 convolution gives b. The softmax of each one's mean channels weights the other's pixels: g =
    sigmoid(softmax(mean(a)) b + softmax(mean(b)) a), one gate for all channels of a group.
    """

    def __init__(self, channels: int, groups: int = 8) -> None:
        super().__init__()
        if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or channels % groups:
            raise ValueError(f"EMA: groups {groups!r}: must divide the {channels} channels")
        self.groups = groups
        width = channels // groups
        self.norm = nn.GroupNorm(width, width)
        self.conv1 = nn.Conv2d(width, width, 1)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)

    def gate(self, x: Tensor) -> Tensor:
        """Compute the gate (B, C, H, W)."""
        b, c, h, w = x.shape
        g, width = self.groups, c // self.groups
        u = x.reshape(b * g, width, h, w)
        strips = torch.cat((u.mean(3, keepdim=True), u.mean(2, keepdim=True).transpose(2, 3)), 2)
        rows, columns = self.conv1(strips).split((h, w), 2)
        near = self.norm(u * torch.sigmoid(rows) * torch.sigmoid(columns.transpose(2, 3)))
        wide = self.conv3(u)
        weights = [F.softmax(y.mean((2, 3)), 1)[:, :, None, None] for y in (near, wide)]  # (B * g, width, 1, 1)
        energy = (weights[0] * wide + weights[1] * near).sum(1)  # (B * g, H, W)
        gate = torch.sigmoid(energy).view(b, g, 1, h, w)
        return gate.expand(b, g, width, h, w).reshape(b, c, h, w)


class GAM(Gated):
    """Global attention (Liu, Shao and Hoffmann 2021, arXiv 2112.05561): channels, then pixels, without pooling.

    g_c = sigmoid(MLP(x)) over each pixel's channels, to C / r and back; y = x * g_c; g_s = sigmoid(BN(conv7(relu(BN(
    conv7(y)))))), to C / r and back; g = g_c * g_s. Limit: two 7x7 convolutions make it far larger than the others (1.6
    M parameters at 256 channels), so an effect may come from size alone.
    """

    rest = 0.25

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = reduced(channels, reduction, "GAM")
        self.fc = bottleneck(channels, hidden)
        self.conv = nn.Sequential(
            nn.Conv2d(channels, hidden, 7, padding=3),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 7, padding=3),
            nn.BatchNorm2d(channels),
        )

    def gate(self, x: Tensor) -> Tensor:
        """Compute the gate (B, C, H, W)."""
        channel = torch.sigmoid(self.fc(x))
        return channel * torch.sigmoid(self.conv(x * channel))
