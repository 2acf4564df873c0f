"""How each format is written of a checkpoint: a function by its name in WRITERS, all called alike.

A writer makes its file, or fills its folder, at the path that it is given, and knows nothing of where that will lie.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from models.experimental import attempt_load
from models.exporters.compare import FP16_LIMITS, FP32_LIMITS, Limits
from models.exporters.coreml import write_coreml
from models.exporters.mobile_apps import write_executorch, write_tflite
from models.exporters.ncnn_mnn import write_mnn, write_ncnn
from models.exporters.onnx import ExportModel, OnnxSettings, write_onnx, write_openvino, write_torchscript
from models.exporters.tensorrt import (
    INSTALL,
    LEAST_OPSET,
    WHAT,
    EngineSettings,
    build_plan,
    profile_of,
    write_engine_onnx,
)
from models.exporters.torch_files import write_pt2, write_safetensors
from models.runtimes.metadata import AXES, Metadata
from models.runtimes.tensorrt import check_gpu, import_tensorrt, origin, write_engine
from utils.cli.export_options import ExportOptions


@dataclass(frozen=True)
class Job:
    """One checkpoint to export: its file, the network as files have it in FP32 and as it is written, test images."""

    weights: Path
    reference: ExportModel
    model: ExportModel
    images: Tensor  # (B, 3, H, W), in the type of `model`
    metadata: Metadata

    @property
    def limits(self) -> Limits:
        """How far its files may be from PyTorch."""
        return FP16_LIMITS if self.metadata.details["precision"] == "fp16" else FP32_LIMITS

    @property
    def on_device(self) -> Metadata:
        """What a file says of itself that only runs on the kind of device that it was made on."""
        return replace(self.metadata, details=self.metadata.details | {"device": self.images.device.type})


def torchscript(opt: ExportOptions, job: Job, path: Path) -> None:
    """Its sizes are open in any case: what is traced follows them."""
    write_torchscript(job.model, job.images, replace(job.on_device, dynamic=AXES), path, opt.optimize)


def pt2(opt: ExportOptions, job: Job, path: Path) -> None:
    """A program of torch.export, or its machine code."""
    write_pt2(job.model, job.images, job.on_device, path, opt.aoti)


def safetensors(opt: ExportOptions, job: Job, path: Path) -> None:
    """The weights alone, not fused."""
    del opt
    network = attempt_load(job.weights, "cpu", fuse=False)
    write_safetensors(network, replace(job.metadata, dynamic=AXES), path)


def onnx(opt: ExportOptions, job: Job, path: Path) -> None:
    """For ONNX Runtime, OpenCV, browsers, and converters."""
    write_onnx(job.model, job.images, job.metadata, path, onnx_settings(opt, job))


def openvino(opt: ExportOptions, job: Job, folder: Path) -> None:
    """Intermediate representation, by way of ONNX."""
    write_openvino(job.model, job.images, job.metadata, folder, onnx_settings(opt, job))


def ncnn(opt: ExportOptions, job: Job, folder: Path) -> None:
    """It computes one image after another, of one size."""
    del opt
    write_ncnn(job.reference, job.images.float(), replace(job.metadata, batch=1, dynamic=AXES[:1]), folder)


def mnn(opt: ExportOptions, job: Job, path: Path) -> None:
    """By way of ONNX."""
    write_mnn(job.reference, job.images.float(), job.metadata, path, onnx_settings(opt, job))


def executorch(opt: ExportOptions, job: Job, path: Path) -> None:
    """For apps, by XNNPACK; in FP16 it takes images in FP16."""
    del opt
    write_executorch(job.reference, job.images, job.metadata, path)


def tflite(opt: ExportOptions, job: Job, path: Path) -> None:
    """For apps, by LiteRT; it takes images (B, H, W, 3)."""
    del opt
    write_tflite(job.reference, job.images, job.metadata, path)


def coreml(opt: ExportOptions, job: Job, folder: Path) -> None:
    """For Apple's devices."""
    del opt
    write_coreml(job.reference, job.images, job.metadata, folder)


def engine(opt: ExportOptions, job: Job, path: Path) -> None:
    """By way of ONNX, on the GPU that is to run it."""
    trt, device = import_tensorrt(WHAT, INSTALL), job.images.device
    check_gpu(device, WHAT)
    metadata = engine_metadata(opt, job)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "network.onnx"
        engine_onnx(opt, job, file)
        plan = build_plan(file, engine_settings(opt, job))
    write_engine(path, replace(metadata, details=metadata.details | origin(trt, device)), plan)


def engine_onnx(opt: ExportOptions, job: Job, path: Path) -> None:
    """The ONNX file that an engine is built of, here or by trtexec; with fixed axes, all shapes in it are numbers."""
    metadata = engine_metadata(opt, job)
    opset, is_slim = max(opt.onnx_opset, LEAST_OPSET), opt.simplify or not opt.dynamic
    settings = OnnxSettings(opset, is_slim, metadata.dynamic, opt.dynamo)
    write_engine_onnx(job.model, job.images, metadata, path, settings)


def engine_metadata(opt: ExportOptions, job: Job) -> Metadata:
    """What an engine says of itself: the number of images may be open with an NMS inside too."""
    return replace(job.metadata, dynamic=AXES if opt.dynamic else ())


def engine_settings(opt: ExportOptions, job: Job) -> EngineSettings:
    """What the options say of a build."""
    cache = job.weights.with_suffix(".timing")
    return EngineSettings(opt.workspace, opt.verbose, opt.half, profile_of(engine_metadata(opt, job)), cache)


def onnx_settings(opt: ExportOptions, job: Job) -> OnnxSettings:
    """What the options say of an ONNX file."""
    return OnnxSettings(opt.onnx_opset, opt.simplify, job.metadata.dynamic, opt.dynamo)


Writer = Callable[[ExportOptions, Job, Path], None]
WRITERS: Mapping[str, Writer] = {
    **{"torchscript": torchscript, "pt2": pt2, "safetensors": safetensors, "onnx": onnx},
    **{"openvino": openvino, "ncnn": ncnn, "mnn": mnn, "engine": engine},
    **{"executorch": executorch, "tflite": tflite, "coreml": coreml},
}
