"""From a checkpoint file to a network that infers, alone and in an ensemble."""

import json
import resource
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from models import common
from models.experimental import Ensemble, attempt_load
from models.yolo import Model
from utils.files.checkpoint import Checkpoint, save_checkpoint

YAML = {
    "nc": 3,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "NAMAttention", []]],
    "head": [[-1, 1, "Conv", [16, 3, 2]], [[2, 3], 1, "Detect", ["nc", "anchors"]]],
}
COARSE = {**YAML, "backbone": [[-1, 1, "Conv", [8, 3, 2]], *YAML["backbone"][:1], *YAML["backbone"]]}
COARSE["head"] = [[-1, 1, "Conv", [16, 3, 2]], [[4, 5], 1, "Detect", ["nc", "anchors"]]]


def make_model(yaml=YAML, seed=0, **options):
    """A network with statistics of its own."""
    torch.manual_seed(seed)
    model = Model(yaml, verbose=False, **options)
    model.names = [f"name {i} of {seed}" for i in range(model.nc)]
    model(torch.rand(4, 3, 64, 64))
    return model


def make_checkpoint(model):
    return Checkpoint(model.yaml, tuple(model.names), {k: v.clone() for k, v in model.state_dict().items()})


@pytest.fixture
def write(tmp_path):
    """Writes a model's checkpoint; its path."""

    def write_model(model, name="best.pt"):
        save_checkpoint(tmp_path / name, make_checkpoint(model))
        return tmp_path / name

    return write_model


@pytest.mark.parametrize("fuse", [False, True])
def test_saved_and_loaded_gives_the_same(write, fuse):
    model = make_model()
    loaded = attempt_load(write(model), torch.device("cpu"), fuse=fuse)
    x = torch.rand(2, 3, 64, 96)
    expected, found = model.eval()(x)[0], loaded(x)[0]
    assert found.shape == (2, 2 * (16 * 24 + 8 * 12), 8)
    torch.testing.assert_close(found, expected, rtol=1e-4 if fuse else 0, atol=1e-3 if fuse else 0)
    assert loaded.names == model.names
    assert torch.equal(loaded.stride, torch.tensor([4.0, 8.0]))
    assert any(".bn." in name and "Channel" not in name for name in loaded.state_dict()) != fuse


def test_is_ready_for_inference(write):
    loaded = attempt_load([str(write(make_model()))], "cpu")
    assert isinstance(loaded, Model)
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_anchors_of_the_file_count(write):
    model = make_model()
    model.head.anchors.mul_(1.5)  # as AutoAnchor may
    assert torch.equal(attempt_load(write(model)).head.anchors, model.head.anchors)


def test_ensemble(write):
    models = [make_model(COARSE, 1), make_model(YAML, 2)]
    ensemble = attempt_load([write(model, f"{i}.pt") for i, model in enumerate(models)], "cpu", fuse=False)
    assert isinstance(ensemble, Ensemble)
    x = torch.rand(2, 3, 64, 64)
    boxes, raw = ensemble(x)
    assert raw is None
    torch.testing.assert_close(boxes, torch.cat([model.eval()(x)[0] for model in models], 1))
    augmented = ensemble(x, augment=True)[0]
    torch.testing.assert_close(augmented, torch.cat([model(x, augment=True)[0] for model in models], 1))
    assert ensemble.names == models[1].names
    assert torch.equal(ensemble.stride, models[0].stride)
    assert ensemble.imgsz is None
    ensemble[0].imgsz = 320
    assert ensemble.imgsz == 320
    ensemble[1].imgsz = 416
    assert ensemble.imgsz == 416
    assert ensemble.nc == 3
    assert not ensemble.training


def test_ensemble_of_other_classes(write):
    paths = [write(make_model(nc=nc), f"{nc}.pt") for nc in (3, 5)]
    with pytest.raises(ValueError, match=r"same classes: .*3\.pt has 3, .*5\.pt has 5"):
        attempt_load(paths)


def test_no_weights():
    with pytest.raises(ValueError, match="no weights"):
        attempt_load([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("model.0.conv.weight"), r"1 are missing \(model\.0\.conv\.weight\)"),
        (lambda state: state.update({"model.9.x": torch.ones(1)}), r"1 belong to no layer \(model\.9\.x\)"),
        (
            lambda state: state.update({"model.0.bn.bias": torch.ones(5)}),
            r"1 are of other shapes \(model\.0\.bn\.bias\)",
        ),
        (lambda state: [state.pop(name) for name in list(state)[3:]], r"\d\d are missing \(.*, .*, .*, \.\.\.\)"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, message):
    checkpoint = make_checkpoint(make_model())
    change(checkpoint.state)
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    with pytest.raises(ValueError, match=rf"a\.pt: its tensors do not fit its yaml: {message}"):
        attempt_load(tmp_path / "a.pt")


def test_yaml_of_no_network(tmp_path):
    checkpoint = make_checkpoint(make_model())
    rows = [[-1, 1, "Convolution", [8]], *YAML["backbone"][1:]]
    save_checkpoint(tmp_path / "a.pt", replace(checkpoint, yaml={**checkpoint.yaml, "backbone": rows}))
    with pytest.raises(ValueError, match=r"a\.pt: its yaml makes no network: .*Convolution"):
        attempt_load(tmp_path / "a.pt")


def claim(checkpoint, **changes):
    return replace(checkpoint, yaml={**checkpoint.yaml, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width_multiple": 100.0, "backbone": [[-1, 1, "Conv", [64]]] * 3}, r"row 1 .*\d+ numbers"),
        ({"backbone": [[-1, 1, "nn.Conv2d", [3, 400_000, 999]], *YAML["backbone"][1:]]}, r"row 0 .*\d+ num"),
        ({"backbone": [[-1, 1, "nn.Embedding", [10**6, 10**6]], *YAML["backbone"]]}, r"row 0 .*\d+ numbers"),
        ({"backbone": [[-1, 1, "nn.Upsample", ["None", 9999]], *YAML["backbone"]]}, r"row 0 .*\d+ numbers"),
        ({"backbone": [[-1, 1, "nn.ZeroPad2d", [9999]], *YAML["backbone"]]}, r"row 0 .*\d+ numbers"),
        ({"backbone": [[-1, 1, "Conv", [8, 3, 2, 9999]], *YAML["backbone"][1:]]}, r"row [01] .*\d+ numbers"),
        ({"backbone": [[-1, 1000, "nn.ReLU", []]] * 3 + YAML["backbone"], "depth_multiple": 100}, "300005 blocks"),
    ],
    ids=["width", "kernel", "embedding", "upsample", "pad", "padding", "repeats"],
)
def test_a_giant_claim_is_refused_before_it_takes_memory(tmp_path, changes, message):
    save_checkpoint(tmp_path / "a.pt", claim(make_checkpoint(make_model()), **changes))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=rf"a\.pt: its .*{message}"):
        attempt_load(tmp_path / "a.pt")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # kB
    assert grown < 300_000


class ReadsNumbers(nn.Module):
    """A block that the meta device cannot make, with a tensor that no file has."""

    def __init__(self, slope=0.5):
        super().__init__()
        self.slope = float(torch.tensor(slope))
        self.register_buffer("shift", torch.ones(1), persistent=False)
        self.plain = torch.full((1,), 2.0)

    def forward(self, x):
        return x * self.slope + self.shift + self.plain if x.sum() < 1e9 else x


def test_a_block_that_reads_numbers(write, monkeypatch):
    monkeypatch.setattr(common, "ReadsNumbers", ReadsNumbers, raising=False)
    model = make_model({**YAML, "backbone": [*YAML["backbone"][:2], [-1, 1, "ReadsNumbers", [0.25]]]})
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(attempt_load(write(model), fuse=False)(x)[0], model.eval()(x)[0])


def test_wiring_is_spoken_of_when_a_yaml_is_built_and_not_when_weights_are_loaded(write, caplog):
    unread = {**YAML, "head": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16]], [[2, 3], 1, "Detect", []]]}
    with caplog.at_level("WARNING", "yolov5"):
        path = write(make_model(unread))
        assert "nobody reads its output" in caplog.text
        caplog.clear()
        attempt_load(path)
    assert caplog.text == ""


def test_forward_of_the_released_weights(shared):
    golden = np.load(shared / "golden" / "forward_yolov5n.npz")
    k = np.arange(3 * 128 * 160, dtype=np.float64)
    x = torch.from_numpy((0.5 + 0.5 * np.sin(0.37 * k)).astype(np.float32).reshape(1, 3, 128, 160))
    for fuse in (False, True):
        decoded, raw = attempt_load(shared / "weights" / "yolov5n.pt", "cpu", fuse=fuse)(x)
        assert np.abs(decoded.numpy() - golden["decoded"]).max() < 1e-3
        for level, y in zip(("p3", "p4", "p5"), raw, strict=True):
            assert np.abs(y.numpy() - golden[f"raw_{level}"]).max() < 1e-4


def test_released_parameters(shared):
    arch = json.loads((shared / "golden" / "arch.json").read_text())["yolov5n"]
    for fuse, key in ((False, "params"), (True, "params_fused")):
        loaded = attempt_load(shared / "weights" / "yolov5n.pt", fuse=fuse)
        assert sum(parameter.numel() for parameter in loaded.parameters()) == arch[key]
