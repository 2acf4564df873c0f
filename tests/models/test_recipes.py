"""Recipes of v6.1, followed to the letter in a copy of the repository: the reader's classes are in the networks.

All blocks are patched into one copy and built in one process. models/recipes/mine.py is the reader's own file,
models/recipes/pasted.txt what is pasted into models/common.py.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.copies import copy_repository, patch

TEXTS = Path(__file__).parent / "recipes"
IMPORTS = (
    "from models.attention import *\n"
    "from models.mine import (ASFF, Act, Backbone, BiFPN_Add2, BiFPN_Concat2, C3SE, C3STR, CoordAtt, DecoupledHead,"
    " Decoupled_Detect, MixBlock, MobileNet_Block, Pick, RepVGGBlock, SE, SPPCSPC, Shuffle_Block, conv_bn_hswish)\n"
)
ATTENTION = """
import torch
from torch import nn


class Shuffled(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(1, channels, 1, 1, 1))

    def forward(self, x):
        b, c, h, w = x.shape
        return (x.view(b, c, -1) * self.kernels.view(1, c, 1)).view(b, c, h, w)
"""
IN_FRONT = """        if m is SE:
            c1, c2 = ch[f], args[0]
            if c2 != no:  # if not output
                c2 = make_divisible(c2 * gw, 8)
            args = [c1, c2, *args[1:]]
        elif m in [conv_bn_hswish, MobileNet_Block]:
            c1, c2 = ch[f], args[0]
            if c2 != no:  # if not output
                c2 = make_divisible(c2 * gw, 8)
            args = [c1, c2, *args[1:]]
        el"""
BEHIND = """        elif m is CBAM:
            c1, c2 = ch[f], args[0]
            if c2 != no:
                c2 = make_divisible(c2 * gw, 8)
            args = [c1, c2]
        elif m is CoordAtt:
            c1, c2 = ch[f], ch[f]
            args = [c1, c2, *args[1:]]
        elif m in [BiFPN_Add2]:
            c2 = max([ch[x] for x in f])
            args = [ch[f[0]], c2]
        elif m is BiFPN_Concat2:
            c2 = sum([ch[x] for x in f])
        elif m is ASFF:
            channels = [ch[x] for x in f]
            c2 = channels[args[0]]
            args.append(channels)
        elif m is Backbone:
            c2 = [make_divisible(x * gw, 8) for x in args[0]]
            args = [ch[f], c2]
        elif m is Shuffled:
            c2 = ch[f]
            args = [c2]
        elif m is Pick:
            c2 = ch[f][args[0]]
"""
HEAD = """
class Sub_Detect(Detect):
    def __init__(self, nc=80, anchors=(), ch=(), inplace=True):
        super().__init__(nc, anchors, ch, inplace)
        self.m = nn.ModuleList(DecoupledHead(c, nc, self.na) for c in ch)


"""
BASE = [  # widths are doubled, width_multiple is 0.5
    [-1, 1, "Conv", [16, 3, 2]],
    [-1, 1, "Conv", [32, 3, 2]],
    [-1, 1, "C3", [32]],
    [-1, 1, "Conv", [64, 3, 2]],
    [-1, 2, "C3", [64]],
    [-1, 1, "Conv", [64, 3, 2]],
    [-1, 1, "C3", [64]],
    [-1, 1, "Conv", [64, 3, 2]],
    [-1, 1, "SPPF", [64, 5]],
]
DETECT = [[4, 6, 9], 1, "Detect", ["nc", "anchors"]]
MINE, COMMON, TORCH = "models.mine", "models.common", "torch.nn"


def behind(*rows: list, detect: list = DETECT) -> list:
    """The rows of a network with these behind its backbone, the last of which is the coarsest level."""
    head = [[4, 6, 8 + len(rows)], *detect[1:]] if detect is DETECT else detect
    return [*BASE, *rows, head]


def backbone(*rows: list) -> list:
    """The rows of a network whose maps of strides 8, 16 and 32 are the last three of these."""
    last = len(rows) - 1
    return [*rows, [[last - 2, last - 1, last], 1, "Detect", ["nc", "anchors"]]]


P2 = [
    [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
    [[-1, 6], 1, "Concat", [1]],
    [-1, 1, "C3", [64, False]],  # 9..11
    [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
    [[-1, 4], 1, "Concat", [1]],
    [-1, 1, "C3", [64, False]],  # 14
    [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
    [[-1, 2], 1, "Concat", [1]],
    [-1, 1, "C3", [32, False]],  # 17
]
ANCHORS = [[10, 13, 16, 30], [30, 61, 62, 45], [116, 90, 156, 198]]
RECIPES = {  # name: rows, {row: class that it must be}
    "SE in a branch before ours, of our block's name": (behind([-1, 1, "SE", [64, 4]]), {9: f"{MINE}.SE"}),
    "CBAM pasted in common.py, of our block's name": (behind([-1, 1, "CBAM", [64]]), {9: f"{COMMON}.CBAM"}),
    "ECA that nobody lists, of our block's name": (behind([-1, 1, "ECA", [5]]), {9: f"{COMMON}.ECA"}),
    "a file models/attention.py, which ours gives way to, views and 5-D weights": (
        behind([-1, 1, "Conv", [64, 1]], [-1, 1, "Shuffled", []]),
        {10: "models.attention.Shuffled"},
    ),
    "coordinate attention": (behind([-1, 1, "CoordAtt", [64]]), {9: f"{MINE}.CoordAtt"}),
    "C3 variant in both lists": (behind([-1, 3, "C3SE", [64]]), {9: f"{MINE}.C3SE"}),
    "weighted add with a branch": (
        behind([-1, 1, "Conv", [64, 1]], [[-1, 8], 1, "BiFPN_Add2", [64, 64]]),
        {10: f"{MINE}.BiFPN_Add2"},
    ),
    "weighted add without a branch": (behind([[-1, 8], 1, "WeightedAdd", [2]]), {9: f"{COMMON}.WeightedAdd"}),
    "weighted concat": (
        behind([-1, 1, "Conv", [32, 1]], [[-1, 8], 1, "BiFPN_Concat2", [1]], [-1, 1, "Conv", [64]]),
        {10: f"{MINE}.BiFPN_Concat2"},
    ),
    "fusion of three levels": (
        behind(*([[4, 6, 8], 1, "ASFF", [i]] for i in range(3)), detect=[[9, 10, 11], 1, "Detect", ["nc", "anchors"]]),
        dict.fromkeys((9, 10, 11), f"{MINE}.ASFF"),
    ),
    "MobileNetV3": (
        backbone(
            [-1, 1, "conv_bn_hswish", [16, 2]],
            [-1, 1, "MobileNet_Block", [32, 16, 3, 2, 1, 0]],
            [-1, 1, "MobileNet_Block", [64, 32, 3, 2, 0, 1]],
            [-1, 1, "MobileNet_Block", [64, 40, 5, 2, 1, 1]],
            [-1, 1, "MobileNet_Block", [128, 48, 5, 2, 1, 1]],
        ),
        {0: f"{MINE}.conv_bn_hswish", 4: f"{MINE}.MobileNet_Block"},
    ),
    "ShuffleNetV2 in the list": (
        backbone(
            [-1, 1, "Conv", [32, 3, 2]],
            [-1, 1, "Shuffle_Block", [32, 2]],
            [-1, 2, "Shuffle_Block", [32, 1]],
            [-1, 1, "Shuffle_Block", [64, 2]],
            [-1, 1, "Shuffle_Block", [64, 2]],
            [-1, 1, "Shuffle_Block", [64, 2]],
        ),
        {1: f"{MINE}.Shuffle_Block", 5: f"{MINE}.Shuffle_Block"},
    ),
    "GhostNet of our blocks": (
        backbone(
            [-1, 1, "Conv", [32, 3, 2]],
            [-1, 1, "GhostBottleneck", [32, 3, 2]],
            [-1, 1, "C3Ghost", [32]],
            [-1, 1, "GhostBottleneck", [64, 3, 2]],
            [-1, 1, "GhostBottleneck", [64, 3, 2]],
            [-1, 1, "GhostBottleneck", [64, 3, 2]],
        ),
        {1: f"{COMMON}.GhostBottleneck"},
    ),
    "RepVGG": (
        backbone(*([-1, 1, "RepVGGBlock", [32, 3, 2]],) * 3, *([-1, 1, "RepVGGBlock", [64, 3, 2]],) * 2),
        {0: f"{MINE}.RepVGGBlock"},
    ),
    "subclass of an experimental block": (behind([-1, 1, "MixBlock", [64, [1, 3]]]), {9: f"{MINE}.MixBlock"}),
    "class pasted in experimental.py": (behind([-1, 1, "Doubled", []]), {9: "models.experimental.Doubled"}),
    "Swin stage": (behind([-1, 2, "C3STR", [64]]), {9: f"{MINE}.C3STR"}),
    "neck block in the list": (behind([-1, 1, "SPPCSPC", [64]]), {9: f"{MINE}.SPPCSPC"}),
    "backbone of one class": (
        [
            [-1, 1, "Backbone", [[32, 64, 64]]],
            [0, 1, "Pick", [0]],
            [0, 1, "Pick", [1]],
            [0, 1, "Pick", [2]],
            [3, 1, "SPPF", [64, 5]],
            [[1, 2, 4], 1, "Detect", ["nc", "anchors"]],
        ],
        {0: f"{MINE}.Backbone", 2: f"{MINE}.Pick"},
    ),
    "rows of torch's blocks": (
        behind([-1, 1, "nn.Conv2d", [32, 24, 1]], [-1, 1, "nn.GroupNorm", [4, 24]], [-1, 1, "nn.Conv2d", [24, 32, 1]]),
        {9: "torch.nn.modules.conv.Conv2d"},
    ),
    "names and calls in arguments": (
        behind([-1, 1, "Act", ["nn.SiLU"]], [-1, 1, "Act", ["nn.LeakyReLU(0.1)", "loud"]], [-1, 1, "Conv", [64, 1]]),
        {9: f"{MINE}.Act", 10: f"{MINE}.Act"},
    ),
    "sums in arguments": (behind([-1, 1, "Conv", ["na * (nc + 5)", 1]]), {9: f"{COMMON}.Conv"}),
    "decoupled head": (
        behind(detect=[[4, 6, 8], 1, "Decoupled_Detect", ["nc", "anchors"]]),
        {9: f"{MINE}.Decoupled_Detect"},
    ),
    "subclass of Detect": (
        behind(detect=[[4, 6, 8], 1, "Sub_Detect", ["nc", "anchors"]]),
        {9: "models.yolo.Sub_Detect"},
    ),
    "P2 level": (
        behind(*P2, detect=[[17, 14, 11, 8], 1, "Detect", ["nc", [[4, 5, 8, 10], *ANCHORS]]]),
        {18: "models.blocks.head.Detect"},
    ),
}
EXPERIMENTAL = """

class Doubled(nn.Module):
    def forward(self, x):
        return x * 2
"""
NAMES = ["anchors", "nc", "gd", "gw", "na", "no", "ch", "f", "n", "m", "args", "c1", "c2", "save"]
NOTE = """        noted = {name: repr(value) for name, value in locals().items() if name in NOTED_NAMES}
        NOTED.append(noted | {"layers": len(layers)})
"""
RUN = """
import json, logging, sys, warnings
import torch
import models.experimental
from models.yolo import Model
from utils.general import LOGGER, set_logging

warnings.simplefilter("ignore")
set_logging()
log = []
LOGGER.addFilter(lambda record: log.append(record.getMessage()) or True)
results = {}
for name, content in json.load(open(sys.argv[1])).items():
    torch.manual_seed(0)
    try:
        model = Model(content, verbose=False)
        classes = []
        for layer in model.model:
            inner = layer[0] if type(layer) is torch.nn.Sequential else layer
            classes.append(f"{type(inner).__module__}.{type(inner).__qualname__}")
        model.to(memory_format=torch.channels_last)  # as training and inference do
        raw = model(torch.rand(2, 3, 64, 96).to(memory_format=torch.channels_last))
        sum(level.square().mean() for level in raw).backward()
        without = [key for key, p in model.named_parameters() if p.grad is None]
        boxes = model.eval().fuse()(torch.rand(1, 3, 64, 96))[0]
        results[name] = {"classes": classes, "without": without, "boxes": list(boxes.shape),
                         "strides": model.stride.tolist(), "finite": bool(boxes.isfinite().all())}
    except ValueError as error:
        results[name] = {"error": str(error)}
from models import yolo
yolo.NOTED.clear()
Model(json.load(open(sys.argv[1]))["P2 level"], verbose=False)
json.dump({"results": results, "log": log, "noted": yolo.NOTED}, open(sys.argv[2], "w"))
"""


def content_of(rows: list) -> dict:
    levels = rows[-1][3][1] if len(rows[-1][3]) > 1 and isinstance(rows[-1][3][1], list) else ANCHORS
    head = {"nc": 3, "depth_multiple": 1.0, "width_multiple": 0.5, "anchors": levels}
    return {**head, "backbone": rows[:-1], "head": rows[-1:]}


FAULTY = {  # what v6.1 refuses too: rows, and what the message must name
    "a class that is nowhere": (behind([-1, 1, "Nowhere", [64]]), "row 9 [-1, 1, Nowhere, [64]]: unknown module"),
    "arguments of no branch": (behind([-1, 1, "C3B", [64]]), "row 9 [-1, 1, C3B, [64]]: "),
    "a wrong number of channels": (
        behind([-1, 1, "nn.Conv2d", [32, 24, 1]]),
        "row 9 [-1, 1, nn.Conv2d, [32, 24, 1]]: gives 24",
    ),
    "no head": ([*BASE], "row 8 [-1, 1, SPPF, [64, 5]]: Detect must be the last row"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the networks of all recipes are in a patched copy, and the log."""
    folder = copy_repository(tmp_path_factory.mktemp("recipes"))
    shutil.copy(TEXTS / "mine.py", folder / "models" / "mine.py")
    (folder / "models" / "attention.py").write_text(ATTENTION)
    common, yolo = folder / "models" / "common.py", folder / "models" / "yolo.py"
    unlisted = "\n\nclass C3B(C3):\n    pass\n"
    common.write_text(common.read_text() + (TEXTS / "pasted.txt").read_text() + unlisted)
    experimental = folder / "models" / "experimental.py"
    experimental.write_text(experimental.read_text() + EXPERIMENTAL)
    patch(yolo, "from models.tta import", f"{IMPORTS}from models.tta import")
    patch(yolo, "\n# From rows to layers", f"{HEAD}# From rows to layers")
    patch(yolo, "\n# From rows to layers", f"NOTED, NOTED_NAMES = [], {NAMES}\n\n\n# From rows to layers")
    patch(yolo, "        if m in [Conv,", f"{NOTE}{IN_FRONT}if m in [Conv,")
    patch(yolo, "C3SPP, C3Ghost]:", "C3SPP, C3Ghost, C3SE, C3STR, SPPCSPC, Shuffle_Block, RepVGGBlock, MixBlock]:")
    patch(yolo, "C3TR, C3Ghost]:", "C3TR, C3Ghost, C3SE, C3STR]:")
    patch(yolo, "        else:  # as in v6.1", f"{BEHIND}        else:  # as in v6.1")
    cases = {name: content_of(rows) for name, (rows, _) in (RECIPES | FAULTY).items()}
    (folder / "cases.json").write_text(json.dumps(cases))
    (folder / "run.py").write_text(RUN)
    command = [sys.executable, "run.py", "cases.json", "results.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(built: dict, name: str) -> None:
    rows, expected = RECIPES[name]
    result = built["results"][name]
    assert "error" not in result, result["error"]
    assert {i: result["classes"][i] for i in expected} == expected
    assert result["without"] == []
    assert result["finite"]
    strides = [4.0, 8.0, 16.0, 32.0][-len(rows[-1][0]) :]
    assert result["strides"] == strides
    assert result["boxes"] == [1, sum(2 * int(64 / s) * int(96 / s) for s in strides), 8]


@pytest.mark.parametrize("name", FAULTY)
def test_what_v61_refuses_names_the_row(built: dict, name: str) -> None:
    assert FAULTY[name][1] in built["results"][name]["error"]


def test_it_is_logged_once_that_a_class_of_our_name_is_used(built: dict) -> None:
    said = [line for line in built["log"] if "your class" in line]
    assert len(said) == 3
    for name, home in (("SE", "models.mine"), ("CBAM", "models.common"), ("ECA", "models.common")):
        assert any(line.startswith(f"{name} is your class of {home}") for line in said)


def test_a_branch_sees_v61s_values(built: dict) -> None:
    """Row by row what v6.1 holds when its chain is reached; row 0 states `no` channels, which are not scaled."""
    noted, rows = built["noted"], RECIPES["P2 level"][0]
    anchors = [[4, 5, 8, 10], *ANCHORS]
    assert len(noted) == len(rows)
    channels = [16, 16, 16, 32, 32, 32, 32, 32, 32, 32, 64, 32, 32, 64, 32, 32, 48, 16]
    save: list[int] = []
    for i, ((source, number, _, args), seen) in enumerate(zip(rows, noted, strict=True)):
        given = [None if arg is None else {"nc": 3, "anchors": anchors}.get(str(arg), arg) for arg in args]
        expected = {"anchors": anchors, "nc": 3, "gd": 1.0, "gw": 0.5, "na": 2, "no": 16, "f": source, "n": number}
        expected |= {"ch": channels[:i] or [3], "args": given, "c2": (channels[:i] or [3])[-1], "save": save}
        assert {name: seen[name] for name in expected} == {name: repr(value) for name, value in expected.items()}
        assert seen["layers"] == i
        assert seen["m"].startswith("<class ")
        save = [*save, *(x % i for x in (source if isinstance(source, list) else [source]) if x != -1)]
