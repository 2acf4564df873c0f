"""The runtime of .engine files, by tests/models/tensorrt_standin.py on the CPU, which stands in for TensorRT."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch

import detect
import export
from models.experimental import attempt_load
from models.runtimes import tensorrt as backend_tensorrt
from models.runtimes.load import find_kind, load_backend
from models.runtimes.metadata import AXES, Metadata
from models.runtimes.tensorrt import EngineRuntime, check_origin, read_engine, write_engine
from tests.models.files import check
from tests.models.tensorrt_standin import StandIn, install
from utils.data.config import names_of

VERSION = "11.4.0.106"


@pytest.fixture
def trt(monkeypatch):
    return install(monkeypatch, VERSION)


@pytest.fixture(scope="module")
def folder(small_weights, tmp_path_factory):
    """A small network as a.pt, and as engines for 64 x 96 pixels: a of two images, open of any, half, nms."""
    folder = tmp_path_factory.mktemp("engines")
    with pytest.MonkeyPatch.context() as patch:
        install(patch, VERSION)
        options = {"a": {"batch_size": 2}, "open": {"dynamic": True}, "half": {"half": True, "dynamic": True}}
        for name, more in (options | {"nms": {"nms": True, "dynamic": True, "conf_thres": 0.02}}).items():
            shutil.copy(small_weights, folder / f"{name}.pt")
            export.run(folder / f"{name}.pt", imgsz=[64, 96], include="engine", **more)
    return folder


@pytest.fixture(scope="module")
def network(folder):
    return attempt_load(folder / "a.pt")


# What comes out -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_fixed_shape(folder, network, trt, count):
    model = load_backend(folder / "a.engine")
    assert (type(model), model.fixed_batch, model.fixed_hw) == (EngineRuntime, 2, (64, 96))
    assert (model.names, int(model.stride)) == (["ant", "bee", "cat"], 32)
    images = torch.rand(count, 3, 64, 96)
    check(model(images)[0], network(images)[0])
    assert {shape for _, shape in trt.called("IExecutionContext.set_input_shape")} == {(2, 3, 64, 96)}
    with pytest.raises(ValueError, match=r"images of 96x64 pixels, but this file takes 64x96"):
        model(torch.rand(1, 3, 96, 64))


@pytest.mark.parametrize("shape", [(1, 64, 96), (3, 96, 64), (8, 32, 128), (11, 32, 32)])
def test_open_axes(folder, network, trt, shape):
    """More than 8 images are computed in parts; images may lie in memory in any order."""
    model = load_backend(folder / "open.engine")
    assert (model.fixed_batch, model.fixed_hw, set(model.metadata.dynamic)) == (None, None, set(AXES))
    images = torch.rand(shape[0], *shape[1:], 3).permute(0, 3, 1, 2)
    check(model(images)[0], network(images)[0])
    taken = [shape[0] for _, shape in trt.called("IExecutionContext.set_input_shape")]
    assert taken == ([8, 3] if shape[0] > 8 else [shape[0]])


def test_half(folder, network, trt):
    model = load_backend(folder / "half.engine")
    assert model.types["images"] is torch.float16
    images = torch.rand(2, 3, 64, 96)
    check(model(images)[0], network(images)[0], boxes=2, scores=0.02)


def test_every_run_has_its_own_stream_and_waits(folder, trt):
    model = load_backend(folder / "a.engine")
    model(torch.rand(2, 3, 64, 96))
    assert trt.called("IExecutionContext.execute_async_v3") == [(77,)]
    assert model.stream.order == ["waits", "done"]


def test_the_outputs_of_nms_are_told_by_name(folder, trt):
    trt.order = [4, 0, 3, 2, 1]  # TensorRT does not promise one
    model = load_backend(folder / "nms.engine")
    assert model.outputs_named == ["num_dets", "boxes", "scores", "classes"]
    num, boxes, scores, classes = model.outputs(torch.rand(3, 3, 64, 96))
    assert (num.shape, boxes.shape, scores.shape, classes.shape) == ((3, 1), (3, 100, 4), (3, 100), (3, 100))
    assert num.min() > 0
    assert model(torch.rand(1, 3, 64, 96))[0].shape == (1, 100, 8)


def test_detect_takes_it(folder, trt, tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    detect.cv2.imwrite(str(tmp_path / "a.png"), picture)
    common = {"source": tmp_path / "a.png", "imgsz": 96, "save_txt": True, "nosave": True, "device": "cpu"}
    common |= {"conf_thres": 0.05}
    found = [
        detect.run(folder / f"open{kind}", project=tmp_path / kind, **common) / "labels" / "a.txt"
        for kind in (".pt", ".engine")
    ]
    rows = [np.loadtxt(file, ndmin=2) for file in found]
    assert len(rows[0]) > 4
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-3)


# The file -------------------------------------------------------------------------------------------------------------


def test_what_lies_in_a_file(tmp_path):
    metadata = Metadata(("Ä", "b"), 32, 1, (64, 96), AXES, {"precision": "fp16"})
    write_engine(tmp_path / "x.engine", metadata, memoryview(b"ftrt and more"))
    content = (tmp_path / "x.engine").read_bytes()
    length = int.from_bytes(content[:4], "little")
    texts = json.loads(content[4 : 4 + length])
    assert (texts["names"], texts["stride"], texts["shape"]) == (["Ä", "b"], 32, [1, 3, 64, 96])
    assert content[4 + length :] == b"ftrt and more"
    found, plan = read_engine(tmp_path / "x.engine")
    assert found == texts
    assert bytes(plan) == b"ftrt and more"
    assert Metadata.from_text(found) == metadata


@pytest.mark.parametrize(
    "content",
    [b"", b"abcd", b"\4\0\0\0null123", b"\2\0\0\0{}", b"\5\0\0\0{'a'}x", b"\377\0\0\0{}", b"\2\0\0\0\xff\xffabc"],
)
def test_files_that_are_none(tmp_path, content, trt):
    (tmp_path / "x.engine").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.engine: not a TensorRT engine, or a damaged one"):
        load_backend(tmp_path / "x.engine")


def test_a_plan_alone_takes_its_names_from_elsewhere(folder, network, trt, data, tmp_path):
    """As v6.1 and trtexec write it: of the ONNX file beside it, else of --data."""
    shutil.copy(folder / "a.pt", tmp_path / "a.pt")
    _, plan = read_engine(folder / "open.engine")
    (tmp_path / "a.engine").write_bytes(plan)
    with pytest.raises(ValueError, match=r"a\.engine: brings no class names; name the data yaml"):
        load_backend(tmp_path / "a.engine", trust=True)
    foreign = load_backend(tmp_path / "a.engine", trust=True, names=names_of(data))
    assert (int(foreign.stride), foreign.fixed_hw) == (64, None)
    export.run(tmp_path / "a.pt", include="engine", trtexec=True, dynamic=True, imgsz=[64, 96])
    model = load_backend(tmp_path / "a.engine", trust=True)
    assert (model.names, int(model.stride)) == (["ant", "bee", "cat"], 32)
    images = torch.rand(1, 3, 64, 96)
    check(model(images)[0], network(images)[0])


def test_kinds(folder):
    assert find_kind(folder / "a.engine") == "engine"


# Failures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tensorrt", "10.3.0", r"was built for TensorRT 10\.3\.0 \(GPU A\), here is 11\.4 \(GPU B\); export it again"),
        (
            "compute_capability",
            "7.5",
            r"was built for GPUs of compute capability 7\.5 \(GPU A\), here is 8\.6 \(GPU B\)",
        ),
    ],
)
def test_engines_of_another_machine(tmp_path, key, value, message):
    here = {"tensorrt": "11.4", "gpu": "GPU B", "compute_capability": "8.6"}
    check_origin(tmp_path, {}, here)
    check_origin(tmp_path, here | {"gpu": "GPU A"}, here)
    with pytest.raises(ValueError, match=message):
        check_origin(tmp_path, here | {"gpu": "GPU A", key: value}, here)


def test_an_engine_of_another_version_says_so(folder, monkeypatch):
    install(monkeypatch, "10.16.1.11")
    with pytest.raises(ValueError, match=r"a\.engine: was built for TensorRT 11\.4\.0\.106 \(a CPU\), here is 10\.16"):
        load_backend(folder / "a.engine")


def test_a_plan_of_another_version_says_so(folder, tmp_path, monkeypatch, data):
    install(monkeypatch, "10.16.1.11")
    (tmp_path / "x.engine").write_bytes(read_engine(folder / "a.engine")[1])
    with pytest.raises(
        ValueError, match=r"TensorRT 10\.16\.1\.11 cannot load it, .*: The engine plan file is not comp"
    ):
        load_backend(tmp_path / "x.engine", trust=True, names=names_of(data))


def test_a_plan_that_is_cut_off(folder, tmp_path, trt):
    content = (folder / "a.engine").read_bytes()
    length = int.from_bytes(content[:4], "little")
    (tmp_path / "x.engine").write_bytes(content[: 4 + length + 20])
    with pytest.raises(ValueError, match=r"x\.engine: TensorRT .* cannot load it, .*: .*the plan is damaged"):
        load_backend(tmp_path / "x.engine", trust=True)


def test_no_memory(folder, trt):
    trt.no_memory = True
    with pytest.raises(ValueError, match=r"a\.engine: TensorRT has no memory to run it: it does not say why"):
        load_backend(folder / "a.engine")


@pytest.mark.parametrize(("shape", "message"), [((1, 160, 64), "heights of 32 to 96 and widths of 32 to 128 pixels")])
def test_images_beyond_the_profile(folder, trt, shape, message):
    model = load_backend(folder / "open.engine")
    with pytest.raises(ValueError, match=message):
        model(torch.rand(shape[0], 3, *shape[1:]))


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("set_input_shape", "TensorRT refuses this shape"),
        ("set_tensor_address", "TensorRT refuses the place of images"),
        ("execute_async_v3", "TensorRT cannot compute it"),
    ],
)
def test_a_run_that_fails(folder, trt, monkeypatch, member, message):
    model = load_backend(folder / "a.engine")
    monkeypatch.setattr(trt.classes["IExecutionContext"], member, lambda *_: False)
    with pytest.raises(ValueError, match=message):
        model(torch.rand(2, 3, 64, 96))


def test_outputs_without_a_shape(folder, trt, monkeypatch):
    model = load_backend(folder / "a.engine")
    monkeypatch.setattr(trt.classes["IExecutionContext"], "get_tensor_shape", lambda *_: [-1, 252, 8])
    with pytest.raises(ValueError, match="output output has no fixed shape"):
        model(torch.rand(2, 3, 64, 96))


def test_types_that_torch_does_not_have(folder, trt, monkeypatch):
    monkeypatch.delitem(backend_tensorrt.TORCH_TYPES, "FLOAT")
    with pytest.raises(ValueError, match="a tensor of FLOAT, which torch does not have"):
        load_backend(folder / "a.engine")


def test_without_the_package(folder, trt, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ImportError, match=r"a\.engine needs tensorrt: pip install tensorrt"):
        load_backend(folder / "a.engine")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(folder):
    with pytest.raises(ValueError, match=r"a\.engine needs an NVIDIA GPU: there is none that torch can use"):
        load_backend(folder / "a.engine")


def test_it_warns_of_what_it_runs(folder, trt, caplog):
    load_backend(folder / "a.engine")
    assert "a.engine: is machine code, which can do anything that a program can; use your own only" in caplog.text


# The stand-in ---------------------------------------------------------------------------------------------------------


def test_the_stand_in_takes_published_calls_only():
    trt = StandIn("11.4.0.106")
    log = backend_tensorrt.new_logger(trt)
    builder = trt.Builder(log)
    with pytest.raises(AttributeError, match=r"TensorRT 11\.4\.0\.106 has no Builder\.platform_has_fast_fp16"):
        _ = builder.platform_has_fast_fp16
    assert StandIn("10.0.1").Builder(log).platform_has_fast_fp16
    config = builder.create_builder_config()
    for call in (lambda: config.set_memory_pool_limit(1), lambda: builder.create_network(flag=1), trt.Builder):
        with pytest.raises((AssertionError, IndexError)):
            call()
    with pytest.raises(AttributeError):
        _ = config.max_workspace_size  # as v6.1 has it
    assert not hasattr(trt.BuilderFlag, "FP16")
