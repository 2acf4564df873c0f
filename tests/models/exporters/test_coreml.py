"""Core ML: the graph in a package and what it says of itself; it is run on a Mac only, so torch computes it here."""

import hashlib
import json
import logging
import shutil
import sys

import pytest
import torch

import export
from models.experimental import attempt_load
from models.exporters.coreml_graph import OPERATORS, GraphRuntime, coreml_operators, read_operations
from models.runtimes.coreml import MANIFEST, SPEC, WEIGHTS, CoreMLRuntime, read_package
from models.runtimes.load import find_kind, load_backend
from tests.models.files import export_whole_and_half, hide
from utils.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(small_weights, spatial_weights, tmp_path_factory):
    """A small network as a.pt and a package for two images of 64 x 96 pixels; half.pt has NAM's spatial part."""
    pytest.importorskip("coremltools", reason="needs coremltools: pip install -r requirements-coreml.txt")
    folder = tmp_path_factory.mktemp("coreml")
    return export_whole_and_half("coreml", small_weights, spatial_weights, folder)


@pytest.mark.parametrize(("name", "batch", "box", "score"), [("a", 2, 1e-3, 1e-5), ("half", 1, 1.0, 0.02)])
def test_the_graph_gives_what_the_network_gives(folder, name, batch, box, score):
    model, network = GraphRuntime(folder / f"{name}.mlpackage", CPU), attempt_load(folder / f"{name}.pt")
    assert (model.names, int(model.stride), model.fixed_batch) == (["ant", "bee", "cat"], 32, batch)
    images = torch.rand(batch, 3, 64, 96)
    gap = (model(images)[0] - network(images)[0]).abs()
    assert gap[..., :4].max() < box
    assert gap[..., 4:].max() < score


def test_what_a_package_says_of_itself(folder):
    metadata, spec = read_package(folder / "a.mlpackage")
    assert (metadata.names, metadata.batch, metadata.imgsz) == (("ant", "bee", "cat"), 2, (64, 96))
    assert metadata.details["weights_sha256"] == hashlib.sha256((folder / "a.pt").read_bytes()).hexdigest()
    assert json.loads(metadata.details["nam"]) == {"variant": "channel", "layers": ["model.7"]}
    (given,), (made,) = spec.description.input, spec.description.output
    assert (given.name, list(given.type.multiArrayType.shape)) == ("images", [2, 3, 64, 96])
    assert (made.name, list(made.type.multiArrayType.shape)) == ("output", [2, 252, 8])
    files = sorted(path.name for path in (folder / "a.mlpackage").rglob("*") if path.is_file())
    assert files == ["Manifest.json", "model.mlmodel", "weight.bin"]


@pytest.mark.parametrize(("name", "count"), [("a", 4), ("half", 5)])
def test_nam_is_four_operators(folder, name, count):
    kinds = [item.kind for item in coreml_operators(folder / f"{name}.mlpackage") if item.kind != "const"]
    gates = [i for i, kind in enumerate(kinds) if kind == "sigmoid"]
    assert len(gates) == (2 if name == "a" else 3)  # NAM's, its spatial part's, and the head's
    start = gates[0] - 2
    assert kinds[start : start + count] == ["mul", "add", "sigmoid", "mul", "mul"][:count]
    assert "batch_norm" not in kinds


def test_half_leaves_boxes_in_fp32(folder):
    found = [item for item in read_operations(folder / "half.mlpackage") if item.op_type not in {"const", "cast"}]
    types = {(item.outputs[0].rank == 4, item.outputs[0].dtype.__name__) for item in found}
    assert types == {(True, "fp16"), (False, "fp32")}
    sizes = [(folder / f"{name}.mlpackage" / WEIGHTS).stat().st_size for name in ("half", "a")]
    assert sizes[0] < 0.8 * sizes[1]


@pytest.mark.skipif(sys.platform == "darwin", reason="there it is run")
def test_the_table_says_that_it_was_not_run(folder, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "yolov5")
    shutil.copy(folder / "a.pt", tmp_path / "a.pt")
    export.run(tmp_path / "a.pt", imgsz=[64, 64], include="coreml")
    (row,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("coreml  ")]
    cells = row.split()
    assert float(cells[2]) < 1e-3
    assert cells[4:6] == ["not", "run"]
    assert "this is no Mac: the file is not run" in caplog.text
    assert "Use them as weights" not in caplog.text
    caplog.clear()
    monkeypatch.delitem(OPERATORS, "max_pool")
    export.run(tmp_path / "a.pt", imgsz=[64, 64], include="coreml")
    assert "its graph is not computed either: it has max_pool" in caplog.text
    (row,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("coreml  ")]
    assert row.count("not run") == 4


def test_an_untrained_nam_is_written(small_weights, tmp_path):
    """Its sum with 0 is left out by the converter."""
    pytest.importorskip("coremltools", reason="needs coremltools: pip install -r requirements-coreml.txt")
    checkpoint = load_checkpoint(small_weights)
    state = dict(checkpoint.state)
    for name in ("bias", "running_mean"):
        state[f"model.7.Channel_Att.bn2.{name}"] = torch.zeros(16)
    save_checkpoint(tmp_path / "a.pt", Checkpoint(checkpoint.yaml, checkpoint.names, state))
    (written,) = export.run(tmp_path / "a.pt", imgsz=[64, 64], include="coreml")
    images = torch.rand(1, 3, 64, 64)
    gap = (GraphRuntime(written, CPU)(images)[0] - attempt_load(tmp_path / "a.pt")(images)[0]).abs()
    assert gap.max() < 1e-3


@pytest.mark.parametrize("name", [MANIFEST, SPEC, WEIGHTS], ids=str)
def test_a_package_that_is_damaged(folder, tmp_path, name):
    copy = shutil.copytree(folder / "a.mlpackage", tmp_path / "x.mlpackage")
    content = (copy / name).read_bytes()
    for part in (content[: len(content) // 2], b"\xff no such thing", b""):
        (copy / name).write_bytes(part)
        with pytest.raises(ValueError, match=r"x\.mlpackage.*: \S"):
            read_package(copy)
    (copy / name).unlink()
    with pytest.raises(ValueError, match=r"x\.mlpackage: has no "):
        read_package(copy)
    with pytest.raises(ValueError, match=r"x\.mlpackage: has no "):
        load_backend(copy)


# Without coremltools, and without a Mac -------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path):
    """A package with all its files, and nothing in them."""
    for name in (MANIFEST, SPEC, WEIGHTS):
        (tmp_path / "x.mlpackage" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x.mlpackage" / name).write_text("{}")
    return tmp_path / "x.mlpackage"


def test_it_runs_on_a_mac_only(bare, monkeypatch):
    assert find_kind(bare) == "coreml"
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(ValueError, match=r"x\.mlpackage: Core ML runs on a Mac only; use the \.onnx file here"):
        load_backend(bare)


def test_a_folder_that_is_no_package(tmp_path, bare):
    (bare / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match=r"Manifest\.json: .*damaged"):
        load_backend(bare)
    (tmp_path / "y.mlpackage").mkdir()
    with pytest.raises(ValueError, match=r"y\.mlpackage: has no Manifest\.json; export it again"):
        load_backend(tmp_path / "y.mlpackage")


def test_it_is_refused_with_the_command_that_installs_it(small_weights, bare, tmp_path, monkeypatch, caplog):
    hide(monkeypatch, tmp_path, "coremltools")
    shutil.copy(small_weights, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="not written"):
        export.run(tmp_path / "a.pt", imgsz=[64, 96], include="coreml")
    assert "export.py --include coreml needs coremltools: pip install coremltools, or -r requirements-" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "x.mlpackage"]
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ImportError, match=r"x\.mlpackage needs coremltools: pip install coremltools"):
        CoreMLRuntime(bare, CPU, list)
