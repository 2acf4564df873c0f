"""Writes a network as v6.1's training does: the pickled module in a dictionary, for converters of others that read it.

Everything else here reads and writes plain data. A pickle names classes, and who loads one runs what it says; so it is
written on request only, and read again without making any of its classes.
"""

from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from models.experimental import attempt_load
from models.runtimes.base import Runtime
from models.runtimes.metadata import Metadata
from models.yolo import Model
from utils.general import LOGGER

FIELDS = ("best_fitness", "ema", "updates", "optimizer", "wandb_id")  # of v6.1's file; None in a stripped one
WARNING = (
    "a v61 file is a pickle, which converters load as a network of models.yolo with this repository on their path; "
    "loading a pickle runs what is in it, so load none from people whom you do not trust"
)


def write_v61(weights: Path, path: Path, half: bool = False) -> None:
    """Write the network of a checkpoint, not fused, as `torch.load(path)["model"]`, in FP16 with `half`."""
    network = attempt_load(weights, "cpu", fuse=False)
    if not isinstance(network, Model):
        raise ValueError(f"{weights}: one checkpoint is expected")
    network = (network.half() if half else network).requires_grad_(False)
    vars(network).pop("rows", None)  # checked rows of the yaml, which nobody reads after the build
    vars(network)["stride"] = network.stride.clone()  # v6.1 has it there, ours is its head's
    content = {"epoch": -1, "model": network, **dict.fromkeys(FIELDS), "date": datetime.now().isoformat()}
    if network.imgsz is not None:
        content["opt"] = {"imgsz": network.imgsz}  # v7.0 keeps the options of a training there, v6.1 none
    torch.save(content, path)
    LOGGER.warning(WARNING)


class V61Runtime(Runtime):
    """The network of such a file, read without making any class that it names."""

    def __init__(self, path: Path, device: torch.device, metadata: Metadata) -> None:
        super().__init__(metadata, device)
        self.fixed_batch = self.fixed_hw = None
        self.network = attempt_load(path, device)

    def compute(self, images: Tensor) -> list[Tensor]:
        """See Runtime."""
        with torch.no_grad():
            return [self.network(images)[0]]
