"""--precision and --hint: what comes out, that the runtimes are told, and who refuses what."""

import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import detect
import export
import val
from models.experimental import attempt_load
from models.runtimes.load import load_backend, openvino_core, openvino_settings
from tools.serve import cli as serve
from utils.files.images import write_image
from utils.general import ROOT

openvino = pytest.importorskip("openvino")
CAN = openvino_core(openvino).get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module")
def folder(small_weights, tmp_path_factory):
    """A small network as a.pt, and exported: open axes as a_*, batches of two as fixed_openvino_model."""
    folder = tmp_path_factory.mktemp("settings")
    for name in ("a.pt", "fixed.pt"):
        shutil.copy(small_weights, folder / name)
    export.run(folder / "a.pt", imgsz=[64, 96], include=["onnx", "openvino", "torchscript"], dynamic=True)
    export.run(folder / "fixed.pt", imgsz=[64, 96], include="openvino", batch_size=2)
    return folder


@pytest.fixture(scope="module")
def network(folder):
    return attempt_load(folder / "a.pt")


@pytest.mark.parametrize("file", ["a_openvino_model", "fixed_openvino_model"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_throughput_gives_the_same_in_the_same_order(folder, network, file, count):
    model = load_backend(folder / file, threads=2, hint="throughput")
    assert model.network.get_property("PERFORMANCE_HINT") == "THROUGHPUT"
    images = torch.rand(count, 3, 64, 96)
    found, wanted = model(images)[0], network(images)[0]
    assert (found - wanted).abs().max() < 5e-3
    groups = count if file.startswith("a") else -(-count // 2)
    assert len(model.seconds) == (groups if groups > 1 else 0)
    assert all(value > 0 for value in model.seconds)


def test_throughput_says_what_is_wrong_with_an_image(folder):
    model = load_backend(folder / "a_openvino_model", threads=1, hint="throughput")
    with pytest.raises(ValueError, match=r"OpenVinoRuntime cannot compute this file for images \(1, 3, 40, 96\): "):
        model(torch.rand(3, 3, 40, 96))
    assert model(torch.rand(2, 3, 64, 96))[0].shape[0] == 2  # and goes on


def test_fp32_is_the_default(folder):
    model = load_backend(folder / "a_openvino_model")
    assert model.network.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert model.network.get_property("PERFORMANCE_HINT") == "LATENCY"


@pytest.mark.parametrize(("precision", "told", "most_px"), [("bf16", "bf16", 8), ("fp16", "f16", 2)])
def test_openvino_computes_in_less(folder, network, precision, told, most_px):
    if precision.upper() not in CAN:
        pytest.skip(f"this CPU has no {precision}")
    model = load_backend(folder / "a_openvino_model", precision=precision)
    assert model.network.get_property("INFERENCE_PRECISION_HINT").get_type_name() == told
    images = torch.rand(1, 3, 64, 96)
    assert 1e-4 < (model(images)[0] - network(images)[0])[..., :4].abs().max() < most_px


def test_auto_is_the_best_of_this_cpu(folder):
    model = load_backend(folder / "a_openvino_model", precision="auto")
    wanted = "bf16" if "BF16" in CAN else "f32"
    assert model.network.get_property("INFERENCE_PRECISION_HINT").get_type_name() == wanted


def test_a_cpu_without_it():
    for precision in ("bf16", "fp16"):
        with pytest.raises(ValueError, match=f"--precision {precision}: OpenVINO says that this CPU cannot; auto"):
            openvino_settings(["FP32", "INT8"], precision, "latency")
    assert openvino_settings(["FP32"], "fp32", "throughput") == {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "THROUGHPUT",
    }
    assert openvino_settings(["FP32"], "auto", "latency") == {"PERFORMANCE_HINT": "LATENCY"}


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("a.pt", {"hint": "throughput"}, r"--hint throughput: what runs \.pt files here knows latency only"),
        ("a.torchscript", {"precision": "auto"}, r"--precision auto: what runs \.torchscript files here knows fp32"),
        ("a.onnx", {"precision": "fp16"}, "--precision fp16: what runs onnx files here knows fp32 only"),
        ("a.onnx", {"hint": "throughput", "dnn": True}, "--hint throughput: what runs onnx files here knows latency"),
        ("a_openvino_model", {"precision": "int4"}, "--precision int4: what runs openvino files here knows fp32, bf16"),
    ],
)
def test_what_a_runtime_does_not_know_is_an_error(folder, file, options, message):
    with pytest.raises(ValueError, match=message):
        load_backend(folder / file, **options)


def test_ncnn_and_mnn(folder, network):
    pytest.importorskip("ncnn")
    pytest.importorskip("MNN")
    export.run(folder / "fixed.pt", imgsz=[64, 96], include=["ncnn", "mnn"])
    images = torch.rand(1, 3, 64, 96)
    wanted = network(images)[0]
    less = load_backend(folder / "fixed_ncnn_model", threads=1, precision="bf16")(images)[0]
    assert 1e-3 < (less - wanted)[..., :4].abs().max() < 8
    for file in ("fixed_ncnn_model", "fixed.mnn"):
        found = load_backend(folder / file, threads=1, precision="auto")(images)[0]
        assert (found - wanted)[..., :4].abs().max() < 8
        with pytest.raises(ValueError, match=r"--precision fp16: what runs (ncnn|mnn) files here knows fp32"):
            load_backend(folder / file, precision="fp16")


def test_detect_and_val_by_a_queue_give_what_they_give_without(folder, data, tmp_path):
    source = tmp_path / "pictures"
    source.mkdir()
    for i in range(5):
        write_image(source / f"{i}.png", np.random.default_rng(i).integers(256, size=(64, 96, 3), dtype=np.uint8))
    common = {"source": source, "imgsz": 96, "batch_size": 4, "save_txt": True, "save_conf": True, "nosave": True}
    common |= {"device": "cpu", "conf_thres": 0.05, "threads": 1}
    weights = folder / "a_openvino_model"
    labels = []
    for hint in ("latency", "throughput"):
        written = detect.run(weights, project=tmp_path / hint, hint=hint, precision="fp32", **common)
        labels.append({file.name: file.read_text() for file in (written / "labels").iterdir()})
    assert len(labels[0]) == 5
    assert labels[0] == labels[1]
    with pytest.raises(ValueError, match="--precision bf16: what runs onnx files here knows fp32 only"):
        val.run(weights=folder / "a.onnx", data=data, precision="bf16", hint="latency", device="cpu", project=tmp_path)


def test_the_server_takes_them_too(folder):
    arguments = ["--weights", str(folder / "a_openvino_model"), "--hint", "throughput", "--precision", "auto"]
    opt = serve.parse_opt([*arguments, "--imgsz", "64", "--device", "cpu", "--threads", "1"])
    with serve.service(opt, [folder / "a_openvino_model"]) as parts:
        assert parts.predictor.model.network.get_property("PERFORMANCE_HINT") == "THROUGHPUT"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batch")]


@pytest.mark.parametrize("script", [detect, val, serve])
def test_words_that_are_none(script, capsys):
    for flag in ("--precision", "--hint"):
        with pytest.raises(SystemExit):
            script.parse_opt([flag, "fast"])
        assert f"argument {flag}: invalid choice: 'fast'" in capsys.readouterr().err


def test_a_network_that_is_gone_leaves_the_process_alone(folder):
    """On CPUs with AMX, an OpenVINO that is freed in part, or by another thread, breaks the handling of signals."""
    program = """
import faulthandler, signal, subprocess, sys, threading
from models.runtimes.load import load_backend
faulthandler.enable()  # as pytest does: handlers get a stack of their own
signal.signal(signal.SIGCHLD, lambda *_: None)
loaded = [load_backend(sys.argv[1], threads=1) for _ in range(2)]
del loaded[0]
thread = threading.Thread(target=loaded.clear)
thread.start()
thread.join()
subprocess.run([sys.executable, "-c", ""], check=True)
"""
    command = [sys.executable, "-c", program, folder / "a_openvino_model"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
