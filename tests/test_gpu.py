"""Training, evaluation and detection on a GPU, in half-size numbers too; skipped where there is none."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import detect
import export
import train
import val
from models.experimental import attempt_load
from models.exporters.compare import without_tf32
from models.runtimes.load import load_backend
from models.yolo import find_module
from utils.data.labels import LabelRecord
from utils.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.torch_utils import select_device

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module", params=["fp16", "bf16"])
def finished(request, data, tmp_path_factory):
    """The folder of a run of two epochs, with the checkpoint of the second one whole."""
    options = {"imgsz": 64, "batch_size": 4, "workers": 0, "weights": "", "cfg": "yolov5n-NAM.yaml", "noplots": True}
    project = str(tmp_path_factory.mktemp("runs"))
    return train.run(**options, data=data, project=project, device="0", amp=request.param, epochs=2, save_period=1)


def losses(folder):
    """The numbers of results.csv, a row per epoch."""
    with (folder / "results.csv").open(newline="") as file:
        return np.array([*csv.reader(file)][1:], float)


def test_training(finished):
    assert losses(finished).shape == (2, 14)
    assert np.isfinite(losses(finished)).all()
    kept = load_checkpoint(finished / "weights" / "epoch1.pt")
    assert all(value.isfinite().all() for value in kept.state.values())
    momentum = [state["momentum_buffer"] for state in kept.training["optimizer"]["state"].values()]
    assert all(value.isfinite().all() for value in momentum)


def test_resume(finished, data, tmp_path):
    """A run of three epochs, cut off after the second, goes on with the third."""
    options = yaml.safe_load((finished / "opt.yaml").read_text(encoding="utf-8"))
    common = {key: options[key] for key in ("imgsz", "batch_size", "workers", "weights", "cfg", "noplots", "amp")}
    folder = train.run(**common, data=data, project=str(tmp_path), device="0", epochs=3, save_period=1, patience=0)
    whole = losses(folder)
    torch.cuda.synchronize()
    kept = folder / "weights" / "epoch1.pt"
    assert load_checkpoint(kept).epoch == 1
    again = train.run(resume=str(kept))
    resumed = losses(again)
    assert len(resumed) == len(whole) == 3
    np.testing.assert_allclose(resumed[2, 1:4], whole[2, 1:4], rtol=0.05)


def test_half_finds_what_full_finds(finished, data, tmp_path):
    best = str(finished / "weights" / "best.pt")
    full, half = (
        val.run(weights=best, data=data, imgsz=64, device="0", workers=0, project=str(tmp_path), half=half)
        for half in (False, True)
    )
    assert half.map50 == pytest.approx(full.map50, abs=0.02)
    source = str(Path(data).parent / "shapes" / "images" / "val")
    folder = detect.run(weights=best, source=source, imgsz=64, device="0", half=True, project=str(tmp_path / "detect"))
    assert len(list(folder.glob("*.jpg"))) == 6


def test_the_last_gpu_becomes_the_current_one(finished):
    before, last = torch.cuda.current_device(), torch.cuda.device_count() - 1
    try:
        device = select_device(str(last))
        assert torch.cuda.current_device() == last
        model = attempt_load(finished / "weights" / "best.pt", device)
        decoded, _ = model(torch.rand(1, 3, 64, 64, device=device))
        assert decoded.device == torch.device("cuda", last)
    finally:
        torch.cuda.set_device(before)


def test_largest_batch(data, tmp_path, caplog):
    """Only twelve images: all of them fit; the run is the one with that number named."""
    options = {"imgsz": 64, "workers": 0, "weights": "", "cfg": "yolov5n-NAM.yaml", "noplots": True, "epochs": 1}
    common = {**options, "data": data, "device": "0", "project": str(tmp_path)}
    found, named = (train.run(**common, batch_size=batch_size) for batch_size in (-1, 12))
    settings = yaml.safe_load((found / "opt.yaml").read_text(encoding="utf-8"))
    assert settings["batch_size"] == 12
    np.testing.assert_allclose(losses(found)[:, 1:4], losses(named)[:, 1:4], rtol=0.02)


@pytest.mark.parametrize("name", ["NAMAttention", "SE", "ECA", "CBAM", "CoordAttention", "SimAM", "EMA", "GAM"])
def test_attention_repeats_to_the_bit(name):
    kwargs = {"no_spatial": False, "gradient": True} if name == "NAMAttention" else {}
    torch.manual_seed(0)
    block = find_module(name)(64, **kwargs).cuda().train()
    x, weights = torch.randn(4, 64, 40, 36, device="cuda"), torch.randn(4, 64, 40, 36, device="cuda")

    def gradients():
        block.zero_grad()
        inputs = x.clone().requires_grad_()
        (block(inputs) * weights).sum().backward()
        return [inputs.grad, *(parameter.grad for parameter in block.parameters())]

    torch.use_deterministic_algorithms(True)
    try:
        first, second = gradients(), gradients()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_batch_beyond_the_memory_is_no_failure():
    """The search ends within the tenth of the memory that is left free, and what it tried is given back."""
    device = select_device("0")
    opt = train.parse_opt(["--cfg", "yolov5n.yaml"])
    model = train.Model("yolov5n.yaml", verbose=False)
    hyp = train.Hyp.from_yaml(opt.hyp)
    records = [LabelRecord("", (64, 64), np.zeros((2, 5), np.float32))] * 1024
    before = torch.cuda.memory_allocated(device)
    filler = torch.empty(int(torch.cuda.mem_get_info(device)[0] * 0.9), dtype=torch.uint8, device=device)
    state = torch.cuda.get_rng_state(device)
    found = train.find_batch_size(opt, hyp, model, records, 640, device)
    assert 1 <= found < 1024
    assert torch.equal(torch.cuda.get_rng_state(device), state)
    assert torch.cuda.memory_allocated(device) <= before + filler.numel() + 2**20


# TensorRT -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine_weights(tmp_path_factory):
    """A checkpoint of yolov5n-NAM whose norms are as after a training."""
    pytest.importorskip("tensorrt")
    torch.manual_seed(0)
    model = train.Model("yolov5n-NAM.yaml", nc=3, verbose=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
    file = tmp_path_factory.mktemp("engines") / "net.pt"
    save_checkpoint(file, Checkpoint(model.yaml, ("a", "b", "c"), model.state_dict()))
    return file


@pytest.mark.parametrize(
    "options",
    [{}, {"batch_size": 4}, {"dynamic": True}, {"half": True}, {"half": True, "dynamic": True}, {"train": True}],
    ids=str,
)
def test_engine_gives_what_pytorch_gives(engine_weights, options):
    """export.py itself compares them, on several shapes where those are open; here the file is loaded once more."""
    (file,) = export.run(engine_weights, include="engine", imgsz=[192, 256], device="0", workspace=1, **options)
    assert file.with_suffix(".timing").stat().st_size > 0
    model, images = load_backend(file, "cuda:0"), torch.rand(5, 3, 192, 256, device="cuda:0")
    assert (model.names, model.nc) == (["a", "b", "c"], 3)
    with torch.no_grad(), without_tf32():
        wanted = attempt_load(engine_weights, torch.device("cuda:0"))(images)
    found = model.outputs(images)
    assert found[0].device.type == "cuda"
    for a, b in zip(found, wanted[1] if "train" in options else wanted[:1], strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() < (4 if "half" in options else 0.2)


@pytest.mark.parametrize("agnostic", [False, True])
def test_the_plugin_of_tensorrt_finds_what_ours_finds(engine_weights, agnostic):
    options = {"nms": True, "conf_thres": 0.002, "topk_all": 50, "dynamic": True, "agnostic_nms": agnostic}
    (file,) = export.run(engine_weights, include="engine", imgsz=[192, 256], device="0", **options)
    num, boxes, scores, classes = load_backend(file, "cuda:0").outputs(torch.rand(3, 3, 192, 256, device="cuda:0"))
    assert (num.shape, boxes.shape, scores.shape, classes.shape) == ((3, 1), (3, 50, 4), (3, 50), (3, 50))
    assert num.min() > 0


def test_a_second_build_uses_the_timings_of_the_first(engine_weights, caplog):
    for _ in range(2):
        export.run(engine_weights, include="engine", imgsz=64, device="0")
    assert "new ones take their place" not in caplog.text


def test_images_beyond_an_engines_profile_and_a_file_that_is_cut_off(engine_weights, tmp_path):
    (file,) = export.run(engine_weights, include="engine", imgsz=64, device="0", dynamic=True)
    with pytest.raises(ValueError, match="heights of 32 to 96 and widths of 32 to 96 pixels"):
        load_backend(file, "cuda:0")(torch.rand(1, 3, 128, 64, device="cuda:0"))
    (tmp_path / "x.engine").write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"x\.engine: TensorRT .* cannot load it"):
        load_backend(tmp_path / "x.engine", "cuda:0")


def test_detect_and_val_with_an_engine(finished, data, tmp_path):
    pytest.importorskip("tensorrt")
    best = finished / "weights" / "best.pt"
    (file,) = export.run(best, include="engine", imgsz=64, device="0", dynamic=True)
    common = {"data": data, "imgsz": 64, "device": "0", "workers": 0, "project": str(tmp_path)}
    wanted, found = (val.run(weights=str(weights), **common) for weights in (best, file))
    assert found.map50 == pytest.approx(wanted.map50, abs=0.01)
    source = str(Path(data).parent / "shapes" / "images" / "val")
    folder = detect.run(weights=str(file), source=source, imgsz=64, device="0", project=str(tmp_path / "detect"))
    assert len(list(folder.glob("*.jpg"))) == 6
