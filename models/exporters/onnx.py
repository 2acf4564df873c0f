"""Writes a network as TorchScript, ONNX and OpenVINO, with what it must say of itself inside the file.

Each writer makes its file at the path that it is given and knows nothing of where that will lie in the end.

Legend: B images, N boxes, no = 5 + nc numbers of a box, K detections kept of an image.
"""

import copy
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.blocks.nam import NAMAttention
from models.exporters.dynamo import tidy_dynamo, write_by_dynamo
from models.runtimes.base import import_openvino, reason
from models.runtimes.load import CONFIG, OPENVINO_PLACE
from models.runtimes.metadata import Metadata
from utils.ops.boxes import xywh2xyxy

INPUT, OUTPUT = "images", "output"  # v6.1's names
NMS_OUTPUTS = ("num", "boxes", "scores", "classes")
CANDIDATES = ("candidates", "candidate_scores")  # of a file whose NMS is a plug-in behind them
NAM_NODES = ["Mul", "Add", "Sigmoid", "Mul"]
INT32 = np.iinfo(np.int32)  # what all runtimes read of whole numbers
OnnxModel = Any  # onnx.ModelProto; the package is optional
OpenvinoModel = Any  # openvino.Model
CLASS_DISTANCE = 8192.0  # pixels between the places of two classes, so that they do not suppress each other


@dataclass(frozen=True)
class NmsSettings:
    """How the NMS inside a file decides: its thresholds, whether classes suppress each other, and how many it keeps."""

    conf_thres: float
    iou_thres: float
    agnostic: bool
    max_det: int


@dataclass(frozen=True)
class OnnxSettings:
    """opset: ONNX's version of operators. dynamic: the axes of the images that stay open, of Metadata's AXES.

    dynamo: by torch's newer exporter.
    """

    opset: int
    simplify: bool
    dynamic: tuple[str, ...]
    dynamo: bool = False


class ExportModel(nn.Module):
    """A network as a file has it: images in, one tensor (B, N, no) out; raw maps with `raw`, detections with `nms`."""

    def __init__(self, network: nn.Module, raw: bool = False, nms: NmsSettings | None = None) -> None:
        super().__init__()
        self.network, self.raw, self.nms = copy.deepcopy(network).requires_grad_(False), raw, nms
        for module in self.network.modules():
            if hasattr(module, "onnx_dynamic"):  # v6.1's switch, for a pasted head to make its grid anew for each size
                module.onnx_dynamic = True
        self.suppress = import_nms() if nms is not None else None
        self.eval()

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Decoded boxes (B, N, no); or L raw maps (B, A, H, W, no); or num, boxes, scores and classes."""
        decoded, raw = self.network(images)
        if self.raw:
            return tuple(raw)
        return decoded if self.nms is None else self.detections(decoded)

    @property
    def output_names(self) -> list[str]:
        """What an ONNX file calls the outputs."""
        if self.nms is not None:
            return list(NMS_OUTPUTS)
        return [f"raw{i}" for i in range(len(self.network.stride))] if self.raw else [OUTPUT]

    def detections(self, decoded: Tensor) -> tuple[Tensor, ...]:
        """num (B, 1), boxes xyxy (B, K, 4), scores (B, K), classes (B, K) of decoded boxes (B, N, no), B being fixed.

        Each box is of its best class, as in detect.py. Rows behind the first `num` are zeros.
        """
        rows = [self._kept(decoded[i]) for i in range(int(decoded.shape[0]))]
        detections = torch.stack([kept for kept, _ in rows])  # (B, K, 6)
        num = torch.stack([count for _, count in rows])  # (B, 1)
        return num, detections[..., :4], detections[..., 4], detections[..., 5].to(torch.int32)

    def _kept(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Detections (K, 6) of one image's boxes (N, no), filled up with zeros, and how many there are (1,)."""
        assert self.nms is not None
        assert self.suppress is not None
        confidence, category = (boxes[:, 5:] * boxes[:, 4:5]).max(1)  # (N,) each
        is_sure = (confidence > self.nms.conf_thres).nonzero()[:, 0]
        rows = torch.cat((xywh2xyxy(boxes[:, :4]), confidence[:, None], category[:, None].to(boxes.dtype)), 1)[is_sure]
        places = rows[:, :4] + (0 if self.nms.agnostic else CLASS_DISTANCE) * rows[:, 5:]
        rows = rows[self.suppress(places, rows[:, 4], self.nms.iou_thres)][: self.nms.max_det]
        count = torch.ones_like(rows[:, 0]).sum(0, keepdim=True).to(torch.int32)
        return torch.cat((rows, rows.new_zeros(self.nms.max_det, 6)))[: self.nms.max_det], count


def import_nms() -> Callable[[Tensor, Tensor, float], Tensor]:
    """torchvision's NMS, whose operator becomes ONNX's NonMaxSuppression; ImportError where it does not work."""
    try:
        from torchvision.ops import nms
    except (ImportError, RuntimeError, AttributeError, OSError) as error:  # of another build than torch, most often
        raise ImportError("--nms needs a torchvision that fits torch: pip install torchvision") from error
    return nms


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps back what torch warns of at every trace: TorchScript's age, and loops over the head's levels."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning, UserWarning, torch.jit.TracerWarning):
            warnings.simplefilter("ignore", category)
        yield


@contextmanager
def as_user_error(what: str) -> Iterator[None]:
    """Turns torch's errors at a block that a format does not know into one line; lack of memory stays what it is."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"torch cannot write this network as {what}: {lines[0][:200]}") from error


def nam_layers(network: nn.Module) -> list[str]:
    """The names of the NAM blocks in a network."""
    return [name for name, module in network.named_modules() if isinstance(module, NAMAttention)]


def nam_variant(network: nn.Module) -> str:
    """What a network's NAM blocks gate: channel, channel+spatial where one gates places too, or none."""
    blocks = [module for module in network.modules() if isinstance(module, NAMAttention)]
    if any(block.Spatial_Att is not None for block in blocks):
        return "channel+spatial"
    return "channel" if blocks else "none"


# Writers --------------------------------------------------------------------------------------------------------------


def write_torchscript(model: ExportModel, images: Tensor, metadata: Metadata, path: Path, optimize: bool) -> None:
    """A traced network for any batch and size, with its metadata as config.txt; `optimize` writes one for mobiles."""
    extra = {CONFIG: metadata.to_json()}
    with quiet(), torch.no_grad(), as_user_error("TorchScript"):
        traced = torch.jit.trace(model, images, strict=False, check_trace=False)  # the file itself is compared
        if optimize:
            from torch.utils.mobile_optimizer import optimize_for_mobile

            try:
                mobile = optimize_for_mobile(traced)
            except RuntimeError as error:
                raise ValueError(f"--optimize: this build of torch cannot: {str(error).splitlines()[0]}") from error
            content = mobile._save_to_buffer_for_lite_interpreter(_extra_files=extra)
        else:
            content = traced.save_to_buffer(_extra_files=extra)
    path.write_bytes(content)  # torch's own writer ends the process where the disk is full


def write_onnx(model: ExportModel, images: Tensor, metadata: Metadata, path: Path, settings: OnnxSettings) -> None:
    """An ONNX file with its metadata, checked, its weights within; ValueError where NAM is not four operators in it."""
    onnx = import_package("onnx")
    outputs = model.output_names
    with quiet(), torch.no_grad(), as_user_error(f"ONNX of opset {settings.opset}"):
        if settings.dynamo:
            import_package("onnxscript")  # without it torch says what is missing, but not how to get it
            write_by_dynamo(model, images, metadata, path, settings.opset, (INPUT, outputs))
        else:
            torch.onnx.export(
                model,
                (images,),
                str(path),
                dynamo=False,
                opset_version=settings.opset,
                input_names=[INPUT],
                output_names=outputs,
                dynamic_axes=open_axes(settings.dynamic, outputs) if settings.dynamic else None,
            )
    graph = onnx.load(str(path))
    if settings.dynamo:
        tidy_dynamo(graph, open_axes(settings.dynamic, outputs))
    if settings.simplify:
        graph = import_package("onnxslim").slim(graph)
    clamp_int64(graph)
    check_nam(graph, [f"{name}.Channel_Att" for name in nam_layers(model.network)])
    del graph.metadata_props[:]
    for key, text in metadata.to_text().items():
        graph.metadata_props.add(key=key, value=text)
    if model.nms is not None:  # torch states the boxes kept as unknown
        for output, sizes in zip(graph.graph.output, nms_shapes(len(images), model.nms.max_det), strict=True):
            dims = output.type.tensor_type.shape.dim
            del dims[:]
            for size in sizes:
                dims.add().dim_value = size
    save_onnx(graph, path)


def save_onnx(graph: OnnxModel, path: Path) -> None:
    """Writes an ONNX graph; ValueError where it is not a valid one."""
    onnx = import_package("onnx")
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"the graph is not valid ONNX: {reason(error)}") from error
    onnx.save(graph, str(path))


def nms_shapes(batch: int, max_det: int) -> list[tuple[int, ...]]:
    """The shapes of num, boxes, scores and classes."""
    return [(batch, 1), (batch, max_det, 4), (batch, max_det), (batch, max_det)]


def open_axes(dynamic: tuple[str, ...], outputs: list[str]) -> dict[str, dict[int, str]]:
    """What torch.onnx wants to know of open axes: their numbers and names, for the images and each output."""
    axes = {INPUT: {number: axis for number, axis in ((0, "batch"), (2, "height"), (3, "width")) if axis in dynamic}}
    if outputs[0] in (OUTPUT, CANDIDATES[0]):
        open_ones = [(0, "batch", "batch"), (1, "boxes", "height")]  # the number of boxes follows the height
        for name in outputs:
            axes[name] = {number: shown for number, shown, axis in open_ones if axis in dynamic}
    elif len(outputs) != len(NMS_OUTPUTS) or outputs[0] != NMS_OUTPUTS[0]:
        for name in outputs:
            names = ((0, "batch", "batch"), (2, "height", f"{name}_height"), (3, "width", f"{name}_width"))
            axes[name] = {number: shown for number, axis, shown in names if axis in dynamic}
    return axes


def clamp_int64(graph: OnnxModel) -> None:
    """Brings the whole numbers of an ONNX graph into 32 bits: torch ends a slice at 2^63 - 1, beyond what some read."""
    onnx = import_package("onnx")
    constants = [item.t for node in graph.graph.node for item in node.attribute if item.HasField("t")]
    for tensor in (*graph.graph.initializer, *constants):
        if tensor.data_type == onnx.TensorProto.INT64:
            values = onnx.numpy_helper.to_array(tensor)
            clamped = np.asarray(values.clip(INT32.min, INT32.max))
            if (clamped != values).any():
                tensor.CopyFrom(onnx.numpy_helper.from_array(clamped, tensor.name))


def check_nam(graph: OnnxModel, layers: list[str]) -> None:
    """ValueError where NAM's channel part in one of these layers is other than Mul, Add, Sigmoid, Mul in an ONNX graph.

    They are found by their sigmoid, whose name has its layer's, and followed from there; other programs may rename.
    Where weights of two layers are the same, as before a training, one has them by way of an Identity.
    """
    maker = {name: node for node in graph.graph.node if node.op_type != "Identity" for name in node.output}
    for layer in layers:
        scope = re.compile(layer_pattern(layer))
        gates = [node for node in graph.graph.node if node.op_type == "Sigmoid" and scope.search(node.name)]
        found = []
        for gate in gates:
            add = maker.get(gate.input[0])
            first = [maker[name].op_type for name in add.input if name in maker] if add is not None else []
            after = [node.op_type for node in graph.graph.node if gate.output[0] in node.input]
            found.append([*first, *([add.op_type] if add is not None else []), gate.op_type, *after])
        if found != [NAM_NODES]:
            raise ValueError(f"NAM at {layer} came out as {found}, where one {NAM_NODES} is wanted")


def layer_pattern(layer: str) -> str:
    """What is in the names of a layer's nodes, as a regular expression; a list's own name may come between."""
    return "/" + re.sub(r"\.(?!\d)", r"/(?:\\w+/)?", layer) + "/"


def write_openvino(
    model: ExportModel, images: Tensor, metadata: Metadata, folder: Path, settings: OnnxSettings
) -> None:
    """<folder>/<name>.xml and .bin by way of ONNX; weights in FP16 where the metadata's precision says so."""
    openvino = import_package("openvino")
    stem = folder.name.removesuffix("_openvino_model")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        file = Path(scratch) / "network.onnx"
        write_onnx(model, images, metadata, file, settings)
        try:
            network = openvino.convert_model(str(file))
        except RuntimeError as error:
            raise ValueError(f"OpenVINO cannot convert it: {reason(error)}") from error
    network.set_rt_info(json.dumps(metadata.to_text(), ensure_ascii=False), OPENVINO_PLACE)
    is_half = metadata.details.get("precision") == "fp16"
    save_openvino(network, folder / f"{stem}.xml", is_half)


def save_openvino(network: OpenvinoModel, path: Path, is_half: bool = False) -> None:
    """Write an OpenVINO network as .xml and .bin; OSError if that cannot be done."""
    openvino = import_package("openvino")
    try:
        openvino.save_model(network, str(path), compress_to_fp16=is_half)
    except RuntimeError as error:
        raise OSError(f"{path.name} cannot be written, there may be no space on the disk: {reason(error)}") from error
    if not path.with_suffix(".bin").is_file() or not path.read_bytes().rstrip().endswith(b"</net>"):
        raise OSError(f"{path.name} was not written whole, there may be no space on the disk")


def import_package(name: str) -> ModuleType:
    """A package that export.py needs for a format; ImportError with the command that installs it."""
    try:
        if name == "onnx":
            import onnx as found
        elif name == "onnxslim":
            import onnxslim as found
        elif name == "onnxscript":
            import onnxscript as found
        else:
            found = import_openvino()
    except ImportError as error:
        raise ImportError(f"{name} is missing: pip install -r requirements-export.txt") from error
    return found
