"""LayerCAM against its formula by hand, its states against networks made so, and --cam from end to end."""

import copy
import csv
import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.blocks.nam import NAMAttention
from models.experimental import attempt_load
from models.yolo import Model
from tools.gates import layer_cam as layer_cam_module
from tools.gates.cli import evenly, main, parse_opt
from tools.gates.gates import attention_blocks, gated_blocks
from tools.gates.layer_cam import (
    CONFIDENCE,
    IDENTITY,
    IOU,
    MEAN,
    TOP,
    TRAINED,
    Cam,
    cams_of,
    correlation,
    draw_cams,
    layer_cam,
    look,
    means_of,
    score_of,
    shares_of_most,
)
from utils.files.checkpoint import Checkpoint, save_checkpoint
from utils.files.images import read_image
from utils.files.yamls import read_yaml
from utils.general import ROOT, non_max_suppression


@pytest.fixture
def model(small_weights: Path) -> Model:
    """The small network, surer of itself and not fused; NAM is row 7, and row 8 and Detect read it."""
    return surer(attempt_load(small_weights, fuse=False))


def surer(network: Model, more: float = 3) -> Model:
    """The network with higher scores: objectness and classes."""
    for conv in network.head.m:
        conv.bias.data.view(network.head.na, network.head.no)[:, 4:] += more
    return network


@pytest.fixture
def image() -> Tensor:
    """(1, 3, 64, 96) in 0..1."""
    return torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def head_from(model: Model, features: Tensor, kept: dict[int, Tensor]) -> Tensor:
    """The decoded boxes of the small network where row 7 gives these features and others what they gave."""
    up = model.model[8](features)
    merged = model.model[10](model.model[9]([up, kept[3]]))
    return model.model[11]([kept[2], merged, features])[0]


def rows_of(model: Model, image: Tensor) -> dict[int, Tensor]:
    """What each row gives, but for Detect."""
    kept: dict[int, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda layer, _inputs, output: kept.__setitem__(layer.i, output))
        for layer in model.model[:-1]
    ]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    return kept


# The formula ----------------------------------------------------------------------------------------------------------


def test_formula_on_numbers() -> None:
    gradient = torch.tensor([[[1.0, -2.0]], [[3.0, 0.5]]])[None]  # (1, 2, 1, 2)
    features = torch.tensor([[[2.0, 5.0]], [[-1.0, 4.0]]])[None]
    torch.testing.assert_close(layer_cam(gradient, features), torch.tensor([[0.0, 2.0]]))  # 2 - 3 is cut off


def test_map_equals_the_formula_by_differences(model: Model, image: Tensor) -> None:
    """The gradient of S by central differences in float64, without autograd, hooks or the network's forward."""
    model, image = model.double(), image.double()
    blocks = attention_blocks(model)
    (heat,), score, boxes = (list(v.values()) if isinstance(v, dict) else v for v in look(model, image, blocks))
    kept = rows_of(model, image)
    features, step = kept[7], 1e-4

    def total(changed: Tensor) -> float:
        """S: the confidences of the boxes kept, which such a small step leaves as they are."""
        prediction = head_from(model, changed, kept)[0]
        confidences = prediction[:, 4] * prediction[:, 5:].amax(1)
        return float(confidences[indices].sum())

    with torch.no_grad():
        prediction = head_from(model, features, kept)[0]
        confidences = (prediction[:, 4] * prediction[:, 5:].amax(1)).float()
        indices = [int((confidences - box[4]).abs().argmin()) for box in boxes]
        assert len(boxes) == len(set(indices)) > 3
        assert score == pytest.approx(total(features), rel=1e-5)
        gradient = torch.zeros_like(features)
        for k in range(features.numel()):
            shift = torch.zeros_like(features)
            shift.view(-1)[k] = step
            gradient.view(-1)[k] = (total(features + shift) - total(features - shift)) / (2 * step)
    wanted = (gradient.clamp(min=0) * features).sum(1).clamp(min=0)[0]  # (H, W)
    assert wanted.max() > 0
    np.testing.assert_allclose(heat, wanted.numpy(), rtol=1e-3, atol=1e-4 * float(wanted.max()))


def test_score_is_of_the_boxes_that_are_kept(model: Model, image: Tensor) -> None:
    with torch.no_grad():
        prediction = model(image)[0]
    score, boxes = score_of(prediction)
    (wanted,) = non_max_suppression(prediction, CONFIDENCE, IOU)
    assert torch.equal(boxes, wanted)
    assert len(boxes) > 0
    assert float(score) == pytest.approx(float(wanted[:, 4].sum()))


def test_without_boxes_the_surest_anchors_count(model: Model, image: Tensor) -> None:
    surer(model, -9)
    heats, score, boxes = look(model, image, attention_blocks(model))
    assert boxes.shape == (0, 6)
    with torch.no_grad():
        prediction = model(image)[0][0]
    confidences = (prediction[:, 4] * prediction[:, 5:].amax(1)).sort(descending=True).values
    assert 0 < score == pytest.approx(float(confidences[:TOP].sum()))
    assert heats["model.7"].max() > 0


def test_fewer_anchors_than_the_surest() -> None:
    score, _ = score_of(torch.full((1, 3, 6), 0.1))
    assert float(score) == pytest.approx(0.03)


def test_numbers_that_are_not_finite_are_told(model: Model, image: Tensor) -> None:
    model.model[7].Channel_Att.bn2.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"model\.7: its map or gradient is not finite"):
        look(model, image, attention_blocks(model))


# States ---------------------------------------------------------------------------------------------------------------


def all_cams(model: Model, image: Tensor, gate: float = 0.3) -> dict[str, Cam]:
    """The three states of the small network's block, held at this gate in the second."""
    cams = cams_of(model, image, attention_blocks(model), {"model.7": torch.full((16,), gate)})
    assert [cam.state for cam in cams] == [TRAINED, MEAN, IDENTITY]
    return {cam.state: cam for cam in cams}


def test_states_are_networks_made_so(model: Model, image: Tensor) -> None:
    """Each state's map is the trained map of a network whose block does just that."""

    class Scale(NAMAttention):
        def forward(self, x: Tensor) -> Tensor:
            return x * self.factor

    cams = all_cams(model, image)
    for state, factor in ((MEAN, 0.3), (IDENTITY, 1.0)):
        other = copy.deepcopy(model)
        scale = Scale(16)
        scale.factor, scale.i = factor, 7
        other.model[7] = scale
        heats, score, boxes = look(other.eval(), image, attention_blocks(other))
        np.testing.assert_allclose(cams[state].heat, heats["model.7"], rtol=1e-4, atol=1e-5)
        assert cams[state].score == pytest.approx(score, rel=1e-5)
        torch.testing.assert_close(cams[state].boxes, boxes)
    assert not np.allclose(cams[IDENTITY].heat, cams[TRAINED].heat, rtol=0.01)
    assert look(model, image, attention_blocks(model))[1] == cams[TRAINED].score  # it is as it was


def identity_start(model: Model) -> Model:
    """The network with a block that starts as identity, exactly: gain_out 2, and no channel has a weight."""
    block = NAMAttention(16, gain_out=2).eval()
    block.Channel_Att.bn2.weight.data.zero_()
    block.i = 7
    model.model[7] = block
    return model


def test_identity_equals_trained_at_an_identity_start(model: Model, image: Tensor) -> None:
    cams = all_cams(identity_start(model), image, gate=1.0)
    for state in (MEAN, IDENTITY):
        np.testing.assert_allclose(cams[state].heat, cams[TRAINED].heat, rtol=1e-5)
        assert cams[state].score == pytest.approx(cams[TRAINED].score)
        assert cams[state].correlation == pytest.approx(1)


def test_identity_is_close_to_a_fresh_gain_out_2(model: Model, image: Tensor) -> None:
    block = NAMAttention(16, gain_out=2).eval()
    block.i = 7
    model.model[7] = block
    assert all_cams(model, image)[IDENTITY].correlation > 0.99


def test_shape_and_range(model: Model, image: Tensor) -> None:
    for cam in all_cams(model, image).values():
        assert cam.heat.shape == (2, 3)  # stride 32
        assert cam.heat.dtype == np.float32
        assert cam.heat.min() >= 0
        shares = shares_of_most(cam.heat)
        assert shares.max() == 1
        assert shares.min() >= 0


def test_a_fused_network_gives_the_same(small_weights: Path, model: Model, image: Tensor) -> None:
    fused = surer(attempt_load(small_weights))
    for a, b in zip(all_cams(model, image).values(), all_cams(fused, image).values(), strict=True):
        np.testing.assert_allclose(a.heat, b.heat, rtol=1e-3, atol=1e-4)


def test_half_weights(model: Model, image: Tensor) -> None:
    whole, half = all_cams(model, image), all_cams(copy.deepcopy(model).half(), image)
    for state, cam in half.items():
        assert cam.heat.dtype == np.float32
        assert correlation(cam.heat, whole[state].heat) > 0.98


def test_no_gradient_is_left_behind(model: Model, image: Tensor) -> None:
    all_cams(model, image)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    assert not model.model[7]._forward_hooks
    assert not model.head._forward_pre_hooks


def test_a_plain_network_is_looked_at_where_detect_reads_it(tiny_with: Callable[..., dict], image: Tensor) -> None:
    plain = Model(tiny_with([-1, 1, "nn.Identity", []]), verbose=False).eval().requires_grad_(False)
    assert not gated_blocks(plain)
    cams = cams_of(plain, image, {}, {})
    assert [(cam.block, cam.state) for cam in cams] == [("model.2", TRAINED), ("model.5", TRAINED)]
    assert [cam.heat.shape for cam in cams] == [(8, 12), (4, 6)]  # strides 8 and 16
    assert not plain.head._forward_pre_hooks


def test_several_blocks_have_three_states_each(tiny_with: Callable[..., dict], image: Tensor) -> None:
    rows = ([-1, 1, "NAMAttention", []], [-1, 1, "SE", []])
    network = Model(tiny_with(*rows), verbose=False).eval().requires_grad_(False)
    blocks = attention_blocks(network)
    cams = cams_of(network, image, blocks, {name: torch.full((16,), 0.5) for name in blocks})
    assert [cam.block for cam in cams] == ["model.5"] * 3 + ["model.6"] * 3
    (alone,) = look(network, image, {"model.5": blocks["model.5"]})[0].values()
    np.testing.assert_allclose(alone, cams[0].heat, rtol=1e-5)


# Numbers --------------------------------------------------------------------------------------------------------------


def test_correlation_is_numpys() -> None:
    a, b = np.random.default_rng(0).random((2, 5, 7)).astype(np.float32)
    assert correlation(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], rel=1e-5)
    assert correlation(a, 3 * a) == pytest.approx(1)
    assert correlation(a, -a) == pytest.approx(-1)


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_constant_maps_have_no_correlation(value: float) -> None:
    flat, other = np.full((4, 4), value, np.float32), np.eye(4, dtype=np.float32)
    assert correlation(flat, other) is None
    assert correlation(other, flat) is None
    shares = shares_of_most(flat)
    assert shares.tolist() == [[float(value > 0)] * 4] * 4
    cam = Cam("model.7", TRAINED, flat, 1.0, torch.zeros(0, 6))
    picture = np.full((64, 96, 3), 90, np.uint8)
    assert draw_cams(picture, [cam], ["a"]).shape == (320, 480, 3)


def test_means_leave_constant_maps_out() -> None:
    heat, boxes = np.zeros((2, 2), np.float32), torch.zeros(2, 6)
    pictures = [
        [Cam("a", TRAINED, heat, score, boxes, r), Cam("a", MEAN, heat, 0.5, boxes[:n], None)]
        for score, r, n in ((1.0, 0.5, 0), (2.0, None, 1), (3.0, 0.7, 2))
    ]
    trained, mean = means_of(pictures)
    assert (trained.score, trained.boxes, trained.constant) == (2, 2, 1)
    assert trained.correlation == pytest.approx(0.6)
    assert (mean.score, mean.boxes, mean.correlation, mean.constant) == (0.5, 1, None, 3)


def test_picture_has_a_row_of_states_for_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 2
    box = torch.tensor([[40.0, 40, 60, 60, 0.9, 0]])
    cams = [Cam(block, state, heat, 1.0, box, 0.5) for block in "ab" for state in (TRAINED, MEAN, IDENTITY)]
    picture = np.full((64, 64, 3), 90, np.uint8)
    drawn = draw_cams(picture, cams, ["ant"])
    assert drawn.shape == (2 * 480, 3 * 480, 3)
    tile = draw_cams(picture, cams[:1], ["ant"]).astype(int)
    assert np.ptp(tile[440:460, 40:260].reshape(-1, 3), 0).max() == 0  # nothing is hot there, and nothing drawn
    assert abs(tile[40, 100] - 90).max() > 50  # hot
    assert abs(tile[300, 375] - 90).max() > 50 or abs(tile[375, 300] - 90).max() > 50  # the box's line
    monkeypatch.setattr(layer_cam_module, "LONGEST", 700)
    assert draw_cams(picture, cams, ["ant"]).shape == (2 * 350, 3 * 350, 3)


def test_images_come_evenly() -> None:
    assert evenly(list(range(10)), 4) == [0, 3, 6, 9]
    assert evenly(list(range(3)), 8) == [0, 1, 2]
    assert evenly(list(range(5)), 1) == [0]


# From end to end ------------------------------------------------------------------------------------------------------


def narrow(yaml: str, folder: Path, names: tuple[str, ...]) -> Path:
    """A checkpoint of that yaml at width 0.1, its weights in half, which finds something everywhere."""
    torch.manual_seed(0)
    content = {**read_yaml(ROOT / "models" / yaml), "width_multiple": 0.1, "nc": len(names)}
    network = surer(Model(content, verbose=False), 5)
    path = folder / f"{Path(yaml).stem}.pt"
    save_checkpoint(path, Checkpoint(network.yaml, names, network.half().state_dict()))
    return path


@pytest.fixture(scope="module")
def with_nam(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NAM at three levels."""
    return narrow("yolov5n-NAM-p3p5.yaml", tmp_path_factory.mktemp("nam"), tuple(read_yaml(Path(data))["names"]))


@pytest.fixture(scope="module")
def without(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No attention."""
    return narrow("yolov5n.yaml", tmp_path_factory.mktemp("plain"), tuple(read_yaml(Path(data))["names"]))


def flags_for(data: str, project: Path) -> list[str]:
    """Those that all inspections here have."""
    return f"--data {data} --imgsz 64 --workers 0 --device cpu --project {project}".split()


def rows_in(folder: Path) -> list[dict[str, str]]:
    """The rows of cam.csv."""
    with (folder / "cam" / "cam.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_two_images(with_nam: Path, data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Gates as ever, and pictures, table and index of two images, weights in half."""
    with caplog.at_level(logging.INFO, "yolov5"):
        folder = main(parse_opt(["--weights", str(with_nam), *flags_for(data, tmp_path), "--cam", "2"]))
    assert "LayerCAM of 2 images" in caplog.text
    assert "r with trained" in caplog.text
    assert folder == tmp_path / "exp"
    assert {path.name for path in folder.iterdir()} == {"cam", "gates.csv", "gates.html", "gates.png", "inspect.json"}
    rows, blocks, states = rows_in(folder), ["model.18", "model.22", "model.26"], [TRAINED, MEAN, IDENTITY]
    images = list(dict.fromkeys(row["image"] for row in rows))
    assert len(images) == 2
    found = [(row["image"], row["block"], row["state"]) for row in rows]
    assert found == [(image, block, state) for image in images for block in blocks for state in states]
    assert all(float(row["score"]) > 0 for row in rows)
    assert any(int(row["boxes"]) > 0 for row in rows)
    for row in rows:
        assert row["correlation"] == "" or -1 <= float(row["correlation"]) <= 1
    jpegs = sorted(path.name for path in (folder / "cam").glob("*.jpg"))
    assert jpegs == sorted(f"{Path(image).stem}.jpg" for image in images)
    for name in jpegs:
        assert read_image(folder / "cam" / name).shape[1] > 1000  # three tiles
    page = (folder / "cam" / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{name}"' in page for name in jpegs)
    assert re.search(r"<td>model.26</td><td>mean gate</td><td>[\d.]+</td>", page)


def test_plain_network(without: Path, data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "yolov5"):
        folder = main(parse_opt([str(without), *flags_for(data, tmp_path), "--cam", "2"]))
    assert [path.name for path in folder.iterdir()] == ["cam"]
    rows = rows_in(folder)
    assert [(row["block"], row["state"]) for row in rows] == [(f"model.{i}", TRAINED) for i in (17, 20, 23)] * 2
    assert "no attention, LayerCAM alone" in caplog.text
    h, w = read_image(next((folder / "cam").glob("*.jpg"))).shape[:2]
    assert h > 1.9 * w  # three tiles below each other, in one column


def test_plain_network_has_no_counterfactual(without: Path, data: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no attention block"):
        main(parse_opt([str(without), *flags_for(data, tmp_path), "--cam", "1", "--counterfactual"]))


def test_cam_without_a_number_and_with_a_wrong_one(with_nam: Path, data: str, tmp_path: Path) -> None:
    assert parse_opt([str(with_nam), "--cam"]).cam == 8
    assert parse_opt([str(with_nam)]).cam is None
    with pytest.raises(ValueError, match="--cam 0: 1 or more"):
        main(parse_opt([str(with_nam), *flags_for(data, tmp_path), "--cam", "0"]))
    assert not list(tmp_path.iterdir())


def test_help_tells_of_it(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parse_opt(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--cam [IMAGES]" in text
    assert "LayerCAM" in text
    assert "as trained, at its mean gate and as identity" in text
