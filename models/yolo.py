"""The detector: a model yaml becomes a network that turns images into boxes.

    python models/yolo.py --cfg yolov5s-NAM.yaml             # the table of its layers; --profile times them
    python models/yolo.py --test                             # build every yaml in models/

To add a block of your own: 1. put its class into models/common.py, 2. name it in the chain of `parse_model` (or in
one of the sets above it), 3. write a row with it into a yaml.

Legend: B batch, H W an image's height and width, L levels of the head; c1 and c2 channels in and out of a layer.
"""

import os
import sys

if not __package__:  # run as a file, for which Python looks in models/ and not in the folder above
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
import difflib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from models import common
from models.attention import NAMAttention
from models.blocks import controls
from models.blocks import peers as attention_peers
from models.blocks import rare as experimental_blocks
from models.blocks.head import Detect
from models.blocks.peers import CBAM, ECA, EMA, GAM, SE, CoordAttention, SimAM
from models.blocks.rare import CrossConv, MixConv2d, Sum
from models.common import (
    C3,
    C3NAM,
    C3SPP,
    C3TR,
    SPP,
    SPPF,
    Bottleneck,
    BottleneckCSP,
    C3Ghost,
    Concat,
    Contract,
    Conv,
    DWConv,
    Expand,
    Focus,
    GhostBottleneck,
    GhostConv,
)
from models.spec.pruned import check_pruned, narrow_layer, set_output_channels
from models.spec.repair import advise
from models.spec.rows import (
    PREVIOUS,
    Row,
    check_anchors,
    check_numbers,
    is_whole,
    load_model_yaml,
    plan_reads,
    read_rows,
    read_word,
)
from models.spec.wiring import check_wiring
from models.tta import predict_augmented
from utils.general import LOGGER, ROOT, make_divisible, run_script
from utils.torch_utils import fuse_conv_and_bn, initialize_weights, model_info, profile_layers, select_device

DRY_RUN_SIZE = 256  # pixels; a multiple of every stride
ERRORS_OF_A_ROW = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Model(nn.Module):
    """The network of a model yaml, given as a path, a bare file name or a mapping; nc and anchors replace the yaml's.

    `yaml` holds the yaml as used, `model` the layers, `names` the class names, `save` the numbers of layers that others
    than the next one read. Builds in training mode; ValueError names the file, and the row where it is a row's fault.
    `verbose` logs the table of layers, `warn` what looks odd about their wiring.
    """

    def __init__(
        self,
        cfg: str | Path | dict = "yolov5s.yaml",
        ch: int = 3,
        nc: int | None = None,
        anchors: float | list[list[float]] | None = None,
        verbose: bool = True,
        warn: bool = True,
    ) -> None:
        super().__init__()
        self.yaml, file = load_model_yaml(cfg)
        self.yaml["ch"] = ch = self.yaml.get("ch", ch)
        if nc is not None and nc != self.yaml["nc"]:
            LOGGER.info(f"{file}: nc {self.yaml['nc']} is replaced by {nc}")
            self.yaml["nc"] = nc
        if anchors is not None:
            self.yaml["anchors"] = anchors if isinstance(anchors, list) else round(anchors)
            LOGGER.info(f"{file}: its anchors are replaced by {self.yaml['anchors']}")
        check_numbers(self.yaml, file)
        try:
            self.rows = read_rows(self.yaml, file)
            self.model, self.save = parse_model(self.yaml, [ch], file, verbose)
            self._plan = plan_reads(self.rows)
            strides = self._dry_run()
        except ValueError as error:
            raise ValueError(f"{error}{advise(self.yaml, file)}") from error.__cause__
        self.nc = self.yaml["nc"]
        self.names = [str(i) for i in range(self.nc)]
        self.head.set_strides(strides)
        self.head.initialize_biases(strides)
        initialize_weights(self)
        for warning in check_wiring(self) if warn else ():
            LOGGER.warning(warning)
        if verbose:
            self.info()

    @property
    def head(self) -> Detect:
        """The last layer."""
        return self.model[-1]

    @property
    def stride(self) -> Tensor:
        """Pixels of a cell of each level, (L,)."""
        return self.head.stride

    def forward(self, x: Tensor, augment: bool = False) -> list[Tensor] | tuple[Tensor, list[Tensor] | None]:
        """What Detect gives for images (B, ch, H, W) in 0..1, of sides that the largest stride divides.

        With `augment` the boxes of test-time augmentation, and None in place of raw maps.
        """
        if augment:
            assert not self.training, "test-time augmentation is for evaluation"
            return predict_augmented(self.forward, x, int(self.stride.max())), None
        kept: dict[int, Tensor] = {}
        for i, (layer, (reads, keep, frees)) in enumerate(zip(self.model, self._plan, strict=True)):
            if reads is not None:
                x = kept[reads] if isinstance(reads, int) else [x if j == PREVIOUS else kept[j] for j in reads]
            x = layer(x)
            if keep:
                kept[i] = x
            for j in frees:
                del kept[j]
        return x

    def _dry_run(self) -> list[float]:
        """The stride of each level, seen from an empty image's maps; leaves statistics and random numbers alone.

        ValueError where a layer fails on what it gets, or gives another number of channels than `parse_model` said.
        """
        weight, size, done = self.head.m[0].weight, DRY_RUN_SIZE, []

        def note(layer: nn.Module, _inputs: object, output: object) -> None:
            channels = output.shape[1] if isinstance(output, Tensor) else layer.c2
            if channels != layer.c2:
                raise ValueError(f"gives {channels} channels where parse_model reckons with {layer.c2}")
            done.append(layer)

        hooks = [layer.register_forward_hook(note) for layer in self.model]
        self.eval().head.train()  # for its raw maps alone
        try:
            with torch.no_grad():
                raw = self.forward(torch.zeros(1, self.yaml["ch"], size, size, device=weight.device))
        except ERRORS_OF_A_ROW as error:
            row = self.rows[len(done)]
            raise row.error(f"does not fit its input: {error}{hint(row)}") from error
        finally:
            self.train()
            for hook in hooks:
                hook.remove()
        heights = [y.shape[2] for y in raw]
        if any(size % height for height in heights):
            raise self.rows[-1].error(f"maps of {heights} cells for an image of {size} pixels: no whole strides")
        return [size / height for height in heights]

    def set_anchors(self, anchors: list[list[float]]) -> None:
        """Takes other anchors, w, h, w, h, ... in pixels for each level, into the head and the yaml.

        As many as there are; numbers of up to two decimals, so that the yaml makes the very same ones.
        """
        check_anchors(anchors, "new anchors")
        ordered = self.head.set_anchors(anchors)
        self.yaml["anchors"] = [[round(side, 2) for side in level] for level in ordered]

    def fuse(self) -> Self:
        """Itself, for inference: batch norms put into the convolutions before them, NAM's into constants."""
        for name, module in self.named_modules():
            if isinstance(module, Conv) and isinstance(module.bn, nn.BatchNorm2d):
                module.conv = fuse_conv_and_bn(module.conv, module.bn)
                module.bn = nn.Identity()
            elif isinstance(module, NAMAttention) and not module.fuse():
                LOGGER.info(f"{name}: NAM's spatial part depends on the image's size and is not folded")
        return self

    def info(self, imgsz: int = 640) -> str:
        """The summary of layers, parameters and operations, logged and returned."""
        summary = f"Model summary: {model_info(self, imgsz)}"
        LOGGER.info(summary)
        return summary


# From rows to layers --------------------------------------------------------------------------------------------------

BLOCKS = {
    name: block
    for file in (common, experimental_blocks, attention_peers, controls)
    for name, block in vars(file).items()
    if isinstance(block, type) and issubclass(block, nn.Module)
} | {"Detect": Detect}

CHANNELS_IN_OUT = {  # m(c1, c2, ...); the row states c2, before scaling
    *(Conv, DWConv, GhostConv, Focus, CrossConv, MixConv2d, Bottleneck, GhostBottleneck, SPP, SPPF),
    *(BottleneckCSP, C3, C3NAM, C3TR, C3SPP, C3Ghost),
}
REPEATS_INSIDE = {BottleneckCSP, C3, C3NAM, C3TR, C3Ghost}  # m(c1, c2, n, ...); others are put n times in a row
SAME_CHANNELS = {  # m(c1, ...); the row may state c1, before scaling
    *(NAMAttention, SE, ECA, CBAM, CoordAttention, SimAM, EMA, GAM, nn.BatchNorm2d, *controls.CONTROLS),
}
READS_SEVERAL = {Concat, Detect, Sum}  # from is a list, and forward gets one
V61_HOMES = {  # shown, as v6.1 and the NAM recipe do
    **{"models.blocks.head": "models.yolo", "models.blocks.rare": "models.experimental"},
    "models.attention": "models.common",
}


KNOWN = CHANNELS_IN_OUT | SAME_CHANNELS | READS_SEVERAL | {Contract, Expand}


def type_of(m: type[nn.Module]) -> str:
    """The class with the module that v6.1 has it in."""
    return f"{V61_HOMES.get(m.__module__, m.__module__)}.{m.__qualname__}"


def check_from(source: int | list[int], m: type[nn.Module]) -> None:
    """ValueError where the `from` of a row is a list and its class reads one row, or the other way round."""
    if isinstance(source, list) != (m in READS_SEVERAL):
        wanted = "a list of rows" if m in READS_SEVERAL else "one row"
        raise ValueError(f"from {source}: {m.__name__} reads {wanted}")


def find_module(name: str) -> type[nn.Module]:
    """The class that a row names: `nn.X` is torch.nn's, any other a class of models/common.py or Detect."""
    found = getattr(nn, name.removeprefix("nn."), None) if name.startswith("nn.") else BLOCKS.get(name)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        known = {other.lower(): other for other in (*BLOCKS, *(f"nn.{other}" for other in dir(nn)))}
        close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.75)
        hint = f" (did you mean {known[close[0]]}?)" if close else ""
        raise ValueError(f"unknown module {name!r}{hint}: a block is a class in models/common.py, or nn.X of torch.nn")
    return found


def takes_text(m: type[nn.Module]) -> bool:
    """Whether a row may hold text for this class: one of torch's, or one with a parameter of type str."""
    parameters = inspect.signature(m).parameters.values()
    return m.__module__.startswith("torch.") or any("str" in str(parameter.annotation) for parameter in parameters)


def split_arguments(args: list) -> tuple[list, dict[str, object]]:
    """A row's arguments by place and, where its last is a mapping such as {gain_out: 2}, those by name."""
    return (args[:-1], args[-1]) if args and isinstance(args[-1], dict) else (args, {})


def shown_arguments(args: list, named: dict[str, object]) -> str:
    """A row's arguments as the table has them."""
    return f"{args}, {named}" if named else str(args)


@contextmanager
def naming(row: Row) -> Iterator[None]:
    """Lets errors name the row that they come from."""
    try:
        yield
    except ERRORS_OF_A_ROW as error:
        raise row.error(f"{error}{hint(row)}") from error


def hint(row: Row) -> str:
    """What may be wrong where a row of a user's own block fails."""
    m = BLOCKS.get(row.content[2])
    if m is None or m in KNOWN:
        return ""
    if isinstance(row.content[0], list) and m not in READS_SEVERAL:
        return f"; if its forward takes a list of tensors, add {m.__name__} to READS_SEVERAL above parse_model"
    return f"; {m.__name__} is in no set above parse_model, so its arguments are passed as they stand in the yaml"


def parse_model(
    d: dict, ch: Sequence[int], file: str = "model yaml", verbose: bool = True
) -> tuple[nn.Sequential, list[int]]:
    """The layers of a model yaml's content d for images of ch[-1] channels, and the numbers of those kept for later.

    Each layer has `i` its row's number, `f` what it reads, `type`, `np` its parameters and `c2` its channels out.
    """
    anchors, nc, gd, gw = d["anchors"], d["nc"], d["depth_multiple"], d["width_multiple"]
    na = anchors if isinstance(anchors, int) else len(anchors[0]) // 2
    words = {"nc": nc, "anchors": anchors, "None": None, "True": True, "False": False}

    def scale(width: object) -> int:
        if not is_whole(width) or width < 1:
            raise ValueError(f"its first argument is the channels, a whole number, not {width!r}")
        return width if width == na * (nc + 5) else make_divisible(width * gw, 8)

    log = LOGGER.info if verbose else LOGGER.debug
    log(f"\n{'':>3}{'from':>18}{'n':>3}{'params':>10}  {'module':<40}{'arguments':<30}")
    layers: list[nn.Module] = []
    rows = read_rows(d, file)
    pruned = check_pruned(d.get("pruned"), len(rows), file)
    for row in rows:
        f, n, name, args = row.content
        with naming(row):
            m = find_module(name)
            n = repeats = max(round(n * gd), 1) if n > 1 else n
            args, named = split_arguments([read_word(arg, words, takes_text(m)) for arg in args])
            widths = [layers[j].c2 if j >= 0 else ch[-1] for j in row.sources]  # of what it reads
            c1 = c2 = widths[0]
            check_from(f, m)
            if m in CHANNELS_IN_OUT:
                c2 = scale(args[0] if args else None)
                args = [c1, c2, *args[1:]]
                if m in REPEATS_INSIDE:
                    args.insert(2, n)
                    n = 1
            elif m in SAME_CHANNELS:
                if args and scale(args[0]) != c1:
                    stated = f"states {args[0]} channels, which are {scale(args[0])} at width_multiple {gw}"
                    raise ValueError(f"{stated}, but its input has {c1}; correct it or write []")
                args = [c1, *args[1:]]
            elif m is Concat:
                c2 = sum(widths) if args in ([], [1]) else c1
            elif m is Sum:
                args = [len(widths), *args]
            elif m is Contract:
                c2 = c1 * (args[0] if args else 2) ** 2
            elif m is Expand:
                c2 = c1 // (args[0] if args else 2) ** 2
            elif m is Detect:
                levels = [list(range(2 * na))] * len(widths) if isinstance(anchors, int) else anchors
                args = [nc, levels, widths]
            layer = nn.Sequential(*(m(*args, **named) for _ in range(n))) if n > 1 else m(*args, **named)
            narrow_layer(layer, row.index, pruned)  # at once, for only one layer to be as large as its row states
        layer.i, layer.f, layer.c2, layer.type = row.index, f, c2, type_of(m)
        layer.np = sum(parameter.numel() for parameter in layer.parameters())
        log(f"{row.index:>3}{f!s:>18}{repeats:>3}{layer.np:10.0f}  {layer.type:<40}{shown_arguments(args, named):<30}")
        layers.append(layer)
    set_output_channels(layers, pruned)
    return nn.Sequential(*layers), [i for i, (_, kept, _) in enumerate(plan_reads(rows)) if kept]


# Script ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """The flags of `parse_opt`."""

    cfg: str
    device: str
    profile: bool
    test: bool


def parse_opt(arguments: Sequence[str] | None = None) -> Options:
    """The options of the command line, or of `arguments`."""
    parser = argparse.ArgumentParser(description="Build a model and print its layers.")
    parser.add_argument("--cfg", default="yolov5s.yaml", help="model yaml, e.g. yolov5s-NAM.yaml")
    parser.add_argument("--device", default="", help="0 or cpu; empty takes the first GPU if there is one")
    parser.add_argument("--profile", action="store_true", help="time each layer")
    parser.add_argument("--test", action="store_true", help="build every yolo*.yaml in models/")
    return Options(**vars(parser.parse_args(arguments)))


def main(opt: Options) -> Model:
    """Builds the model that the options name."""
    device = select_device(opt.device)
    model = Model(opt.cfg).to(device)
    if opt.profile:
        profile_layers(model, torch.rand(1, model.yaml["ch"], 640, 640, device=device))
    if opt.test:
        with torch.device("meta"):  # layers without numbers: all the checks, none of the memory
            for cfg in sorted((ROOT / "models").rglob("yolo*.yaml")):
                Model(cfg, verbose=False)
                LOGGER.info(f"{cfg.relative_to(ROOT)} builds")
    return model


# Names of v6.1 --------------------------------------------------------------------------------------------------------


def __getattr__(name: str) -> object:
    """Import a further name of v6.1 when it is asked for; utils/v61 says where each is."""
    if name == "__all__":  # a star import takes this module's own, or it would import what needs this module
        raise AttributeError(name)
    return import_module("utils.v61").find(__name__, name)


if __name__ == "__main__":
    run_script(main, parse_opt())
