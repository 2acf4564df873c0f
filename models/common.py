"""The blocks that a row of a model yaml may name; every class of this file is found there by its name.

Paste a class of your own anywhere below the imports. It is used in place of ours of the same name.

Layer names and their order are those of YOLOv5 v6.1, so that its weights fit. The batch norms' eps and momentum and the
activations' in-place flag are set for the whole model by `initialize_weights`. What a row's arguments mean for a block
is said in `parse_model` of models/yolo.py; NAM itself is in models/attention.py, rarely used blocks in
models/blocks/rare.py.

Legend: B batch, C channels, H W height and width of a map, N tokens (H * W), g gain; c1 and c2 channels in and out, k
kernel size, s stride, p padding, e share of c2 that a bottleneck keeps inside.
"""

# Imports with "noqa" are not used by ours: classes that are pasted here know these names from v6.1.
import math
import warnings  # noqa: F401
from collections import OrderedDict, namedtuple  # noqa: F401
from collections.abc import Sequence
from copy import copy  # noqa: F401
from importlib import import_module
from pathlib import Path  # noqa: F401

import numpy as np  # noqa: F401
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import attention
from utils.general import LOGGER, make_divisible  # noqa: F401

Size = int | Sequence[int]  # one for both axes, or height and width
Act = bool | nn.Module | None


def autopad(k: Size, p: Size | None = None) -> Size:
    """The padding p, or where none is given the one that keeps a map's size at stride 1."""
    if p is not None:
        return p
    return k // 2 if isinstance(k, int) else [size // 2 for size in k]


# Convolutions ---------------------------------------------------------------------------------------------------------


class Conv(nn.Module):
    """Convolution, batch norm, activation: SiLU where act is True, act itself where it is a module, else none."""

    def __init__(
        self, c1: int, c2: int, k: Size = 1, s: Size = 1, p: Size | None = None, g: int = 1, act: Act = True
    ) -> None:
        super().__init__()
        if not isinstance(act, Act):
            raise ValueError(f"act {act!r}: must be True, False or a module, such as nn.ReLU()")
        self.conv = nn.Conv2d(c1, c2, k, s, autopad(k, p), groups=g, bias=False)
        self.bn = nn.BatchNorm2d(c2)  # an identity once it is fused into the convolution
        self.act = act if isinstance(act, nn.Module) else nn.SiLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) -> (B, c2, H / s, W / s)."""
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x: Tensor) -> Tensor:
        """Forward without the norm, for a convolution that has it inside; v6.1's programs put it in forward's place."""
        return self.act(self.conv(x))


class DWConv(Conv):
    """Conv in as many groups as channels in and out allow."""

    def __init__(self, c1: int, c2: int, k: Size = 1, s: Size = 1, act: Act = True) -> None:
        super().__init__(c1, c2, k, s, g=math.gcd(c1, c2), act=act)


class Focus(nn.Module):
    """The four pixels of each 2x2 square as channels, then Conv: (B, c1, H, W) -> (B, c2, H / 2, W / 2)."""

    def __init__(
        self, c1: int, c2: int, k: Size = 1, s: Size = 1, p: Size | None = None, g: int = 1, act: Act = True
    ) -> None:
        super().__init__()
        self.conv = Conv(4 * c1, c2, k, s, p, g, act)

    def forward(self, x: Tensor) -> Tensor:
        """The convolved map; H and W must be even."""
        phases = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(phases, 1))  # (B, 4 * c1, H / 2, W / 2) inside


class GhostConv(nn.Module):
    """Half of the channels by Conv, the other half cheaply from those (arXiv 1911.11907)."""

    def __init__(self, c1: int, c2: int, k: Size = 1, s: Size = 1, g: int = 1, act: Act = True) -> None:
        super().__init__()
        half = c2 // 2
        self.cv1 = Conv(c1, half, k, s, g=g, act=act)
        self.cv2 = Conv(half, half, 5, 1, g=half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) -> (B, c2, H / s, W / s)."""
        primary = self.cv1(x)
        return torch.cat((primary, self.cv2(primary)), 1)


# Bottlenecks ----------------------------------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    """1x1 to a share e of the channels, 3x3 back; added to the input where shortcut is set and the widths agree."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, 1)
        self.cv2 = Conv(hidden, c2, 3, g=g)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) -> (B, c2, H, W)."""
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class GhostBottleneck(nn.Module):
    """GhostConv twice, with a depthwise convolution between at stride 2, and a shortcut (arXiv 1911.11907)."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1) -> None:
        super().__init__()
        if s not in (1, 2) or (s == 1 and c1 != c2):
            raise ValueError(
                f"stride {s} from {c1} to {c2} channels: stride 2, or stride 1 and equal widths, is possible"
            )
        hidden = c2 // 2
        down = s == 2
        self.conv = nn.Sequential(
            GhostConv(c1, hidden),
            DWConv(hidden, hidden, k, s, act=False) if down else nn.Identity(),
            GhostConv(hidden, c2, act=False),
        )
        self.shortcut = (
            nn.Sequential(DWConv(c1, c1, k, s, act=False), Conv(c1, c2, act=False)) if down else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) -> (B, c2, H / s, W / s)."""
        return self.conv(x) + self.shortcut(x)


class BottleneckCSP(nn.Module):
    """n bottlenecks on one path and a plain one beside it, normalised together (CSPNet, arXiv 1911.11929)."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden)
        self.cv2 = nn.Conv2d(c1, hidden, 1, bias=False)
        self.cv3 = nn.Conv2d(hidden, hidden, 1, bias=False)
        self.cv4 = Conv(2 * hidden, c2)
        self.bn = nn.BatchNorm2d(2 * hidden)
        self.act = nn.SiLU()
        self.m = nn.Sequential(*(Bottleneck(hidden, hidden, shortcut, g, e=1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) -> (B, c2, H, W)."""
        paths = torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), 1)  # (B, 2 * hidden, H, W)
        return self.cv4(self.act(self.bn(paths)))


class C3(nn.Module):
    """BottleneckCSP with three convolutions: n bottlenecks on one path, none on the other, joined by a third."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(c1, hidden)
        self.cv3 = Conv(2 * hidden, c2)
        self.m = self.inner(hidden, n, shortcut, g)

    def inner(self, c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        """What is on the first path, c channels in and out; the variants of C3 differ in this alone."""
        return nn.Sequential(*(Bottleneck(c, c, shortcut, g, e=1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) -> (B, c2, H, W)."""
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class BottleneckNAM(Bottleneck):
    """Bottleneck whose second convolution is gated by NAM before it is added to the input."""

    def __init__(
        self,
        c1: int,
        c2: int,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
        *,
        gain: attention.Gain = 1.0,
        gain_out: float = 1.0,
        gradient: bool = False,
    ) -> None:
        super().__init__(c1, c2, shortcut, g, e)
        self.nam = attention.NAMAttention(c2, gain=gain, gain_out=gain_out, gradient=gradient)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) -> (B, c2, H, W)."""
        y = self.nam(self.cv2(self.cv1(x)))
        return x + y if self.add else y


class C3NAM(C3):
    """C3 with BottleneckNAM on its first path; a row's {gain: C, gain_out: 2, ...} are those of NAMAttention.

    C3's weights fit. With gain_out 2 it starts, to within a permille or so, as the C3 that it replaces; as published
    (gain_out 1) every bottleneck starts with half of what C3's would add.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
        *,
        gain: attention.Gain = 1.0,
        gain_out: float = 1.0,
        gradient: bool = False,
    ) -> None:
        super().__init__(c1, c2, 0, shortcut, g, e)
        hidden, nam = int(c2 * e), {"gain": gain, "gain_out": gain_out, "gradient": gradient}
        self.m = nn.Sequential(*(BottleneckNAM(hidden, hidden, shortcut, g, e=1.0, **nam) for _ in range(n)))


class C3TR(C3):
    """C3 with a transformer of n layers and 4 heads on its first path."""

    def inner(self, c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        """The transformer."""
        return TransformerBlock(c, c, 4, n)


class C3SPP(C3):
    """C3 with SPP on its first path, which is there once whatever n is."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: Sequence[int] = (5, 9, 13),
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
    ) -> None:
        self.k = k  # before the parts are made, for `inner`
        super().__init__(c1, c2, n, shortcut, g, e)

    def inner(self, c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        """The pyramid."""
        return SPP(c, c, self.k)


class C3Ghost(C3):
    """C3 with n ghost bottlenecks on its first path."""

    def inner(self, c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        """The ghost bottlenecks."""
        return nn.Sequential(*(GhostBottleneck(c, c) for _ in range(n)))


# Transformer ----------------------------------------------------------------------------------------------------------


class TransformerLayer(nn.Module):
    """Self-attention and two linear layers, each added to its input; without layer norms, which cost accuracy here."""

    def __init__(self, c: int, num_heads: int) -> None:
        super().__init__()
        self.q = nn.Linear(c, c, bias=False)
        self.k = nn.Linear(c, c, bias=False)
        self.v = nn.Linear(c, c, bias=False)
        self.ma = nn.MultiheadAttention(c, num_heads)
        self.fc1 = nn.Linear(c, c, bias=False)
        self.fc2 = nn.Linear(c, c, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, B, C) -> same."""
        x = x + self.ma(self.q(x), self.k(x), self.v(x), need_weights=False)[0]
        return x + self.fc2(self.fc1(x))


class TransformerBlock(nn.Module):
    """A map's cells as tokens through transformer layers (arXiv 2010.11929); their positions are a learned term."""

    def __init__(self, c1: int, c2: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.conv = Conv(c1, c2) if c1 != c2 else None
        self.linear = nn.Linear(c2, c2)
        self.tr = nn.Sequential(*(TransformerLayer(c2, num_heads) for _ in range(num_layers)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) -> (B, c2, H, W)."""
        if self.conv is not None:
            x = self.conv(x)
        tokens = x.flatten(2).permute(2, 0, 1)  # (N, B, c2)
        return self.tr(tokens + self.linear(tokens)).permute(1, 2, 0).reshape(x.shape)


# Pooling and reshaping ------------------------------------------------------------------------------------------------


class SPP(nn.Module):
    """The map beside its maxima over windows of several sizes k (spatial pyramid pooling, arXiv 1406.4729)."""

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (5, 9, 13)) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(hidden * (len(k) + 1), c2)
        self.m = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in k)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) -> (B, c2, H, W)."""
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))


class SPPF(nn.Module):
    """SPP of windows k, 2k - 1 and 3k - 2, by pooling three times in a row: the same numbers in less time."""

    def __init__(self, c1: int, c2: int, k: int = 5) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(hidden * 4, c2)
        self.m = nn.MaxPool2d(k, stride=1, padding=k // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) -> (B, c2, H, W)."""
        maps = [self.cv1(x)]
        for _ in range(3):
            maps.append(self.m(maps[-1]))
        return self.cv2(torch.cat(maps, 1))


class Contract(nn.Module):
    """Space to channels: (B, C, H, W) -> (B, C * g * g, H / g, W / g), a square's pixel before the channel."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """The smaller, deeper map; H and W must be multiples of the gain."""
        squares = x.unflatten(3, (-1, self.gain)).unflatten(2, (-1, self.gain))  # (B, C, H / g, g, W / g, g)
        return squares.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


class Expand(nn.Module):
    """Channels to space, what Contract does in reverse: (B, C, H, W) -> (B, C / g / g, H * g, W * g)."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """The larger, flatter map; C must be a multiple of the gain's square."""
        squares = x.unflatten(1, (self.gain, self.gain, -1))  # (B, g, g, C / g / g, H, W)
        return squares.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


class Concat(nn.Module):
    """Several tensors as one, along an axis: the channels where nothing else is said."""

    def __init__(self, dimension: int = 1) -> None:
        super().__init__()
        self.d = dimension

    def forward(self, x: list[Tensor]) -> Tensor:
        """The tensors, one behind the other."""
        return torch.cat(x, self.d)


class Classify(nn.Module):
    """Class logits (B, c2) of one map or several, averaged over their area; c1 counts the channels of all."""

    def __init__(self, c1: int, c2: int, k: Size = 1, s: Size = 1, p: Size | None = None, g: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, autopad(k, p), groups=g)

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        """The logits."""
        means = [F.adaptive_avg_pool2d(y, 1) for y in (x if isinstance(x, list) else [x])]
        return self.conv(torch.cat(means, 1)).flatten(1)


# NAM has a file of its own, and its name here as well; a class of this name that is pasted or imported here stays.
NAMAttention = globals().get("NAMAttention", attention.NAMAttention)


# Names of v6.1 --------------------------------------------------------------------------------------------------------


def __getattr__(name: str) -> object:
    """Import a further name of v6.1 when it is asked for; utils/v61 says where each is."""
    if name in {"__path__", "__all__"}:  # an import asks for the one; a star import takes this module's own names
        raise AttributeError(name)
    return import_module("utils.v61").find(__name__, name)
