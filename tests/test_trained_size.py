"""A network is used at the size that it was trained at: no program needs to be told, and all say the same of it."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
import yaml

import detect
import export
import hubconf
import train
import val
from models.experimental import attempt_load
from models.runtimes.load import load_backend
from tools.serve.metrics import Metrics
from tools.serve.predictor import Predictor, Thresholds
from utils.files.checkpoint import load_checkpoint, save_checkpoint
from utils.files.images import read_image
from utils.general import ROOT

SIZE = 96
HOW = {"workers": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def sure_weights(small_weights, tmp_path_factory):
    """An untrained network that is sure of some boxes, and says other things of each picture."""
    checkpoint, generator = load_checkpoint(small_weights), torch.Generator().manual_seed(1)
    for name, value in checkpoint.state.items():
        if name.startswith("model.11.m.") and value.ndim == 4:
            value.copy_(torch.randn(value.shape, generator=generator))
        elif name.startswith("model.11.m."):
            value.view(2, 8)[:, 4:] += 2
    path = tmp_path_factory.mktemp("sure") / "net.pt"
    save_checkpoint(path, checkpoint)
    return path


@pytest.fixture(scope="module")
def labelled(data, sure_weights, tmp_path_factory):
    """The yaml of drawn pictures, on which that is labelled which an untrained network finds at SIZE pixels."""
    folder = tmp_path_factory.mktemp("labelled")
    source = train.DataConfig.from_yaml(data).root / "images" / "val"
    (folder / "images").symlink_to(source)
    finds = detect.run(sure_weights, source, imgsz=SIZE, device="cpu", save_txt=True, nosave=True, project=folder)
    (folder / "labels").symlink_to(finds / "labels")
    file = folder / "labelled.yaml"
    file.write_text(f"path: {folder}\ntrain: images\nval: images\nnames: [ant, bee, cat]\n")
    return str(file)


@pytest.fixture(scope="module")
def finished(labelled, sure_weights, tmp_path_factory):
    """The folder of a run at SIZE pixels that leaves the network nearly as it was, in bf16."""
    folder = tmp_path_factory.mktemp("runs")
    hyp = yaml.safe_load((ROOT / "data" / "hyps" / "hyp.scratch-low.yaml").read_text())
    (folder / "hyp.yaml").write_text(yaml.safe_dump(hyp | {"lr0": 1e-6, "warmup_bias_lr": 0.0}))
    options = {"weights": str(sure_weights), "imgsz": SIZE, "epochs": 1, "noautoanchor": True, "amp": "bf16"}
    return train.run(
        **options, **HOW, data=labelled, hyp=str(folder / "hyp.yaml"), freeze=11, noplots=True, project=str(folder)
    )


@pytest.fixture(scope="module")
def best(finished):
    return finished / "weights" / "best.pt"


@pytest.fixture(scope="module")
def picture(data):
    """A picture of more pixels than the network's."""
    return min((train.DataConfig.from_yaml(data).root / "images" / "val").iterdir())


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "yolov5")
    return lambda: [record.getMessage() for record in caplog.records]


def lines_of_size(lines):
    return [line for line in lines if line.startswith("images of ")]


def test_checkpoints_have_the_size(finished, tmp_path):
    for name in ("best", "last", "resume"):
        assert load_checkpoint(finished / "weights" / f"{name}.pt").imgsz == SIZE
    copy = tmp_path / "again"
    shutil.copytree(finished, copy)
    folder = train.run(resume=str(copy), epochs=2)
    assert load_checkpoint(folder / "weights" / "last.pt").imgsz == SIZE


def test_the_last_epoch_the_end_and_val_say_the_same(finished, best, labelled, tmp_path, said):
    """Whatever it is trained in, it is rated in FP32, with its weights as they are stored."""
    header, row = (finished / "results.csv").read_text().splitlines()
    epoch = dict(zip((name.strip() for name in header.split(",")), map(float, row.split(",")), strict=True))
    end = json.loads((finished / "results.json").read_text())
    keys = {"precision": "precision", "recall": "recall", "mAP_0.5": "mAP_0.5", "mAP_0.5:0.95": "mAP_0.5:0.95"}
    for name, column in keys.items():
        assert epoch[f"metrics/{column}"] == pytest.approx(end[name], abs=2e-5), name
    assert 0.2 < end["mAP_0.5:0.95"] < 1
    result = val.run(weights=best, data=labelled, **HOW, noplots=True, project=str(tmp_path))
    assert (result.mp, result.mr, result.map50, result.map) == tuple(end[name] for name in keys)
    assert lines_of_size(said()) == [f"images of {SIZE} x {SIZE} pixels, the size that the network was trained at"]


def test_all_find_the_same_boxes(best, picture, tmp_path, said):
    def labels(name, **options):
        common = {"source": picture, "device": "cpu", "save_txt": True, "save_conf": True, "nosave": True}
        folder = detect.run(best, **common, **options, project=tmp_path, name=name)
        return np.loadtxt(folder / "labels" / f"{picture.stem}.txt", ndmin=2)

    found = labels("own")
    assert len(found) > 3
    np.testing.assert_array_equal(found, labels("same", imgsz=[SIZE]))
    assert len(lines_of_size(said())) == 1
    other = labels("other", imgsz=[2 * SIZE])
    assert found.shape != other.shape or not np.array_equal(found, other)
    (warning,) = lines_of_size(said())[1:]
    assert f"the network was trained at {SIZE}" in warning

    model = hubconf.custom(best, device="cpu")
    rows = model(str(picture)).xyxy[0]
    assert len(rows) == len(found)
    np.testing.assert_allclose(rows[:, 4], found[::-1, 5], atol=1e-5)
    assert len(lines_of_size(said())) == 3
    model(str(picture))
    assert len(lines_of_size(said())) == 3  # it is said once
    model(str(picture), size=2 * SIZE)
    assert "leave size out" in said()[-1]

    server = Predictor(attempt_load(best), None, Metrics())
    assert server.imgsz == (SIZE, SIZE)
    (boxes,) = server([server.prepare(read_image(picture), Thresholds())])
    np.testing.assert_allclose(boxes[:, 4], rows[:, 4], atol=1e-5)


def test_exported_files_have_the_size(best, tmp_path, said):
    own = tmp_path / "net.pt"
    own.write_bytes(best.read_bytes())
    written = export.run(own, include=["torchscript", "safetensors"])
    assert len(lines_of_size(said())) == 1
    for file in written:
        model = load_backend(file)
        assert model.metadata.imgsz == (SIZE, SIZE)
        assert model.imgsz == SIZE
    (file,) = export.run(own, include=["torchscript"], dynamic=True, imgsz=[64, 192])
    assert "was trained at" in lines_of_size(said())[-1]
    assert load_backend(file).imgsz == SIZE
    assert Predictor(load_backend(file), None, Metrics()).imgsz == (SIZE, SIZE)


def test_a_file_of_v61_is_used_at_640(shared, said):
    model = Predictor(attempt_load(shared / "weights" / "yolov5n.pt"), None, Metrics())
    assert model.imgsz == (640, 640)
    assert "nothing says at what size" in lines_of_size(said())[0]
    model = Predictor(attempt_load(shared / "weights" / "yolov5n-bccd.pt"), None, Metrics())
    assert model.imgsz == (320, 320)  # a later file, which has the options of its training


def test_resumed_size_of_an_older_file(finished, tmp_path):
    """A file of before the size was kept has it among the run's options, and without those nothing of it."""
    content = torch.load(finished / "weights" / "resume.pt", weights_only=True)
    del content["imgsz"]
    torch.save(content, tmp_path / "older.pt")
    assert load_checkpoint(tmp_path / "older.pt").imgsz == SIZE
    torch.save(content | {"training": None}, tmp_path / "stripped.pt")
    assert load_checkpoint(tmp_path / "stripped.pt").imgsz is None
    torch.save(content | {"imgsz": "large"}, tmp_path / "damaged.pt")
    with pytest.raises(ValueError, match=r"damaged\.pt: damaged: imgsz is 'large'"):
        load_checkpoint(tmp_path / "damaged.pt")
