"""Trained networks, ready for inference: one out of a checkpoint, or several that give their boxes together.

Legend: B batch, N boxes, no = 5 + nc numbers of a box.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from models.blocks.rare import CrossConv, MixConv2d, Sum
from models.spec.rows import load_model_yaml, read_rows
from models.yolo import Model, parse_model
from utils.files.checkpoint import Checkpoint, load_checkpoint

__all__ = ["CrossConv", "Ensemble", "MixConv2d", "Sum", "attempt_load"]  # three of them for v6.1's importers

NAMED_IN_ERROR = 3  # tensors
MOST_BLOCKS = 10_000  # of a yaml in a file, repeats counted; yolov5x has 60


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


def attempt_load(
    weights: str | Path | Sequence[str | Path],
    device: torch.device | str | None = None,
    inplace: bool = True,
    fuse: bool = True,
    *,
    map_location: torch.device | str | None = None,
) -> Model | Ensemble:
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


def _load_one(path: str | Path, device: torch.device | str, fuse: bool) -> Model:
    return network_of(path, load_checkpoint(path), device, fuse)


def network_of(path: str | Path, checkpoint: Checkpoint, device: torch.device | str, fuse: bool) -> Model:
    """The network that a file's yaml and weights make, for inference on the device; ValueError if they do not fit."""
    try:
        shapes = _claimed_shapes(checkpoint.yaml)
        misfit = _misfit(checkpoint.state, shapes)
        model = None if misfit else Model(checkpoint.yaml, verbose=False, warn=False)
    except ValueError as error:
        raise ValueError(f"{path}: its yaml makes no network: {error}") from error
    if model is None:
        raise ValueError(f"{path}: its tensors do not fit its yaml: {misfit}")
    model.load_state_dict(checkpoint.state)
    model.names = list(checkpoint.names)
    model = model.eval()
    return (model.fuse() if fuse else model).to(device).float().eval().requires_grad_(False)


def _claimed_shapes(yaml: dict) -> dict[str, torch.Size]:
    """The tensors of a yaml's network, named as in its state dict, found without the memory that they would take.

    A small file can claim a network of any size, so it is built only once its weights are known to fill it.
    """
    content, file = load_model_yaml(yaml)
    ch, gain = [content.get("ch", 3)], content["depth_multiple"]
    repeats = [row.content[1] for row in read_rows(content, file)]
    blocks = sum(max(round(n * gain), 1) if n > 1 else n for n in repeats)
    if blocks > MOST_BLOCKS:
        raise ValueError(f"{blocks} blocks; up to {MOST_BLOCKS} are possible")
    try:
        with torch.device("meta"):
            layers, _ = parse_model(content, ch, file, verbose=False)
    except ValueError as error:
        if "meta" not in str(error.__cause__):
            raise
        layers, _ = parse_model(content, ch, file, verbose=False)  # a user's block reads numbers while it is made
    return {f"model.{name}": value.shape for name, value in layers.state_dict().items()}


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
    return import_module("utils.v61").find(__name__, name)
