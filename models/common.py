"""Blocks for model yamls. A row finds each class of this file by its name.

Paste a class of your own anywhere below the imports. It replaces ours of the same name.

Layer names and their order are those of YOLOv5 v6.1, so its weights load. `initialize_weights` sets eps and momentum of
batch norms and the activations' in-place flag for the whole model. `parse_model` in models/yolo.py turns a row's
arguments into a block's. NAM is in models/blocks/nam.py, rarely used blocks are in models/blocks/rare.py.

Shapes: B batch, C channels, H and W height and width of a feature map, N tokens (H * W). Arguments: c1 and c2 input and
output channels, k kernel size, s stride, p padding, g groups (gain in Contract and Expand), e expansion (hidden
channels / c2), n repeats.
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

from models.blocks import nam
from utils.general import LOGGER, make_divisible  # noqa: F401

Size = int | Sequence[int]  # one for both axes, or height and width
Act = bool | nn.Module | None


def autopad(k: Size, p: Size | None = None) -> Size:
    """Return p, or the padding that keeps height and width at stride 1 if p is None."""
    if p is not None:
        return p
    return k // 2 if isinstance(k, int) else [size // 2 for size in k]


# Convolutions ---------------------------------------------------------------------------------------------------------


class Conv(nn.Module):
    """Convolution, batch norm and activation. act: True for SiLU, False for none, or a module."""

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
        """Map (B, c1, H, W) to (B, c2, H / s, W / s)."""
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x: Tensor) -> Tensor:
        """Skip the batch norm, which is folded into the convolution. v6.1's programs assign this to `forward`."""
        return self.act(self.conv(x))


class DWConv(Conv):
    """Depthwise Conv: gcd(c1, c2) groups."""

    def __init__(self, c1: int, c2: int, k: Size = 1, s: Size = 1, act: Act = True) -> None:
        super().__init__(c1, c2, k, s, g=math.gcd(c1, c2), act=act)


class Focus(nn.Module):
    """Space to depth by 2, then Conv: (B, c1, H, W) to (B, c2, H / 2, W / 2)."""

    def __init__(
        self, c1: int, c2: int, k: Size = 1, s: Size = 1, p: Size | None = None, g: int = 1, act: Act = True
    ) -> None:
        super().__init__()
        self.conv = Conv(4 * c1, c2, k, s, p, g, act)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H / 2, W / 2); H and W must be even."""
        phases = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(phases, 1))  # (B, 4 * c1, H / 2, W / 2) inside


class GhostConv(nn.Module):
    """Half of the channels by Conv, the other half by a depthwise Conv of those (arXiv 1911.11907)."""

    def __init__(self, c1: int, c2: int, k: Size = 1, s: Size = 1, g: int = 1, act: Act = True) -> None:
        super().__init__()
        half = c2 // 2
        self.cv1 = Conv(c1, half, k, s, g=g, act=act)
        self.cv2 = Conv(half, half, 5, 1, g=half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H / s, W / s)."""
        primary = self.cv1(x)
        return torch.cat((primary, self.cv2(primary)), 1)


# Bottlenecks ----------------------------------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    """1x1 Conv to e * c2 channels, 3x3 Conv to c2; a residual connection if `shortcut` is set and c1 equals c2."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, 1)
        self.cv2 = Conv(hidden, c2, 3, g=g)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H, W)."""
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class GhostBottleneck(nn.Module):
    """Two GhostConvs, a depthwise Conv between them at stride 2, and a shortcut (arXiv 1911.11907)."""

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
        """Map (B, c1, H, W) to (B, c2, H / s, W / s)."""
        return self.conv(x) + self.shortcut(x)


class BottleneckCSP(nn.Module):
    """CSP bottleneck: n bottlenecks on one branch, a convolution on the other, one batch norm over both.

    Source: CSPNet, arXiv 1911.11929.
    """

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
        """Map (B, c1, H, W) to (B, c2, H, W)."""
        paths = torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), 1)  # (B, 2 * hidden, H, W)
        return self.cv4(self.act(self.bn(paths)))


class C3(nn.Module):
    """CSP bottleneck with three convolutions: n bottlenecks on one branch, none on the other."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(c1, hidden)
        self.cv3 = Conv(2 * hidden, c2)
        self.m = self.inner(hidden, n, shortcut, g)

    def inner(self, c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        """Build the first branch, c channels in and out. Variants of C3 override this alone."""
        return nn.Sequential(*(Bottleneck(c, c, shortcut, g, e=1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H, W)."""
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class BottleneckNAM(Bottleneck):
    """Bottleneck with NAM on its second convolution, before the residual connection."""

    def __init__(
        self,
        c1: int,
        c2: int,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
        *,
        gain: nam.Gain = 1.0,
        gain_out: float = 1.0,
        gradient: bool = False,
    ) -> None:
        super().__init__(c1, c2, shortcut, g, e)
        self.nam = nam.NAMAttention(c2, gain=gain, gain_out=gain_out, gradient=gradient)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H, W)."""
        y = self.nam(self.cv2(self.cv1(x)))
        return x + y if self.add else y


class C3NAM(C3):
    """C3 of BottleneckNAM. The keywords of a row, as {gain: C, gain_out: 2}, are NAMAttention's.

    C3's weights load. With gain_out 2 the output starts within about 0.1 % of C3's. With the published gain_out 1 each
    bottleneck starts by adding half of what C3's adds.
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
        gain: nam.Gain = 1.0,
        gain_out: float = 1.0,
        gradient: bool = False,
    ) -> None:
        super().__init__(c1, c2, 0, shortcut, g, e)
        hidden, nam = int(c2 * e), {"gain": gain, "gain_out": gain_out, "gradient": gradient}
        self.m = nn.Sequential(*(BottleneckNAM(hidden, hidden, shortcut, g, e=1.0, **nam) for _ in range(n)))


class C3TR(C3):
    """C3 with a transformer of n layers and 4 heads on its first branch."""

    def inner(self, c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        """Build the transformer."""
        return TransformerBlock(c, c, 4, n)


class C3SPP(C3):
    """C3 with one SPP on its first branch; n is ignored, as in v6.1."""

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
        """Build the SPP."""
        return SPP(c, c, self.k)


class C3Ghost(C3):
    """C3 with n ghost bottlenecks on its first branch."""

    def inner(self, c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        """Build the ghost bottlenecks."""
        return nn.Sequential(*(GhostBottleneck(c, c) for _ in range(n)))


# Transformer ----------------------------------------------------------------------------------------------------------


class TransformerLayer(nn.Module):
    """Self-attention and a two-layer MLP, each with a residual connection, without layer norms."""

    def __init__(self, c: int, num_heads: int) -> None:
        super().__init__()
        self.q = nn.Linear(c, c, bias=False)
        self.k = nn.Linear(c, c, bias=False)
        self.v = nn.Linear(c, c, bias=False)
        self.ma = nn.MultiheadAttention(c, num_heads)
        self.fc1 = nn.Linear(c, c, bias=False)
        self.fc2 = nn.Linear(c, c, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, B, C) to the same shape."""
        x = x + self.ma(self.q(x), self.k(x), self.v(x), need_weights=False)[0]
        return x + self.fc2(self.fc1(x))


class TransformerBlock(nn.Module):
    """Vision transformer block: pixels as tokens, with a learned position term (arXiv 2010.11929)."""

    def __init__(self, c1: int, c2: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.conv = Conv(c1, c2) if c1 != c2 else None
        self.linear = nn.Linear(c2, c2)
        self.tr = nn.Sequential(*(TransformerLayer(c2, num_heads) for _ in range(num_layers)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H, W)."""
        if self.conv is not None:
            x = self.conv(x)
        tokens = x.flatten(2).permute(2, 0, 1)  # (N, B, c2)
        return self.tr(tokens + self.linear(tokens)).permute(1, 2, 0).reshape(x.shape)


# Pooling and reshaping ------------------------------------------------------------------------------------------------


class SPP(nn.Module):
    """Spatial pyramid pooling: max pooling with windows of several sizes k, concatenated (arXiv 1406.4729)."""

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (5, 9, 13)) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(hidden * (len(k) + 1), c2)
        self.m = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in k)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H, W)."""
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))


class SPPF(nn.Module):
    """SPP with windows k, 2k - 1 and 3k - 2 as three poolings in sequence: equal output, less time."""

    def __init__(self, c1: int, c2: int, k: int = 5) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(hidden * 4, c2)
        self.m = nn.MaxPool2d(k, stride=1, padding=k // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c1, H, W) to (B, c2, H, W)."""
        maps = [self.cv1(x)]
        for _ in range(3):
            maps.append(self.m(maps[-1]))
        return self.cv2(torch.cat(maps, 1))


class Contract(nn.Module):
    """Space to depth: (B, C, H, W) to (B, C * g * g, H / g, W / g), pixel index before channel index."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Rearrange x; H and W must be multiples of the gain."""
        squares = x.unflatten(3, (-1, self.gain)).unflatten(2, (-1, self.gain))  # (B, C, H / g, g, W / g, g)
        return squares.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


class Expand(nn.Module):
    """Depth to space, the inverse of Contract: (B, C, H, W) to (B, C / g / g, H * g, W * g)."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Rearrange x; C must be a multiple of the squared gain."""
        squares = x.unflatten(1, (self.gain, self.gain, -1))  # (B, g, g, C / g / g, H, W)
        return squares.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


class Concat(nn.Module):
    """Concatenate a list of tensors along an axis, by default the channels."""

    def __init__(self, dimension: int = 1) -> None:
        super().__init__()
        self.d = dimension

    def forward(self, x: list[Tensor]) -> Tensor:
        """Concatenate the tensors of x."""
        return torch.cat(x, self.d)


class Classify(nn.Module):
    """Classification head: global average pooling and a convolution to class logits (B, c2).

    c1 is the number of channels of all inputs together.
    """

    def __init__(self, c1: int, c2: int, k: Size = 1, s: Size = 1, p: Size | None = None, g: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, autopad(k, p), groups=g)

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        """Compute logits (B, c2) from one feature map or a list of them."""
        means = [F.adaptive_avg_pool2d(y, 1) for y in (x if isinstance(x, list) else [x])]
        return self.conv(torch.cat(means, 1)).flatten(1)


# NAM has a file of its own, and its name here as well; a class of this name that is pasted or imported here stays.
NAMAttention = globals().get("NAMAttention", nam.NAMAttention)


# Names of v6.1 --------------------------------------------------------------------------------------------------------


def __getattr__(name: str) -> object:
    """Import a v6.1 name on first access; utils/v61 lists where each is."""
    if name in {"__path__", "__all__"}:  # an import asks for the one; a star import takes this module's own names
        raise AttributeError(name)
    return import_module("utils.v61").find(__name__, name)
