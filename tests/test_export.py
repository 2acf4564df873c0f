"""export.py as a user runs it: flags, files and what is in them, how near to PyTorch they are, and errors."""

import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import onnx
import pytest
import torch
from torch import nn

import detect
import export
import val
from models.experimental import attempt_load
from models.exporters import writers as export_jobs
from models.exporters.compare import FP32_LIMITS, Limits, check_images, compare, nms_differences
from models.exporters.onnx import ExportModel, NmsSettings, check_nam, layer_pattern
from models.runtimes.load import load_backend
from models.runtimes.metadata import AXES, Metadata
from models.runtimes.onnx_header import read_onnx_header
from models.yolo import Model
from utils.files.checkpoint import Checkpoint, save_checkpoint
from utils.files.images import read_image
from utils.general import ROOT, non_max_suppression

ALL = ["torchscript", "onnx", "openvino"]
SMALL = {  # NAM is layer 7
    "nc": 3,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45], [116, 90, 156, 198]],
    "backbone": [[-1, 1, "Conv", [8, 6, 2, 2]], *([-1, 1, "Conv", [16, 3, 2]],) * 4, [-1, 1, "C3", [16]]],
    "head": [
        [-1, 1, "SPPF", [16, 5]],
        [-1, 1, "NAMAttention", [16]],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 3], 1, "Concat", [1]],
        [-1, 1, "C3", [16]],
        [[2, 10, 7], 1, "Detect", ["nc", "anchors"]],
    ],
}
SHAPES = [(b, h, w) for b in (1, 3) for h, w in ((64, 96), (128, 64), (96, 160), (64, 64))]


@pytest.fixture
def run(small_weights, tmp_path, caplog):
    """`export.run` on a copy of the weights, at 64 x 96 pixels; gives the files and the console's lines."""
    caplog.set_level(logging.INFO, "yolov5")
    file = tmp_path / "net.pt"
    file.write_bytes(small_weights.read_bytes())

    def call(**options):
        caplog.clear()
        written = export.run(file, **{"imgsz": [64, 96], **options})
        return written, [record.getMessage() for record in caplog.records]

    return call


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def differ(a, b):
    return float((a - b).abs().max())


# Flags ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": "tfjs"}, "--include tfjs: .*onnxruntime-web"),
        ({"include": ["onnx", "PB"]}, "--include pb: .*onnx runs wherever"),
        (
            {"include": "onxx"},
            "--include onxx: must be one of torchscript, pt2, safetensors, onnx, openvino, ncnn, mnn, engine, "
            "executorch, tflite, coreml",
        ),
        ({"opset": 11}, "--opset 11: from 12 to 20"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"imgsz": [1, 2, 3]}, "--imgsz 1 2 3"),
        ({"conf_thres": 2.0}, "--conf-thres 2.0"),
        ({"int8": True}, "--int8 is for openvino"),
        ({"nms": True}, "--nms puts NMS into ONNX files and engines only"),
        ({"nms": True, "train": True, "include": "onnx"}, "--nms and --train exclude each other"),
        ({"optimize": True, "half": True}, "--optimize is for FP32"),
        ({"onxx": True}, "no option is called onxx"),
        ({"include": ["onnx"], "aoti": True}, "--aoti compiles pt2 files: give --include pt2 alone with it"),
    ],
)
def test_options_that_are_refused(run, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)
    assert files(tmp_path) == ["net.pt"]


def test_the_script_answers_in_one_line(small_weights):
    command = [sys.executable, str(ROOT / "export.py"), "--weights", str(small_weights), "--include", "edgetpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ERROR: --include edgetpu: " in done.stderr
    assert "Traceback" not in done.stderr


# What is written ------------------------------------------------------------------------------------------------------


def test_default_formats(run, tmp_path, small_weights):
    written, lines = run()
    assert written == [tmp_path / "net.torchscript", tmp_path / "net.onnx"]
    assert files(tmp_path) == ["net.onnx", "net.pt", "net.torchscript"]
    head, *rows = lines[-4:-1]
    assert head.split()[:2] == ["Format", "MB"]
    for row, name in zip(rows, ("torchscript", "onnx"), strict=True):
        cells = row.split()
        assert cells[0] == name
        assert 0 < float(cells[1]) < 1
        assert float(cells[2]) < 0.01
        assert float(cells[3]) < 1e-4
    meta = load_backend(tmp_path / "net.onnx").metadata
    assert (meta.names, meta.stride, meta.imgsz, meta.dynamic) == (("ant", "bee", "cat"), 32, (64, 96), ())
    assert meta.details["weights_sha256"] == hashlib.sha256(small_weights.read_bytes()).hexdigest()
    assert json.loads(meta.details["nam"]) == {"variant": "channel", "layers": ["model.7"]}
    assert json.loads(meta.details["settings"])["opset"] == 12


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_dynamic_onnx_equals_pytorch_at_any_size(run, tmp_path, opset):
    run(include="onnx", dynamic=True, opset=opset)
    header = read_onnx_header(tmp_path / "net.onnx")
    assert header.opset == opset
    assert (header.inputs[0].name, header.inputs[0].shape) == ("images", (None, 3, None, None))
    assert [output.name for output in header.outputs] == ["output"]
    network, model = attempt_load(tmp_path / "net.pt"), load_backend(tmp_path / "net.onnx")
    for b, h, w in SHAPES:
        images = torch.rand(b, 3, h, w)
        assert differ(model(images)[0], network(images)[0]) < 1e-3


@pytest.mark.parametrize("options", [{}, {"dynamic": True}, {"simplify": True, "opset": 17}, {"half": True}])
def test_nam_is_four_operators(run, tmp_path, options):
    run(include="onnx", **options)
    graph = onnx.load(str(tmp_path / "net.onnx"))
    layer = [node.op_type for node in graph.graph.node if "/model.7/" in node.name]
    assert layer == ["Mul", "Add", "Sigmoid", "Mul"]
    check_nam(graph, ["model.7"])
    for node in graph.graph.node:
        if "/model.7/" in node.name and node.op_type == "Add":
            node.op_type = "Sub"
    with pytest.raises(ValueError, match=r"NAM at model\.7 came out as"):
        check_nam(graph, ["model.7"])


def test_simplify_leaves_fewer_nodes(run, tmp_path):
    counts = []
    for simplify in (False, True):
        run(include="onnx", simplify=simplify)
        counts.append(len(onnx.load(str(tmp_path / "net.onnx")).graph.node))
    assert counts[1] < 0.8 * counts[0]


FAMILY = [
    ([-1, 1, "NAMAttention", [{"gain": "C", "gain_out": 2, "gradient": True}]], "channel", "model.7", 5),
    ([-1, 1, "C3NAM", [16, {"gain_out": 2}]], "channel", "model.7.m.0.nam", 5),
    ([-1, 2, "C3NAM", [16]], "channel", "model.7.m.1.nam", 4),
    ([-1, 1, "NAMAttention", [16, {"no_spatial": False, "grid": 3}]], "channel+spatial", "model.7", None),
]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("row", "variant", "layer", "nodes"), FAMILY, ids=lambda value: str(value))
def test_nams_family_is_written(tmp_path, row, variant, layer, nodes, dynamic):
    """The file is compared with PyTorch while it is written; channels are four operators, and a factor one more."""
    onnx = pytest.importorskip("onnx")
    head = [row if old[2] == "NAMAttention" else old for old in SMALL["head"]]
    model = settled(Model({**SMALL, "head": head}, verbose=False))
    file = tmp_path / "net.pt"
    save_checkpoint(file, Checkpoint(model.yaml, ("a", "b", "c"), model.state_dict()))
    (written,) = export.run(file, include="onnx", imgsz=[64, 96], dynamic=dynamic)
    graph = onnx.load(written)
    details = json.loads(load_backend(written).metadata.details["nam"])
    assert details["variant"] == variant
    assert layer in details["layers"]
    check_nam(graph, [f"{name}.Channel_Att" for name in details["layers"]])
    if nodes:
        inner = [node.op_type for node in graph.graph.node if "Channel_Att" in node.name and node.input]
        assert inner == ["Mul", "Add", "Sigmoid", "Mul", "Mul"][:nodes] * len(details["layers"])


def test_nams_of_the_same_weights_are_written(tmp_path):
    """As before a training: torch keeps such weights once."""
    head = [[-1, 2, "C3NAM", [16]] if row[2] == "NAMAttention" else row for row in SMALL["head"]]
    model = Model({**SMALL, "head": head}, verbose=False)
    save_checkpoint(tmp_path / "net.pt", Checkpoint(model.yaml, ("a", "b", "c"), model.state_dict()))
    (written,) = export.run(tmp_path / "net.pt", include="onnx", imgsz=[64, 96])
    assert "Identity" in {node.op_type for node in onnx.load(written).graph.node}


@pytest.mark.parametrize("name", ["/network/model.2/m/m.0/nam/Add", "/network/model.2/m/0/nam/Channel_Att/Mul_1"])
def test_a_layer_is_found_by_the_names_of_its_nodes(name):
    assert re.search(layer_pattern("model.2.m.0.nam"), name)
    assert not re.search(layer_pattern("model.2.m.1.nam"), name)
    assert not re.search(layer_pattern("model.2.m.0.nam"), name.replace("model.2", "model.22"))


def settled(model):
    """The model in evaluation, its norms with numbers as after a training."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._NormBase):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def test_half(run, tmp_path):
    written, _ = run(include=["onnx", "openvino"], half=True)
    sizes = [export.megabytes(file) for file in written]
    assert 2 * max(sizes) < 1
    network, images = attempt_load(tmp_path / "net.pt"), torch.rand(1, 3, 64, 96)
    for file in written:
        model = load_backend(file)
        assert model.metadata.details["precision"] == "fp16"
        assert 0 < differ(model(images)[0], network(images)[0]) < 2
    with pytest.raises(ValueError, match=r"net\.onnx: is of FP16, which OpenCV does not compute"):
        load_backend(written[0], dnn=True)


def test_training_outputs(run, tmp_path):
    written, _ = run(include=["onnx", "torchscript"], train=True, dynamic=True)
    images = torch.rand(2, 3, 64, 96)
    raw = attempt_load(tmp_path / "net.pt")(images)[1]
    for file in written:
        model = load_backend(file)
        for found, wanted in zip(model.outputs(images), raw, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
        with pytest.raises(ValueError, match="exported with --train"):
            model(images)


def test_several_weights(small_weights, tmp_path):
    both = [tmp_path / name for name in ("net.pt", "other.pt")]
    for file in both:
        file.write_bytes(small_weights.read_bytes())
    written = export.run(both, imgsz=64, include="torchscript")
    assert written == [tmp_path / "net.torchscript", tmp_path / "other.torchscript"]


# NMS inside -----------------------------------------------------------------------------------------------------------


def test_detections_are_compared_with_their_partners():
    num, boxes = torch.tensor([[2.0]]), torch.tensor([[[0, 0, 9, 9], [20, 20, 30, 31], [0.0, 0, 0, 0]]])
    scores, classes = torch.tensor([[0.9, 0.8, 0]]), torch.tensor([[0.0, 1, 0]])
    wanted = [num, boxes, scores, classes]
    turned = [num, boxes[:, [1, 0, 2]] + 0.01, scores[:, [1, 0, 2]], classes[:, [1, 0, 2]]]
    assert nms_differences(wanted, turned, FP32_LIMITS) == pytest.approx((0.01, 0), abs=1e-5)
    assert nms_differences([num * 0, *wanted[1:]], [num * 0, *wanted[1:]], FP32_LIMITS) == (0, 0)
    for other in ([num / 2, *wanted[1:]], [*wanted[:3], 1 - classes], [num, boxes + 1, scores, classes]):
        with pytest.raises(ValueError, match="have no partner on the other side"):
            nms_differences(wanted, other, FP32_LIMITS)


@pytest.mark.parametrize("agnostic", [False, True])
def test_nms_inside_gives_what_ours_gives(run, tmp_path, agnostic):
    limits = {"conf_thres": 0.02, "iou_thres": 0.3, "topk_all": 40}
    options = {"batch_size": 2, "dynamic": True, "opset": 17, "agnostic_nms": agnostic}
    run(include="onnx", nms=True, **limits, **options)
    header = read_onnx_header(tmp_path / "net.onnx")
    shapes = {port.name: port.shape for port in header.outputs}
    assert shapes == {"num": (2, 1), "boxes": (2, 40, 4), "scores": (2, 40), "classes": (2, 40)}
    model, network = load_backend(tmp_path / "net.onnx"), attempt_load(tmp_path / "net.pt")
    count = alone = 0
    for shape in ((2, 64, 96), (3, 128, 64)):  # of three images the last ones make a batch that is filled up
        images = torch.rand(shape[0], 3, *shape[1:])
        wanted = non_max_suppression(network(images)[0], 0.02, 0.3, agnostic=agnostic, max_det=40)
        found = non_max_suppression(model(images)[0], 0.02, 0.3, agnostic=agnostic, max_det=40)
        for a, b in zip(found, wanted, strict=True):
            differs = (a[:, None] - b).abs().amax(2) > 1e-2  # (n, m)
            alone += int(differs.all(1).sum()) + int(differs.all(0).sum())
            count += len(a) + len(b)
    assert count > 100
    assert alone <= 0.05 * count  # which one of two that are as sure to the last digit stays is chance
    with pytest.raises(ValueError, match="has its NMS inside, which OpenCV cannot run"):
        load_backend(tmp_path / "net.onnx", dnn=True)


# Failures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_file_that_is_off_does_not_take_its_place(run, tmp_path, monkeypatch, name):
    target = tmp_path / f"net{export.FORMATS[name]}"
    old = target / "old.xml" if name == "openvino" else target
    old.parent.mkdir(exist_ok=True)
    old.write_text("what was there")
    monkeypatch.setattr(export_jobs, "FP32_LIMITS", Limits(-1.0, 0.0))
    with pytest.raises(ValueError, match=rf"not written, for the reason given above: {name} of .*net\.pt"):
        run(include=name)
    assert old.read_text() == "what was there"
    assert files(tmp_path) == sorted(["net.pt", target.name])
    assert name != "openvino" or files(target) == ["old.xml"]


def test_one_failure_lets_the_others_be_written(run, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match=r"not written.*: openvino of"):
        run(include=ALL)
    assert "openvino: openvino is missing: pip install -r requirements-export.txt" in caplog.text
    assert files(tmp_path) == ["net.onnx", "net.pt", "net.torchscript"]


def test_what_is_wrong_is_seen(run, tmp_path):
    """A file of another network, and one of other shapes, are far from PyTorch."""
    run(include="onnx")
    network = attempt_load(tmp_path / "net.pt")
    runtime, images = load_backend(tmp_path / "net.onnx"), [torch.rand(1, 3, 64, 96)]
    compare(runtime, ExportModel(network), images, FP32_LIMITS)
    with pytest.raises(ValueError, match=r"it gives \[\(1, 252, 8\)\], PyTorch \[\(1, 2, 8, 12, 8\)"):
        compare(runtime, ExportModel(network, raw=True), images, FP32_LIMITS)
    network.model[-1].m[0].bias.data += 0.1
    with pytest.raises(ValueError, match=r"pixels and .* in the scores off PyTorch"):
        compare(runtime, ExportModel(network), images, FP32_LIMITS)
    network.model[-1].m[0].bias.data *= torch.nan
    with pytest.raises(ValueError, match="nan"):
        compare(runtime, ExportModel(network), images, FP32_LIMITS)


@pytest.mark.parametrize("dynamic", [(), AXES])
def test_test_images_are_of_what_a_file_takes(dynamic):
    images = check_images(Metadata(("a",), 32, 2, (64, 96), dynamic))
    shapes = {tuple(batch.shape) for batch in images}
    assert shapes == (
        {(2, 3, 64, 96)} if not dynamic else {(2, 3, 64, 96), (2, 3, 96, 96), (2, 3, 32, 128), (4, 3, 64, 96)}
    )
    assert all(0 <= float(batch.min()) < float(batch.max()) <= 1 for batch in images)


def test_weights_that_are_no_checkpoint(run, tmp_path):
    run(include="onnx")
    with pytest.raises(ValueError, match=r"net\.onnx: not a checkpoint"):
        export.run(tmp_path / "net.onnx")
    with pytest.raises(FileNotFoundError, match=r"none\.pt: no such file"):
        export.run(tmp_path / "none.pt")


class Sorts(nn.Module):
    """A block that ONNX has no operator for."""

    def forward(self, x):
        """Bins of x."""
        return x + torch.histc(x.flatten(), 4).sum()


def test_a_block_that_a_format_does_not_know(small_weights, tmp_path, monkeypatch):
    network = attempt_load(small_weights)
    network.model[0].act = Sorts()
    monkeypatch.setattr(export, "attempt_load", lambda *_: network)
    (tmp_path / "net.pt").write_bytes(small_weights.read_bytes())
    with pytest.raises(ValueError, match=r"not written, .* onnx of .*net\.pt"):
        export.run(tmp_path / "net.pt", imgsz=64, include="onnx")
    assert files(tmp_path) == ["net.pt"]


def test_nms_of_nothing_found():
    network = Model("yolov5n.yaml", nc=2, verbose=False).eval()
    num, boxes, scores, classes = ExportModel(network, nms=NmsSettings(0.99, 0.5, False, 7))(torch.rand(2, 3, 64, 64))
    assert (num.tolist(), boxes.shape, scores.shape, classes.shape) == ([[0], [0]], (2, 7, 4), (2, 7), (2, 7))
    assert float(boxes.abs().max()) == 0


# On photographs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(shared, tmp_path_factory):
    """yolov5n-bccd.pt in all formats with open axes, at 320 pixels."""
    file = tmp_path_factory.mktemp("trained") / "best.pt"
    file.write_bytes((shared / "weights" / "yolov5n-bccd.pt").read_bytes())
    export.run(file, imgsz=320, include=ALL, dynamic=True)
    return file


def label_files(folder):
    return {path.name: np.loadtxt(path, ndmin=2) for path in sorted((folder / "labels").glob("*.txt"))}


@pytest.mark.parametrize(("kind", "dnn"), [(".torchscript", 0), (".onnx", 0), (".onnx", 1), ("_openvino_model", 0)])
def test_detect_writes_the_same_labels(trained, shared, tmp_path, kind, dnn):
    pictures = sorted((shared / "datasets" / "bccd" / "images" / "val").glob("*.jpg"))[:6]
    source = tmp_path / "pictures"
    source.mkdir()
    for picture in pictures:
        (source / picture.name).write_bytes(picture.read_bytes())
    common = {"source": source, "imgsz": 320, "save_txt": True, "save_conf": True, "nosave": True, "device": "cpu"}
    wanted = label_files(detect.run(trained, project=tmp_path / "a", **common))
    found = label_files(detect.run(trained.with_name(f"best{kind}"), project=tmp_path / "b", dnn=bool(dnn), **common))
    assert list(found) == list(wanted)
    assert len(found) == 6
    for name, rows in wanted.items():
        h, w = read_image(source / name.replace(".txt", ".jpg")).shape[:2]
        assert found[name].shape == rows.shape
        assert np.array_equal(found[name][:, 0], rows[:, 0])
        assert np.abs((found[name] - rows)[:, 1:5] * (w, h, w, h)).max() <= 1
        assert np.abs((found[name] - rows)[:, 5]).max() < 0.01


def test_nms_inside_finds_what_detect_finds(trained, shared, tmp_path):
    file = tmp_path / "best.pt"
    file.write_bytes(trained.read_bytes())
    export.run(file, imgsz=320, include="onnx", nms=True, topk_all=300, dynamic=True)
    network, model, count = attempt_load(file), load_backend(file.with_suffix(".onnx")), 0
    for picture in sorted((shared / "datasets" / "bccd" / "images" / "val").glob("*.jpg"))[:20]:
        image = cv2.resize(read_image(picture), (320, 256))
        batch = torch.from_numpy(image[None, ..., ::-1].copy()).permute(0, 3, 1, 2).float() / 255
        wanted = non_max_suppression(network(batch)[0], 0.25, 0.45)[0]
        num, boxes, scores, classes = (output[0] for output in model.outputs(batch))
        found = torch.cat((boxes, scores[:, None], classes[:, None]), 1)[: int(num)]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
        count += len(found)
    assert count > 100


def test_val_gives_the_same_map(trained, shared, tmp_path):
    common = {"data": "bccd.yaml", "imgsz": 320, "noplots": True, "workers": 0, "device": "cpu", "project": tmp_path}
    wanted = val.run(weights=trained, **common)
    found = val.run(weights=trained.with_suffix(".onnx"), **common)
    assert wanted.map > 0.5
    assert (found.map, found.map50) == pytest.approx((wanted.map, wanted.map50), abs=0.002)


def test_a_fixed_file_is_run_at_its_own_size(trained, shared, tmp_path, caplog):
    file = tmp_path / "best.pt"
    file.write_bytes(trained.read_bytes())
    export.run(file, imgsz=[256, 320], batch_size=3, include="onnx")
    found = val.run(
        data="bccd.yaml",
        weights=file.with_suffix(".onnx"),
        imgsz=640,
        batch_size=8,
        noplots=True,
        workers=0,
        device="cpu",
        project=tmp_path,
    )
    assert "--imgsz 640 640: the file is made for 256 320 only, which is used" in caplog.text
    assert found.shape[2:] == (256, 320)
    assert found.map > 0.47
    folder = detect.run(
        file.with_suffix(".onnx"),
        source=shared / "images" / "bus.jpg",
        project=tmp_path / "d",
        nosave=True,
        device="cpu",
    )
    assert folder == tmp_path / "d" / "exp"


def test_what_a_triton_repository_cannot_take_is_refused_before_any_work(small_weights, tmp_path):
    first, second = (tmp_path / name / "best.pt" for name in "ab")
    for path in (first, second):
        path.parent.mkdir()
        shutil.copy(small_weights, path)
    with pytest.raises(ValueError, match="--triton: several --weights have one name"):
        export.run([first, second], imgsz=64, include="onnx", triton=str(tmp_path / "models"))
    with pytest.raises(ValueError, match=r"--triton: .*best\.pt is a file; name a folder"):
        export.run(first, imgsz=64, include="onnx", triton=str(second))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "best.pt", "best.pt"]


def test_a_format_of_one_size_takes_no_open_axes(small_weights):
    with pytest.raises(ValueError, match=r"--dynamic: .*ncnn.* files take one size"):
        export.run(small_weights, include=["onnx", "ncnn"], dynamic=True)
