"""Trained networks, ready for inference: one out of a checkpoint, or several that give their boxes together.

Legend: B batch, N boxes, no = 5 + nc numbers of a box.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from models.yolo import Model
from utils.checkpoint import Checkpoint, load_checkpoint

NAMED_IN_ERROR = 3  # tensors


class Ensemble(nn.ModuleList):
    """Several networks of the same classes; each adds its boxes, and non-maximum suppression makes one set of them."""

    def forward(self, x: Tensor, augment: bool = False) -> tuple[Tensor, None]:
        """The decoded boxes of all members, (B, sum of their N, no)."""
        return torch.cat([model(x, augment=augment)[0] for model in self], 1), None

    @property
    def names(self) -> list[str]:
        """The class names of the last member."""
        return self[-1].names

    @property
    def nc(self) -> int:
        """The number of classes, which all members share."""
        return self[-1].nc

    @property
    def stride(self) -> Tensor:
        """The strides of the member with the largest one."""
        return max((model.stride for model in self), key=lambda stride: float(stride.max()))


def attempt_load(
    weights: str | Path | Sequence[str | Path], device: torch.device | str = "cpu", fuse: bool = True
) -> Model | Ensemble:
    """The network of a checkpoint, or an Ensemble of several, on the device, in FP32, without gradients, for inference.

    `fuse` puts norms into convolutions. FileNotFoundError or ValueError as `load_checkpoint` has them, and ValueError
    where weights do not fit their yaml or the members have other numbers of classes.
    """
    paths = [weights] if isinstance(weights, str | Path) else list(weights)
    if not paths:
        raise ValueError("no weights are named; one or more .pt files are wanted")
    models = [_load_one(path, device, fuse) for path in paths]
    if len(models) == 1:
        return models[0]
    counts = [model.nc for model in models]
    if len(set(counts)) > 1:
        found = ", ".join(f"{path} has {nc}" for path, nc in zip(paths, counts, strict=True))
        raise ValueError(f"an ensemble needs members of the same classes: {found}")
    return Ensemble(models).eval()


def _load_one(path: str | Path, device: torch.device | str, fuse: bool) -> Model:
    checkpoint = load_checkpoint(path)
    try:
        model = Model(checkpoint.yaml, verbose=False)
    except ValueError as error:
        raise ValueError(f"{path}: its yaml makes no network: {error}") from error
    _check_fit(checkpoint, model, path)
    model.load_state_dict(checkpoint.state)
    model.names = list(checkpoint.names)
    model = model.eval()
    return (model.fuse() if fuse else model).to(device).float().eval().requires_grad_(False)


def _check_fit(checkpoint: Checkpoint, model: Model, path: str | Path) -> None:
    """ValueError where the weights are not exactly those of the model."""
    state = model.state_dict()
    missing = [name for name in state if name not in checkpoint.state]
    unknown = [name for name in checkpoint.state if name not in state]
    unfit = [name for name in state if name not in missing and state[name].shape != checkpoint.state[name].shape]
    texts = [
        f"{len(names)} {what} ({', '.join(names[:NAMED_IN_ERROR])}{', ...' if len(names) > NAMED_IN_ERROR else ''})"
        for what, names in (("are missing", missing), ("belong to no layer", unknown), ("are of other shapes", unfit))
        if names
    ]
    if texts:
        raise ValueError(f"{path}: its tensors do not fit its yaml: {'; '.join(texts)}")
