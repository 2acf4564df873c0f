"""Blocks as recipes of v6.1 have them, in a file of the reader's own: copied to models/mine.py of a patched copy."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from models.common import C3, Bottleneck, Conv, autopad
from models.experimental import MixConv2d


class SE(nn.Module):
    def __init__(self, c1, c2, ratio=16):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.l1 = nn.Linear(c1, max(c1 // ratio, 1), bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.l2 = nn.Linear(max(c1 // ratio, 1), c1, bias=False)
        self.sig = nn.Sigmoid()

    def forward(self, x):
        b, c, _, _ = x.size()
        y = self.avgpool(x).view(b, c)
        y = self.sig(self.l2(self.relu(self.l1(y)))).view(b, c, 1, 1)
        return x * y.expand_as(x)


class MixBlock(MixConv2d):  # of models/experimental.py, which imports models/yolo.py
    pass


class h_sigmoid(nn.Module):
    def __init__(self, inplace=True):
        super().__init__()
        self.relu = nn.ReLU6(inplace=inplace)

    def forward(self, x):
        return self.relu(x + 3) / 6


class CoordAtt(nn.Module):
    def __init__(self, inp, oup, reduction=32):
        super().__init__()
        self.pool_h = nn.AdaptiveAvgPool2d((None, 1))
        self.pool_w = nn.AdaptiveAvgPool2d((1, None))
        mip = max(8, inp // reduction)
        self.conv1 = nn.Conv2d(inp, mip, 1)
        self.bn1 = nn.BatchNorm2d(mip)
        self.act = h_sigmoid()
        self.conv_h = nn.Conv2d(mip, oup, 1)
        self.conv_w = nn.Conv2d(mip, oup, 1)

    def forward(self, x):
        _, _, h, w = x.size()
        y = torch.cat([self.pool_h(x), self.pool_w(x).permute(0, 1, 3, 2)], dim=2)
        x_h, x_w = torch.split(self.act(self.bn1(self.conv1(y))), [h, w], dim=2)
        return x * self.conv_h(x_h).sigmoid() * self.conv_w(x_w.permute(0, 1, 3, 2)).sigmoid()


class SEBottleneck(Bottleneck):
    def __init__(self, c1, c2, shortcut=True, g=1, e=0.5):
        super().__init__(c1, c2, shortcut, g, e)
        self.se = SE(c2, c2, 4)

    def forward(self, x):
        return x + self.se(self.cv2(self.cv1(x))) if self.add else self.se(self.cv2(self.cv1(x)))


class C3SE(C3):
    def __init__(self, c1, c2, n=1, shortcut=True, g=1, e=0.5):
        super().__init__(c1, c2, n, shortcut, g, e)
        c_ = int(c2 * e)
        self.m = nn.Sequential(*(SEBottleneck(c_, c_, shortcut, g, e=1.0) for _ in range(n)))


class BiFPN_Add2(nn.Module):
    def __init__(self, c1, c2):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, dtype=torch.float32), requires_grad=True)
        self.epsilon = 0.0001
        self.conv = nn.Conv2d(c1, c2, kernel_size=1)
        self.silu = nn.SiLU()

    def forward(self, x):
        weight = self.w / (torch.sum(self.w, dim=0) + self.epsilon)
        return self.conv(self.silu(weight[0] * x[0] + weight[1] * x[1]))


class BiFPN_Concat2(nn.Module):
    def __init__(self, dimension=1):
        super().__init__()
        self.d = dimension
        self.w = nn.Parameter(torch.ones(2, dtype=torch.float32), requires_grad=True)

    def forward(self, x):
        weight = self.w / (torch.sum(self.w, dim=0) + 1e-4)
        return torch.cat([weight[0] * x[0], weight[1] * x[1]], self.d)


class ASFF(nn.Module):
    """Three levels at the size and width of one."""

    def __init__(self, level, channels):
        super().__init__()
        self.level, self.c2 = level, Conv(channels[level], channels[level], 3)  # c2: a name that is ours elsewhere
        self.expand = nn.ModuleList(Conv(c, channels[level], 1) for c in channels)
        self.weights = nn.Conv2d(3 * channels[level], 3, 1)

    def forward(self, x):
        size = x[self.level].shape[2:]
        maps = [F.interpolate(conv(y), size=size) for conv, y in zip(self.expand, x, strict=True)]
        weights = self.weights(torch.cat(maps, 1)).softmax(1)
        return self.c2(sum(weights[:, i : i + 1] * y for i, y in enumerate(maps)))


class conv_bn_hswish(nn.Module):
    def __init__(self, c1, c2, stride):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.Hardswish()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def fuseforward(self, x):
        return self.act(self.conv(x))


class MobileNet_Block(nn.Module):
    def __init__(self, inp, oup, hidden_dim, kernel_size, stride, use_se, use_hs):
        super().__init__()
        assert stride in [1, 2]
        self.identity = stride == 1 and inp == oup
        act = nn.Hardswish if use_hs else nn.ReLU
        self.conv = nn.Sequential(
            nn.Conv2d(inp, hidden_dim, 1, bias=False),
            nn.BatchNorm2d(hidden_dim),
            act(),
            nn.Conv2d(
                hidden_dim, hidden_dim, kernel_size, stride, (kernel_size - 1) // 2, groups=hidden_dim, bias=False
            ),
            nn.BatchNorm2d(hidden_dim),
            SE(hidden_dim, hidden_dim, 4) if use_se else nn.Sequential(),
            act(),
            nn.Conv2d(hidden_dim, oup, 1, bias=False),
            nn.BatchNorm2d(oup),
        )

    def forward(self, x):
        return x + self.conv(x) if self.identity else self.conv(x)


def channel_shuffle(x, groups):
    b, c, h, w = x.size()
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)


class Shuffle_Block(nn.Module):
    def __init__(self, inp, oup, stride):
        super().__init__()
        self.stride, half = stride, oup // 2
        assert (self.stride != 1) or (inp == half << 1)
        if stride > 1:
            self.branch1 = nn.Sequential(Conv(inp, inp, 3, stride, g=inp, act=False), Conv(inp, half, 1))
        self.branch2 = nn.Sequential(
            Conv(inp if stride > 1 else half, half, 1), Conv(half, half, 3, stride, g=half, act=False), Conv(half, half)
        )

    def forward(self, x):
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            return channel_shuffle(torch.cat((x1, self.branch2(x2)), dim=1), 2)
        return channel_shuffle(torch.cat((self.branch1(x), self.branch2(x)), dim=1), 2)


class RepVGGBlock(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size=3, stride=1, padding=1, deploy=False):
        super().__init__()
        self.nonlinearity = nn.SiLU()
        self.rbr_identity = nn.BatchNorm2d(in_channels) if out_channels == in_channels and stride == 1 else None
        self.rbr_dense = Conv(in_channels, out_channels, kernel_size, stride, padding, act=False)
        self.rbr_1x1 = Conv(in_channels, out_channels, 1, stride, 0, act=False)

    def forward(self, inputs):
        id_out = 0 if self.rbr_identity is None else self.rbr_identity(inputs)
        return self.nonlinearity(self.rbr_dense(inputs) + self.rbr_1x1(inputs) + id_out)


class WindowAttention(nn.Module):
    def __init__(self, dim, window_size, num_heads, drop_path):
        super().__init__()
        self.window_size, self.num_heads, self.drop_path = window_size, num_heads, drop_path
        self.norm = nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)

    def forward(self, x):
        b, c, h, w = x.shape
        s = self.window_size
        x = F.pad(x, (0, (s - w % s) % s, 0, (s - h % s) % s))
        hp, wp = x.shape[2:]
        windows = x.view(b, c, hp // s, s, wp // s, s).permute(0, 2, 4, 3, 5, 1).reshape(-1, s * s, c)
        q, k, v = (
            self.qkv(self.norm(windows)).view(-1, s * s, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        )
        y = ((q @ k.transpose(-2, -1)) / math.sqrt(c // self.num_heads)).softmax(-1) @ v
        y = self.proj(y.transpose(1, 2).reshape(-1, s * s, c)) + windows
        y = y.view(b, hp // s, wp // s, s, s, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, hp, wp)
        return y[:, :, :h, :w]


class C3STR(C3):
    def __init__(self, c1, c2, n=1, shortcut=True, g=1, e=0.5):
        super().__init__(c1, c2, n, shortcut, g, e)
        c_ = int(c2 * e)
        rates = [x.item() for x in torch.linspace(0, 0.1, n)]  # numbers are read while it is made
        self.m = nn.Sequential(*(WindowAttention(c_, 4, 2, rate) for rate in rates))


class Backbone(nn.Module):
    """One class for a whole backbone: a list of three maps."""

    def __init__(self, c1, widths):
        super().__init__()
        a, b, c = widths
        self.stem = nn.Sequential(Conv(c1, 8, 3, 2), Conv(8, 16, 3, 2))
        self.stages = nn.ModuleList((Conv(16, a, 3, 2), Conv(a, b, 3, 2), Conv(b, c, 3, 2)))

    def forward(self, x):
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Pick(nn.Module):
    def __init__(self, i):
        super().__init__()
        self.i_ = i

    def forward(self, x):
        return x[self.i_]


class Act(nn.Module):
    def __init__(self, act, kind="plain"):
        super().__init__()
        self.act, self.kind = act() if isinstance(act, type) else act, kind

    def forward(self, x):
        return self.act(x)


class DecoupledHead(nn.Module):
    def __init__(self, ch, nc, na):
        super().__init__()
        self.nc, self.na = nc, na
        self.merge = Conv(ch, 16, 1, 1)
        self.cls_convs, self.reg_convs = Conv(16, 16, 3), Conv(16, 16, 3)
        self.cls_preds = nn.Conv2d(16, nc * na, 1)
        self.reg_preds = nn.Conv2d(16, 4 * na, 1)
        self.obj_preds = nn.Conv2d(16, na, 1)

    def forward(self, x):
        x = self.merge(x)
        cls, reg = self.cls_preds(self.cls_convs(x)), self.reg_convs(x)
        b, _, ny, nx = x.shape
        parts = [y.view(b, self.na, -1, ny, nx) for y in (self.reg_preds(reg), self.obj_preds(reg), cls)]
        return torch.cat(parts, 2).flatten(1, 2)


class Decoupled_Detect(nn.Module):
    """v6.1's Detect as readers copy it, with other modules in m."""

    stride = None
    onnx_dynamic = False

    def __init__(self, nc=80, anchors=(), ch=(), inplace=True):
        super().__init__()
        self.nc = nc
        self.no = nc + 5
        self.nl = len(anchors)
        self.na = len(anchors[0]) // 2
        self.grid = [torch.zeros(1)] * self.nl
        self.anchor_grid = [torch.zeros(1)] * self.nl
        self.register_buffer("anchors", torch.tensor(anchors).float().view(self.nl, -1, 2))
        self.m = nn.ModuleList(DecoupledHead(x, nc, self.na) for x in ch)
        self.inplace = inplace

    def forward(self, x):
        z = []
        for i in range(self.nl):
            x[i] = self.m[i](x[i])
            bs, _, ny, nx = x[i].shape
            x[i] = x[i].view(bs, self.na, self.no, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
            if not self.training:
                if self.onnx_dynamic or self.grid[i].shape[2:4] != x[i].shape[2:4]:
                    self.grid[i], self.anchor_grid[i] = self._make_grid(nx, ny, i)
                y = x[i].sigmoid()
                xy = (y[..., 0:2] * 2 - 0.5 + self.grid[i]) * self.stride[i]
                wh = (y[..., 2:4] * 2) ** 2 * self.anchor_grid[i]
                z.append(torch.cat((xy, wh, y[..., 4:]), -1).view(bs, -1, self.no))
        return x if self.training else (torch.cat(z, 1), x)

    def _make_grid(self, nx=20, ny=20, i=0):
        d = self.anchors[i].device
        yv, xv = torch.meshgrid([torch.arange(ny).to(d), torch.arange(nx).to(d)], indexing="ij")
        grid = torch.stack((xv, yv), 2).expand((1, self.na, ny, nx, 2)).float()
        anchor_grid = (self.anchors[i].clone() * self.stride[i]).view((1, self.na, 1, 1, 2))
        return grid, anchor_grid.expand((1, self.na, ny, nx, 2)).float()


class SPPCSPC(nn.Module):
    """A neck block that recipes add to the list; of its arguments the third is n."""

    def __init__(self, c1, c2, n=1, shortcut=False, g=1, e=0.5, k=(5, 9)):
        super().__init__()
        c_ = int(2 * c2 * e)
        self.cv1, self.cv2, self.cv3 = Conv(c1, c_, 1), Conv(c1, c_, 1), Conv(c_ * (1 + len(k)), c_, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(kernel_size=x, stride=1, padding=autopad(x)) for x in k)
        self.cv4 = Conv(2 * c_, c2, 1)

    def forward(self, x):
        y = self.cv1(x)
        return self.cv4(torch.cat((self.cv3(torch.cat([y] + [m(y) for m in self.m], 1)), self.cv2(x)), 1))
