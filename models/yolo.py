"""The detector: model yaml to network, images to boxes.

    python models/yolo.py --cfg yolov5s-NAM.yaml             # table of its layers; --profile times them
    python models/yolo.py --test                             # build every yaml in models/

To add your own block: 1. put its class into models/common.py, or into a file of your own and import it here, 2. name it
in the chain of `parse_model`, 3. write a row with it into a yaml. docs/recipes.md has an example of each kind of edit.

Shapes: B batch, H and W height and width of an image, L levels of the head; c1 and c2 input and output channels.
"""

import os
import sys

if not __package__:  # run as a file, for which Python looks in models/ and not in the folder above
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
import difflib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

import torch
from torch import Tensor, nn

from models import common
from models.blocks import controls, head, nam, peers, rare
from models.spec.arguments import (
    UnknownNameError,
    find_dotted,
    is_block,
    is_function_of,
    parameters_of,
    read_argument,
    split_named,
)
from models.spec.budget import within_budget
from models.spec.pruned import check_pruned, narrow_layer, set_output_channels
from models.spec.repair import advise
from models.spec.rows import (
    PREVIOUS,
    Plan,
    Row,
    as_list,
    check_anchors,
    check_numbers,
    is_whole,
    load_model_yaml,
    plan_reads,
    read_rows,
)
from models.spec.wiring import check_wiring
from models.tta import predict_augmented
from utils import general
from utils.files.feature_maps import save_features
from utils.general import LOGGER, ROOT, make_divisible, run_script
from utils.torch_utils import fuse_conv_and_bn, initialize_weights, model_info, profile_layers, select_device

if TYPE_CHECKING:  # for tools that read the code; `copy_names` below brings these and all others of models/common.py
    from models.blocks.head import Detect
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
        CrossConv,
        DWConv,
        Expand,
        Focus,
        GhostBottleneck,
        GhostConv,
        MixConv2d,
    )

# Names ----------------------------------------------------------------------------------------------------------------
# Rows, and branches of `parse_model`, name classes as names of this file. In v6.1 `from models.common import *` brings
# them. Here every public name of models/common.py is copied in, then our blocks of other files. A name that is here
# already stays: a class that you import above or below, define here or paste into models/common.py is used in place
# of ours of the same name.


def copy_names(names: Mapping[str, object]) -> None:
    """Copy all public names of a module into this one, except those that exist here."""
    for name, value in names.items():
        if not name.startswith("_"):
            globals().setdefault(name, value)


def copy_blocks(names: Mapping[str, object], module: str) -> None:
    """Copy the nn.Module subclasses that a module defines itself."""
    copy_names({name: value for name, value in names.items() if is_block(value) and value.__module__ == module})


copy_names(vars(common))
for blocks in (head, rare, peers, controls):
    copy_blocks(vars(blocks), blocks.__name__)


def copy_late_names() -> None:
    """Copy classes that a user has pasted into models/experimental.py, which v6.1 star-imports."""
    if "models.experimental" in sys.modules:  # it imports this file
        copy_blocks(vars(sys.modules["models.experimental"]), "models.experimental")


def check_version(current: str = "0.0.0", minimum: str = "0.0.0", **options: object) -> bool:
    """Compare versions as `utils.general.check_version` does; heads pasted from v6.1 call it by this name."""
    return general.check_version(current, minimum, **options)


# The network ----------------------------------------------------------------------------------------------------------

DRY_RUN_SIZE = 256  # pixels; a multiple of every stride
ERRORS_OF_A_ROW = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Model(nn.Module):
    """The network of a model yaml, which may be a path, a bare file name or a mapping. Builds in training mode.

    Args:
        cfg: The yaml. ch, nc and anchors replace its values.
        verbose: Log the table of layers.
        warn: Log suspicious wiring.

    Attributes:
        yaml: The yaml's content as used.
        model: The layers, nn.Sequential.
        names: The class names.
        save: Indices of the layers whose output a later layer reads.

    Raises:
        ValueError: names the file, and the row if one is at fault.
    """

    _plan: tuple[list, Plan] | None = None  # of the class, for networks that v6.1 pickled; see `plan`
    wants_contiguous = False  # a block of the user's is in it, which may call `view` on what convolutions give

    @within_budget
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
        if not isinstance(cfg, dict):
            self.yaml_file = Path(cfg).name
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
            self.model, self.save = build_layers(self.yaml, ch, self.rows, file, verbose)
            self.wants_contiguous = not all(is_known(type(layer)) for layer in self.model.modules())
            if not head.is_head(self.head):
                raise self.rows[-1].error(
                    f"Detect must be the last row, or a class of yours with {', '.join(head.PARTS)} as Detect has them"
                )
            strides = self._dry_run()
        except ValueError as error:
            raise ValueError(f"{error}{advise(self.yaml, file)}") from error.__cause__
        self.nc = self.yaml["nc"]
        self.names = [str(i) for i in range(self.nc)]
        self.imgsz: int | None = None  # the size that it was trained at, where that is known
        self.inplace = self.yaml.get("inplace", True)
        self.head.inplace = self.inplace
        head.set_strides(self.head, strides)
        head.initialize_biases(self.head, strides)
        initialize_weights(self)
        if warn:
            for warning in check_wiring(self):
                LOGGER.warning(warning)
        if verbose:
            self.info()

    def __setstate__(self, state: dict) -> None:
        """Restore a pickled network. v6.1's lack some attributes of this class and of today's torch."""
        super().__setstate__(state)
        self.__dict__.setdefault("nc", self.model[-1].nc)
        self.__dict__.setdefault("imgsz", None)
        for module in self.model.modules():
            if isinstance(module, nn.Upsample) and not hasattr(module, "recompute_scale_factor"):
                module.recompute_scale_factor = None  # of torch before 1.11

    @property
    def head(self) -> "Detect":
        """The last layer."""
        return self.model[-1]

    @property
    def stride(self) -> Tensor:
        """Strides of the levels in pixels, (L,)."""
        return self.head.stride

    @stride.setter
    def stride(self, stride: Tensor) -> None:
        """Set the strides of the head."""
        self.head.stride = stride

    @property
    def has_placeholder_anchors(self) -> bool:
        """True if the yaml gives only the number of anchors and none have been set yet."""
        return head.has_placeholder_anchors(self.head)

    @property
    def plan(self) -> Plan:
        """The inputs of each layer and the outputs to keep, see `plan_reads`; recomputed if layers were replaced."""
        known = self._plan[0] if self._plan and len(self._plan[0]) == len(self.model) else [-1] * len(self.model)
        # A layer that was put in the place of another and has no `f` reads what that one read.
        froms = [getattr(layer, "f", f) for layer, f in zip(self.model, known, strict=True)]
        if self._plan is None or self._plan[0] != froms:
            self._plan = froms, plan_reads(froms, self.save)
        return self._plan[1]

    def forward(
        self, x: Tensor, augment: bool = False, profile: bool = False, visualize: str | Path | bool = False
    ) -> list[Tensor] | tuple[Tensor, list[Tensor] | None]:
        """Run the head on images (B, ch, H, W) in 0..1; H and W must be multiples of the largest stride.

        Args:
            x: Images.
            augment: Return the boxes of test-time augmentation, and None in place of the raw maps.
            profile: Log the time of each layer.
            visualize: Folder for the feature maps of the first image, as .png and .npy.
        """
        if augment:
            assert not self.training, "test-time augmentation is for evaluation"
            return predict_augmented(self.forward, x, int(self.stride.max())), None
        if self.wants_contiguous and not x.is_contiguous():
            x = x.contiguous()
        return self._forward_once(x, profile, visualize)

    def _forward_once(
        self, x: Tensor, profile: bool = False, visualize: str | Path | bool = False
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        if profile:
            profile_layers(self, x)
        y: dict[int, Tensor] = {}  # outputs that are read later on
        is_pasted = not self.training and not isinstance(self.head, head.Detect) and head.is_head(self.head)
        pasted_head = len(self.model) - 1 if is_pasted else None
        for i, (m, (reads, keep, frees)) in enumerate(zip(self.model, self.plan, strict=True)):
            if reads is not None:
                x = y[reads] if isinstance(reads, int) else [x if j == PREVIOUS else y[j] for j in reads]
            x = head.in_fp32(m, x) if i == pasted_head else m(x)
            if keep:
                y[i] = x
            for j in frees:
                del y[j]
            if visualize and isinstance(x, Tensor) and x.ndim == 4 and min(x.shape[2:]) > 1:
                maps = x[0].detach().float().cpu().numpy()  # (C, H, W)
                save_features(Path(visualize), {f"stage{i}_{type(m).__name__}_features": maps})
        return x

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Apply fn also to the strides of a head that keeps them as a plain tensor, as v6.1's; rebuild its grids.

        A network that wants contiguous maps keeps contiguous weights, whatever memory format it is asked to take.
        """
        super()._apply(in_one_row(fn) if self.wants_contiguous else fn, recurse)
        kept = self.head.__dict__
        if isinstance(kept.get("stride"), Tensor):
            self.head.stride = fn(self.head.stride)
        for name in ("grid", "anchor_grid"):
            if isinstance(kept.get(name), list):
                setattr(self.head, name, [torch.zeros(1)] * self.head.nl)
        if isinstance(self.head, head.Detect):
            self.head._kept = None
        return self

    def _dry_run(self) -> list[float]:
        """Measure each level's stride by a forward pass on zeros, without touching BN statistics or the RNG.

        Raises:
            ValueError: if a layer fails on its input. Names that row, or the first row whose output has another
                number of channels than `parse_model` computed.
        """
        size, done = DRY_RUN_SIZE, []
        device = next((parameter.device for parameter in self.parameters()), torch.device("cpu"))
        wrong: dict[int, str] = {}

        def note(layer: nn.Module, _inputs: object, output: object) -> None:
            i, channels = len(done), self.model.channels
            done.append(layer)
            if isinstance(output, Tensor) and channels[i] is None:
                channels[i] = output.shape[1]
            elif isinstance(output, Tensor) and isinstance(channels[i], int) and output.shape[1] != channels[i]:
                wrong[i] = f"gives {output.shape[1]} channels where parse_model reckons with {channels[i]}"
                channels[i] = output.shape[1]

        hooks = [layer.register_forward_hook(note) for layer in self.model]
        self.eval()
        self.head.training = True  # for its raw maps alone; what is inside it stays in evaluation
        try:
            with torch.no_grad():
                raw = self.forward(torch.zeros(1, self.yaml["ch"], size, size, device=device))
            heights = [y.shape[2] for y in raw]
        except ERRORS_OF_A_ROW as error:
            row = self.rows[min(len(done), len(self.rows) - 1)]
            for i, reason in wrong.items():
                first = self.rows[i]
                raise first.error(f"{reason}; {row.text} does not fit that: {error}{hint(first, error)}") from error
            raise row.error(f"does not fit its input: {text_of(error)}{hint(row, error)}") from error
        finally:
            self.train()
            for hook in hooks:
                hook.remove()
        if wrong and self.yaml.get("pruned"):
            i = min(wrong)
            raise self.rows[i].error(wrong[i])
        if any(size % height for height in heights):
            raise self.rows[-1].error(f"maps of {heights} cells for an image of {size} pixels: no whole strides")
        return [size / height for height in heights]

    def set_anchors(self, anchors: list[list[float]]) -> None:
        """Set the anchors of the head and the yaml: for each level w, h, w, h, ... in pixels.

        The number of anchors stays. Values need at most two decimals, so that the yaml reproduces them exactly.
        """
        check_anchors(anchors, "new anchors")
        ordered = head.set_anchors(self.head, anchors)
        self.yaml["anchors"] = [[round(side, 2) for side in level] for level in ordered]

    def fuse(self) -> Self:
        """Fold batch norms into convolutions and NAM's into constants, in place, for inference; return the model."""
        for name, m in self.named_modules():
            if isinstance(m, common.Conv) and isinstance(getattr(m, "bn", None), nn.BatchNorm2d):
                m.conv = fuse_conv_and_bn(m.conv, m.bn)
                m.bn = nn.Identity()
            elif isinstance(m, nam.NAMAttention) and not m.fuse():
                LOGGER.debug(f"{name}: NAM's spatial part depends on the image's size and is not folded")
        return self

    def info(self, verbose: bool = False, img_size: int = 640) -> str:
        """Log and return a summary of layers, parameters and GFLOPs; `verbose` logs each parameter."""
        if verbose:
            heads = ("layer", "name", "gradient", "parameters", "shape", "mu", "sigma")
            LOGGER.info("{:>5} {:>40} {:>9} {:>12} {:>20} {:>10} {:>10}".format(*heads))
            for i, (name, p) in enumerate(self.named_parameters()):
                values = p.detach().float()
                counts = f"{p.requires_grad!s:>9} {p.numel():>12} {list(p.shape)!s:>20}"
                LOGGER.info(f"{i:>5} {name:>40} {counts} {values.mean():10.3g} {values.std(correction=0):10.3g}")
        summary = f"Model summary: {model_info(self, img_size)}"
        LOGGER.info(summary)
        return summary


# From rows to layers --------------------------------------------------------------------------------------------------

SAME_CHANNELS = (  # ours, not v6.1's: m(c1, ...); the row may state c1, before scaling
    nam.NAMAttention,
    peers.SE,
    peers.ECA,
    peers.CBAM,
    peers.CoordAttention,
    peers.SimAM,
    peers.EMA,
    peers.GAM,
    *controls.CONTROLS,
)
READS_SEVERAL = (common.Concat, common.Classify, head.Detect, rare.Sum)  # forward takes a list of tensors
CHANNELS_IN_OUT = (  # m(c1, c2, ...); the row states c2, before scaling. What counts for a build is parse_model's list
    common.Conv,
    common.DWConv,
    common.GhostConv,
    common.Focus,
    common.Bottleneck,
    common.GhostBottleneck,
    common.SPP,
    common.SPPF,
    common.BottleneckCSP,
    common.C3,
    common.C3NAM,
    common.C3TR,
    common.C3SPP,
    common.C3Ghost,
    rare.CrossConv,
    rare.MixConv2d,
)
OTHERS = (common.BottleneckNAM, common.TransformerLayer, common.TransformerBlock, common.Contract, common.Expand)
OURS = {  # the blocks of this repository by name; a class of yours with one of these names is another one
    block.__name__: block for block in (*CHANNELS_IN_OUT, *SAME_CHANNELS, *READS_SEVERAL, *OTHERS)
}
V61_HOMES = {  # shown, as v6.1 and the NAM recipe do
    "models.blocks.head": "models.yolo",
    "models.blocks.rare": "models.experimental",
    "models.blocks.nam": "models.common",
}
MAKERS = ("torchvision.models", "timm", "models")  # packages whose functions a row may name, if they make a network
NO_MAKERS = ("models.yolo", "models.spec", "models.tta")  # of these the parts that read yamls
ROW: ContextVar[Row | None] = ContextVar("ROW", default=None)  # the row that `parse_model` is at, for errors
announced: set[str] = set()  # names of ours of which it is logged that another class has them
P, T = ParamSpec("P"), TypeVar("T")


def type_of(m: Callable) -> str:
    """Return the name of a class with the module that v6.1 defines it in."""
    return f"{V61_HOMES.get(m.__module__, m.__module__)}.{m.__qualname__}"


def is_ours(m: Callable) -> bool:
    """Return True if a class is one of this repository's blocks."""
    return OURS.get(m.__name__) is m


def is_known(m: type) -> bool:
    """Return True if a class of a layer is torch's, or of this repository: all that works in any memory format."""
    return m.__module__.startswith(("torch.", "torchvision.", "models.blocks.")) or is_ours(m)


def in_one_row(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Give fn tensors of four and five dimensions flat, so that they stay contiguous; it treats all elements alike."""

    def applied(tensor: Tensor) -> Tensor:
        return fn(tensor.reshape(-1)).view(tensor.shape) if tensor.ndim in (4, 5) else fn(tensor)

    return applied


def look_up(name: str) -> object:
    """Look up a bare name of a row in this file, then in models/common.py; KeyError if neither has it.

    A class added to models/common.py after this file was imported wins over ours of that name.
    """
    found = globals().get(name)
    if found is None or found is OURS.get(name):
        found = vars(common).get(name, found)
    if found is None:
        found = OURS[name]
    return found


def find_module(name: str) -> Callable[..., nn.Module]:
    """Return the class that a row names; ValueError if there is none.

    `nn.X` is torch.nn's. Other names, dotted ones too, are looked up in this file, which has all of models/common.py
    and its own imports. Functions of torchvision, timm or a user that return a network may be named as well.
    """
    try:
        found = find_dotted(name, look_up)
    except UnknownNameError:
        found = None
    if is_block(found) or (is_function_of(found, MAKERS) and not is_function_of(found, NO_MAKERS)):
        ours = OURS.get(name)
        if ours not in (None, found) and name not in announced:
            announced.add(name)
            LOGGER.info(f"{name} is your class of {found.__module__}; ours of {ours.__module__} is not used")
        return found
    blocks = [other for names in (OURS, vars(common), globals()) for other in names if is_block(names[other])]
    known = {other.lower(): other for other in (*blocks, *(f"nn.{other}" for other in dir(nn)))}
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.75)
    hint = f" (did you mean {known[close[0]]}?)" if close else ""
    raise ValueError(
        f"unknown module {name!r}{hint}: a block is a class in models/common.py, a class imported in models/yolo.py, "
        "or nn.X of torch.nn"
    )


def states_width(name: str) -> bool:
    """Return True if rows of a class state the output channels first; a user's class does if it takes c1, c2."""
    try:
        m = find_module(name)
    except ValueError:
        return False
    return m in CHANNELS_IN_OUT or (not is_ours(m) and [*parameters_of(m)][:2] == ["c1", "c2"])


def takes_text(m: Callable) -> bool:
    """Return True if a row may hold strings for a class: torch's, a user's, or ours with a parameter of type str."""
    return not is_ours(m) or any("str" in str(parameter.annotation) for parameter in parameters_of(m).values())


def read_arguments(args: list, m: Callable, words: dict[str, object]) -> tuple[list, dict[str, object]]:
    """Split a row's arguments into positional ones and keywords, with names and constants resolved."""

    def meaning(name: str) -> object:
        if name in words:
            return words[name]
        found = look_up(name)
        if found is OURS.get(name) and not is_ours(m) and found not in vars(common).values():
            raise KeyError(name)  # text such as SE for a class of yours, where v6.1 has no such class
        return found

    values = [read_argument(argument, meaning, takes_text(m)) for argument in args]
    return split_named(values, m, is_ours(m))


def stated_width(args: list) -> int:
    """Return the output channels that a row states first; ValueError if it does not."""
    width = args[0] if args else None
    if not is_whole(width) or width < 1:
        raise ValueError(f"its first argument is the channels, a whole number, not {width!r}")
    return width


def check_from(source: int | list[int], m: Callable) -> None:
    """Raise ValueError if `from` is a list for a block of ours with one input, or the other way round."""
    if not is_ours(m) or m is common.Classify or isinstance(source, list) == (m in READS_SEVERAL):
        return
    wanted = "a list of rows" if m in READS_SEVERAL else "one row"
    raise ValueError(f"from {source}: {m.__name__} reads {wanted}")


def text_of(error: Exception) -> str:
    """Return the message of an error, with its type if the message alone says little."""
    if isinstance(error, KeyError) or not str(error):
        return f"{type(error).__name__} {error}".strip()
    return str(error)


def hint(row: Row, error: Exception) -> str:
    """Return advice if a row of a user's own block fails; empty for ours and torch's."""
    if isinstance(error, NameError):
        return f"; import {error.name} in models/yolo.py, or define it in models/common.py"
    try:
        m = find_module(row.content[2])
    except ValueError:
        return ""
    if is_ours(m) and m is not common.Classify:
        return ""
    name = row.content[2]
    return (
        f"; unless a branch of parse_model (models/yolo.py) names {name}, it is made with the arguments as they stand "
        f"in the row, and gives the channels of what it reads. Write `elif m is {name}:` and set args and c2"
    )


def naming_the_row(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap a function so that its errors name the row that `each` yielded last."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        token = ROW.set(None)
        try:
            return function(*args, **kwargs)
        except ERRORS_OF_A_ROW as error:
            row = ROW.get()
            if row is None:
                raise
            raise row.error(f"{text_of(error)}{hint(row, error)}") from error
        finally:
            ROW.reset(token)

    return wrapped


def each(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows and remember the current one for `naming_the_row`."""
    for row in rows:
        ROW.set(row)
        yield row
    ROW.set(None)


@naming_the_row
def parse_model(
    d: dict, ch: Sequence[int], rows: Sequence[Row] | None = None, file: str = "model yaml", verbose: bool = True
) -> tuple[nn.Sequential, list[int]]:
    """Build the layers of a model yaml's content d for images of ch[-1] channels.

    The names in the loop are v6.1's, so that a branch written for it runs: `f, n, m, args` are the row's, `m` its
    class; `ch` holds the output channels of the rows so far, `ch[f]` those of the row's input. A branch may set `args`,
    `n`, and `c2`, the output channels. docs/recipes.md has examples.

    Args:
        d: Content of the yaml.
        ch: Channels of the image, as a list.
        rows: Rows of d, if parsed already.
        file: Name of the yaml for errors.
        verbose: Log the table of layers.

    Returns:
        The layers, and the indices of those whose output a later layer reads. Each layer has `i`, its index; `f`, its
        inputs; `type`; and `np`, its number of parameters. `channels` of the whole are the output channels of each row.
    """
    copy_late_names()
    anchors, nc, gd, gw = d["anchors"], d["nc"], d["depth_multiple"], d["width_multiple"]
    na = len(anchors[0]) // 2 if isinstance(anchors, list) else anchors  # anchors of a cell
    no = na * (nc + 5)  # outputs of a cell
    rows = read_rows(d, file) if rows is None else rows
    pruned = check_pruned(d.get("pruned"), len(rows), file)
    words = {"anchors": anchors, "nc": nc, "gd": gd, "gw": gw, "na": na, "no": no}

    log = LOGGER.info if verbose else LOGGER.debug
    log(f"\n{'':>3}{'from':>18}{'n':>3}{'params':>10}  {'module':<40}{'arguments':<30}")
    layers, save, c1, c2 = [], [], ch[-1], ch[-1]
    for row in each(rows):
        i, (f, n, name, args) = row.index, row.content
        m = find_module(name)
        args, named = read_arguments(args, m, words)
        n = repeats = max(round(n * gd), 1) if n > 1 else n
        check_from(f, m)

        if m in [Conv, GhostConv, Bottleneck, GhostBottleneck, SPP, SPPF, DWConv, MixConv2d, Focus, CrossConv,
                 BottleneckCSP, C3, C3NAM, C3TR, C3SPP, C3Ghost]:  # fmt: skip
            c1, c2 = ch[f], stated_width(args)
            if c2 != no:
                c2 = make_divisible(c2 * gw, 8)
            args = [c1, c2, *args[1:]]
            if m in [BottleneckCSP, C3, C3NAM, C3TR, C3Ghost]:
                args.insert(2, n)  # they repeat inside
                n = 1
        elif m is nn.BatchNorm2d:
            c1 = c2 = ch[f]
            args = [c1]
        elif m is Concat:
            c2 = sum(ch[x] for x in f) if args in ([], [1]) else ch[f[0]]
        elif m is Detect:
            args = [nc, args[1] if len(args) > 1 else anchors, [ch[x] for x in f]]
            if isinstance(args[1], int):  # anchors of a cell: stand-ins, which AutoAnchor replaces
                args[1] = [list(range(args[1] * 2))] * len(f)
        elif m is Contract:
            c2 = ch[f] * (args[0] if args else 2) ** 2
        elif m is Expand:
            c2 = ch[f] // (args[0] if args else 2) ** 2
        elif m is rare.Sum:
            c2 = ch[f[0]]
            args = [len(f), *args]
        elif m in SAME_CHANNELS:
            c1 = c2 = ch[f]
            args = [kept_width(args, c1, no, gw), *args[1:]]
        else:  # as in v6.1: the arguments as they stand, the channels of what it reads (the first of several rows)
            c2 = ch[f] if isinstance(f, int) else ch[f[0]]
            if row is rows[-1] and takes_levels(m):
                args, named["ch"] = args or [nc, anchors], [ch[x] for x in as_list(f)]
                if isinstance(args[1], int):
                    args[1] = [list(range(args[1] * 2))] * len(as_list(f))

        layer = make_layer(m, n, args, named)
        narrow_layer(layer, i, pruned)  # at once, for only one layer to be as large as its row states
        layer.i, layer.f, layer.type = i, f, type_of(m)
        layer.np = sum(parameter.numel() for parameter in layer.parameters())
        shown = f"{args}, {named}" if named else str(args)
        log(f"{i:>3}{f!s:>18}{repeats:>3}{layer.np:10.0f}  {layer.type:<40}{shown:<30}")
        save.extend(x % i for x in as_list(f) if x != PREVIOUS)
        layers.append(layer)
        if i == 0:
            ch = []
        ch.append(c2)
    model = nn.Sequential(*layers)
    model.channels = set_output_channels(ch, pruned)
    return model, sorted(save)


def build_layers(d: dict, ch: int, rows: Sequence[Row], file: str, verbose: bool) -> tuple[nn.Sequential, list[int]]:
    """Call `parse_model`; one that a user has pasted in place of ours gets v6.1's two arguments."""
    if "rows" in parameters_of(parse_model):
        return parse_model(d, [ch], rows, file, verbose)
    layers, save = parse_model(deepcopy(d), [ch])
    layers.channels = [None] * len(layers)  # the dry run measures them
    return layers, save


def kept_width(args: list, c1: int, no: int, gw: float) -> int:
    """Return c1 for a block that keeps its channels; ValueError if its row states another number."""
    if args:
        stated = stated_width(args)
        scaled = stated if stated == no else make_divisible(stated * gw, 8)
        if scaled != c1:
            raise ValueError(
                f"states {stated} channels, which are {scaled} at width_multiple {gw}, but its input has {c1}; correct "
                "it or write []"
            )
    return c1


def takes_levels(m: Callable) -> bool:
    """Return True if a class takes Detect's arguments: nc, anchors and ch, the channels of each level."""
    return {"nc", "anchors", "ch"} <= parameters_of(m).keys()


def make_layer(m: Callable[..., nn.Module], n: int, args: list, named: dict[str, object]) -> nn.Module:
    """Build a row's layer, n of them in sequence if n > 1; ValueError if m does not return a module."""
    layer = nn.Sequential(*(m(*args, **named) for _ in range(n))) if n > 1 else m(*args, **named)
    if not isinstance(layer, nn.Module):
        raise ValueError(f"{m.__name__} gives {type(layer).__name__}, not a module")
    return layer


# Script ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """The flags of `parse_opt`."""

    cfg: str
    device: str
    profile: bool
    test: bool


def parse_opt(arguments: Sequence[str] | None = None) -> Options:
    """Parse the command line, or `arguments`."""
    parser = argparse.ArgumentParser(
        description="Build a model and print its layers.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--cfg", default="yolov5s.yaml", help="model yaml, e.g. yolov5s-NAM.yaml")
    parser.add_argument("--device", default="", help="0 or cpu; empty takes the first GPU if there is one")
    parser.add_argument("--profile", action="store_true", help="time each layer")
    parser.add_argument("--test", action="store_true", help="build every yolo*.yaml in models/")
    return Options(**vars(parser.parse_args(arguments)))


def main(opt: Options) -> Model:
    """Build the model that the options name."""
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
    """Import a v6.1 name on first access; utils/v61 lists where each is."""
    if name in {"__path__", "__all__"}:  # an import asks for the one; a star import takes this module's own names
        raise AttributeError(name)
    return import_module("utils.v61").find(__name__, name)


if __name__ == "__main__":
    run_script(main, parse_opt())
