"""Rank positions of a block by three cheap signals, before any long training.

None of them says that a block helps. They say where it can do something: it starts without breaking what the network
has learnt (drift), the loss moves it (gradient), and its gate does move (spread). A place is ranked by the sum of its
ranks in the three.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.edit.insertion import Block, Insertion, insert
from models.edit.transfer import transfer_weights
from models.spec.rows import HEAD, load_model_yaml, read_rows
from models.yolo import Model
from utils.data.config import Hyp
from utils.datasets import Batch
from utils.files.checkpoint import Checkpoint
from utils.loss import ComputeLoss

SKIPPED = {HEAD, "nn.Upsample"}  # behind an upsampling a block sees what it sees in front of it


@dataclass(frozen=True)
class Signals:
    """A position: its row in the yaml and three signals, nan if unknown."""

    place: str
    row: str
    drift: float  # relative change of the maps that the head reads when the block comes in untrained
    gradient: float  # share of the block's parameters in the norm of the loss's gradient
    spread: float  # standard deviation of its gate after an epoch; nan for a block without a gate


def places_of(cfg: str, block: Block) -> dict[str, str]:
    """Return the rows behind which a block fits, by number as in --insert; raise ValueError if there are none."""
    content, file = load_model_yaml(cfg)
    found, reason = {}, ""
    for row in read_rows(content, file)[:-1]:
        if row.content[2] in SKIPPED:
            continue
        place = str(row.index)
        try:
            Model(insert(content, [Insertion(block, place)], file).content, verbose=False, warn=False)
        except ValueError as error:
            reason = str(error)
            continue
        found[place] = row.text
    if not found:
        raise ValueError(f"{file}: {block.module} fits behind no row: {reason}")
    return found


def network(cfg: str, block: Block | None, place: str, nc: int, checkpoint: Checkpoint | None, seed: int = 0) -> Model:
    """Build the network with a block, or without one, and transfer the checkpoint's weights."""
    content, file = load_model_yaml(cfg)
    if block is not None:
        content = insert(content, [Insertion(block, place)], file).content
    torch.manual_seed(seed)
    model = Model(content, nc=nc, verbose=False, warn=False)
    if checkpoint is not None:
        transfer_weights(checkpoint, model)
    return model


@torch.no_grad()
def drift_of(model: Model, plain: Model, images: Tensor) -> float:
    """Return the mean relative change of the head's inputs for images (B, 3, H, W) in 0..1."""
    theirs, own = (_head_inputs(network.eval(), images) for network in (plain, model))
    return float(np.mean([float((a - b).norm() / b.norm()) for a, b in zip(own, theirs, strict=True)]))


def _head_inputs(model: Model, images: Tensor) -> list[Tensor]:
    """Return the head's input maps."""
    found: list[Tensor] = []
    hook = model.head.register_forward_pre_hook(lambda _head, inputs: found.extend(inputs[0]))
    try:
        model(images)
    finally:
        hook.remove()
    return found


def gradient_share(model: Model, index: int, images: Tensor, targets: Tensor, hyp: Hyp) -> float:
    """Return the share of layer `index` in the norm of the loss gradient; 0 without parameters.

    images are (B, 3, H, W) in 0..1, targets (T, 6) image, class, cxcywh in 0..1.
    """
    model.train().zero_grad()
    height, width = images.shape[2:]
    loss, _ = ComputeLoss(model.head, hyp=hyp.scaled(model.head.nl, model.nc, max(height, width)))(
        model(images), targets
    )
    loss.backward()
    own, all_of_it = 0.0, 0.0
    for i, layer in enumerate(model.model):
        for parameter in layer.parameters():
            if parameter.grad is not None:
                square = float(parameter.grad.square().sum())
                all_of_it += square
                own += square if i == index else 0.0
    model.zero_grad()
    return (own / all_of_it) ** 0.5 if all_of_it else 0.0


def first_signals(
    cfg: str, block: Block, place: str, batch: Batch, nc: int, checkpoint: Checkpoint | None, hyp: Hyp
) -> tuple[float, float]:
    """Return drift and gradient share of a block at a position, on one batch."""
    images = batch.images.float() / 255
    plain, model = (network(cfg, what, place, nc, checkpoint) for what in (None, block))
    drift = drift_of(model, plain, images)
    return drift, gradient_share(model, int(place) + 1, images, batch.targets, hyp)


def ordered(signals: Sequence[Signals]) -> list[Signals]:
    """Sort signals by the sum of their ranks, the most promising first; unknown ones rank last."""
    if not signals:
        return []
    columns = np.array([[s.drift, -s.gradient, -s.spread] for s in signals], np.float64)
    columns = np.where(np.isfinite(columns), columns, np.inf)
    ranks = np.stack([np.unique(column, return_inverse=True)[1] for column in columns.T], 1).sum(1)
    return [signals[i] for i in np.argsort(ranks, kind="stable")]
