"""The training loss: which cell and anchor answer for a labelled box, and what their answers cost.

All is computed in FP32, whatever type the network's maps have, without making the host wait for a GPU, and the same on
every run: where several boxes want one cell's objectness, the order of the matches decides, not that of the threads.

Legend: B images, L levels, A anchors of a level, T targets, M matches, H and W cells of a level's map, N cells of all.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from utils.data.config import Hyp
from utils.dist import SINGLE, DistEnv
from utils.ops.iou import bbox_iou

Bce = Callable[[Tensor, Tensor], Tensor]

BALANCE = {3: (4.0, 1.0, 0.4)}  # weights of the levels' objectness, finest first
BALANCE_OTHERWISE = (4.0, 1.0, 0.25, 0.06, 0.02)
GAINS = ("box", "obj", "cls", "obj_pw", "cls_pw", "fl_gamma", "anchor_t")  # of a model's `hyp`
BALANCED_STRIDE = 16  # the level whose weight autobalance keeps at one


class Head(Protocol):
    """What the loss needs of a detection head."""

    nc: int
    na: int
    nl: int
    stride: Tensor  # (L,) pixels of a cell
    anchors: Tensor  # (L, A, 2) width and height in cells


class Matches(NamedTuple):
    """Pairs of a target and a cell's anchor, ordered by level, then cell (own, left, up, right, down), anchor, target.

    Padded ones name every combination; what is no match has weight 0.
    """

    level: Tensor  # (M,)
    image: Tensor  # (M,)
    anchor: Tensor  # (M,)
    cell: Tensor  # (M, 2) column and row
    boxes: Tensor  # (M, 4) centre from the cell's corner, width and height, in cells
    classes: Tensor  # (M,)
    weight: Tensor  # (M,) one through the matches of the level, or 0
    rows: list[int]  # L, how many rows are of each level


# Parts ----------------------------------------------------------------------------------------------------------------


def smooth_BCE(eps: float = 0.1) -> tuple[float, float]:
    """The class targets (positive, negative) of label smoothing (arXiv 1902.04103, eq. 3)."""
    return 1 - 0.5 * eps, 0.5 * eps


@dataclass(frozen=True)
class BCELoss:
    """Binary cross-entropy of each logit, positives weighted by pos_weight."""

    pos_weight: float = 1.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses of the inputs' shape, not reduced."""
        weight = None if self.pos_weight == 1 else torch.full((), self.pos_weight, device=logits.device)
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")


@dataclass(frozen=True)
class FocalLoss:
    """A loss of logits that counts less where the answer is right already (arXiv 1708.02002); targets may be soft."""

    loss: Bce
    gamma: float = 1.5
    alpha: float = 0.25

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses of the inputs' shape, not reduced."""
        probability = logits.sigmoid()
        wrong = targets + probability - 2 * targets * probability  # one less the probability of the truth
        balance = targets * self.alpha + (1 - targets) * (1 - self.alpha)
        return (
            self.loss(logits, targets) * balance * wrong.clamp(min=1e-7) ** self.gamma
        )  # 0 has no slope below gamma 1


# Assignment -----------------------------------------------------------------------------------------------------------


def build_targets(
    targets: Tensor,
    anchors: Tensor,
    sizes: Sequence[tuple[int, int]],
    anchor_t: float,
    pad: bool = False,
    ranks: DistEnv = SINGLE,
) -> Matches:
    """The matches of targets (T, 6), image, class, cxcywh 0..1, with anchors (L, A, 2) on maps of sizes (W, H).

    A target matches an anchor where neither side is anchor_t times the other's or more. The cell that its centre lies
    in answers, and the neighbours that are nearer than half a cell, one to the side and one above or below. `pad` is
    for GPUs: the number of matches is not asked for, and rows without one stay, with weight 0. On a CPU, where asking
    costs nothing, only the matches are worked on, which is a quarter of the rows. A match weighs its share of all that
    the processes have.
    """
    grid = torch.tensor(sizes, dtype=torch.int64).to(targets.device, non_blocking=True)[:, None]  # (L, 1, 2)
    xy, wh = targets[:, 2:4] * grid, targets[:, 4:6] * grid  # (L, T, 2)
    ratio = wh[:, None] / anchors[:, :, None]  # (L, A, T, 2)
    fits = torch.maximum(ratio, 1 / ratio).amax(-1) < anchor_t  # (L, A, T)
    from_end = grid - xy
    low, high = (xy % 1 < 0.5) & (xy > 1), (from_end % 1 < 0.5) & (from_end > 1)  # (L, T, 2)
    near = torch.cat((torch.ones_like(low[..., :1]), low, high), -1)  # (L, T, 5)
    valid = near.movedim(-1, 1)[:, :, None] & fits[:, None]  # (L, 5, A, T)
    eye = torch.eye(2, dtype=xy.dtype, device=xy.device)
    step = torch.cat((torch.zeros_like(eye[:1]), -eye, eye)) / 2  # (5, 2)
    cells = (xy[:, None] + step[:, None]).long()  # (L, 5, T, 2)
    cells = torch.minimum(cells.clamp(min=0), grid[:, None] - 1)

    if pad:
        axes = [torch.arange(n, device=targets.device) for n in valid.shape]
        level, place, anchor, target = (axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij"))
        rows = [valid[0].numel()] * len(sizes)
    else:
        level, place, anchor, target = valid.nonzero(as_tuple=True)
        rows = valid.sum((1, 2, 3)).tolist()
    cell = cells[level, place, target]
    share = valid / ranks.sum_(valid.sum((1, 2, 3), keepdim=True)).clamp(min=1)
    return Matches(
        level=level,
        image=targets[target, 0].long(),
        anchor=anchor,
        cell=cell,
        boxes=torch.cat((xy[level, target] - cell, wh[level, target]), -1),
        classes=targets[target, 1].long(),
        weight=share[level, place, anchor, target],
        rows=rows,
    )


def v61_settings(model: nn.Module) -> tuple[Head, SimpleNamespace, float]:
    """The head of a model, the gains in its dictionary `hyp`, and the label smoothing there, 0 where none is.

    ValueError if a gain is missing.
    """
    model = model.module if hasattr(model, "module") else model
    model = model.model if hasattr(model, "pt") else model  # a DetectMultiBackend
    hyp = getattr(model, "hyp", None) or {}
    missing = [name for name in GAINS if name not in hyp]
    if missing:
        raise ValueError(f"model.hyp has no {', '.join(missing)}; set it to a dictionary of hyper-parameters before")
    return model.model[-1], SimpleNamespace(**hyp), float(hyp.get("label_smoothing", 0.0))


def scatter_last(values: Tensor, places: Tensor, used: Tensor, length: int) -> Tensor:
    """Zeros (length,) with values (M,) at places (M,), the last one where several have the same; only those used."""
    order = torch.arange(1, len(values) + 1, device=values.device)
    places = torch.where(used, places, length)  # one more element takes what is not wanted
    last = order.new_zeros(length + 1).scatter_reduce(0, places, order, "amax")
    places = torch.where(last[places] == order, places, length)
    return values.new_zeros(length + 1).scatter(0, places, values)[:length]


# Loss -----------------------------------------------------------------------------------------------------------------


class ComputeLoss:
    """The loss of a detection head; hyp's gains are taken as they stand, so scale them first (`Hyp.scaled`).

    `autobalance` moves the weights of the levels' objectness towards equal losses, while gradients are computed.
    Of several `ranks` each has its part of a batch, and its loss is its share: their sum is the loss of the whole.
    """

    def __init__(
        self,
        head: Head | nn.Module,
        hyp: Hyp | bool | None = None,
        label_smoothing: float = 0.0,
        autobalance: bool = False,
        ranks: DistEnv = SINGLE,
    ) -> None:
        if not hasattr(head, "anchors"):  # v6.1's ComputeLoss(model, autobalance=False)
            autobalance = autobalance or bool(hyp)
            head, hyp, label_smoothing = v61_settings(head)
        balance = BALANCE.get(head.nl, BALANCE_OTHERWISE)[: head.nl]
        if len(balance) < head.nl:
            raise ValueError(f"the head has {head.nl} detection levels: the loss is made for 1 to {len(balance)}")
        self.head, self.hyp, self.autobalance, self.ranks = head, hyp, autobalance, ranks
        self.positive, self.negative = smooth_BCE(label_smoothing)
        self.bce_obj: Bce = BCELoss(hyp.obj_pw)
        self.bce_cls: Bce = BCELoss(hyp.cls_pw)
        if hyp.fl_gamma > 0:
            self.bce_obj, self.bce_cls = FocalLoss(self.bce_obj, hyp.fl_gamma), FocalLoss(self.bce_cls, hyp.fl_gamma)
        self.balance = torch.tensor(balance)  # (L,)
        self.balanced_level = int((head.stride - BALANCED_STRIDE).abs().argmin())

    def __call__(self, raw: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss times the B of all ranks, to call backward on, and its parts box, obj and cls, (3,), not times B.

        raw is L maps (B, A, H, W, 5 + nc) before any sigmoid, targets (T, 6) image, class, cxcywh in 0..1.
        """
        parts = self.parts(raw, targets.float())
        return parts.sum() * (raw[0].shape[0] * self.ranks.size), parts.detach()

    def alone(self) -> "ComputeLoss":
        """The same loss for this process by itself."""
        other = copy.copy(self)
        other.ranks = SINGLE
        return other

    def parts(self, raw: Sequence[Tensor], targets: Tensor) -> Tensor:
        """The box, obj and cls loss with their gains, (3,) FP32."""
        anchors = self.head.anchors.float()
        sizes = [(level.shape[3], level.shape[2]) for level in raw]
        pad = raw[0].device.type != "cpu"
        matches = build_targets(targets, anchors, sizes, self.hyp.anchor_t, pad, self.ranks)
        answers, objectness = pick(raw, matches)  # (M, 5 + nc), (N,)

        sides = answers[:, :4].sigmoid() * 2
        xy, wh = sides[:, :2] - 0.5, sides[:, 2:] ** 2 * anchors[matches.level, matches.anchor]
        iou = bbox_iou(torch.cat((xy, wh), -1), matches.boxes, xywh=True, CIoU=True)  # (M,)
        box = ((1 - iou) * matches.weight).sum()
        cls = self.class_loss(answers[:, 5:], matches)
        obj = self.objectness_loss(objectness, sizes, matches, iou.detach().clamp(min=0))
        return torch.stack((box * self.hyp.box, obj * self.hyp.obj, cls * self.hyp.cls))

    def class_loss(self, logits: Tensor, matches: Matches) -> Tensor:
        """The class loss, mean over matches and classes, summed over the levels; 0 where there is one class only."""
        if self.head.nc == 1:
            return logits.new_zeros(())
        target = torch.full_like(logits, self.negative).scatter_(1, matches.classes[:, None], self.positive)  # (M, nc)
        return (self.bce_cls(logits, target).mean(-1) * matches.weight).sum()

    def objectness_loss(
        self, logits: Tensor, sizes: Sequence[tuple[int, int]], matches: Matches, iou: Tensor
    ) -> Tensor:
        """The objectness loss, mean over a level's cells (N,); matched ones should say the IoU (M,) they reach."""
        maps = len(logits) // sum(nx * ny for nx, ny in sizes)  # B A
        counts = [maps * nx * ny for nx, ny in sizes]
        size = torch.tensor([(*size, sum(counts[:i])) for i, size in enumerate(sizes)])
        nx, ny, start = size.to(iou.device, non_blocking=True)[matches.level].unbind(-1)  # (M,)
        column, row = matches.cell.unbind(-1)
        places = start + ((matches.image * self.head.na + matches.anchor) * ny + row) * nx + column
        target = scatter_last(iou, places, matches.weight > 0, sum(counts))  # (N,)

        losses = torch.stack([level.mean() for level in self.bce_obj(logits, target).split(counts)])  # (L,)
        self.balance = self.balance.to(losses.device)
        loss = (losses * self.balance).sum() / self.ranks.size
        if self.autobalance and torch.is_grad_enabled():
            means = self.ranks.mean_(losses.detach().clone())
            self.balance = self.balance * 0.9999 + 0.0001 / means.clamp(min=1e-6)
            self.balance = self.balance / self.balance[self.balanced_level]
        return loss


class Pick(torch.autograd.Function):
    """What a level's map says at the matches' places, (M, 5 + nc), and the objectness of all its cells, flat.

    Autograd's own way fills a map for each of the two gradients and adds them; here is one, laid out as the map is.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, level: Tensor, *place: Tensor) -> tuple[Tensor, Tensor]:
        """The two, of the map's type."""
        ctx.save_for_backward(level, *place)
        return level[place], level[..., 4].flatten()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, answers: Tensor, objectness: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the map; places have none."""
        level, *place = ctx.saved_tensors
        gradient = torch.zeros_like(level)
        gradient[..., 4] = objectness.reshape(level.shape[:-1])
        gradient.index_put_(tuple(place), answers, accumulate=True)
        return gradient, *(None for _ in place)


def pick(raw: Sequence[Tensor], matches: Matches) -> tuple[Tensor, Tensor]:
    """What the maps say for the matches, (M, 5 + nc), and the objectness of all cells, (N,), in FP32."""
    column, row = matches.cell.unbind(-1)
    places = zip(*(index.split(matches.rows) for index in (matches.image, matches.anchor, row, column)), strict=True)
    picked = [Pick.apply(level, *place) for level, place in zip(raw, places, strict=True)]
    answers, objectness = zip(*picked, strict=True)
    return torch.cat([said.float() for said in answers]), torch.cat([said.float() for said in objectness])
