"""export.py --dynamo: ONNX by torch's newer exporter, and what is made of that."""

import json
import shutil
import sys

import onnx
import pytest
import torch

import export
from export import parse_opt
from models.experimental import attempt_load
from models.exporters.dynamo import layer_path
from models.exporters.onnx import check_nam
from models.runtimes.load import load_backend
from models.runtimes.onnx_header import read_onnx_header

NAM = [f"/network/model.7/Channel_Att/{name}" for name in ("Mul", "Add", "Sigmoid", "Mul_1")]
needs_onnxscript = pytest.mark.usefixtures("onnxscript")


@pytest.fixture(scope="module")
def onnxscript():
    pytest.importorskip("onnxscript")


@pytest.fixture
def weights(small_weights, tmp_path):
    return shutil.copy(small_weights, tmp_path / "net.pt")


@needs_onnxscript
def test_open_axes_at_any_size(weights, tmp_path):
    (file,) = export.run(weights, imgsz=[64, 96], include="onnx", dynamo=True, dynamic=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.pt"]  # no weights beside it
    header, graph = read_onnx_header(file), onnx.load(file)
    assert header.opset == 18
    assert (header.inputs[0].name, header.inputs[0].shape) == ("images", (None, 3, None, None))
    assert [output.name for output in header.outputs] == ["output"]
    dims = [[dim.dim_param or dim.dim_value for dim in port.type.tensor_type.shape.dim] for port in graph.graph.output]
    assert dims == [["batch", "boxes", 8]]
    assert [node.name for node in graph.graph.node if "/model.7/" in node.name] == NAM
    check_nam(graph, ["model.7.Channel_Att"])
    assert b".py" not in file.read_bytes()  # of this machine nothing is told
    network, model = attempt_load(weights), load_backend(file)
    assert json.loads(model.metadata.details["nam"]) == {"variant": "channel", "layers": ["model.7"]}
    assert json.loads(model.metadata.details["settings"])["dynamo"] is True
    for b, h, w in [(1, 64, 96), (3, 64, 96), (1, 128, 64), (3, 96, 160)]:
        images = torch.rand(b, 3, h, w)
        assert (model(images)[0] - network(images)[0]).abs().max() < 1e-3


@needs_onnxscript
def test_a_fixed_file_of_another_opset(weights):
    (file,) = export.run(weights, imgsz=[64, 96], include="onnx", dynamo=True, opset=20, simplify=True, batch_size=2)
    assert read_onnx_header(file).opset == 20
    images, network = torch.rand(3, 3, 64, 96), attempt_load(weights)
    for dnn in (False, True):
        assert (load_backend(file, dnn=dnn)(images)[0] - network(images)[0]).abs().max() < 1e-2


@needs_onnxscript
def test_half_with_nms(weights):
    (file,) = export.run(weights, imgsz=[64, 96], include="onnx", dynamo=True, nms=True, half=True, topk_all=40)
    shapes = {port.name: port.shape for port in read_onnx_header(file).outputs}
    assert shapes == {"num": (1, 1), "boxes": (1, 40, 4), "scores": (1, 40), "classes": (1, 40)}
    assert load_backend(file).metadata.details["precision"] == "fp16"


@needs_onnxscript
def test_openvino_by_way_of_it(weights):
    (folder,) = export.run(weights, imgsz=[64, 64], include="openvino", dynamo=True)
    images = torch.rand(1, 3, 64, 64)
    assert (load_backend(folder)(images)[0] - attempt_load(weights)(images)[0]).abs().max() < 5e-3
    assert "/network/model.7/Channel_Att/Sigmoid" in next(folder.glob("*.xml")).read_text(encoding="utf-8")


def test_the_path_of_a_layer():
    assert layer_path("['', 'network', 'network.model.7', 'network.model.7.m.0.nam', 'mul']") == (
        "/network/model.7/m.0.nam"
    )
    assert layer_path("['', 'add_3']") == ""


def test_opsets():
    assert parse_opt(["--dynamo"]).onnx_opset == 18
    assert parse_opt(["--dynamo", "--opset", "19"]).onnx_opset == 19
    assert parse_opt(["--opset", "13"]).onnx_opset == 13


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 15, "include": "onnx"}, "--opset 15: with --dynamo from 18 to 20"),
        ({"include": ["torchscript", "ncnn"]}, "--dynamo is for what is made of ONNX: --include one of engine, mnn"),
    ],
)
def test_what_it_does_not_go_with(weights, options, message):
    with pytest.raises(ValueError, match=message):
        export.run(weights, imgsz=64, dynamo=True, **options)


def test_onnxscript_is_missing(weights, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"not written.*: onnx of"):
        export.run(weights, imgsz=64, include="onnx", dynamo=True)
    assert "onnx: onnxscript is missing: pip install -r requirements-export.txt" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


@pytest.mark.parametrize("options", [{}, {"nms": True, "dynamic": True}])
def test_what_an_engine_is_built_of_is_by_dynamo_too(small_weights, tmp_path, options):
    weights = shutil.copy(small_weights, tmp_path / "a.pt")
    (file,) = export.run(weights, imgsz=64, include="engine", trtexec=True, dynamo=True, **options)
    assert read_onnx_header(file).opset == 18
