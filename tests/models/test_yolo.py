"""The model: every yaml's layout against v6.1's numbers, and what building, fusing and running it does."""

import copy
import hashlib
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import yolo
from models.common import Conv
from models.yolo import Model, main, parse_model, parse_opt
from utils.files.checkpoint import load_checkpoint
from utils.files.yamls import read_yaml
from utils.general import ROOT

ARCH = json.loads((ROOT / "tests" / "golden" / "arch.json").read_text())
YAMLS = {path.stem: path for path in sorted((ROOT / "models").rglob("yolo*.yaml"))}
PARAMETERS = {  # of v6.1, nc 80
    **{name: facts["params"] for name, facts in ARCH.items()},
    "yolov5n6": 3246940,
    "yolov5s6": 12626620,
    "yolov5m6": 35731932,
    "yolov5l6": 76770172,
    "yolov5x6": 140794780,
    "yolov5-p2": 47493372,
    "yolov5-p34": 5331518,
    "yolov5-p6": 76770172,
    "yolov5-p7": 144281723,
    "yolov5-fpn": 41117565,
    "yolov5-bifpn": 46825853,
    "yolov5-panet": 46563709,
    "yolov5s-ghost": 3897605,
    "yolov5s-transformer": 7235645,
    "yolov3": 61949149,
    "yolov3-spp": 62998749,
    "yolov3-tiny": 8852366,
    # ours
    "yolov5n-NAM-p3p5": 1872157 + 2 * (64 + 128 + 256),
    "yolov5s-NAM-p3p5": 7235389 + 2 * (128 + 256 + 512),
    **{f"yolov5n-NAM-{kind}": 1872157 + 2 * 256 for kind in ("backbone", "identity", "open")},
    **{f"yolov5s-NAM-{kind}": 7235389 + 2 * 512 for kind in ("backbone", "identity", "open")},
    "yolov5n-C3NAM": 1872157 + 2 * (16 + 2 * 32 + 3 * 64 + 128 + 64 + 32 + 64 + 128),
    "yolov5s-C3NAM": 7235389 + 4 * (16 + 2 * 32 + 3 * 64 + 128 + 64 + 32 + 64 + 128),
}
ENTRIES = {"yolov5n6": 459, "yolov5s6": 459, "yolov5m6": 627, "yolov5l6": 795, "yolov5x6": 963}
STRIDES = {
    **dict.fromkeys(("yolov5n6", "yolov5s6", "yolov5m6", "yolov5l6", "yolov5x6", "yolov5-p6"), (8, 16, 32, 64)),
    "yolov5-p2": (4, 8, 16, 32),
    "yolov5-p34": (8, 16),
    "yolov5-p7": (8, 16, 32, 64, 128),
    "yolov3-tiny": (16, 32),
}
Tiny = Callable[..., dict]  # see conftest.py


def build(settings: dict | str | Path, **kwargs: object) -> Model:
    """The model, without the table."""
    return Model(settings, verbose=False, **kwargs)


def built_without_numbers(settings: dict | str | Path) -> Model:
    """The model on the meta device: shapes alone."""
    with torch.device("meta"):
        return build(settings)


# Layouts --------------------------------------------------------------------------------------------------------------


def test_every_yaml_is_a_case() -> None:
    assert set(YAMLS) == set(PARAMETERS)


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_builds_v61s_network(name: str) -> None:
    model = built_without_numbers(YAMLS[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert len(model.state_dict()) == ENTRIES.get(name, len(model.state_dict()))
    strides = STRIDES.get(name, (8, 16, 32))
    na, ch = model.head.na, model.yaml.get("ch")
    raw = model.train()(torch.empty(2, ch, 128, 256, device="meta"))
    assert [y.shape for y in raw] == [(2, na, 128 // stride, 256 // stride, 85) for stride in strides]
    decoded, raw = model.eval()(torch.empty(1, ch, 128, 256, device="meta"))
    assert decoded.shape == (1, sum(na * 128 * 256 // stride**2 for stride in strides), 85)


@pytest.mark.parametrize("name", ARCH)
def test_state_names_order_and_shapes_are_v61s(name: str) -> None:
    model = built_without_numbers(YAMLS[name])
    lines = [f"{key}:{tuple(value.shape)}" for key, value in model.state_dict().items()]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == ARCH[name]["sha256_of_keys"]
    assert len(lines) == ARCH[name]["entries"]
    assert len(list(model.modules())) == ARCH[name]["modules"]


@pytest.mark.parametrize("name", ["yolov5n", "yolov5n-NAM", "yolov5s", "yolov5s-NAM"])
def test_fused_parameters_are_v61s(name: str) -> None:
    model = build(f"{name}.yaml")
    assert model.stride.tolist() == ARCH[name]["stride"]
    model.eval().fuse()
    folded = [n for n, buffer in model.named_buffers() if n.endswith((".a", ".b")) for _ in range(buffer.numel())]
    assert sum(parameter.numel() for parameter in model.parameters()) + len(folded) == ARCH[name]["params_fused"]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_the_p5_yamls_differ_in_gains_only() -> None:
    files = [read_yaml(YAMLS[f"yolov5{size}"]) for size in "nsmlx"]
    gains = ("depth_multiple", "width_multiple")
    rest = [{key: value for key, value in content.items() if key not in gains} for content in files]
    assert all(content == rest[0] for content in rest)
    assert len({tuple(content[key] for key in gains) for content in files}) == 5


def test_the_anchor_library() -> None:
    library = read_yaml(ROOT / "models" / "hub" / "anchors.yaml")
    assert library["anchors_p5_640"] == read_yaml(YAMLS["yolov5s"])["anchors"]
    assert library["anchors_p6_1280"] == read_yaml(YAMLS["yolov5s6"])["anchors"]
    assert {key: len(levels) for key, levels in library.items()} == {
        "anchors_p5_640": 3,
        "anchors_p6_640": 4,
        "anchors_p6_1280": 4,
        "anchors_p6_1920": 4,
        "anchors_p7_640": 5,
        "anchors_p7_1280": 5,
        "anchors_p7_1920": 5,
    }
    assert all(len(level) == 6 for levels in library.values() for level in levels)


# The model ------------------------------------------------------------------------------------------------------------


def test_forward_equals_v61(shared: Path) -> None:
    checkpoint = load_checkpoint(shared / "weights" / "yolov5n.pt")
    model = build(checkpoint.yaml)
    model.load_state_dict(checkpoint.state)
    k = np.arange(3 * 128 * 160, dtype=np.float64)
    image = torch.from_numpy((0.5 + 0.5 * np.sin(0.37 * k)).astype(np.float32).reshape(1, 3, 128, 160))
    with torch.inference_mode():
        decoded, raw = model.eval()(image)
    expected = np.load(shared / "golden" / "forward_yolov5n.npz", allow_pickle=False)
    assert (decoded - torch.from_numpy(expected["decoded"])).abs().max() < 1e-3
    for level, y in zip(("raw_p3", "raw_p4", "raw_p5"), raw, strict=True):
        assert (y - torch.from_numpy(expected[level])).abs().max() < 1e-4


def test_a_new_model_is_untouched_by_its_dry_run(tiny: Tiny) -> None:
    torch.manual_seed(3)
    random.seed(3)
    model = build(tiny())
    after = torch.rand(1)
    torch.manual_seed(3)
    parse_model(model.yaml, [3], verbose=False)
    assert torch.rand(1) == after  # the weights drew numbers, nothing else did
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 4 + 3 + 2 * 2 + 1
    for norm in norms:
        assert (norm.eps, norm.momentum, norm.num_batches_tracked.item()) == (1e-3, 0.03, 0)
        assert (norm.running_mean == 0).all()
        assert (norm.running_var == 1).all()
    assert all(module.training for module in model.modules())
    assert all(module.inplace for module in model.modules() if isinstance(module, nn.SiLU))
    assert not any(module._forward_hooks for module in model.modules())


def test_attributes(tiny: Tiny) -> None:
    model = build(tiny(), nc=5)
    assert (model.nc, model.names, model.yaml["nc"], model.yaml["ch"]) == (5, ["0", "1", "2", "3", "4"], 5, 3)
    assert model.stride.tolist() == [8, 16]
    assert model.save == [2, 5]
    assert [layer.i for layer in model.model] == list(range(7))
    assert model.model[6].f == [2, 5]
    assert model.model[0].type == "models.common.Conv"
    assert model.model[6].type == "models.yolo.Detect"
    assert model.model[0].np == 8 * 3 * 9 + 16
    assert (model.head.nc, model.head.no, model.head.nl, model.head.na) == (5, 10, 2, 2)
    json.dumps(model.yaml)


def test_the_given_mapping_stays_as_it_is(tiny: Tiny) -> None:
    settings = tiny()
    build(settings, nc=7, anchors=3)
    assert settings == tiny()


def test_channels_of_the_yaml_or_the_argument(tiny: Tiny) -> None:
    assert build(tiny(), ch=1).model[0].conv.in_channels == 1
    assert build(tiny(ch=4), ch=1).model[0].conv.in_channels == 4


@pytest.mark.parametrize(
    ("anchors", "expected"),
    [
        (None, [[10, 12], [20, 24]]),
        ([[1, 2, 3, 4], [50, 60, 70, 80]], [[1, 2], [3, 4]]),
        ([[50, 60, 70, 80], [1, 2, 3, 4]], [[1, 2], [3, 4]]),  # turned round
        ([[30, 30, 8, 8], [31, 31, 8, 9]], [[30, 30], [8, 8]]),  # finer by its mean, in pixels; not in cells
    ],
)
def test_anchors_are_kept_in_cells_and_in_order(tiny: Tiny, anchors: list | None, expected: list) -> None:
    model = build(tiny(), anchors=anchors)
    assert (model.head.anchors[0] * model.stride[0]).tolist() == expected
    assert not model.has_placeholder_anchors


@pytest.mark.parametrize("number", [3, 3.2])
def test_a_number_of_anchors_gives_stand_ins(tiny: Tiny, number: float) -> None:
    model = build(tiny(), anchors=number)
    assert model.has_placeholder_anchors
    assert model.yaml["anchors"] == 3
    assert (model.head.anchors * model.stride[:, None, None])[1].flatten().tolist() == [0, 1, 2, 3, 4, 5]
    model.head.anchors[:] = 1
    assert not model.has_placeholder_anchors


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("before", [None, 2])
def test_new_anchors_go_into_head_and_yaml(tiny: Tiny, before: int | None, turned: bool) -> None:
    """In the order of the strides, whichever they come in; the yaml makes the same model again."""
    model, levels = build(tiny(), anchors=before), [[8.13, 7.07, 30, 20.5], [60, 61, 99.99, 120]]
    buffers = dict(model.named_buffers()).keys()
    model.set_anchors(levels[::-1] if turned else levels)
    assert model.yaml["anchors"] == levels
    assert dict(model.named_buffers()).keys() == buffers
    again = build(model.yaml)
    assert torch.equal(again.head.anchors, model.head.anchors)
    torch.testing.assert_close(model.head.anchors[1, 0], torch.tensor([60.0, 61]) / 16)


@pytest.mark.parametrize("levels", [[[8, 7, -1, 20], [60, 61, 9, 9]], [[8, 7, 1], [60, 61, 9]], [[0, 0]] * 2, []])
def test_new_anchors_are_checked(tiny: Tiny, levels: list) -> None:
    with pytest.raises(ValueError, match="new anchors: anchors"):
        build(tiny()).set_anchors(levels)


@pytest.mark.parametrize("nc", [1, 2, 80])
def test_biases_begin_at_the_expected_rates(tiny: Tiny, nc: int) -> None:
    torch.manual_seed(0)
    model = build(tiny(), nc=nc)
    torch.manual_seed(0)
    layers, _ = parse_model(model.yaml, [3], verbose=False)
    for level, stride in enumerate((8, 16)):
        added = (model.head.m[level].bias - layers[-1].m[level].bias).view(2, 5 + nc)
        assert (added[:, :4] == 0).all()
        torch.testing.assert_close(added[:, 4], torch.full((2,), np.log(8 / (640 / stride) ** 2)).float())
        torch.testing.assert_close(added[:, 5:], torch.full((2, nc), np.log(0.6 / (nc - 0.999999))).float())


def test_the_table(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "yolov5"):
        model = Model(tiny())
    lines = [line for record in caplog.records for line in record.getMessage().splitlines()]
    header = next(line for line in lines if line.split() == ["from", "n", "params", "module", "arguments"])
    rows = [line.rstrip() for line in lines[lines.index(header) + 1 :][:7]]
    assert rows[4].split(maxsplit=5) == ["4", "-1", "2", str(model.model[4].np), "models.common.C3", "[16, 16, 2]"]
    assert [row.split()[0] for row in rows] == [str(i) for i in range(7)]
    assert "models.common.NAMAttention" in rows[5]
    assert "Model summary" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "yolov5"):
        build(tiny())
    assert caplog.text == ""


def test_fused_equals_unfused(nano: Model) -> None:
    fused, x = copy.deepcopy(nano).fuse(), torch.rand(2, 3, 64, 96)
    assert fused.fuse() is fused
    with torch.no_grad():
        torch.testing.assert_close(fused(x)[0], nano(x)[0], rtol=1e-3, atol=1e-3)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert list(nano.state_dict())[3] == "model.0.bn.running_mean"  # the original is as it was


def test_channels_last_and_batches_change_nothing(nano: Model) -> None:
    x = torch.rand(3, 3, 64, 96)
    with torch.no_grad():
        expected = nano(x)[0]
        moved = copy.deepcopy(nano).to(memory_format=torch.channels_last)
        torch.testing.assert_close(
            moved(x.contiguous(memory_format=torch.channels_last))[0], expected, rtol=1e-3, atol=1e-2
        )
        torch.testing.assert_close(nano(x[1:2])[0], expected[1:2], rtol=1e-3, atol=1e-2)


def test_kept_outputs_are_freed(tiny: Tiny) -> None:
    model = build(tiny()).eval()
    assert model.plan[2] == (None, True, [])
    assert model.plan[6] == ([2, 5], False, [2, 5])
    assert [keep for _, keep, _ in model.plan] == [False, False, True, False, False, True, False]


def test_relative_and_list_sources(tiny_with: Tiny) -> None:
    settings = tiny_with(
        [-1, 1, "Conv", [32, 1]], [-2, 1, "Conv", [32, 1]], [[-1, -2, 4], 1, "Concat", [1]], [-1, 1, "Conv", [32, 1]]
    )
    model = build(settings).eval()
    assert model.save == [2, 4, 4, 5, 8]  # as v6.1 has it: once for each reader
    seen: dict[int, Tensor] = {}
    for layer in model.model:
        layer.register_forward_hook(lambda layer, _x, y: seen.update({layer.i: y}))
    with torch.no_grad():
        model(torch.rand(1, 3, 32, 32))
        assert torch.equal(seen[6], model.model[6](seen[4]))
    assert torch.equal(seen[7], torch.cat((seen[6], seen[5], seen[4]), 1))


@pytest.mark.parametrize("name", ["nn.ReLU", "nn.SiLU"])
@pytest.mark.parametrize("n", [1, 2])
def test_an_activation_as_a_row_leaves_what_others_read(tiny: Tiny, name: str, n: int) -> None:
    rows = [[-1, 2, "C3", [32]], [-1, n, name, []], [[4, 5], 1, "Concat", [1]]]
    model = build(tiny(head=[*rows, [[2, 6], 1, "Detect", ["nc", "anchors"]]])).eval()
    seen: dict[int, Tensor] = {}
    for layer in model.model:
        layer.register_forward_hook(lambda layer, _x, y: seen.update({layer.i: y if layer.i > 5 else y.clone()}))
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    assert (seen[4] < 0).any()
    assert torch.equal(seen[6][:, : seen[4].shape[1]], seen[4])
    model.train()(torch.randn(2, 3, 32, 32))[1].sum().backward()


# Script ---------------------------------------------------------------------------------------------------------------


def test_script_defaults() -> None:
    assert vars(parse_opt([])) == {"cfg": "yolov5s.yaml", "device": "", "profile": False, "test": False}


def test_script_builds_and_profiles(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    run: Callable = monkeypatch.setattr
    run("utils.torch_utils.PROFILE_RUNS", 1)
    with caplog.at_level(logging.INFO, "yolov5"):
        model = main(parse_opt(["--cfg", "yolov5n-NAM.yaml", "--device", "cpu", "--profile"]))
    rows = [line for line in caplog.text.splitlines() if "models.common.Conv" in line]
    assert len(rows) == 2 * sum(isinstance(layer, Conv) for layer in model.model)
    total = next(line for line in caplog.text.splitlines() if line.endswith("total"))
    assert float(total.split()[-3]) == pytest.approx(4.5, abs=0.1)
    assert model.training


# v6.1's calls and attributes ------------------------------------------------------------------------------------------


def test_forward_takes_v61s_arguments_in_order(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("utils.torch_utils.PROFILE_RUNS", 1)
    model, x = build(tiny()).eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        boxes = model(x)[0]
        assert torch.equal(model._forward_once(x)[0], boxes)
        assert model(x, True)[1] is None
        with caplog.at_level(logging.INFO, "yolov5"):
            assert torch.equal(model(x, False, True)[0], boxes)
        assert sum("models.common.Conv" in line for line in caplog.text.splitlines()) == 4
        assert torch.equal(model(x, False, False, tmp_path / "maps")[0], boxes)
    kept = np.load(tmp_path / "maps" / "stage0_Conv_features.npy", allow_pickle=False)
    np.testing.assert_allclose(kept, model.model[0](x)[0].detach().numpy(), rtol=1e-5, atol=1e-5)
    assert len([*(tmp_path / "maps").glob("*.png")]) == 6  # all layers but the head


def test_attributes_of_v61(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    model = build(tiny(inplace=False)).eval()
    assert (model.inplace, model.head.inplace) == (False, False)
    assert build(tiny()).inplace is True
    assert not hasattr(model, "module")
    model.hyp = {"box": 0.05}
    model.stride = model.stride * 2
    assert model.head.stride.tolist() == [16, 32]
    with caplog.at_level(logging.INFO, "yolov5"):
        summary = model.info(verbose=True, img_size=320)
    assert "parameters" in summary
    lines = caplog.text.splitlines()
    assert sum("model." in line for line in lines) == len([*model.parameters()])


def test_the_head_has_v61s_grids_and_switches(tiny: Tiny) -> None:
    model = build(tiny()).eval()
    head, x = model.head, torch.rand(1, 3, 32, 48)
    assert (head.onnx_dynamic, head.export, len(head.grid), len(head.anchor_grid)) == (False, False, 2, 2)
    with torch.no_grad():
        boxes, raw = model(x)
        for i, level in enumerate(raw):
            y = level.sigmoid()
            xy = (y[..., :2] * 2 - 0.5 + head.grid[i]) * head.stride[i]
            wh = (y[..., 2:4] * 2) ** 2 * head.anchor_grid[i]
            start = sum(other[..., 0].numel() for other in raw[:i])
            expected = torch.cat((xy, wh, y[..., 4:]), -1).flatten(1, 3)
            torch.testing.assert_close(boxes[:, start : start + expected.shape[1]], expected, rtol=1e-4, atol=1e-3)
        delattr(head, "anchor_grid")  # as TensorRT converters do
        head.register_buffer("anchor_grid", torch.ones(2, 2, 2))
        assert torch.equal(model(x)[0], boxes)
        head.export = True
        (alone,) = model(x)
        assert torch.equal(alone, boxes)


def test_forward_fuse_leaves_the_norm_out(tiny: Tiny) -> None:
    conv, x = build(tiny()).model[0], torch.rand(1, 3, 8, 8)
    assert torch.equal(conv.forward_fuse(x), conv.act(conv.conv(x)))


def test_a_network_that_v61_pickled_runs(shared: Path) -> None:
    """As in somebody else's program, which unpickles it with this repository on the path."""
    model = torch.load(shared / "weights" / "yolov5n.pt", map_location="cpu", weights_only=False)["model"]
    assert type(model) is Model
    k = np.arange(3 * 128 * 160, dtype=np.float64)
    image = torch.from_numpy((0.5 + 0.5 * np.sin(0.37 * k)).astype(np.float32).reshape(1, 3, 128, 160))
    expected = np.load(shared / "golden" / "forward_yolov5n.npz", allow_pickle=False)["decoded"]
    model = model.float().eval()
    with torch.no_grad():
        for _ in range(2):
            assert np.abs(model(image)[0].numpy() - expected).max() < 1e-3
            model.fuse()
    assert (model.nc, model.stride.tolist()) == (80, [8, 16, 32])


def test_parse_model_is_v61s_door(tiny: Tiny) -> None:
    layers, save = parse_model(tiny(), [3])
    assert (type(layers), save) == (nn.Sequential, [2, 5])
    assert [(layer.i, layer.f, layer.np > 0) for layer in layers][-1] == (6, [2, 5], True)
    assert layers.channels[:-1] == build(tiny()).model.channels[:-1]


def test_rows_are_read_and_planned_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("read_rows", "plan_reads"):
        function = getattr(yolo, name)
        monkeypatch.setattr(yolo, name, lambda *args, f=function, n=name: (calls.append(n), f(*args))[1])
    build(tiny(), warn=False)(torch.rand(1, 3, 32, 32))
    assert calls == ["read_rows", "plan_reads"]


def test_layers_may_be_cut_off_and_exchanged(tiny: Tiny) -> None:
    """As programs do that make a classifier of a detector."""
    model, x = build(tiny()).eval(), torch.rand(1, 3, 32, 32)
    model.model = model.model[:5]
    assert model(x).shape == (1, 16, 2, 2)
    pool = nn.AdaptiveAvgPool2d(1)
    pool.i, pool.f, pool.type = 4, 2, "pool"
    model.model[-1] = pool
    assert torch.equal(model(x), model.model[:3](x).mean((2, 3), keepdim=True))
