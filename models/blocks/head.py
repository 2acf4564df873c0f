"""The detection head: decode the network's feature maps into boxes.

A head of another class, pasted from a recipe, works too; `is_head` lists what it needs. The functions at the end of the
file set up any head.

Shapes: B batch, H and W height and width of a feature map, L levels, A anchors per cell, N boxes of all levels, no = 5
+ nc outputs per box.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from utils.general import LOGGER


class Detect(nn.Module):
    """YOLOv5's head: a 1x1 convolution per level predicts a box, an objectness and class scores per cell and anchor.

    `anchors` are w, h, w, h, ... in pixels for each level. The buffer `anchors` (L, A, 2) holds them in cells after
    `set_strides`. If there are more inputs than levels, the first ones are used.

    `grid` and `anchor_grid` exist for v6.1's programs: per level the columns and rows of the cells, and the anchors in
    pixels, both (1, A, H, W, 2), of the size decoded last. `inplace` and `onnx_dynamic` exist because such programs set
    them. Decoding uses none of the four.
    """

    stride: Tensor  # (L,) pixels of a cell
    anchors: Tensor  # (L, A, 2) width and height in cells
    onnx_dynamic = False
    export = False  # give the decoded boxes alone, as a tuple of one
    _kept: tuple[object, tuple[Tensor, Tensor]] | None = None  # see _cells; of the class, for heads that v6.1 pickled

    def __init__(self, nc: int, anchors: Sequence[Sequence[float]], ch: Sequence[int], inplace: bool = True) -> None:
        super().__init__()
        self.inplace = inplace
        if len(ch) < len(anchors):
            raise ValueError(f"Detect reads {len(ch)} rows, but the anchors have {len(anchors)} levels")
        self.nc, self.no = nc, nc + 5
        self.nl, self.na = len(anchors), len(anchors[0]) // 2
        # Made on the CPU in any case, as numbers are needed of it even where the weights have none (the meta device).
        pixels = torch.tensor(anchors, dtype=torch.float32, device="cpu").view(self.nl, self.na, 2)
        self.register_buffer("anchors", pixels)
        self.register_buffer("stride", torch.ones(self.nl, device="cpu"), persistent=False)
        self.m = nn.ModuleList(nn.Conv2d(c, self.no * self.na, 1) for c in ch[: self.nl])
        self.grid = [torch.zeros(1, device="cpu")] * self.nl
        self.anchor_grid = [torch.zeros(1, device="cpu")] * self.nl

    def forward(self, x: list[Tensor]) -> list[Tensor] | tuple[Tensor, list[Tensor]] | tuple[Tensor]:
        """Return L raw maps (B, A, H, W, no); in evaluation mode the decoded boxes (B, N, no) before them.

        Decoded boxes are xywh in pixels, objectness and class scores in 0..1, ordered by level, anchor, row, column.
        """
        raw = []
        for conv, features in zip(self.m, x, strict=False):
            y = conv(features)  # (B, A * no, H, W)
            b, _, ny, nx = y.shape
            raw.append(y.view(b, self.na, self.no, ny, nx).permute(0, 1, 3, 4, 2))
        if self.training:
            return raw
        return (self.decode(raw),) if self.export else (self.decode(raw), raw)

    def decode(self, raw: list[Tensor]) -> Tensor:
        """Decode raw maps into boxes (B, N, no).

        FP16 and bf16 maps are decoded in FP32: above 256 pixels bf16 represents even coordinates only, above 2048 FP16
        does. Squares are multiplications, as some runtimes lack a power operator.
        """
        y = torch.cat([level.flatten(1, 3) for level in raw], 1)  # (B, N, no)
        y = (y.float() if y.dtype in (torch.float16, torch.bfloat16) else y).sigmoid()
        sizes = [(level.shape[2], level.shape[3]) for level in raw]
        cells, strides = self._cells(sizes, y)  # (N, 2), (N, 1)
        anchors = torch.cat(  # (N, 2), in cells; not kept, as a training may change them
            [
                level[:, None].expand(-1, ny * nx, -1).flatten(0, 1)
                for level, (ny, nx) in zip(self.anchors.to(y.dtype), sizes, strict=True)
            ]
        )
        xy = (y[..., :2] * 2 + cells) * strides
        wh = y[..., 2:4] * 2
        return torch.cat((xy, wh * wh * (anchors * strides), y[..., 4:]), -1)

    def _cells(self, sizes: list[tuple[int, int]], y: Tensor) -> tuple[Tensor, Tensor]:
        """Return column and row of each box's cell minus 0.5 (N, 2) and its stride (N, 1); cached for one size."""
        if type(y) is not Tensor or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return self._make_cells(sizes, y)  # what is traced must follow the size
        key = (sizes, y.device, y.dtype)
        if self._kept is None or self._kept[0] != key:
            with torch.inference_mode(False):  # or they could not serve a later call that wants gradients
                self._kept = key, self._make_cells(sizes, y)
                self._show_grids(sizes, self._kept[1][0])
        return self._kept[1]

    def _show_grids(self, sizes: list[tuple[int, int]], cells: Tensor) -> None:
        """Set `grid` and `anchor_grid`, unless a v6.1 program has replaced one by a buffer."""
        shapes = [(1, self.na, ny, nx, 2) for ny, nx in sizes]
        if isinstance(self.__dict__.get("grid"), list):
            levels = cells.split([self.na * ny * nx for ny, nx in sizes])
            self.grid = [level.view(shape) + 0.5 for level, shape in zip(levels, shapes, strict=True)]
        if isinstance(self.__dict__.get("anchor_grid"), list):
            pixels = (self.anchors.detach() * self.stride[:, None, None]).view(-1, 1, self.na, 1, 1, 2)
            self.anchor_grid = [level.expand(shape) for level, shape in zip(pixels, shapes, strict=True)]

    def _make_cells(self, sizes: list[tuple[int, int]], y: Tensor) -> tuple[Tensor, Tensor]:
        cells, strides = [], []
        for level, (ny, nx) in enumerate(sizes):
            rows, columns = (torch.arange(n, device=y.device, dtype=y.dtype) - 0.5 for n in (ny, nx))
            grid = torch.stack((columns.expand(ny, nx), rows[:, None].expand(ny, nx)), -1)  # (H, W, 2)
            cells.append(grid.expand(self.na, ny, nx, 2).flatten(0, 2))
            strides.append(self.stride[level].to(y.dtype).expand(self.na * ny * nx, 1))
        return torch.cat(cells), torch.cat(strides)


# Any head -------------------------------------------------------------------------------------------------------------

PARTS = ("nl", "na", "nc", "no", "anchors", "m")  # of a head, as in v6.1: numbers, the anchors (L, A, 2), L modules


def is_head(layer: nn.Module) -> bool:
    """Return True if a layer is a detection head: a Detect, or a module with a Detect's attributes."""
    return isinstance(layer, Detect) or all(hasattr(layer, name) for name in PARTS)


def has_placeholder_anchors(head: nn.Module) -> bool:
    """Return True if the yaml gives only the number of anchors and none have been set yet."""
    return bool((head.anchors == 0).any())


def set_strides(head: nn.Module, strides: Sequence[float]) -> None:
    """Set the stride of each level in pixels; sort the anchors to match and convert them from pixels to cells."""
    stride, device = torch.tensor(strides, dtype=torch.float32, device="cpu"), head.anchors.device
    device = next((parameter.device for parameter in head.parameters()), device)
    head.anchors = (in_order(head.anchors.cpu(), stride) / stride[:, None, None]).to(device)
    head.stride = stride.to(device)
    if isinstance(head, Detect):
        head._kept = None


def set_anchors(head: nn.Module, anchors: Sequence[Sequence[float]]) -> list[list[float]]:
    """Set the anchors, w, h, w, h, ... in pixels for each level; return them in the order of the strides."""
    pixels = torch.tensor(anchors, dtype=torch.float32, device="cpu").view(head.nl, head.na, 2)
    stride = head.stride.cpu()
    pixels = in_order(pixels, stride)
    head.anchors = (pixels / stride[:, None, None]).to(head.anchors)
    return pixels.flatten(1).tolist()


def in_fp32(head: nn.Module, maps: list[Tensor]) -> object:
    """Run a head of another class without autocast: above 256 pixels bf16 represents even coordinates only."""
    kind = maps[0].device.type
    if not torch.is_autocast_enabled(kind):
        return head(maps)
    with torch.autocast(kind, enabled=False):
        return head([level.float() for level in maps])


@torch.no_grad()
def initialize_biases(head: nn.Module, strides: Sequence[float]) -> None:
    """Initialize the biases to priors: 8 objects per image of 640 pixels, 0.6 / nc for each class.

    A level without a convolution to A * no outputs, as in a decoupled head, keeps its biases.
    """
    for level, stride in zip(head.m, strides, strict=False):
        bias = getattr(level, "bias", None)
        if not isinstance(bias, Tensor) or bias.numel() != head.na * head.no:
            continue
        bias = bias.view(head.na, head.no)
        bias[:, 4] += math.log(8 / (640 / stride) ** 2)
        bias[:, 5:] += math.log(0.6 / (head.nc - 0.999999))


def in_order(anchors: Tensor, stride: Tensor) -> Tensor:
    """Reverse the levels of anchors (L, A, 2) in pixels if their areas run against the strides (L,)."""
    area = anchors.prod(-1).mean(-1)  # (L,) square pixels
    if (area[-1] - area[0]) * (stride[-1] - stride[0]) < 0:
        LOGGER.warning("anchors: their levels are in the reverse order of the strides, and are turned round")
        return anchors.flip(0)
    return anchors
