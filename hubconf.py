"""The networks for `torch.hub.load`, from a clone or from Python; nothing is downloaded.

    model = torch.hub.load("path/to/this/repository", "custom", path="best.pt", source="local")
    results = model("image.jpg")  # utils/predict/results.py says what they hold

Modules are imported, not names: torch.hub takes every callable here for an entry point.
"""

import contextlib
import pathlib
from collections import abc

import torch
from torch import nn

from models import v61, yolo
from models.edit import transfer
from utils import general, torch_utils
from utils.files import checkpoint
from utils.predict import autoshape as _autoshape

dependencies = ["torch", "numpy", "cv2", "PIL", "yaml", "tqdm"]
COLOURS = 3  # channels of the images that AutoShape reads


def custom(
    path: str | pathlib.Path = "path/to/model.pt",
    autoshape: bool = True,
    verbose: bool = True,
    device: str | torch.device | None = None,
    trust: bool = False,
    compile: bool = False,
) -> nn.Module:
    """The network of a checkpoint, ours or YOLOv5 v6.x's, or of an exported file, on the device (None: a GPU if any).

    path: the file, or the address of a server's network, `http://host:8000/model`. With `autoshape` the
    network takes images and gives Detections. Without it, it takes tensors and gives decoded boxes, or raw maps while
    it is in training mode; its norms and gradients are left as a training needs them. `verbose` lets the project's log
    write to the console, else warnings only. `trust` loads a program that was not exported on this machine, such as
    TorchScript. `compile` compiles a checkpoint's network by torch.compile, at the first image. FileNotFoundError or
    ValueError says what is wrong with the file, in one line.
    """
    general.set_logging(verbose)
    place = torch_utils.select_device("" if device is None else str(device))
    with _one_line_errors():
        model = v61.DetectMultiBackend(path, place, fuse=autoshape, trust=trust)
        if compile:
            torch_utils.compile_network(model.model, is_dynamic=True)
    return _shaped(model, autoshape)


@contextlib.contextmanager
def _one_line_errors() -> abc.Iterator[None]:
    """Leaves only the message at the end of a traceback, and not also what a reader said before it."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        kinds = (FileNotFoundError, OSError, ImportError, ValueError)
        kind = next(kind for kind in kinds if isinstance(error, kind))
        raise kind(general.one_line(error)) from None


def _create(
    name: str,
    pretrained: bool | None = None,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The network of `<name>.yaml`, untrained or with the weights of `<name>.pt`, which by default are taken if there.

    That there are none is then a warning: v6.1 would fetch them. `_nam` in a name is `-NAM` in those of the files.
    """
    name = name.replace("_nam", "-NAM")
    general.set_logging(verbose)
    if autoshape and channels != COLOURS:
        raise ValueError(f"{name}: images have {COLOURS} channels, not {channels}; give autoshape=False for tensors")
    weights = _local_weights(name, is_needed=pretrained is True) if pretrained is not False else None
    with _one_line_errors():
        source = checkpoint.load_checkpoint(weights) if weights is not None else None
    if source is not None and (len(source.names), source.yaml.get("ch", COLOURS)) == (classes, channels):
        return custom(weights, autoshape, verbose, device)
    place = torch_utils.select_device("" if device is None else str(device))
    model = yolo.Model(f"{name}.yaml", ch=channels, nc=classes, verbose=verbose)
    if source is not None:
        model.imgsz = source.imgsz
        report = transfer.transfer_weights(source, model, ("anchors",))
        general.LOGGER.info(f"{weights}:\n{report}")
        model.names = list(source.names) if len(source.names) == classes else model.names
    return _shaped(model.eval().to(place), autoshape)


def _local_weights(name: str, is_needed: bool) -> pathlib.Path | None:
    places = [pathlib.Path.cwd() / f"{name}.pt", general.ROOT / f"{name}.pt"]
    found = [path for path in places if path.is_file()]
    if not found and not is_needed:
        general.LOGGER.warning(
            f"{name} is untrained: there is no {name}.pt in {places[0].parent} or {general.ROOT}, "
            "and nothing is downloaded"
        )
        return None
    if not found:
        raise FileNotFoundError(
            f"{places[0]}: no such file, nor one in {general.ROOT}, and nothing is downloaded; put the release's file "
            "there, name a checkpoint with custom(path=...), or give pretrained=False for an untrained network"
        )
    return found[0]


def _shaped(model: nn.Module, autoshape: bool) -> nn.Module:
    return _autoshape.AutoShape(model.requires_grad_(False)) if autoshape else model.requires_grad_(True)


def yolov5n(
    pretrained: bool | None = None,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The nano network of three levels, for 640 pixels; with the weights of yolov5n.pt if it is there."""
    return _create("yolov5n", pretrained, channels, classes, autoshape, verbose, device)


def yolov5s(
    pretrained: bool | None = None,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The small network of three levels, for 640 pixels; with the weights of yolov5s.pt if it is there."""
    return _create("yolov5s", pretrained, channels, classes, autoshape, verbose, device)


def yolov5m(
    pretrained: bool | None = None,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The medium network of three levels, for 640 pixels; with the weights of yolov5m.pt if it is there."""
    return _create("yolov5m", pretrained, channels, classes, autoshape, verbose, device)


def yolov5l(
    pretrained: bool | None = None,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The large network of three levels, for 640 pixels; with the weights of yolov5l.pt if it is there."""
    return _create("yolov5l", pretrained, channels, classes, autoshape, verbose, device)


def yolov5x(
    pretrained: bool | None = None,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The extra large network of three levels, for 640 pixels; with the weights of yolov5x.pt if it is there."""
    return _create("yolov5x", pretrained, channels, classes, autoshape, verbose, device)


def yolov5n6(
    pretrained: bool | None = None,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The nano network of four levels, for 1280 pixels; with the weights of yolov5n6.pt if it is there."""
    return _create("yolov5n6", pretrained, channels, classes, autoshape, verbose, device)


def yolov5s6(
    pretrained: bool | None = None,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The small network of four levels, for 1280 pixels; with the weights of yolov5s6.pt if it is there."""
    return _create("yolov5s6", pretrained, channels, classes, autoshape, verbose, device)


def yolov5m6(
    pretrained: bool | None = None,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The medium network of four levels, for 1280 pixels; with the weights of yolov5m6.pt if it is there."""
    return _create("yolov5m6", pretrained, channels, classes, autoshape, verbose, device)


def yolov5l6(
    pretrained: bool | None = None,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The large network of four levels, for 1280 pixels; with the weights of yolov5l6.pt if it is there."""
    return _create("yolov5l6", pretrained, channels, classes, autoshape, verbose, device)


def yolov5x6(
    pretrained: bool | None = None,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The extra large network of four levels, for 1280 pixels; with the weights of yolov5x6.pt if it is there."""
    return _create("yolov5x6", pretrained, channels, classes, autoshape, verbose, device)


def yolov5n_nam(
    pretrained: bool | None = None,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The nano network with NAM attention, for 640 pixels; with the weights of yolov5n-NAM.pt if it is there."""
    return _create("yolov5n_nam", pretrained, channels, classes, autoshape, verbose, device)


def yolov5s_nam(
    pretrained: bool | None = None,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The small network with NAM attention, for 640 pixels; with the weights of yolov5s-NAM.pt if it is there."""
    return _create("yolov5s_nam", pretrained, channels, classes, autoshape, verbose, device)


def yolov5m_nam(
    pretrained: bool | None = None,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The medium network with NAM attention, for 640 pixels; with the weights of yolov5m-NAM.pt if it is there."""
    return _create("yolov5m_nam", pretrained, channels, classes, autoshape, verbose, device)


def yolov5l_nam(
    pretrained: bool | None = None,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The large network with NAM attention, for 640 pixels; with the weights of yolov5l-NAM.pt if it is there."""
    return _create("yolov5l_nam", pretrained, channels, classes, autoshape, verbose, device)


def yolov5x_nam(
    pretrained: bool | None = None,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The extra large network with NAM attention, for 640 pixels; with the weights of yolov5x-NAM.pt if it is there."""
    return _create("yolov5x_nam", pretrained, channels, classes, autoshape, verbose, device)
