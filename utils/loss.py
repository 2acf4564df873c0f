"""The training loss: which cells and anchors are matched with a target, and what their predictions cost.

All is computed in FP32, whatever type the network's maps have, and the same on every run: where several targets want
one cell's objectness, the order of the matches decides, not that of the threads. Targets are matched on the CPU, where
the loader has them, so that the host never waits for a GPU to learn how many matches there are.

The names are those of v6.1: a line, a method or a class that is made for its `ComputeLoss` can be pasted here, see
docs/recipes.md.

Legend: B images, L levels, A anchors of a level, T targets, M matches of all levels, n matches of one level, H and W
cells of a level's map.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from utils.data.config import Hyp
from utils.dist import SINGLE, DistEnv
from utils.metrics import bbox_iou

BALANCE = {3: (4.0, 1.0, 0.4)}  # weights of the levels' objectness, finest first
BALANCE_OTHERWISE = (4.0, 1.0, 0.25, 0.06, 0.02)
SETTINGS = ("box", "obj", "cls", "obj_pw", "cls_pw", "fl_gamma", "anchor_t")  # taken of the hyper-parameters
BALANCED_STRIDE = 16  # the level whose weight autobalance keeps at one


class Head(Protocol):
    """What the loss needs of a detection head."""

    nc: int
    na: int
    nl: int
    stride: Tensor  # (L,) pixels of a cell
    anchors: Tensor  # (L, A, 2) width and height in cells


class Matches(NamedTuple):
    """Pairs of a target and a cell's anchor.

    They are ordered by level, then cell (own, left, up, right, down), anchor and target.
    """

    level: Tensor  # (M,)
    image: Tensor  # (M,)
    anchor: Tensor  # (M,)
    cell: Tensor  # (M, 2) column and row
    boxes: Tensor  # (M, 4) centre from the cell's corner, width and height, in cells
    classes: Tensor  # (M,)
    rows: list[int]  # L, the number of matches of each level


# Parts ----------------------------------------------------------------------------------------------------------------


def smooth_BCE(eps: float = 0.1) -> tuple[float, float]:
    """Return the class targets (positive, negative) of label smoothing (arXiv 1902.04103, eq. 3)."""
    return 1 - 0.5 * eps, 0.5 * eps


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """Reduce losses as torch's modules do: "mean", "sum" or "none".

    The mean of losses (n, nc) is taken over the classes and then over the matches, so that its gradient is rounded as
    it was when one formula served all levels.
    """
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if losses.ndim == 2:
        return losses.mean(1).sum() * (1 / len(losses))
    return losses.mean()


class BCELoss(nn.Module):
    """Binary cross-entropy of logits, positives weighted by pos_weight."""

    def __init__(self, pos_weight: float = 1.0, reduction: str = "mean") -> None:
        super().__init__()
        self.pos_weight, self.reduction = pos_weight, reduction

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean, or with reduction "none" the losses in the inputs' shape."""
        weight = None if self.pos_weight == 1 else torch.full((), self.pos_weight, device=logits.device)
        losses = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")
        return reduced(losses, self.reduction)


class FocalLoss(nn.Module):
    """Wrap a loss of logits, which then counts less where a prediction is right already (arXiv 1708.02002).

    Targets may be soft. The wrapped loss hands its reduction over to this one.
    """

    def __init__(self, loss_fcn: nn.Module, gamma: float = 1.5, alpha: float = 0.25) -> None:
        super().__init__()
        self.loss_fcn, self.gamma, self.alpha = loss_fcn, gamma, alpha
        self.reduction = loss_fcn.reduction
        loss_fcn.reduction = "none"

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean, or with reduction "none" the losses in the inputs' shape."""
        probability = logits.sigmoid()
        wrong = targets + probability - 2 * targets * probability  # one less the probability of the truth
        balance = targets * self.alpha + (1 - targets) * (1 - self.alpha)
        factor = balance * wrong.clamp(min=1e-7) ** self.gamma  # 0 has no slope below gamma 1
        return reduced(self.loss_fcn(logits, targets) * factor, self.reduction)


# Assignment -----------------------------------------------------------------------------------------------------------


def match_targets(targets: Tensor, anchors: Tensor, sizes: Sequence[tuple[int, int]], anchor_t: float) -> Matches:
    """Match targets (T, 6), image, class, cxcywh 0..1, with anchors (L, A, 2) on maps of sizes (W, H).

    A target matches an anchor where neither side is anchor_t times the other's or more. The cell that its centre lies
    in is matched, and the neighbours that are nearer than half a cell, one to the side and one above or below.
    """
    grid = torch.tensor(sizes, dtype=torch.int64, device=targets.device)[:, None]  # (L, 1, 2)
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

    level, place, anchor, target = valid.nonzero(as_tuple=True)
    cell = cells[level, place, target]
    return Matches(
        level=level,
        image=targets[target, 0].long(),
        anchor=anchor,
        cell=cell,
        boxes=torch.cat((xy[level, target] - cell, wh[level, target]), -1),
        classes=targets[target, 1].long(),
        rows=valid.sum((1, 2, 3)).tolist(),
    )


def scatter_last(values: Tensor, places: Tensor, length: int) -> Tensor:
    """Return zeros (length,) with values (n,) at places (n,); where several have one place, the last of them."""
    order = torch.arange(1, len(values) + 1, device=values.device)
    last = order.new_zeros(length).scatter_reduce(0, places, order, "amax")
    places = torch.where(last[places] == order, places, length)  # one more element takes the others
    return values.new_zeros(length + 1).scatter(0, places, values)[:length]


class GatherPredictions(torch.autograd.Function):
    """Take a map's predictions at the matches' places, (n, 5 + nc), and the objectness of all cells, (B, A, H, W).

    Autograd's own way fills a map for each of the two gradients and adds them; here is one, laid out as the map is.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, level: Tensor, *place: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two, of the map's type."""
        ctx.save_for_backward(level, *place)
        return level[place], level[..., 4].clone(memory_format=torch.contiguous_format)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, predictions: Tensor, objectness: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the map; places have none."""
        level, *place = ctx.saved_tensors
        gradient = torch.zeros_like(level)
        gradient[..., 4] = objectness
        gradient.index_put_(tuple(place), predictions, accumulate=True)
        return gradient, None, None, None, None


# Loss -----------------------------------------------------------------------------------------------------------------


class ComputeLoss:
    """The loss of a detection head, as v6.1 computes it.

    Args:
        model: a network, or its detection head.
        autobalance: move the weights of the levels' objectness towards equal losses, while gradients are computed.
        hyp: hyper-parameters; by default `model.hyp`, a dictionary. Gains are taken as they stand, so scale them first
            (`Hyp.scaled`).
        label_smoothing: epsilon of the class targets; by default `hyp["label_smoothing"]`, or 0 without that.
        ranks: of several processes each has its part of a batch; the mean of their losses is the loss of the whole.

    Raises:
        ValueError: a hyper-parameter is missing, or the head has more levels than there are weights for.
    """

    sort_obj_iou = False  # of several matches in a cell the highest IoU is its objectness, not the last one's

    def __init__(
        self,
        model: nn.Module | Head,
        autobalance: bool = False,
        *,
        hyp: Hyp | Mapping[str, float] | None = None,
        label_smoothing: float | None = None,
        ranks: DistEnv = SINGLE,
    ) -> None:
        model = getattr(model, "module", model)  # of DataParallel
        model = model.model if hasattr(model, "pt") else model  # of a DetectMultiBackend
        head: Head = model.model[-1] if hasattr(model, "model") else model
        hyp = getattr(model, "hyp", None) or {} if hyp is None else hyp
        h = hyp.to_dict() if isinstance(hyp, Hyp) else dict(hyp)
        missing = [name for name in SETTINGS if name not in h]
        if missing:
            raise ValueError(f"model.hyp has no {', '.join(missing)}: set it to a dictionary of hyper-parameters")
        balance = BALANCE.get(head.nl, BALANCE_OTHERWISE)[: head.nl]
        if len(balance) < head.nl:
            raise ValueError(f"the head has {head.nl} detection levels: the loss is made for 1 to {len(balance)}")

        self.cp, self.cn = smooth_BCE(h.get("label_smoothing", 0.0) if label_smoothing is None else label_smoothing)
        BCEcls, BCEobj = BCELoss(h["cls_pw"]), BCELoss(h["obj_pw"])
        g = h["fl_gamma"]
        if g > 0:
            BCEcls, BCEobj = FocalLoss(BCEcls, g), FocalLoss(BCEobj, g)
        self.BCEcls, self.BCEobj = BCEcls, BCEobj
        self.gr = 1.0  # objectness targets: this share of the IoU, the rest is 1
        self.hyp, self.autobalance, self.ranks = h, autobalance, ranks
        self.balance = list(balance)
        self.ssi = int((head.stride - BALANCED_STRIDE).abs().argmin())  # the level that autobalance keeps at one
        self.na, self.nc, self.nl, self.anchors = head.na, head.nc, head.nl, head.anchors
        self.device = head.anchors.device
        self.anchors_on_host = head.anchors.detach().float().cpu()

    def __call__(self, p: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss times B, to call backward on, and its parts box, obj and cls, (3,), not times B.

        p is L maps (B, A, H, W, 5 + nc) before any sigmoid, targets (T, 6) image, class, cxcywh in 0..1. Each part is
        the sum over the levels; of a level the mean over its matches or, of obj, over its cells.
        """
        device = p[0].device
        lcls = torch.zeros((), device=device)
        lbox = torch.zeros((), device=device)
        lobj = torch.zeros((), device=device)
        tcls, tbox, indices, anchors = self.build_targets(p, targets)
        shares = self.shares(tcls)

        for i, pi in enumerate(p):  # pi (B, A, H, W, 5 + nc): the predictions of a level
            b, a, gj, gi = indices[i]  # (n,) each: image, anchor, row and column of each match
            ps, pobj = GatherPredictions.apply(pi, b, a, gj, gi)
            ps, pobj = ps.float(), pobj.float()  # (n, 5 + nc), (B, A, H, W)
            tobj = torch.zeros_like(pobj)
            n = len(b)
            if n:
                # Box: pbox and tbox[i] are (n, 4), centre, width and height in cells; iou is (n,).
                pxy = ps[:, :2].sigmoid() * 2 - 0.5
                pwh = (ps[:, 2:4].sigmoid() * 2) ** 2 * anchors[i]
                pbox = torch.cat((pxy, pwh), 1)
                iou = bbox_iou(pbox.T, tbox[i], x1y1x2y2=False, CIoU=True)
                lbox += (1.0 - iou).sum() * (shares[i] / n)  # the mean; (1.0 - iou).mean() does as well

                # Objectness: a matched cell is to predict its IoU.
                score_iou = iou.detach().clamp(min=0)
                tobj = self.objectness_targets(tobj, indices[i], (1.0 - self.gr) + self.gr * score_iou)

                # Classes
                if self.nc > 1:
                    t = torch.full_like(ps[:, 5:], self.cn).scatter_(1, tcls[i][:, None], self.cp)  # (n, nc)
                    lcls += self.BCEcls(ps[:, 5:], t) * shares[i]

            obji = self.BCEobj(pobj, tobj)
            lobj += obji * self.balance[i]
            if self.autobalance and torch.is_grad_enabled():
                mean = self.ranks.mean_(obji.detach().clone())
                self.balance[i] = self.balance[i] * 0.9999 + 0.0001 / mean.clamp(min=1e-6)

        if self.autobalance and torch.is_grad_enabled():
            self.balance = [weight / self.balance[self.ssi] for weight in self.balance]
        lbox *= self.hyp["box"]
        lobj *= self.hyp["obj"]
        lcls *= self.hyp["cls"]
        bs = p[0].shape[0]
        return (lbox + lobj + lcls) * bs, torch.stack((lbox, lobj, lcls)).detach()

    def build_targets(
        self, p: Sequence[Tensor], targets: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, ...]], list[Tensor]]:
        """Match targets (T, 6) with cells and anchors of the maps p, on whose device the results are.

        Returns:
            Four lists with an entry for each level, of its n matches: classes (n,); boxes (n, 4) as `Matches.boxes`;
            indices (image, anchor, row, column) of (n,) each; the anchors' widths and heights (n, 2) in cells.
        """
        device = p[0].device
        sizes = [(pi.shape[3], pi.shape[2]) for pi in p]
        on_host = getattr(targets, "on_host", targets).cpu().float()
        found = match_targets(on_host, self.anchors_on_host, sizes, self.hyp["anchor_t"])
        column, row = found.cell.unbind(-1)
        integers = torch.stack((found.classes, found.image, found.anchor, row, column))  # (5, M)
        floats = torch.cat((found.boxes, self.anchors_on_host[found.level, found.anchor]), 1)  # (M, 6)
        if device.type == "cuda":
            integers, floats = integers.pin_memory(), floats.pin_memory()
        integers, floats = integers.to(device, non_blocking=True), floats.to(device, non_blocking=True)

        tcls, tbox, indices, anch = [], [], [], []
        for level_integers, level_floats in zip(integers.split(found.rows, 1), floats.split(found.rows), strict=True):
            classes, *place = level_integers.unbind(0)
            tcls.append(classes)
            tbox.append(level_floats[:, :4])
            indices.append(tuple(place))
            anch.append(level_floats[:, 4:])
        return tcls, tbox, indices, anch

    def objectness_targets(self, tobj: Tensor, index: Sequence[Tensor], scores: Tensor) -> Tensor:
        """Return tobj (B, A, H, W) with scores (n,) at an index of four (n,); where several meet, the last of them."""
        b, a, gj, gi = index
        _, na, ny, nx = tobj.shape
        places = ((b * na + a) * ny + gj) * nx + gi
        if self.sort_obj_iou:
            order = scores.argsort()
            places, scores = places[order], scores[order]
        return scatter_last(scores, places, tobj.numel()).view_as(tobj)

    def shares(self, tcls: Sequence[Tensor]) -> list[float] | Tensor:
        """Return for each level what to multiply a mean over this process's matches with: 1 for a single process.

        Of several processes it is the ratio of its number of matches to the mean number, so that the mean over the
        processes is the mean over all matches.
        """
        if self.ranks.size == 1:
            return [1.0] * len(tcls)
        counts = torch.tensor([len(classes) for classes in tcls], device=tcls[0].device)
        totals = self.ranks.sum_(counts.clone())
        return counts * self.ranks.size / totals.clamp(min=1)
