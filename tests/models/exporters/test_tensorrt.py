"""export.py --include engine by tests/models/tensorrt_standin.py, which is not TensorRT but in its place; --trtexec."""

import json
import logging
import shlex
import sys

import pytest
import torch

import export
from models.experimental import attempt_load
from models.exporters.tensorrt import WHAT, EngineSettings, Profile, trtexec_command
from models.runtimes.load import load_backend
from models.runtimes.tensorrt import check_gpu, read_engine
from tests.models.tensorrt_standin import OPERATORS, StandIn, install
from utils.general import non_max_suppression

VERSIONS = ["10.0.1", "11.4.0.106"]


@pytest.fixture
def trt(monkeypatch):
    return install(monkeypatch, VERSIONS[1])


@pytest.fixture
def run(small_weights, tmp_path, caplog):
    """`export.run` on a copy of the weights, at 64 x 96 pixels, for an engine."""
    caplog.set_level(logging.INFO, "yolov5")
    file = tmp_path / "net.pt"
    file.write_bytes(small_weights.read_bytes())
    return lambda **options: export.run(file, **{"imgsz": [64, 96], "include": "engine", **options})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fails(run, **options):
    with pytest.raises(ValueError, match=r"not written, for the reason given above: engine of .*net\.pt"):
        run(**options)


# The build ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "half"), [*zip(VERSIONS, (False, True), strict=True)])
def test_a_build(run, tmp_path, monkeypatch, version, half):
    trt = install(monkeypatch, version)
    assert run(workspace=3, half=half) == [tmp_path / "net.engine"]
    assert names(tmp_path) == ["net.engine", "net.pt", "net.timing"]
    texts, plan = read_engine(tmp_path / "net.engine")
    assert bytes(plan[:4]) == b"ftrt"
    assert (texts["names"], texts["stride"], texts["tensorrt"], texts["gpu"]) == (
        ["ant", "bee", "cat"],
        32,
        version,
        "a CPU",
    )
    assert trt.called("Builder.create_network") == [(2 if trt.major == 10 else 1,)]
    assert trt.called("IBuilderConfig.set_memory_pool_limit") == [(trt.MemoryPoolType.WORKSPACE, 3 << 30)]
    assert trt.called("IBuilderConfig.clear_flag") == [(trt.BuilderFlag.TF32,)]
    assert trt.called("IOptimizationProfile.set_shape") == []
    model, network = load_backend(tmp_path / "net.engine"), attempt_load(tmp_path / "net.pt")
    images = torch.rand(1, 3, 64, 96)
    limits = {"rtol": 0.05, "atol": 2} if half else {"rtol": 1e-4, "atol": 1e-3}
    torch.testing.assert_close(model(images)[0], network(images)[0], **limits)
    assert model.metadata.details["precision"] == ("fp16" if half else "fp32")


def test_open_axes_get_a_profile(run, trt, tmp_path):
    run(dynamic=True, batch_size=2)
    wanted = ("images", (1, 3, 32, 32), (2, 3, 64, 96), (8, 3, 96, 128))
    assert trt.called("IOptimizationProfile.set_shape") == [wanted]
    assert trt.called("IBuilderConfig.add_optimization_profile")
    assert load_backend(tmp_path / "net.engine").fixed_hw is None


@pytest.mark.parametrize(("agnostic", "dynamic"), [(False, True), (True, False)])
def test_the_plugin_gives_what_detect_gives(run, trt, tmp_path, agnostic, dynamic):
    """By NVIDIA's description of the plug-in, as the stand-in computes it; each box is of its best class."""
    run(nms=True, conf_thres=0.02, iou_thres=0.3, topk_all=40, agnostic_nms=agnostic, batch_size=2, dynamic=dynamic)
    model, network = load_backend(tmp_path / "net.engine"), attempt_load(tmp_path / "net.pt")
    count = 0
    for shape in ((2, 64, 96), (3, 64, 96)):
        images = torch.rand(shape[0], 3, *shape[1:])
        wanted = non_max_suppression(network(images)[0], 0.02, 0.3, agnostic=agnostic, max_det=40)
        found = non_max_suppression(model(images)[0], 0.02, 0.3, agnostic=agnostic, max_det=40)
        for a, b in zip(found, wanted, strict=True):
            assert a.shape == b.shape
            assert ((a[:, None] - b).abs().amax(2).amin(1) > 1e-2).sum() <= 0.05 * len(b) + 1
            count += len(b)
    assert count > 50


def test_raw_maps(run, trt, tmp_path):
    run(train=True, batch_size=2)
    images = torch.rand(2, 3, 64, 96)
    wanted = attempt_load(tmp_path / "net.pt")(images)[1]
    for a, b in zip(load_backend(tmp_path / "net.engine").outputs(images), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_verbose_says_all(run, trt, caplog):
    builder = trt.classes["Builder"]

    class Talks(builder):
        def build_serialized_network(self, network, config):
            for level in trt.ILogger.Severity:
                self._log.log(level, f"a line of {level.name}")
            return super().build_serialized_network(network, config)

    Talks.__name__ = "Builder"
    trt.classes["Builder"] = Talks
    run()
    quiet = [record.getMessage() for record in caplog.records if "a line of" in record.getMessage()]
    assert quiet == ["TensorRT: a line of WARNING"]
    caplog.clear()
    run(verbose=True)
    loud = [record.getMessage() for record in caplog.records if "a line of" in record.getMessage()]
    assert loud == [f"TensorRT: a line of {name}" for name in ("WARNING", "INFO", "VERBOSE")]


# The timing cache -----------------------------------------------------------------------------------------------------


def test_timings_are_kept_and_used_again(run, trt, tmp_path):
    run()
    kept = (tmp_path / "net.timing").read_bytes()
    assert kept.startswith(trt.timings)
    run()
    assert trt.called("IBuilderConfig.create_timing_cache") == [(b"",), (kept,)]
    assert all(not mismatch for _, mismatch in trt.called("IBuilderConfig.set_timing_cache"))


def test_timings_of_another_gpu_are_replaced(run, trt, tmp_path, caplog):
    (tmp_path / "net.timing").write_bytes(b"timings of something else")
    run()
    assert (
        "net.timing: the timings are of another GPU or TensorRT, or damaged; new ones take their place" in caplog.text
    )
    assert (tmp_path / "net.timing").read_bytes().startswith(trt.timings)


def test_timings_stay_as_they_were_where_the_build_fails(run, trt, tmp_path):
    (tmp_path / "net.timing").write_bytes(trt.timings)
    trt.fails_with = "out of memory"
    fails(run)
    assert (tmp_path / "net.timing").read_bytes() == trt.timings


# Failures -------------------------------------------------------------------------------------------------------------


def test_a_build_that_fails_leaves_what_was_there(run, trt, tmp_path, caplog):
    (tmp_path / "net.engine").write_text("what was there")
    trt.fails_with = "Error Code 10: Internal Error (Could not find any implementation for node)\nsecond line"
    fails(run)
    assert "engine: TensorRT 11.4.0.106 builds no engine: Error Code 10: Internal Error (Could not find" in caplog.text
    assert "second line" not in caplog.text
    assert (tmp_path / "net.engine").read_text() == "what was there"
    assert names(tmp_path) == ["net.engine", "net.pt"]


def test_nodes_that_are_not_read_are_named(run, trt, tmp_path, monkeypatch, caplog):
    for name in ("MaxPool", "Sigmoid"):
        monkeypatch.delitem(OPERATORS["operators"], name)
    fails(run)
    (line,) = (record.getMessage() for record in caplog.records if "cannot read it" in record.getMessage())
    assert line.startswith(
        "engine: TensorRT 11.4.0.106 cannot read it: Sigmoid /network/model.0/act/Sigmoid: No importer"
    )
    assert line.endswith(" more")
    assert line.count("No importer registered") == 3
    assert names(tmp_path) == ["net.pt"]


def test_an_engine_that_is_off_does_not_take_its_place(run, trt, tmp_path, caplog):
    trt.adds = 1.0
    fails(run)
    assert "off PyTorch" in caplog.text
    assert names(tmp_path) == ["net.pt", "net.timing"]


def test_half_on_a_gpu_without(run, tmp_path, monkeypatch, caplog):
    trt = install(monkeypatch, "10.0.1")
    trt.fast_fp16 = False
    fails(run, half=True)
    assert "--half: this GPU has no fast FP16; leave --half out" in caplog.text
    assert names(tmp_path) == ["net.pt"]
    run()
    assert names(tmp_path) == ["net.engine", "net.pt", "net.timing"]


def test_a_driver_that_is_too_old(run, trt, caplog):
    trt.no_driver = True
    fails(run)
    assert (
        "TensorRT 11.4.0.106 does not work on this machine: CUDA initialization failure with error: 35" in caplog.text
    )


def test_plugins_that_do_not_load(run, trt, monkeypatch, caplog):
    monkeypatch.setattr(trt, "init_libnvinfer_plugins", lambda *_: False)
    fails(run)
    assert "cannot load its plug-ins: it does not say why" in caplog.text


def test_without_the_package(run, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    fails(run)
    wanted = (
        "engine: export.py --include engine needs tensorrt: pip install tensorrt, or give --trtexec for the command"
    )
    assert f"{wanted} that builds it elsewhere" in caplog.text
    assert names(tmp_path) == ["net.pt"]


def test_on_the_cpu_of_a_machine_with_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r"export\.py --include engine needs an NVIDIA GPU: give --device 0"):
        check_gpu(torch.device("cpu"), WHAT)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(run, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorrt", StandIn(VERSIONS[0]))
    fails(run)
    assert "engine: export.py --include engine needs an NVIDIA GPU: there is none that torch can use" in caplog.text
    assert names(tmp_path) == ["net.pt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"int8": True}, "--int8 is for openvino"),
        ({"trtexec": True, "include": "onnx"}, "--trtexec shows how an engine is built: give --include engine"),
        ({"nms": True, "include": ["engine", "openvino"]}, "--nms puts NMS into ONNX files and engines only"),
        ({"nms": True, "train": True}, "--nms and --train exclude each other"),
    ],
)
def test_options_that_are_refused(run, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)
    assert names(tmp_path) == ["net.pt"]


# trtexec --------------------------------------------------------------------------------------------------------------


def test_trtexec_gets_its_file_and_the_same_settings(run, tmp_path, monkeypatch, caplog):
    """Without TensorRT and a GPU; the file is run and compared."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert run(trtexec=True, dynamic=True, workspace=2, half=True, verbose=True) == [tmp_path / "net_tensorrt.onnx"]
    assert names(tmp_path) == ["net.pt", "net_tensorrt.onnx"]
    command = next(line for line in caplog.text.splitlines() if "trtexec --onnx" in line).partition("onnx: ")[2]
    assert shlex.split(command) == [
        "trtexec",
        f"--onnx={tmp_path / 'net_tensorrt.onnx'}",
        f"--saveEngine={tmp_path / 'net.engine'}",
        "--stronglyTyped",
        "--noTF32",
        "--skipInference",
        "--memPoolSize=workspace:2048",
        f"--timingCacheFile={tmp_path / 'net.timing'}",
        "--verbose",
        "--minShapes=images:1x3x32x32",
        "--optShapes=images:1x3x64x96",
        "--maxShapes=images:8x3x96x128",
    ]
    model = load_backend(tmp_path / "net_tensorrt.onnx")
    assert json.loads(model.metadata.to_text()["dynamic"]) == ["batch", "height", "width"]


def test_names_with_spaces_in_the_command(tmp_path):
    folder = tmp_path / "two words"
    profile = Profile((1, 3, 32, 32), (2, 3, 64, 64), (8, 3, 96, 96))
    command = trtexec_command(folder / "a.onnx", folder / "a.engine", EngineSettings(4, False, False, profile, folder))
    assert shlex.split(command)[1] == f"--onnx={folder / 'a.onnx'}"
