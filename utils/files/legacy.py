"""YOLOv5's own .pt files (v6.x and v7.0: whole pickled networks) as plain data; none of their classes is ever made.

Every class that such a file names gets an inert stand-in, which only keeps what the file says of it, and any other
name in it is refused. utils/files/pickled.py reads the file; opening it is utils/files/checkpoint.py's part.

Legend: L detection levels, A anchors of a level.
"""

import re
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from utils.files.pickled import refuse

MODULES = "torch.nn.modules."
FORMER_MODULES = frozenset({"torch.nn.modules.linear._LinearWithBias"})  # gone from torch
PATHS = tuple(f"pathlib{part}.{kind}" for part in ("", "._local") for kind in ("PosixPath", "WindowsPath"))
NUMPY = tuple(f"numpy.{core}.multiarray" for core in ("core", "_core"))  # 1.x and 2.x
NUMPY_TYPE = re.compile(r"[<>|=]?[bfiu][1248]")
YAML_KEYS = ("depth_multiple", "width_multiple", "backbone", "head")
# Keys of v7.0 that can change the network, with the values that leave it as it is; all others change nothing.
UNCHANGING = {"activation": (None, "nn.SiLU()"), "channel_multiple": (None, 8)}
MAX_DEPTH, MAX_MODULES = 24, 100_000  # of a network; v6.1's largest has 6 and some 1000
MAX_SIDE = 65_536  # pixels of an image

StandIn = tuple[Callable[..., object], str]  # what makes what stands in, and the full name that it stands in for


class LegacyContent(NamedTuple):
    """Content of a YOLOv5 file, under the names of `utils.files.checkpoint.Checkpoint`; weights as stored."""

    yaml: dict
    names: tuple[str, ...]
    state: dict[str, Tensor]
    epoch: int
    best_fitness: float | None
    date: str
    origin: str
    imgsz: int | None


# Stand-ins ------------------------------------------------------------------------------------------------------------


class InertModule:
    """Keeps the attributes that a file gives an object, as data and apart from its own. It can do nothing."""

    __slots__ = ("fields",)
    origin = ""

    def __new__(cls, *args: object) -> Self:
        """An object without attributes; a module is pickled without arguments."""
        if args:
            raise ValueError(f"{cls.origin} is made with arguments, which a module never is")
        made = super().__new__(cls)
        made.fields = {}
        return made

    def __setstate__(self, state: object) -> None:
        """Takes the attributes that the file gives."""
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise ValueError(f"{self.origin} has a state that is no module's")
        self.fields = state

    def dictionary(self, name: str) -> dict:
        """The attribute of this name, which must be a mapping from names; empty where there is none."""
        found = self.fields.get(name, {})
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise ValueError(f"{self.origin}.{name} is no mapping")
        return found


class InertDtype:
    """A numpy type that holds plain numbers, by its name."""

    __slots__ = ("name",)

    def __new__(cls, name: object, *_: object) -> Self:
        """The type of this name, e.g. `f8`."""
        if not isinstance(name, str) or not NUMPY_TYPE.fullmatch(name):
            raise ValueError(f"numpy type {name!r} holds more than numbers")
        made = super().__new__(cls)
        made.name = name
        return made

    def __setstate__(self, state: object) -> None:
        """Takes the byte order, the second of the values that numpy keeps."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
        if order not in ("<", ">", "|", "="):
            raise ValueError(f"numpy byte order {order!r}")
        self.name = f"{order}{self.name.lstrip('<>|=')}"


class InertArray:
    """A numpy array as its numbers in a list."""

    __slots__ = ("numbers",)

    def __setstate__(self, state: object) -> None:
        """Takes numpy's version, shape, type, order and bytes."""
        if not (isinstance(state, tuple) and len(state) == 5):
            raise ValueError("a numpy array in a form that is not known")
        self.numbers = _numbers(state[2], state[4])


def _numbers(dtype: object, data: object) -> list[float]:
    if not isinstance(dtype, InertDtype) or not isinstance(data, bytes):
        raise ValueError("a numpy value in a form that is not known")
    return np.frombuffer(data, np.dtype(dtype.name)).tolist()


def _scalar(dtype: object, data: object) -> float:
    return _numbers(dtype, data)[0]


def _empty_array(*_: object) -> InertArray:
    array = InertArray()
    array.numbers = []
    return array


def _path(*parts: object) -> str:
    return "/".join(part for part in parts if isinstance(part, str))


def stand_ins(names: Iterable[str]) -> list[StandIn]:
    """What stands in for the classes and functions that a file names; ValueError with those refused."""
    values: dict[str, Callable[..., object]] = {"numpy.dtype": InertDtype, "numpy.ndarray": InertArray}
    values |= dict.fromkeys(PATHS, _path)
    for module in NUMPY:
        values |= {f"{module}.scalar": _scalar, f"{module}._reconstruct": _empty_array}
    found: list[StandIn] = []
    refused = []
    for name in sorted(names):
        if name in values:
            found.append((values[name], name))
        elif name.startswith("models.") or _is_torch_module(name):
            found.append((type("InertModule", (InertModule,), {"__slots__": (), "origin": name}), name))
        else:
            refused.append(name)
    if refused:
        refuse(refused)
    return found


def _is_torch_module(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    found = getattr(sys.modules.get(module), attribute, None) if name.startswith(MODULES) else None
    return name in FORMER_MODULES or (isinstance(found, type) and issubclass(found, nn.Module))


# Content --------------------------------------------------------------------------------------------------------------


def interpret(content: object) -> LegacyContent:
    """What was read with `stand_ins`, as plain data: the moving average where there is one, else the model.

    The optimizer is left out: a training that YOLOv5 began cannot be gone on with. ValueError says what does not fit.
    """
    if isinstance(content, InertModule):
        content = {"model": content}
    parts = [content.get(key) for key in ("ema", "model")] if isinstance(content, dict) else []
    network = next((part for part in parts if isinstance(part, InertModule)), None)
    if network is None:
        raise ValueError("not a YOLOv5 checkpoint: there is no network in it")
    state: dict[str, Tensor] = {}
    _collect(network, "", state, [0])
    yaml = _yaml(network, state)
    epoch, date = content.get("epoch"), content.get("date")
    return LegacyContent(
        yaml=yaml,
        names=_names(network.fields.get("names"), yaml["nc"]),
        state=state,
        epoch=epoch if isinstance(epoch, int) else -1,
        best_fitness=_fitness(content.get("best_fitness")),
        date=date if isinstance(date, str) else "",
        origin=f"YOLOv5 ({network.origin})",
        imgsz=trained_size(content.get("opt")),
    )


def trained_size(options: object) -> int | None:
    """The size that a training with these options had its images in; None where they do not say it, as in v6.1."""
    size = options.get("imgsz") if isinstance(options, dict) else None
    return size if is_side(size) else None


def is_side(value: object) -> bool:
    """Whether the value can be the side of an image, in pixels."""
    return type(value) is int and 1 <= value <= MAX_SIDE


def _collect(module: InertModule, prefix: str, state: dict[str, Tensor], visits: list[int]) -> None:
    """Adds the module's parameters and persistent buffers in the order of a state dict, then those of its parts."""
    visits[0] += 1
    if visits[0] > MAX_MODULES or prefix.count(".") > MAX_DEPTH:
        raise ValueError("its modules are nested or repeated without end")
    unsaved = module.fields.get("_non_persistent_buffers_set")
    unsaved = {"anchor_grid"} | (unsaved if isinstance(unsaved, set) else set())
    saved = {name: value for name, value in module.dictionary("_buffers").items() if name not in unsaved}
    for name, value in {**module.dictionary("_parameters"), **saved}.items():
        if isinstance(value, Tensor) and value.layout == torch.strided:
            state[prefix + name] = value.detach()
        elif value is not None:
            raise ValueError(f"{prefix}{name} is no tensor")
    for name, part in module.dictionary("_modules").items():
        if isinstance(part, InertModule):
            _collect(part, f"{prefix}{name}.", state, visits)
        elif part is not None:
            raise ValueError(f"{prefix}{name} is no module")


def _yaml(network: InertModule, state: dict[str, Tensor]) -> dict:
    """The network's yaml, with the nc, ch and anchors that the network has."""
    found = network.dictionary("yaml")
    absent = [key for key in YAML_KEYS if key not in found]
    if absent:
        raise ValueError(f"not a detector: its yaml has no {', '.join(absent)}")
    for key, same in UNCHANGING.items():
        value = found.get(key)
        if not isinstance(value, type(None) | str | int) or value not in same:
            raise ValueError(f"its yaml has {key} {value!r:.60}, which makes another network than is known here")
    nc = network.fields.get("nc", found.get("nc"))
    if type(nc) is not int:
        raise ValueError(f"not a detector: its number of classes is {nc!r:.60}")
    return {
        "nc": nc,
        "ch": found.get("ch", 3),
        **{key: found[key] for key in YAML_KEYS},
        "anchors": _anchors_px(network, state),
    }


def _anchors_px(network: InertModule, state: dict[str, Tensor]) -> list[list[float]]:
    """Per level a flat list of anchor widths and heights in pixels; the file has them in grid units."""
    anchors = next((value for name, value in state.items() if name.endswith(".anchors")), None)  # (L, A, 2)
    stride = _stride(network)
    if anchors is None or not isinstance(stride, Tensor) or stride.layout != torch.strided:
        raise ValueError("not a detector: it has no anchors or no stride")
    if anchors.ndim != 3 or anchors.shape[2] != 2 or stride.shape != anchors.shape[:1] or anchors.numel() > 1000:
        raise ValueError(f"anchors {tuple(anchors.shape)} do not fit strides {tuple(stride.shape)}")
    pixels = anchors.to(torch.float64) * stride.to(torch.float64).view(-1, 1, 1)
    return [[round(x, 4) for x in level] for level in pixels.flatten(1).tolist()]


def _stride(network: InertModule) -> object:
    """The strides of the levels: the network's own in YOLOv5's files, its head's in those of our networks."""
    if "stride" in network.fields:
        return network.fields["stride"]
    layers = network.dictionary("_modules").get("model")
    parts = [*layers.dictionary("_modules").values()] if isinstance(layers, InertModule) else []
    head = parts[-1] if parts else None
    return head.dictionary("_buffers").get("stride") if isinstance(head, InertModule) else None


def _names(found: object, nc: object) -> tuple[str, ...]:
    if isinstance(found, dict):
        found = [found[key] for key in sorted(found)] if all(isinstance(key, int) for key in found) else None
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        raise ValueError("its class names are neither a list nor numbered")
    if len(found) != nc:
        raise ValueError(f"{len(found)} class names for {nc} classes")
    return tuple(found)


def _fitness(found: object) -> float | None:
    if isinstance(found, InertArray):
        found = found.numbers[0] if len(found.numbers) == 1 else None
    return float(found) if isinstance(found, int | float) else None
