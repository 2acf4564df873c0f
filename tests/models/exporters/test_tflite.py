"""LiteRT: what comes out of a .tflite file, what it says of itself, what is wrong with it, and where it is refused."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch

import export
from models.experimental import attempt_load
from models.runtimes.load import find_kind, load_backend
from models.runtimes.metadata import Metadata
from models.runtimes.mobile_apps import TfliteRuntime
from models.runtimes.sealed import seal, unseal
from tests.models.files import check_detects_alike, damaged, differ, export_whole_and_half, hide, load_both


@pytest.fixture(scope="module")
def folder(small_weights, spatial_weights, tmp_path_factory):
    """A small network as a.pt and a.tflite, for two images of 64 x 96 pixels; half.pt has NAM's spatial part."""
    for package in ("litert_torch", "ai_edge_litert"):
        pytest.importorskip(package, reason="needs litert-torch: pip install -r requirements-tflite.txt")
    folder = tmp_path_factory.mktemp("tflite")
    return export_whole_and_half("tflite", small_weights, spatial_weights, folder)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_gives_what_the_network_gives(folder, count):
    model, network = load_both(folder / "a.tflite", TfliteRuntime)
    images = torch.rand(count, 3, 64, 96)
    assert differ(model(images)[0], network(images)[0]) < 1e-3
    with pytest.raises(ValueError, match=r"images of 96x64 pixels, but this file takes 64x96"):
        model(torch.rand(1, 3, 96, 64))


def test_half_keeps_weights_in_fp16_and_computes_in_fp32(folder):
    model, network = load_backend(folder / "half.tflite"), attempt_load(folder / "half.pt")
    images = torch.rand(1, 3, 64, 96)
    found, wanted = model(images)[0], network(images)[0]
    assert model.metadata.details["precision"] == "fp16"
    assert 0 < differ(found[..., :4], wanted[..., :4]) < 0.1
    assert differ(found[..., 4:], wanted[..., 4:]) < 2e-3
    assert model.input["dtype"] is model.output["dtype"] is np.float32
    sizes = [len(unseal(folder / f"{name}.tflite", b"TFL3", "")[1]) for name in ("half", "a")]
    assert sizes[0] < 0.9 * sizes[1]


def test_any_program_can_run_it_and_read_its_names(folder):
    from ai_edge_litert.interpreter import Interpreter

    metadata, _ = unseal(folder / "a.tflite", b"TFL3", "a TFLite file")
    assert metadata.details["weights_sha256"] == hashlib.sha256((folder / "a.pt").read_bytes()).hexdigest()
    assert json.loads(metadata.details["nam"]) == {"variant": "channel", "layers": ["model.7"]}
    network = Interpreter(model_path=str(folder / "a.tflite"))  # with what lies behind the network
    assert [detail["shape"].tolist() for detail in network.get_input_details()] == [[2, 64, 96, 3]]
    assert [detail["shape"].tolist() for detail in network.get_output_details()] == [[2, 252, 8]]


@pytest.mark.parametrize(("name", "count"), [("a", 4), ("half", 5)])
def test_nam_is_four_operators(folder, name, count):
    from models.exporters.mobile_apps import tflite_operators
    from models.exporters.nam_chains import check_gates

    _, network = unseal(folder / f"{name}.tflite", b"TFL3", "a TFLite file")
    operators = tflite_operators(network)
    kinds = ("MUL", "ADD", "LOGISTIC", "MUL")
    check_gates(operators, ["model.7"], kinds)
    maker = {operator.output: i for i, operator in enumerate(operators)}
    gates = [
        operator
        for operator in operators
        if operator.kind == "LOGISTIC" and operators[maker[operator.inputs[0]]].kind == "ADD"
    ]
    place = maker[gates[0].output]
    assert len(gates) == 1
    assert [operator.kind for operator in operators[place - 2 : place - 2 + count]] == [*kinds, "MUL"][:count]
    with pytest.raises(ValueError, match="of 2 NAM blocks 1 came out"):
        check_gates(operators, ["model.7", "model.9"], kinds)


def test_detect_takes_it(folder, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    check_detects_alike(folder / "a.tflite", image, tmp_path)


def test_a_file_that_is_damaged(folder, tmp_path):
    content = (folder / "a.tflite").read_bytes()
    for part in damaged(content):
        (tmp_path / "x.tflite").write_bytes(part)
        with pytest.raises(ValueError, match=r"x\.tflite: not a TFLite file of export\.py, or a damaged one"):
            load_backend(tmp_path / "x.tflite")


def test_a_network_that_litert_does_not_know(folder, tmp_path):
    metadata, network = unseal(folder / "a.tflite", b"TFL3", "")
    seal(network[:8] + bytes(len(network) - 8), metadata, tmp_path / "x.tflite")
    with pytest.raises(ValueError, match=r"x\.tflite: LiteRT cannot load it: \S"):
        load_backend(tmp_path / "x.tflite")


# Where LiteRT is absent -----------------------------------------------------------------------------------------------


def test_it_is_refused_with_the_command_that_installs_it(small_weights, tmp_path, monkeypatch, caplog):
    hide(monkeypatch, tmp_path, "litert_torch", "ai_edge_litert")
    shutil.copy(small_weights, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="not written"):
        export.run(tmp_path / "a.pt", imgsz=[64, 96], include="tflite")
    assert "export.py --include tflite needs litert-torch: pip install litert-torch, or -r requirements-" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    seal(b"\0\0\0\0TFL3", Metadata(("a",), 32, 1, (64, 96)), tmp_path / "x.tflite")
    assert find_kind(tmp_path / "x.tflite") == "tflite"
    with pytest.raises(ImportError, match=r"x\.tflite needs ai-edge-litert: pip install ai-edge-litert"):
        load_backend(tmp_path / "x.tflite")
