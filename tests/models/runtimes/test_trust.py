"""What is loaded just so, and what is not: others' programs, data outside a file's folder, files that kill readers."""

import json
import os
import shutil
import sys
import zipfile

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import detect
import export
import hubconf
import val
from models.runtimes import first_load
from models.runtimes.first_load import try_first
from models.runtimes.load import load_backend
from models.runtimes.trust import admit
from utils.files import exported

POSIX = pytest.mark.skipif(os.name != "posix", reason="as POSIX has files and signals")


@pytest.fixture(scope="module")
def folder(small_weights, tmp_path_factory):
    """A small network as a.pt, and exported for 64 x 96 pixels: a.torchscript, a.onnx."""
    folder = tmp_path_factory.mktemp("trust")
    shutil.copy(small_weights, folder / "a.pt")
    export.run(folder / "a.pt", imgsz=[64, 96], include=["torchscript", "onnx"])
    return folder


@pytest.fixture
def strange(folder, tmp_path):
    """The same TorchScript file, one byte longer: of another's making."""
    path = tmp_path / "b.torchscript"
    shutil.copy(folder / "a.torchscript", path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"x"
    return path


# Programs -------------------------------------------------------------------------------------------------------------


def test_what_was_exported_here_is_loaded(folder, tmp_path):
    copy = shutil.copy(folder / "a.torchscript", tmp_path / "copy.torchscript")  # its content counts, not its name
    assert load_backend(copy).nc == 3


def test_a_program_of_another_needs_trust(strange, data, tmp_path, monkeypatch):
    options = {"imgsz": 64, "project": str(tmp_path), "device": "cpu"}
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((64, 64, 3), np.uint8))
    calls = (
        lambda **more: load_backend(strange, **more),
        lambda **more: hubconf.custom(str(strange), device="cpu", **more),
        lambda **more: detect.run(strange, source=tmp_path / "x.png", nosave=True, **options, **more),
        lambda **more: val.run(data, strange, noplots=True, workers=0, single_cls=True, **options, **more),
    )
    loaded = []
    monkeypatch.setattr(torch.jit, "load", lambda *args, **_: loaded.append(args))
    for call in calls:
        with pytest.raises(ValueError, match=r"b\.torchscript: is a TorchScript file, .*a program.* --trust") as caught:
            call()
        assert "\n" not in str(caught.value)
        assert not loaded
    monkeypatch.undo()
    assert load_backend(strange, trust=True).nc == 3
    assert calls[-1](trust=True).images == 6
    assert calls[2](trust=True).parent == tmp_path


def test_hub_ends_with_the_message_alone(strange, capsys):
    with pytest.raises(ValueError, match=r"^.*b\.torchscript: is a TorchScript file") as caught:
        hubconf.custom(str(strange), device="cpu")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["b.pt", "b.torchscript.pt", "B.PT"])
def test_a_program_under_the_name_of_a_checkpoint(folder, tmp_path, name):
    shutil.copy(folder / "a.torchscript", tmp_path / name)
    for trust in (False, True):
        with pytest.raises(ValueError, match=r"a program \(TorchScript\), not a checkpoint; .*--trust"):
            load_backend(tmp_path / name, trust=trust)


@POSIX
def test_a_list_that_others_can_write_counts_for_nothing(folder):
    register = exported.find_register()
    assert exported.is_remembered(folder / "a.torchscript")
    before = register.stat().st_mode
    try:
        register.chmod(0o666)
        assert not exported.is_remembered(folder / "a.torchscript")
    finally:
        register.chmod(before)


def test_a_folder_is_remembered_with_all_its_files(tmp_path):
    place = tmp_path / "x_openvino_model"
    place.mkdir()
    (place / "x.xml").write_text("<net/>")
    (place / "x.bin").write_bytes(b"1")
    exported.remember(place)
    assert exported.is_remembered(place)
    (place / "x.bin").write_bytes(b"2")
    assert not exported.is_remembered(place)
    (place / "x.bin").write_bytes(b"1")
    (place / "y.xml").touch()
    assert not exported.is_remembered(place)


def test_without_a_home_trust_is_asked_for(folder, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "a file"))
    (tmp_path / "a file").touch()
    caplog.set_level("INFO")
    exported.remember(folder / "a.onnx")
    assert "a.onnx: not remembered" in caplog.text
    assert not exported.is_remembered(folder / "a.onnx")


# ONNX: data elsewhere -------------------------------------------------------------------------------------------------


def crafted(path, nodes, tensors=()):
    """An ONNX file that takes an image of 64 pixels and gives (1, 4, 8)."""
    graph = helper.make_graph(
        nodes,
        "crafted",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 64, 64))],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, (1, 4, 8))],
        [numpy_helper.from_array(np.zeros((1, 4, 8), np.float32), "zeros"), *tensors],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    for key, text in (("names", json.dumps(["a", "b", "c"])), ("stride", "32")):
        model.metadata_props.add(key=key, value=text)
    path.write_bytes(model.SerializeToString())
    return path


def elsewhere(path, place, in_node):
    """One whose weights lie in another file, as an initializer or within a node."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=(1, 4, 8), data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=place)
    add = helper.make_node("Add", ["w", "zeros"], ["output"])
    if in_node:
        return crafted(path, [helper.make_node("Constant", [], ["w"], value=tensor), add])
    return crafted(path, [add], [tensor])


@pytest.mark.parametrize("in_node", [False, True])
@pytest.mark.parametrize(
    "place",
    ["../key", "/etc/passwd", "..\\key", "C:\\key", "\\\\host\\key", "", ".", "a/../../key", "\0", "link", "inner/key"],
)
def test_data_outside_the_folder_is_not_read(tmp_path, place, in_node, monkeypatch):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "key").write_bytes(bytes(128))
    if os.name == "posix":
        (inside / "link").symlink_to("../key")
        (inside / "inner").symlink_to("..")
    monkeypatch.setattr("models.runtimes.trust.try_first", lambda *_: pytest.fail("a reader sees the file"))
    path = elsewhere(inside / "x.onnx", place, in_node)
    for trust in (False, True):
        for dnn in (False, True):
            with pytest.raises(ValueError, match=r"x\.onnx: its weights") as caught:
                load_backend(path, trust=trust, dnn=dnn)
            assert "\n" not in str(caught.value)


@POSIX
def test_a_pipe_as_data(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"x\.onnx: its weights, 'pipe', are no ordinary file"):
        load_backend(elsewhere(tmp_path / "x.onnx", "pipe", False), dnn=True)


def test_data_beside_the_file_is_read(tmp_path):
    np.full(32, 7, np.float32).tofile(tmp_path / "weights.bin")
    model = load_backend(elsewhere(tmp_path / "x.onnx", "weights.bin", False))
    assert float(model(torch.rand(1, 3, 64, 64))[0].min()) == 7


def test_data_within_a_graph_within_a_node(tmp_path):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=(1, 4, 8), data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../key")
    inner = helper.make_graph([], "inner", [], [helper.make_tensor_value_info("w", 1, (1, 4, 8))], [tensor])
    node = helper.make_node("If", ["yes"], ["output"], then_branch=inner, else_branch=inner)
    yes = numpy_helper.from_array(np.array(True), "yes")
    with pytest.raises(ValueError, match="outside its folder"):
        admit("onnx", crafted(tmp_path / "x.onnx", [node], [yes]), trust=True)


@pytest.mark.parametrize("dnn", [False, True])
def test_a_field_that_only_some_readers_see(tmp_path, dnn):
    """OpenCV drops the bits above 32 of a field's key, here of a graph with weights elsewhere."""
    path = elsewhere(tmp_path / "x.onnx", "../key", False)
    graph = onnx.load(path, load_external_data=False).graph.SerializeToString()
    key = bytes([0xBA, 0x80, 0x80, 0x80, 0x10])  # of the graph, 7 << 3 | 2, and 1 << 32
    length = bytes([len(graph) & 127 | 128, len(graph) >> 7])
    crafted(path, [helper.make_node("Identity", ["zeros"], ["output"])])
    path.write_bytes(path.read_bytes() + key + length + graph)
    with pytest.raises(ValueError, match=r"x\.onnx: not an ONNX file, or a damaged one"):
        load_backend(path, trust=True, dnn=dnn)


def test_a_file_larger_than_any_network_is_not_even_hashed(tmp_path, monkeypatch):
    monkeypatch.setattr("models.runtimes.trust.is_remembered", lambda _: pytest.fail("all of it is read"))
    with (tmp_path / "x.mnn").open("wb") as file:
        file.truncate(5 << 30)  # takes no space
    with pytest.raises(ValueError, match=r"x\.mnn: has 5 GiB"):
        load_backend(tmp_path / "x.mnn")


# Readers that die -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux")
@pytest.mark.parametrize("dnn", [False, True])
def test_a_file_that_wants_all_the_memory(tmp_path, dnn):
    size = numpy_helper.from_array(np.array([3_500_000_000], np.int64), "size")
    mean = helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0)
    wide = [helper.make_node("Expand", ["mean", "size"], ["wide"]), helper.make_node("Exp", ["wide"], ["more"])]
    total = helper.make_node("ReduceSum", ["more"], ["sum"], keepdims=0)
    add = helper.make_node("Add", ["zeros", "sum"], ["output"])
    path = crafted(tmp_path / "x.onnx", [mean, *wide, total, add], [size])
    with pytest.raises(ValueError, match=r"x\.onnx: \S.* wants more than 1\.5 GiB of memory"):
        load_backend(path, dnn=dnn)


@POSIX
def test_a_loop_without_end(tmp_path):
    yes = helper.make_tensor_value_info("yes", TensorProto.BOOL, ())
    body = helper.make_graph(
        [helper.make_node("Identity", ["yes"], ["on"]), helper.make_node("Add", ["a", "zeros"], ["b"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, ()),
            yes,
            helper.make_tensor_value_info("a", 1, (1, 4, 8)),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, ()), helper.make_tensor_value_info("b", 1, (1, 4, 8))],
    )
    often = numpy_helper.from_array(np.array(2**62), "often")
    always = numpy_helper.from_array(np.array(True), "always")
    path = crafted(
        tmp_path / "x.onnx",
        [helper.make_node("Loop", ["often", "always", "zeros"], ["output"], body=body)],
        [often, always],
    )
    with pytest.raises(ValueError, match=r"x\.onnx: ONNX Runtime had not computed one image after \d+ s"):
        try_first("onnx", path, cpu_s=1, wall_s=20)


@POSIX
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.kill(os.getpid(), 8)", "MNN ended with SIGFPE on it"),
        ("import os; os.kill(os.getpid(), 11)", "MNN ended with SIGSEGV on it"),
        ("raise SystemExit(7)", "MNN ended with status 7 on it"),
        ("print('noise'); print('refused: x')", "not an MNN file"),
        ("print('no memory')", r"wants more than 1\.5 GiB"),
        ("import time; time.sleep(60)", "had not computed one image after 1 s"),
    ],
)
def test_a_reader_that_dies_is_one_line(tmp_path, monkeypatch, code, message):
    monkeypatch.setattr(first_load, "CODE", code)
    (tmp_path / "x.mnn").write_bytes(b"x")
    with pytest.raises(ValueError, match=rf"x\.mnn: .*{message}") as caught:
        try_first("mnn", tmp_path / "x.mnn", wall_s=1 if "sleep" in code else 30)
    assert "\n" not in str(caught.value)


def test_what_was_exported_here_needs_no_child(folder, monkeypatch):
    monkeypatch.setattr("models.runtimes.trust.try_first", lambda *_: pytest.fail("a child is started"))
    assert load_backend(folder / "a.onnx").nc == 3
    assert onnx.load(str(folder / "a.onnx")).graph.node


@POSIX
@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".torchscript", ".pt2", ".safetensors", ".mnn", ".engine", ".xml"])
def test_pipes_and_devices_are_no_weights(tmp_path, suffix):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(ValueError, match="neither a file nor a folder, but a pipe or a device"):
            load_backend(tmp_path / f"{name}{suffix}")
