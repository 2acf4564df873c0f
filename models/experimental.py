"""Checkpoints as networks for inference: one, or an ensemble whose boxes are merged.

Shapes: B batch, N boxes, no = 5 + nc values of a box.
"""

import copy
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from models.blocks.rare import CrossConv, MixConv2d, Sum
from models.spec.budget import Budget
from utils.files.checkpoint import Checkpoint, halved, load_checkpoint

# isort: split
# Last, and its names are taken when they are used: a file that models/yolo.py imports may import this one.
from models import yolo

__all__ = ["CrossConv", "Ensemble", "MixConv2d", "Sum", "attempt_load"]  # three of them for v6.1's importers

NAMED_IN_ERROR = 3  # tensors
SPARE_NUMBERS = 2**24  # 64 MB, for what is made in a build besides weights; the dry run's image has 2**17.6
PRUNED_NUMBERS = 2**28  # those of the largest yaml shipped, yolov5-p7, are 2**27.1


class Ensemble(nn.ModuleList):
    """Networks of the same classes. Their boxes are concatenated; non-maximum suppression merges them."""

    def forward(
        self, x: Tensor, augment: bool = False, profile: bool = False, visualize: bool | str | Path = False
    ) -> tuple[Tensor, None]:
        """Return the decoded boxes of all members, (B, sum of their N, no).

        profile and visualize are v6.1's and are ignored: they apply to a single network.
        """
        del profile, visualize
        return torch.cat([model(x, augment=augment)[0] for model in self], 1), None

    @property
    def names(self) -> list[str]:
        """The class names of the last member."""
        return self[-1].names

    @property
    def nc(self) -> int:
        """The number of classes."""
        return self[-1].nc

    @property
    def stride(self) -> Tensor:
        """The strides of the member with the largest one."""
        return max((model.stride for model in self), key=lambda stride: float(stride.max()))

    @property
    def imgsz(self) -> int | None:
        """The largest training size of the members; None if no file records one."""
        return max((model.imgsz for model in self if model.imgsz is not None), default=None)


def attempt_load(
    weights: str | Path | Sequence[str | Path],
    device: torch.device | str | None = None,
    inplace: bool = True,
    fuse: bool = True,
    *,
    map_location: torch.device | str | None = None,
) -> "yolo.Model | Ensemble":
    """Load checkpoints for inference: on the device, in FP32, without gradients; several make an Ensemble.

    Args:
        weights: One file or several.
        device: Default: the CPU.
        inplace: v6.1's; ignored, as this head never writes in place.
        fuse: Fold batch norms into convolutions.
        map_location: v6.1's name for `device`.

    Raises:
        FileNotFoundError: as `load_checkpoint`.
        ValueError: as `load_checkpoint`; also if weights do not fit their yaml or members differ in their classes.
    """
    del inplace
    place = device if device is not None else map_location if map_location is not None else "cpu"
    paths = [weights] if isinstance(weights, str | Path) else list(weights)
    if not paths:
        raise ValueError("no weights are named; one or more .pt files are wanted")
    models = [_load_one(path, place, fuse) for path in paths]
    if len(models) == 1:
        return models[0]
    counts = [model.nc for model in models]
    if len(set(counts)) > 1:
        found = ", ".join(f"{path} has {nc}" for path, nc in zip(paths, counts, strict=True))
        raise ValueError(f"an ensemble needs members of the same classes: {found}")
    return Ensemble(models).eval()


def _load_one(path: str | Path, device: torch.device | str, fuse: bool) -> "yolo.Model":
    return network_of(path, load_checkpoint(path), device, fuse)


def network_of(path: str | Path, checkpoint: Checkpoint, device: torch.device | str, fuse: bool) -> "yolo.Model":
    """Build the network of a checkpoint for inference; ValueError if weights and yaml do not fit.

    A small file can claim a network of any size, so the size of its weights limits the build.
    """
    try:
        allowed = numbers_allowed(checkpoint)
        with Budget(allowed, allowed):
            model = yolo.Model(checkpoint.yaml, verbose=False, warn=False)
    except ValueError as error:
        raise ValueError(f"{path}: its yaml makes no network: {error}") from error
    misfit = _misfit(checkpoint.state, {name: value.shape for name, value in model.state_dict().items()})
    if misfit:
        raise ValueError(f"{path}: its tensors do not fit its yaml: {misfit}")
    model.load_state_dict(checkpoint.state)
    model.names, model.imgsz = list(checkpoint.names), checkpoint.imgsz
    model = model.eval()
    return (model.fuse() if fuse else model).to(device).float().eval().requires_grad_(False)


def as_stripped(model: "yolo.Model") -> "yolo.Model":
    """Copy a network in training as its stripped checkpoint will load it: weights rounded to FP16, norms folded.

    It computes in FP32, so its results are those of the file.
    """
    stripped = copy.deepcopy(model)
    stripped.load_state_dict(halved(stripped.state_dict()))  # which makes FP32 of them again
    return stripped.eval().fuse().to(memory_format=torch.channels_last).requires_grad_(False)


def numbers_allowed(checkpoint: Checkpoint) -> int:
    """Return the limit of values in a build of a checkpoint's network: twice its weights plus SPARE_NUMBERS.

    A pruned network is first built at the widths of its yaml, layer by layer, so the build may exceed the weights.
    """
    held = sum(value.numel() for value in checkpoint.state.values())
    return 2 * held + SPARE_NUMBERS + (PRUNED_NUMBERS if checkpoint.yaml.get("pruned") else 0)


def _misfit(state: dict[str, Tensor], shapes: dict[str, torch.Size]) -> str:
    """Describe the first difference between weights and the network's shapes; empty if they match."""
    missing = [name for name in shapes if name not in state]
    unknown = [name for name in state if name not in shapes]
    unfit = [name for name, shape in shapes.items() if name in state and shape != state[name].shape]
    return "; ".join(
        f"{len(names)} {what} ({', '.join(names[:NAMED_IN_ERROR])}{', ...' if len(names) > NAMED_IN_ERROR else ''})"
        for what, names in (("are missing", missing), ("belong to no layer", unknown), ("are of other shapes", unfit))
        if names
    )


# Names of v6.1 --------------------------------------------------------------------------------------------------------


def __getattr__(name: str) -> object:
    """Import a v6.1 name on first access; utils/v61 lists where each is."""
    if name == "__path__":  # each import of the module asks for it
        raise AttributeError(name)
    return import_module("utils.v61").find(__name__, name)
