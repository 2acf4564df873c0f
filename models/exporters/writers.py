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
from models.exporters.v61 import write_v61
from models.runtimes.metadata import AXES, Metadata
from models.runtimes.tensorrt import check_gpu, import_tensorrt, origin, write_engine


@dataclass(frozen=True)
class WriteSettings:
    """Settings of the writers; each format uses those that concern it."""

    opset: int  # of ONNX
    half: bool = False
    dynamic: bool = False  # open axes for batch, height and width
    simplify: bool = False
    dynamo: bool = False  # write ONNX by torch's newer exporter
    optimize: bool = False  # TorchScript for mobiles
    aoti: bool = False  # compile pt2 files
    workspace: int = 4  # GiB that TensorRT may use for a build
    verbose: bool = False  # let TensorRT log


@dataclass(frozen=True)
class Job:
    """One checkpoint to export: its file, the network as files have it in FP32 and as it is written, test images."""

    weights: Path
    reference: ExportModel
    model: ExportModel
    images: Tensor  # (B, 3, H, W), in the type of `model`
    metadata: Metadata
    settings: WriteSettings

    @property
    def limits(self) -> Limits:
        """How far its files may be from PyTorch."""
        return FP16_LIMITS if self.metadata.details["precision"] == "fp16" else FP32_LIMITS

    @property
    def on_device(self) -> Metadata:
        """What a file says of itself that only runs on the kind of device that it was made on."""
        return replace(self.metadata, details=self.metadata.details | {"device": self.images.device.type})


def torchscript(job: Job, path: Path) -> None:
    """Its sizes are open in any case: what is traced follows them."""
    write_torchscript(job.model, job.images, replace(job.on_device, dynamic=AXES), path, job.settings.optimize)


def pt2(job: Job, path: Path) -> None:
    """A program of torch.export, or its machine code."""
    write_pt2(job.model, job.images, job.on_device, path, job.settings.aoti)


def safetensors(job: Job, path: Path) -> None:
    """The weights alone, not fused."""
    network = attempt_load(job.weights, "cpu", fuse=False)
    write_safetensors(network, replace(job.metadata, dynamic=AXES), path)


def onnx(job: Job, path: Path) -> None:
    """For ONNX Runtime, OpenCV, browsers, and converters."""
    write_onnx(job.model, job.images, job.metadata, path, onnx_settings(job))


def openvino(job: Job, folder: Path) -> None:
    """Intermediate representation, by way of ONNX."""
    write_openvino(job.model, job.images, job.metadata, folder, onnx_settings(job))


def ncnn(job: Job, folder: Path) -> None:
    """It computes one image after another, of one size."""
    write_ncnn(job.reference, job.images.float(), replace(job.metadata, batch=1, dynamic=AXES[:1]), folder)


def mnn(job: Job, path: Path) -> None:
    """By way of ONNX."""
    write_mnn(job.reference, job.images.float(), job.metadata, path, onnx_settings(job))


def executorch(job: Job, path: Path) -> None:
    """For apps, by XNNPACK; in FP16 it takes images in FP16."""
    write_executorch(job.reference, job.images, job.metadata, path)


def tflite(job: Job, path: Path) -> None:
    """For apps, by LiteRT; it takes images (B, H, W, 3)."""
    write_tflite(job.reference, job.images, job.metadata, path)


def coreml(job: Job, folder: Path) -> None:
    """For Apple's devices."""
    write_coreml(job.reference, job.images, job.metadata, folder)


def v61(job: Job, path: Path) -> None:
    """v6.1's pickled checkpoint, for converters of others; not fused."""
    write_v61(job.weights, path, job.settings.half)


def engine(job: Job, path: Path) -> None:
    """By way of ONNX, on the GPU that is to run it."""
    trt, device = import_tensorrt(WHAT, INSTALL), job.images.device
    check_gpu(device, WHAT)
    metadata = engine_metadata(job)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        file = Path(scratch) / "network.onnx"
        engine_onnx(job, file)
        plan = build_plan(file, engine_settings(job))
    write_engine(path, replace(metadata, details=metadata.details | origin(trt, device)), plan)


def engine_onnx(job: Job, path: Path) -> None:
    """The ONNX file that an engine is built of, here or by trtexec; with fixed axes, all shapes in it are numbers."""
    metadata = engine_metadata(job)
    opset, is_slim = max(job.settings.opset, LEAST_OPSET), job.settings.simplify or not job.settings.dynamic
    settings = OnnxSettings(opset, is_slim, metadata.dynamic, job.settings.dynamo)
    write_engine_onnx(job.model, job.images, metadata, path, settings)


def engine_metadata(job: Job) -> Metadata:
    """What an engine says of itself: the number of images may be open with an NMS inside too."""
    return replace(job.metadata, dynamic=AXES if job.settings.dynamic else ())


def engine_settings(job: Job) -> EngineSettings:
    """Settings of a TensorRT build."""
    cache = job.weights.with_suffix(".timing")
    return EngineSettings(
        job.settings.workspace, job.settings.verbose, job.settings.half, profile_of(engine_metadata(job)), cache
    )


def onnx_settings(job: Job) -> OnnxSettings:
    """Settings of an ONNX file."""
    return OnnxSettings(job.settings.opset, job.settings.simplify, job.metadata.dynamic, job.settings.dynamo)


Writer = Callable[[Job, Path], None]
WRITERS: Mapping[str, Writer] = {
    "torchscript": torchscript,
    "pt2": pt2,
    "safetensors": safetensors,
    "onnx": onnx,
    "openvino": openvino,
    "ncnn": ncnn,
    "mnn": mnn,
    "engine": engine,
    "executorch": executorch,
    "tflite": tflite,
    "coreml": coreml,
    "v61": v61,
}
