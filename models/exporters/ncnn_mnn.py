"""Writes a network for mobiles and small computers: ncnn by way of pnnx, and MNN by way of ONNX."""

import contextlib
import io
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from models.exporters.onnx import ExportModel, OnnxSettings, as_user_error, quiet, write_onnx
from models.runtimes.base import METADATA_FILE, require_package
from models.runtimes.metadata import Metadata
from models.runtimes.ncnn_mnn import NCNN_BIN, NCNN_PARAM

PNNX_SECONDS = 600


def write_ncnn(model: ExportModel, images: Tensor, metadata: Metadata, folder: Path) -> None:
    """<folder>/model.ncnn.param, .bin and metadata.json; its weights in FP16 where the metadata's precision says so.

    model and images are in FP32 and on the CPU. ValueError where pnnx cannot convert a block.
    """
    with require_package("pnnx", "export.py --include ncnn"):
        import pnnx
    half = int(metadata.details["precision"] == "fp16")
    shape = ",".join(str(size) for size in (1, *images.shape[1:]))
    names = [f"ncnnparam={NCNN_PARAM}", f"ncnnbin={NCNN_BIN}"]
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        with quiet(), torch.no_grad(), as_user_error("TorchScript, from which pnnx converts"):
            traced = torch.jit.trace(model, images[:1], strict=False, check_trace=False)
        (Path(scratch) / "network.pt").write_bytes(traced.save_to_buffer())
        command = [pnnx.EXEC_PATH, "network.pt", f"inputshape=[{shape}]f32", f"fp16={half}", *names]
        text = {"capture_output": True, "text": True, "errors": "replace"}
        try:
            done = subprocess.run(command, cwd=scratch, **text, timeout=PNNX_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"pnnx was stopped after {PNNX_SECONDS} s, without having converted it") from error
        written = [Path(scratch) / name for name in (NCNN_PARAM, NCNN_BIN)]
        if done.returncode or not all(file.is_file() for file in written):
            last = ([line for line in done.stderr.splitlines() if line.strip()] or [f"exit {done.returncode}"])[-1]
            raise ValueError(f"pnnx cannot convert it: {last[:200]}")
        for file in written:
            (folder / file.name).write_bytes(file.read_bytes())
    size = str((folder / NCNN_BIN).stat().st_size)
    metadata = replace(metadata, details=metadata.details | {"bin_bytes": size})
    (folder / METADATA_FILE).write_text(metadata.to_json(), encoding="utf-8")


def write_mnn(model: ExportModel, images: Tensor, metadata: Metadata, path: Path, settings: OnnxSettings) -> None:
    """An MNN file with its metadata as bizCode; its weights in FP16 where the metadata's precision says so.

    model and images are in FP32. ValueError where MNN cannot convert it.
    """
    with require_package("MNN", "export.py --include mnn"):
        import _tools as mnn_tools  # not MNN.tools: importing that installs a package and reports to a logging service
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        onnx, mnn = Path(scratch) / "network.onnx", Path(scratch) / "network.mnn"
        write_onnx(model, images, metadata, onnx, settings)
        command = ["MNNConvert", "-f", "ONNX", "--modelFile", str(onnx), "--MNNModel", str(mnn)]
        command += ["--bizCode", metadata.to_json()]
        command += ["--fp16"] if metadata.details["precision"] == "fp16" else []
        with contextlib.redirect_stdout(io.StringIO()):
            mnn_tools.mnnconvert(command)
        if not mnn.is_file():
            raise ValueError("MNN cannot convert it; its own lines above say why")
        path.write_bytes(mnn.read_bytes())
