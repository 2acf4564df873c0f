"""Builds TensorRT engines of a network: the ONNX file that TensorRT reads, the shapes it is built for, and the build.

Networks are strongly typed, the only kind that TensorRT 11 has and one that 10 has too: FP16 is what an FP16 ONNX file
says, by no flag. An FP32 engine computes without TF32, so that its boxes are PyTorch's. ONNX's operators for NMS have
shapes that depend on the data; TensorRT's own plug-in EfficientNMS_TRT stands in their place, with fixed shapes.

Legend: B images, N boxes, nc classes, K detections kept of an image.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.exporters.onnx import (
    CANDIDATES,
    INPUT,
    ExportModel,
    NmsSettings,
    OnnxSettings,
    import_package,
    nms_shapes,
    save_onnx,
    write_onnx,
)
from models.runtimes.metadata import Metadata
from models.runtimes.tensorrt import (
    INSTALL,
    PLUGIN_OUTPUTS,
    Logger,
    Plan,
    import_tensorrt,
    last_error,
    load_plugins,
    new_logger,
)
from utils.general import LOGGER, atomic_write
from utils.ops.boxes import xywh2xyxy

WHAT = "export.py --include engine"
LEAST_OPSET = 13  # as in v6.1
MOST_IMAGES = 8  # that an engine of open axes takes at a time, if --batch-size is not more
PLUGIN, PLUGIN_DOMAIN, PLUGIN_VERSION = "EfficientNMS_TRT", "TRT", "1"
MAX_ERRORS = 3  # of the parser's that are named
ImageShape = tuple[int, int, int, int]  # (B, 3, H, W)
Builder, Config, Network = Any, Any, Any  # tensorrt.Builder, IBuilderConfig, INetworkDefinition


class Profile(NamedTuple):
    """The shapes of images that an engine is built for: the smallest, the one that it is fastest at, the largest."""

    low: ImageShape
    best: ImageShape
    high: ImageShape


@dataclass(frozen=True)
class EngineSettings:
    """workspace_gb: GiB that a layer may use. half: the ONNX file is of FP16. timing_cache: kept from build to build.

    profile: None where all axes are fixed.
    """

    workspace_gb: int
    verbose: bool
    half: bool
    profile: Profile | None
    timing_cache: Path


def profile_of(metadata: Metadata) -> Profile | None:
    """From one image of one stride to a stride beyond the sides, as val.py's rectangles are; None if all is fixed."""
    if not metadata.dynamic:
        return None
    (height, width), stride = metadata.imgsz, metadata.stride
    best = (metadata.batch, 3, height, width)
    return Profile((1, 3, stride, stride), best, (max(metadata.batch, MOST_IMAGES), 3, height + stride, width + stride))


# The ONNX file --------------------------------------------------------------------------------------------------------


class Candidates(ExportModel):
    """What NMS chooses from: boxes xyxy (B, N, 4) and scores (B, N, nc), 0 but for the best class, as in detect.py."""

    @property
    def output_names(self) -> list[str]:
        """See ExportModel."""
        return list(CANDIDATES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        decoded = self.network(images)[0].float()
        scores = decoded[..., 5:] * decoded[..., 4:5]
        is_best = scores == scores.amax(2, keepdim=True)
        return xywh2xyxy(decoded[..., :4]), torch.where(is_best, scores, torch.zeros_like(scores))


def write_engine_onnx(
    model: ExportModel, images: Tensor, metadata: Metadata, path: Path, settings: OnnxSettings
) -> None:
    """The ONNX file for TensorRT, with the plug-in behind the boxes where the model has an NMS."""
    if model.nms is None:
        write_onnx(model, images, metadata, path, settings)
        return
    write_onnx(Candidates(model.network), images, metadata, path, settings)
    add_plugin(path, model.nms, "batch" if "batch" in settings.dynamic else len(images))


def add_plugin(path: Path, nms: NmsSettings, batch: int | str) -> None:
    """Puts EfficientNMS_TRT behind the candidates of an ONNX file; its attributes are those that NVIDIA publishes."""
    onnx = import_package("onnx")
    graph = onnx.load(str(path))
    node = onnx.helper.make_node(
        PLUGIN,
        list(CANDIDATES),
        list(PLUGIN_OUTPUTS),
        name="nms",
        domain=PLUGIN_DOMAIN,
        plugin_version=PLUGIN_VERSION,
        score_threshold=nms.conf_thres,
        iou_threshold=nms.iou_thres,
        max_output_boxes=nms.max_det,
        background_class=-1,  # none
        score_activation=0,  # the scores are probabilities
        class_agnostic=int(nms.agnostic),
        box_coding=0,  # corners
    )
    graph.graph.node.append(node)
    graph.opset_import.append(onnx.helper.make_opsetid(PLUGIN_DOMAIN, 1))
    graph.graph.value_info.extend(graph.graph.output)
    del graph.graph.output[:]
    kinds = (onnx.TensorProto.INT32, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT, onnx.TensorProto.INT32)
    for name, kind, shape in zip(PLUGIN_OUTPUTS, kinds, nms_shapes(1, nms.max_det), strict=True):
        graph.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, [batch, *shape[1:]]))
    save_onnx(graph, path)


# The build ------------------------------------------------------------------------------------------------------------


def build_plan(onnx: Path, settings: EngineSettings) -> Plan:
    """The plan that TensorRT makes of an ONNX file on this machine; ValueError says why it makes none."""
    trt = import_tensorrt(WHAT, INSTALL)
    log = new_logger(trt, settings.verbose)
    load_plugins(trt, log)
    builder = new_builder(trt, log)
    if settings.half and not getattr(builder, "platform_has_fast_fp16", True):  # TensorRT 11 runs on no such GPU
        raise ValueError("--half: this GPU has no fast FP16; leave --half out")
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parse(trt, network, onnx, log)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_gb << 30)
    config.clear_flag(trt.BuilderFlag.TF32)
    if settings.profile is not None:
        add_profile(builder, config, settings.profile)
    with timing_cache(config, settings.timing_cache):
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ValueError(f"TensorRT {trt.__version__} builds no engine: {last_error(log)}")
    return plan


def new_builder(trt: ModuleType, log: Logger) -> Builder:
    """A builder; ValueError where TensorRT does not work on this machine, as with a driver that is too old."""
    try:
        return trt.Builder(log)
    except TypeError as error:  # what the bindings raise where they get none
        raise ValueError(f"TensorRT {trt.__version__} does not work on this machine: {last_error(log)}") from error


def parse(trt: ModuleType, network: Network, onnx: Path, log: Logger) -> None:
    """Fills a network by an ONNX file; ValueError names the first nodes that TensorRT does not take."""
    parser = trt.OnnxParser(network, log)
    if parser.parse(onnx.read_bytes()):
        return
    said = []
    for i in range(min(parser.num_errors, MAX_ERRORS)):
        problem = parser.get_error(i)
        said.append(f"{problem.node_operator()} {problem.node_name()}: {problem.desc()}".replace("\n", " ")[:200])
    more = f" and {parser.num_errors - MAX_ERRORS} more" if parser.num_errors > MAX_ERRORS else ""
    raise ValueError(f"TensorRT {trt.__version__} cannot read it: {'; '.join(said) or last_error(log)}{more}")


def add_profile(builder: Builder, config: Config, shapes: Profile) -> None:
    """Tells the shapes of the images; ValueError where TensorRT does not take them."""
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, shapes.low, shapes.best, shapes.high)
    if config.add_optimization_profile(profile) < 0:
        raise ValueError(f"TensorRT does not take images from {shapes.low} to {shapes.high}")


@contextmanager
def timing_cache(config: Config, path: Path) -> Iterator[None]:
    """What earlier builds have measured is used within, and what this one measures is kept, if it ends well."""
    kept = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(kept)
    if kept and (cache is None or not config.set_timing_cache(cache, False)):
        LOGGER.warning(f"{path}: the timings are of another GPU or TensorRT, or damaged; new ones take their place")
        cache, kept = config.create_timing_cache(b""), b""
    if not kept and cache is not None:
        config.set_timing_cache(cache, False)
    yield
    cache = config.get_timing_cache()
    if cache is not None:
        with atomic_write(path) as file:
            file.write_bytes(cache.serialize())


def trtexec_command(onnx: Path, engine: Path, settings: EngineSettings) -> str:
    """The command of NVIDIA's own program that builds the same engine of the same ONNX file, on another machine."""
    parts = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}", "--stronglyTyped", "--noTF32", "--skipInference"]
    parts += [f"--memPoolSize=workspace:{settings.workspace_gb << 10}"]  # MiB
    parts += [f"--timingCacheFile={settings.timing_cache}"]
    parts += ["--verbose"] if settings.verbose else []
    if settings.profile is not None:
        for name, shape in zip(("min", "opt", "max"), settings.profile, strict=True):
            parts += [f"--{name}Shapes={INPUT}:{'x'.join(map(str, shape))}"]
    return shlex.join(parts)
