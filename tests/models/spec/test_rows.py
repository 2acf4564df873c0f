"""Rows of a model yaml: what they become, and what a faulty one is told."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import common
from models.common import C3, NAMAttention
from models.spec.rows import read_rows
from models.yolo import Model, find_module
from utils.files.yamls import read_yaml
from utils.general import ROOT, make_divisible

YAMLS = {path.stem: path for path in sorted((ROOT / "models").rglob("yolo*.yaml"))}

Tiny = Callable[..., dict]  # see conftest.py


def build(settings: dict | str | Path, **kwargs: object) -> Model:
    """The model, without the table."""
    return Model(settings, verbose=False, **kwargs)


def built_without_numbers(settings: dict | str | Path) -> Model:
    """The model on the meta device: shapes alone."""
    with torch.device("meta"):
        return build(settings)


@pytest.mark.parametrize("name", ["Conv", "C3TR", "NAMAttention", "CrossConv", "MixConv2d", "Sum", "Detect", "nn.ReLU"])
def test_find_module(name: str) -> None:
    assert find_module(name).__name__ == name.removeprefix("nn.")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("NAMAtention", " (did you mean NAMAttention?)"),
        ("Convv", " (did you mean Conv?)"),
        ("nn.silu", " (did you mean nn.SiLU?)"),
        ("nn.Nothing", "'nn.Nothing': a block is"),
        ("nn.Upsampel", " (did you mean nn.Upsample?)"),
        ("qqqq", ""),
        ("__import__('os').system('true')", ""),
        ("nn.functional", ""),
        ("Tensor", ""),
    ],
)
def test_find_module_suggests_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match="unknown module") as caught:
        find_module(name)
    assert hint in str(caught.value)


def test_depth_and_width(tiny: Tiny) -> None:
    settings = tiny(depth_multiple=0.5, head=[[-1, 5, "C3", [40]], [-1, 3, "Bottleneck", [40]], *tiny()["head"][2:]])
    model = build(settings)
    assert isinstance(model.model[4], C3)
    assert len(model.model[4].m) == round(2.5) == 2
    assert [type(block).__name__ for block in model.model[5]] == ["Bottleneck"] * 2
    assert model.model[4].cv3.conv.out_channels == make_divisible(20, 8) == 24
    assert "model.5.1.cv2.bn.bias" in model.state_dict()


def test_a_width_of_the_heads_outputs_is_not_scaled(tiny_with: Tiny) -> None:
    model = build(tiny_with([-1, 1, "Conv", [2 * (2 + 5)]], [-1, 1, "Conv", [32]]))
    assert model.model[5].conv.out_channels == 14


@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.0, 1.25])
@pytest.mark.parametrize("place", [0, 3, 6, 9, 10, 11, 12, 16, 17, 20, 23])
def test_nam_anywhere_at_any_width(width: float, place: int) -> None:
    settings = read_yaml(YAMLS["yolov5s"])
    rows = [*settings["backbone"], *settings["head"]]
    stated = {0: 64, 3: 256, 6: 512, 9: 1024, 10: 512, 11: 512, 12: 1024, 16: 512, 17: 256, 20: 512, 23: 1024}[place]
    for args in ([], [stated]):
        nam = [place, 1, "NAMAttention", args]
        up = [-1, 1, "Conv", [64, 1]]
        settings.update(width_multiple=width, anchors=[[10, 10]], backbone=[], head=[*rows[:24], nam, up])
        settings["head"].append([[-1], 1, "Detect", ["nc", "anchors"]])
        model = built_without_numbers(settings)
        assert isinstance(model.model[24], NAMAttention)
        assert model.model[24].Channel_Att.bn2.num_features == make_divisible(stated * width, 8)


def test_nam_repeated_and_on_the_image(tiny: Tiny, tiny_with: Tiny) -> None:
    model = build(tiny(backbone=[[-1, 1, "NAMAttention", []], *tiny()["backbone"][1:]]))
    assert model.model[0].Channel_Att.bn2.num_features == 3
    assert len(build(tiny_with([-1, 3, "NAMAttention", []])).model[5]) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            [-1, 1, "NAMAttention", [1024]],
            "states 1024 channels, which are 512 at width_multiple 0.5, but its input has 16",
        ),
        ([-1, 1, "NAMAttention", [16]], "states 16 channels, which are 8 at width_multiple 0.5, but its input has 16"),
        ([-1, 1, "NAMAtention", []], "unknown module 'NAMAtention' (did you mean NAMAttention?)"),
        ([-1, 1, "Conv", []], "its first argument is the channels, a whole number, not None"),
        ([-1, 1, "Conv", [-8]], "its first argument is the channels, a whole number, not -8"),
        ([-1, 1, "Conv", [1.5]], "not 1.5"),
        (
            [-1, 1, "Conv", [32, 3, 1, None, 1, "relu"]],
            "argument 'relu' is none of the words nc, anchors, None",
        ),
        ([-1, 1, "Conv", [32, 3, 1, None, 5]], "divisible by groups"),
        ([-1, 1, "Conv", [32, 1, 1, None, 1, True, 7, 8]], "positional arguments"),
        ([[-1, 3], 1, "Conv", [32]], "from [-1, 3]: Conv reads one row"),
        ([[-1, 3], 1, "Classify", [16, 5]], "`elif m is Classify:`"),
        ([-1, 1, "Concat", [1]], "from -1: Concat reads a list of rows"),
        ([[-1, 0], 1, "Concat", [1]], "does not fit its input: Sizes of tensors must match"),
        ([-1, 2, "Conv", [64]], "does not fit its input"),
        ([-1, 1, "nn.Conv2d", [16, 24, 1]], "gives 24 channels where parse_model reckons with 16"),
        ([-1, 1, "Classify", [16, 5]], "`elif m is Classify:`"),
        ([-1, 1, "nn.Upsample", [None, 2, "nearst"]], "does not fit its input"),
        ([5, 1, "Conv", [32]], "from 5: a row can read only rows before it, below 5"),
        ([7, 1, "Conv", [32]], "from 7: a row can read only rows before it"),
        ([-6, 1, "Conv", [32]], "from -6: there are only 5 rows before it"),
        (["x", 1, "Conv", [32]], "'x' is not a row's number"),
        ([[], 1, "Concat", [1]], "from []: names no row"),
        ([True, 1, "Conv", [32]], "True is not a row's number"),
        ([-1, 0, "Conv", [32]], "number 0 is not a whole number from 1"),
        ([-1, "3", "Conv", [32]], "number '3' is not a whole number"),
        ([-1, 10**9, "C3", [32]], "number 1000000000 is not a whole number from 1"),
        ([-1, 1, None, [32]], "module None is not a name"),
        ([-1, 1, "Conv", 32], "args 32 is not a list"),
        ([-1, 1, "Conv"], "must be [from, number, module, args], four parts"),
        ([-1, 1, "Detect", ["nc", "anchors"]], "Detect must be the last row, and only that"),
    ],
)
def test_a_faulty_row_is_named(tiny_with: Tiny, row: list, message: str) -> None:
    with pytest.raises(ValueError, match=r"^model yaml: row 5 \[") as caught:
        build(tiny_with(row))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nc": 0}, "nc: 0 is not a whole number from 1"),
        ({"nc": "80"}, "nc: '80' is not a whole number"),
        ({"nc": 10**9}, "nc: 1000000000 is not"),
        ({"nc": True}, "nc: True is not"),
        ({"ch": 0}, "ch: 0 is not a whole number from 1"),
        ({"width_multiple": 0}, "width_multiple: 0 is not a number above 0"),
        ({"depth_multiple": float("nan")}, "depth_multiple: nan is not a number above 0"),
        ({"depth_multiple": "big"}, "depth_multiple: 'big' is not a number above 0"),
        ({"anchors": "3"}, "anchors: '3' is not a number per level, or for each level a list"),
        ({"anchors": 0}, "anchors: 0 per level"),
        ({"anchors": []}, "anchors: [] is not"),
        ({"anchors": [[10, 12], [40]]}, "anchors: level 1 has 1 numbers; pairs, as many in each level"),
        ({"anchors": [[10, 12], [40, -1]]}, "anchors: level 1, [40, -1], has a side that is not above 0"),
        ({"anchors": [["10", 12], [40, 1]]}, "anchors: level 0, ['10', 12], is not a list of numbers"),
        ({"anchors": [[1, 2], [3, 4], [5, 6]]}, "Detect reads 2 rows, but the anchors have 3 levels"),
        ({"backbone": None}, "backbone: a list of rows"),
        ({"backbone": [], "head": []}, "backbone and head have no rows"),
        ({"backbone": [5]}, "row 0 5: must be [from, number, module, args]"),
        ({"head": [[-1, 2, "C3", [32]]]}, "row 4 [-1, 2, C3, [32]]: Detect must be the last row"),
        ({"activation": "nn.ReLU()"}, "activation: a key of YOLOv5 after v6.1"),
    ],
)
def test_a_faulty_yaml_is_refused(tiny: Tiny, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match="model yaml: ") as caught:
        build(tiny(**change))
    assert message in str(caught.value)


def test_missing_and_unknown_keys(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="anchors, head is missing"):
        build({key: value for key, value in tiny().items() if key not in ("anchors", "head")})
    with pytest.raises(ValueError, match="this is a data set's yaml, for --data"):
        build("coco128.yaml")
    with caplog.at_level(logging.INFO, "yolov5"):
        build(tiny(colour=1, inplace=True))
    assert "unknown key colour is not used" in caplog.text
    assert "inplace" not in caplog.text


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(YAMLS["yolov5n-NAM"].read_text().replace("NAMAttention, [1024]", "NAMAttention, [512]"))
    with pytest.raises(ValueError, match=r"odd\.yaml: row 24 \[-1, 1, NAMAttention, \[512\]\]: states 512.*128.*256"):
        build(path)
    path.write_text("nc: [1")
    with pytest.raises(ValueError, match=r"odd\.yaml:1:7: not valid YAML"):
        build(path)
    with pytest.raises(FileNotFoundError, match="yolov9q"):
        build("yolov9q.yaml")


@pytest.mark.parametrize("nc", [0, 1.5, "80"])
def test_a_faulty_number_of_classes_is_refused(tiny: Tiny, nc: object) -> None:
    with pytest.raises(ValueError, match="nc: "):
        build(tiny(), nc=nc)


def test_a_pasted_block_needs_no_registration(tiny_with: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    class Scale(nn.Module):
        def __init__(self, factor: float = 1.0, mode: str = "plain") -> None:
            super().__init__()
            self.factor, self.mode = factor, mode

        def forward(self, x: Tensor) -> Tensor:
            return x * self.factor

    monkeypatch.setattr(common, "Scale", Scale, raising=False)
    model = build(tiny_with([-1, 1, "Scale", [2.0, "loud"]]))
    layer = model.model[5]
    assert (layer.factor, layer.mode, model.model.channels[5]) == (2.0, "loud", 16)


def test_rows_may_be_referred_to_by_name() -> None:
    content = read_yaml(ROOT / "models" / "yolov5n.yaml")
    rows = [*content["backbone"], *content["head"]]
    named = copy.deepcopy(rows)
    for index, name in ((4, "b3"), (6, {"name": "b4"}), (17, "p3"), (20, {"name": "p4"}), (23, "p5")):
        named[index].append(name)
    named[12][0], named[16][0], named[24][0] = [-1, "b4"], [-1, "b3"], ["p3", "p4", 23]
    found = read_rows({"backbone": named, "head": []}, "mine.yaml")
    plain = read_rows({"backbone": rows, "head": []})
    assert [row.sources for row in found] == [row.sources for row in plain]
    assert [row.content for row in found] == [row.content for row in plain]
    assert found[6].text == "[-1, 9, C3, [512], name: b4]"
    assert found[24].text == "[[p3, p4, 23], 1, Detect, [nc, anchors]]"
    with torch.device("meta"):
        models = [Model({**content, "backbone": [], "head": layers}, verbose=False) for layers in (rows, named)]
    assert models[0].save == models[1].save
    assert str(models[0]) == str(models[1])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[-1, 1, "Conv", [8], 5]], "'5' is no name for a row"),
        ([[-1, 1, "Conv", [8], True]], "'True' is no name for a row"),
        ([[-1, 1, "Conv", [8], "5"]], "'5' is no name for a row"),
        ([[-1, 1, "Conv", [8], {"nam": "x"}]], "'nam: x' is no name for a row"),
        ([[-1, 1, "Conv", [8], "x"], [-1, 1, "Conv", [8], "x"]], "row 1 .*: the name x is taken by row 0"),
        ([[-1, 1, "Conv", [8], "x"], ["y", 1, "Conv", [8]]], r"'y' is not a row's number, and no name .*\(x\)"),
        ([["x", 1, "Conv", [8], "x"]], r"'x' is not a row's number, and no name .*\(none has one\)"),
        ([[-1, 1, "Conv", [8], "x", "y"]], "four parts, or five where it has a name"),
    ],
)
def test_names_that_are_none(rows: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_rows({"backbone": rows, "head": []})
