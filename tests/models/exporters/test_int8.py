"""export.py --int8: an OpenVINO network by NNCF, what it costs, and when it is refused."""

import logging
import shutil

import pytest
import torch

import export
from models.exporters.int8 import calibration_images
from models.runtimes.load import load_backend
from models.yolo import Model
from utils.augmentations import letterbox
from utils.data.config import DataConfig
from utils.data.labels import find_images
from utils.evaluation.rating import training_images
from utils.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.files.images import read_image

pytest.importorskip("nncf")
COMMON = {"include": "openvino", "int8": True, "imgsz": 64}


@pytest.fixture
def weights(small_weights, data, tmp_path):
    """The small network with the classes of the drawn set."""
    checkpoint, names = load_checkpoint(small_weights), DataConfig.from_yaml(data).names
    model = Model({**checkpoint.yaml, "nc": len(names)}, verbose=False)
    state = {name: value for name, value in checkpoint.state.items() if not name.startswith("model.11.m")}
    model.load_state_dict(state, strict=False)
    save_checkpoint(tmp_path / "net.pt", Checkpoint(model.yaml, tuple(names), model.state_dict()))
    return tmp_path / "net.pt"


def test_calibration_images_fill_whole_batches():
    batches = [torch.full((n, 3, 2, 2), 51 * n, dtype=torch.uint8) for n in (1, 3, 1)]
    found = list(calibration_images(batches, 2))
    assert [part.shape for part in found] == [(2, 3, 2, 2)] * 2
    assert [float(part[0, 0, 0, 0]) for part in found] == pytest.approx([0.2, 0.6])
    assert list(calibration_images([], 2)) == []


def test_scales_are_fitted_to_images_spread_over_the_train_split(data):
    found = list(training_images(DataConfig.from_yaml(data), (64, 96), 4))
    assert [(image.shape, image.dtype) for image in found] == [((1, 3, 64, 96), torch.uint8)] * 4
    paths = find_images(DataConfig.from_yaml(data).split("train"))
    wanted = letterbox(read_image(paths[-1]), (64, 96), auto=False)[0]
    assert torch.equal(found[-1][0, 0], torch.from_numpy(wanted[..., 2].copy()))  # red first
    assert len(list(training_images(DataConfig.from_yaml(data), (64, 96), 100))) == 12


def test_an_image_that_cannot_be_read_is_passed_over(data, tmp_path, caplog):
    source = tmp_path / "images" / "train"
    source.mkdir(parents=True)
    whole = find_images(DataConfig.from_yaml(data).split("train"))[0]
    shutil.copy(whole, source / "a.png")
    (source / "b.png").write_bytes(b"no picture")
    (tmp_path / "d.yaml").write_text(f"path: {tmp_path}\nval: images/train\nnames: [a]\n", encoding="utf-8")
    assert len(list(training_images(DataConfig.from_yaml(tmp_path / "d.yaml"), (32, 32), 9))) == 1
    assert "passed over: " in caplog.text
    assert "b.png" in caplog.text


def test_an_int8_file_says_what_it_cost(weights, data, tmp_path, monkeypatch):
    lines, root = [], logging.getLogger()
    before = [root.level, *((handler, handler.level) for handler in root.handlers)]
    monkeypatch.setattr(export.LOGGER, "info", lines.append)
    (written,) = export.run(weights, data=data, max_drop=1.0, **COMMON)
    after = [root.level, *((handler, handler.level) for handler in root.handlers)]
    assert after == before  # NNCF's packages would change them
    assert written == tmp_path / "net_int8_openvino_model"
    assert sorted(path.name for path in written.iterdir()) == ["net_int8.bin", "net_int8.xml"]
    assert [line for line in lines if line.startswith("mAP@.5:.95 on 6 images of tiny.yaml: 0.")]
    model = load_backend(written)
    assert (model.metadata.details["precision"], model.metadata.details["calibration_images"]) == ("int8", "12")
    assert tuple(model.names) == tuple(DataConfig.from_yaml(data).names)
    text = (written / "net_int8.xml").read_text(encoding="utf-8")
    assert 'element_type="i8"' in text
    kept = [line for line in text.splitlines() if "/model.7/" in line or "/model.11/" in line]
    assert kept
    assert not [line for line in kept if "fq_" in line]


def test_it_is_refused_where_it_costs_too_much(weights, data, tmp_path, monkeypatch):
    results = iter((0.5, 0.4))
    monkeypatch.setattr(export, "rate", lambda *_: type("Result", (), {"map": next(results)}))
    with pytest.raises(ValueError, match="not written"):
        export.run(weights, data=data, max_drop=0.05, **COMMON)
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


def test_a_data_set_of_other_classes(small_weights, data, tmp_path, caplog):
    weights = shutil.copy(small_weights, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="not written"):
        export.run(weights, data=data, **COMMON)
    assert "the model has 3 classes, the data set 10" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


@pytest.mark.parametrize(
    "options", [{"include": "onnx"}, {"include": ["openvino", "onnx"]}, {"half": True}, {"train": True}]
)
def test_what_int8_does_not_go_with(weights, options):
    with pytest.raises(ValueError, match="--int8 is for openvino"):
        export.run(weights, **{**COMMON, **options})
