"""benchmarks/formats.py on a small network: a row for each format, and files."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import formats
from models.yolo import Model
from utils.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.config import DataConfig


@pytest.fixture
def weights(small_weights, data, tmp_path):
    """A small network with the classes of the drawn set."""
    names = DataConfig.from_yaml(data).names
    model = Model({**load_checkpoint(small_weights).yaml, "nc": len(names)}, verbose=False)
    save_checkpoint(tmp_path / "net.pt", Checkpoint(model.yaml, tuple(names), model.state_dict()))
    return tmp_path / "net.pt"


def options(weights, data, tmp_path, *more):
    common = ["--weights", str(weights), "--data", data, "--imgsz", "64", "--project", str(tmp_path / "runs")]
    return formats.parse_opt([*common, "--images", "4", "--threads", "1", *more])


def test_a_row_for_each_format(weights, data, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "openvino", None)
    rows = formats.main(options(weights, data, tmp_path, "--formats", "onnx", "openvino"))
    assert [row.name for row in rows] == ["pytorch", "onnx"]
    assert "openvino is left out: not written" in caplog.text
    for row in rows:
        assert abs(row.difference) < 0.002
        assert 0 < row.p50_ms <= row.p95_ms
        assert row.images_per_s > 0
        assert 0 < row.megabytes < 1
    folder = tmp_path / "runs" / "exp"
    content = json.loads((folder / "formats.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["pytorch", "onnx"]
    assert (folder / "formats.md").read_text().splitlines()[2].startswith("| pytorch | ")
    assert (folder / "formats.png").stat().st_size > 5000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pt", "runs"]


def test_each_image_is_timed_once():
    calls = []
    models = {name: (lambda image, name=name: calls.append(name)) for name in "ab"}
    batch = SimpleNamespace(images=torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    times = formats.timed(models, [batch] * 5, 4)
    assert {name: values.shape for name, values in times.items()} == {"a": (4,), "b": (4,)}
    assert calls[-8:] == ["a", "b"] * 4


def test_no_images_to_time(weights, data, tmp_path):
    with pytest.raises(ValueError, match="--images 0: 1 or more"):
        formats.main(options(weights, data, tmp_path, "--images", "0"))
    assert not (tmp_path / "runs").exists()
