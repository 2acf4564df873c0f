"""Trained networks, ready for inference: one out of a checkpoint, or several that give their boxes together.

Legend: B batch, N boxes, no = 5 + nc numbers of a box.
"""

import copy
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from models.blocks.rare import CrossConv, MixConv2d, Sum
from models.spec.budget import Budget
from models.spec.rows import load_model_yaml, read_rows
from utils.files.checkpoint import Checkpoint, halved, load_checkpoint

# isort: split
# Last, and its names are taken when they are used: a file that models/yolo.py imports may import this one.
from models import yolo

__all__ = ["CrossConv", "Ensemble", "MixConv2d", "Sum", "attempt_load"]  # three of them for v6.1's importers

NAMED_IN_ERROR = 3  # tensors
MAX_BLOCKS = 10_000  # of a yaml in a file, repeats counted; yolov5x has 60
SPARE_NUMBERS = 2**24  # 64 MB, for what is made in a build besides weights; the dry run's image has 2**17.6
PRUNED_NUMBERS = 2**28  # those of the largest yaml shipped, yolov5-p7, are 2**27.1


class Ensemble(nn.ModuleList):
    """Several networks of the same classes; each adds its boxes, and non-maximum suppression makes one set of them."""

    def forward(
        self, x: Tensor, augment: bool = False, profile: bool = False, visualize: bool | str | Path = False
    ) -> tuple[Tensor, None]:
        """The decoded boxes of all members, (B, sum of their N, no).

        profile and visualize are v6.1's and change nothing: they are for one network.
        """
        del profile, visualize
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

    @property
    def imgsz(self) -> int | None:
        """The largest size that a member was trained at, None where no file says it."""
        return max((model.imgsz for model in self if model.imgsz is not None), default=None)


def attempt_load(
    weights: str | Path | Sequence[str | Path],
    device: torch.device | str | None = None,
    inplace: bool = True,
    fuse: bool = True,
    *,
    map_location: torch.device | str | None = None,
) -> "yolo.Model | Ensemble":
    """The network of a checkpoint, or an Ensemble of several, on the device, in FP32, without gradients, for inference.

    `fuse` puts norms into convolutions. map_location is v6.1's word for the device, which is the CPU if neither is
    given; inplace is v6.1's and changes nothing, as this head writes nothing in place. FileNotFoundError or ValueError
    as `load_checkpoint` has them, and ValueError where weights do not fit their yaml or the members have other numbers
    of classes.
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
    """Make the network of a file's yaml and weights, for inference on the device; ValueError if they do not fit.

    A small file can claim a network of any size. So its blocks are counted first, and the network is made under a
    budget of numbers that the file's weights set.
    """
    try:
        content, file = load_model_yaml(checkpoint.yaml)
        check_blocks(content, file)
        allowed = numbers_allowed(checkpoint)
        with Budget(allowed, allowed):
            model = yolo.Model(content, verbose=False, warn=False)
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
    """A copy of a network in training as its stripped checkpoint will give it: weights rounded to FP16, norms folded.

    It computes in FP32, so what it finds is what will be found with the file.
    """
    stripped = copy.deepcopy(model)
    stripped.load_state_dict(halved(stripped.state_dict()))  # which makes FP32 of them again
    return stripped.eval().fuse(verbose=False).to(memory_format=torch.channels_last).requires_grad_(False)


def check_blocks(content: dict, file: str) -> None:
    """Raise ValueError if a yaml has more blocks than MAX_BLOCKS, repeats counted."""
    gain = content["depth_multiple"]
    repeats = [row.content[1] for row in read_rows(content, file)]
    blocks = sum(max(round(n * gain), 1) if n > 1 else n for n in repeats)
    if blocks > MAX_BLOCKS:
        raise ValueError(f"{blocks} blocks; up to {MAX_BLOCKS} are possible")


def numbers_allowed(checkpoint: Checkpoint) -> int:
    """Return how many numbers may be made in a build of a checkpoint's network: twice its weights, and SPARE_NUMBERS.

    A pruned network is made as wide as its yaml has it, layer by layer, so that more may come and go in its build.
    """
    held = sum(value.numel() for value in checkpoint.state.values())
    return 2 * held + SPARE_NUMBERS + (PRUNED_NUMBERS if checkpoint.yaml.get("pruned") else 0)


def _misfit(state: dict[str, Tensor], shapes: dict[str, torch.Size]) -> str:
    """What of the weights is not exactly as the network has it; nothing where all is."""
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
    """Import a further name of v6.1 when it is asked for; utils/v61 says where each is."""
    if name == "__path__":  # each import of the module asks for it
        raise AttributeError(name)
    return import_module("utils.v61").find(__name__, name)
