"""ExecuTorch: what comes out of a .pte file, what it says of itself, what is wrong with it, and where it is refused."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch

import export
import val
from models.experimental import attempt_load
from models.runtimes.load import find_kind, load_backend
from models.runtimes.metadata import Metadata
from models.runtimes.mobile_apps import ExecuTorchRuntime
from models.runtimes.sealed import seal, unseal
from tests.models.files import check_detects_alike, damaged, differ, export_whole_and_half, hide, load_both


@pytest.fixture(scope="module")
def folder(small_weights, spatial_weights, tmp_path_factory):
    """A small network as a.pt and a.pte, for two images of 64 x 96 pixels; half.pt has NAM's spatial part."""
    pytest.importorskip("executorch", reason="needs executorch: pip install -r requirements-executorch.txt")
    folder = tmp_path_factory.mktemp("executorch")
    return export_whole_and_half("executorch", small_weights, spatial_weights, folder)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_gives_what_the_network_gives(folder, count):
    model, network = load_both(folder / "a.pte", ExecuTorchRuntime)
    images = torch.rand(count, 3, 64, 96)
    assert differ(model(images)[0], network(images)[0]) < 1e-3
    with pytest.raises(ValueError, match=r"images of 96x64 pixels, but this file takes 64x96"):
        model(torch.rand(1, 3, 96, 64))


def test_half_computes_boxes_in_fp32(folder):
    model, network = load_backend(folder / "half.pte"), attempt_load(folder / "half.pt")
    images = torch.rand(1, 3, 64, 96)
    found, wanted = model(images)[0], network(images)[0]
    assert (model.metadata.details["precision"], model.dtype) == ("fp16", torch.float16)
    assert 0 < differ(found[..., :4], wanted[..., :4]) < 1
    assert differ(found[..., 4:], wanted[..., 4:]) < 0.02
    (raw,) = model.compute(images)
    assert raw.dtype == torch.float32
    assert (raw[..., :4].half().float() != raw[..., :4]).any()  # more exact than FP16 is


def test_what_it_says_of_itself(folder):
    metadata, network = unseal(folder / "a.pte", b"ET12", "an ExecuTorch file")
    assert metadata.details["weights_sha256"] == hashlib.sha256((folder / "a.pt").read_bytes()).hexdigest()
    assert json.loads(metadata.details["nam"]) == {"variant": "channel", "layers": ["model.7"]}
    from executorch.runtime import Runtime

    (text,) = Runtime.get().load_program(network).load_method("metadata").execute([])  # as an app has it
    assert json.loads(text)["names"] == ["ant", "bee", "cat"]


def test_nam_is_four_operators_of_xnnpack(folder, monkeypatch):
    from models.exporters import mobile_apps as export_apps

    seen = []
    monkeypatch.setattr(export_apps, "strip_gain", lambda nodes: seen.append(nodes) or ["Mul"])
    network = attempt_load(folder / "a.pt")
    metadata = Metadata(("a", "b", "c"), 32, 1, (64, 64), (), {"precision": "fp32"})
    with pytest.raises(ValueError, match=r"NAM at model\.7 came out as"):
        export_apps.write_executorch(
            export.ExportModel(network), torch.zeros(1, 3, 64, 64), metadata, folder / "never.pte"
        )
    assert seen == [["Mul", "Add", "Sigmoid", "Mul"]]
    assert not (folder / "never.pte").exists()


def test_val_and_detect_take_it(folder, data, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    check_detects_alike(folder / "a.pte", image, tmp_path)
    with pytest.raises(ValueError, match="3 classes, the data set 10"):
        val.run(weights=str(folder / "a.pte"), data=data, imgsz=96, project=str(tmp_path / "runs"))


def test_a_file_that_is_damaged(folder, tmp_path):
    content = (folder / "a.pte").read_bytes()
    for part in damaged(content):
        (tmp_path / "x.pte").write_bytes(part)
        with pytest.raises(ValueError, match=r"x\.pte: not an ExecuTorch file of export\.py, or a damaged one"):
            load_backend(tmp_path / "x.pte")


def test_a_network_that_executorch_does_not_know(folder, tmp_path):
    metadata, network = unseal(folder / "a.pte", b"ET12", "")
    seal(network[:8] + bytes(len(network) - 8), metadata, tmp_path / "x.pte")
    with pytest.raises(ValueError, match=r"x\.pte: ExecuTorch cannot load it: \S"):
        load_backend(tmp_path / "x.pte")


# Where ExecuTorch is absent -------------------------------------------------------------------------------------------


def test_it_is_refused_with_the_command_that_installs_it(small_weights, tmp_path, monkeypatch, caplog):
    hide(monkeypatch, tmp_path, "executorch")
    shutil.copy(small_weights, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="not written"):
        export.run(tmp_path / "a.pt", imgsz=[64, 96], include="executorch")
    line = "executorch: export.py --include executorch needs executorch: pip install executorch, or -r requirements-"
    assert line in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    seal(b"\0\0\0\0ET12", Metadata(("a",), 32, 1, (64, 96)), tmp_path / "x.pte")
    assert find_kind(tmp_path / "x.pte") == "executorch"
    with pytest.raises(ImportError, match=r"x\.pte needs executorch: pip install executorch"):
        load_backend(tmp_path / "x.pte")


def test_it_is_of_one_size(small_weights):
    with pytest.raises(ValueError, match="--dynamic: coreml, executorch, ncnn, tflite files take one size"):
        export.run(small_weights, include=["onnx", "executorch"], dynamic=True)
