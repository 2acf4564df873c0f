"""Writes a network for apps: ExecuTorch and LiteRT (TensorFlow Lite), both in FP32 or FP16.

In FP16 an ExecuTorch file computes all but its boxes in FP16, with weights in FP32, as XNNPACK has it; a TFLite file
keeps its weights in FP16 and computes in FP32.
"""

import contextlib
import copy
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.blocks.head import Detect
from models.exporters.nam_chains import Operator, check_gates, summed_layers
from models.exporters.onnx import NAM_NODES, ExportModel, as_user_error, nam_layers, quiet
from models.exporters.torch_files import nam_nodes, strip_gain, trace
from models.runtimes.base import preserve_logging, reason, require_package
from models.runtimes.metadata import Metadata
from models.runtimes.mobile_apps import EXECUTORCH_HINT, NOISY, TFLITE_HINT
from models.runtimes.sealed import seal
from utils.general import LOGGER

METADATA_METHOD = "metadata"  # of a .pte file: gives the JSON to an app, which has no other way to it
EdgeProgram = Any  # executorch.exir.EdgeProgramManager; the package is optional


class Swish(nn.Module):
    """x * sigmoid(x) by two operators; torch computes its own SiLU of FP16 in FP32, which cuts a graph into pieces."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> same."""
        return x * torch.sigmoid(x)


def in_precision(model: ExportModel, metadata: Metadata) -> tuple[ExportModel, torch.dtype]:
    """A copy on the CPU of a model in FP32, in FP16 where the metadata say so, and the type of its images.

    What decodes boxes stays in FP32: the anchors and strides too, which are no more than numbers on their way.
    """
    model = copy.deepcopy(model).cpu()
    if metadata.details["precision"] != "fp16":
        return model, torch.float32
    kept = [(head, head.anchors, head.stride) for head in model.modules() if isinstance(head, Detect)]
    model.half()
    for head, anchors, stride in kept:
        head.anchors, head.stride = anchors, stride
    for module in [*model.modules()]:
        for name, child in module.named_children():
            if isinstance(child, nn.SiLU):
                setattr(module, name, Swish())
    return model, torch.float16


# ExecuTorch -----------------------------------------------------------------------------------------------------------


def write_executorch(model: ExportModel, images: Tensor, metadata: Metadata, path: Path) -> None:
    """A .pte file for XNNPACK with its metadata behind it, and in it as the method `metadata`.

    model is in FP32; of it, and of the images that the file takes, the metadata say the precision. ValueError where
    ExecuTorch cannot lower it, or NAM is not four operators in it.
    """
    with require_package("executorch", "export.py --include executorch", EXECUTORCH_HINT), preserve_logging(NOISY):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
        from executorch.exir.passes.constant_prop_pass import constant_prop_pass
    model, dtype = in_precision(model, metadata)
    if dtype == torch.float16:
        LOGGER.warning(
            "executorch: it computes in FP16, but XNNPACK stores the weights in FP32: the file is no smaller"
        )
    try:
        with quiet(), preserve_logging(NOISY), torch.no_grad():
            program = trace(model, images.cpu().to(dtype), metadata)
            program = constant_prop_pass(program.run_decompositions({}))  # cells and strides of the head's boxes
            constants = {METADATA_METHOD: metadata.to_json()}
            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()], constant_methods=constants)
            check_lowered(edge, nam_layers(model.network))
            network = bytes(edge.to_executorch().buffer)
    except (RuntimeError, NotImplementedError, AssertionError, TypeError) as error:
        raise ValueError(f"ExecuTorch cannot lower it: {reason(error)}") from error
    seal(network, metadata, path)


def check_lowered(edge: EdgeProgram, layers: Sequence[str]) -> None:
    """ValueError where NAM's channel part in one of these layers is other than Mul, Add, Sigmoid, Mul for XNNPACK."""
    main = edge.exported_program()
    parts = [getattr(part, "original_module", None) for part in main.graph_module.children()]
    for layer in layers:
        found = [nam_nodes(part, f"network.{layer}.Channel_Att") for part in parts if part is not None]
        gates = [nodes for nodes in found if nodes]
        if len(gates) != 1 or strip_gain(gates[0]) != NAM_NODES:
            raise ValueError(f"NAM at {layer} came out as {gates}, where one {NAM_NODES} is wanted")


# LiteRT ---------------------------------------------------------------------------------------------------------------


def write_tflite(model: ExportModel, images: Tensor, metadata: Metadata, path: Path) -> None:
    """A .tflite file for images (B, H, W, 3) in 0..1, with its metadata behind it; weights in FP16 where that says so.

    model and images are in FP32. ValueError where LiteRT cannot convert it, or NAM is not four operators in it.
    """
    with require_package("litert-torch", "export.py --include tflite", TFLITE_HINT), preserve_logging(NOISY):
        import litert_torch
    is_half = metadata.details["precision"] == "fp16"
    model, pixels = copy.deepcopy(model).cpu(), images.cpu().float().permute(0, 2, 3, 1).contiguous()
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        file = Path(scratch) / "network.tflite"
        try:
            with (
                quiet(),
                preserve_logging(NOISY),
                torch.no_grad(),
                contextlib.redirect_stdout(io.StringIO()),
                as_user_error("a TFLite file"),
            ):
                last = litert_torch.to_channel_last_io(model, args=[0]).eval()
                litert_torch.convert(last, (pixels,)).export(str(file))
                network = halved(file) if is_half else file.read_bytes()
        except (NotImplementedError, AssertionError, TypeError, LookupError) as error:
            raise ValueError(f"LiteRT cannot convert it: {reason(error)}") from error
    check_gates(tflite_operators(network), summed_layers(model.network), ("MUL", "ADD", "LOGISTIC", "MUL"))
    seal(network, metadata, path)


def halved(file: Path) -> bytes:
    """The network of a file with its weights in FP16, which the runtime turns back into FP32."""
    with require_package("ai-edge-quantizer", "export.py --include tflite --half", TFLITE_HINT):
        from ai_edge_quantizer import qtyping, quantizer
    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    settings = qtyping.OpQuantizationConfig(
        weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
    )
    work = quantizer.Quantizer(str(file))
    work.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=settings,
        algorithm_key="float_casting",
    )
    with contextlib.redirect_stderr(io.StringIO()):  # its progress
        return bytes(work.quantize().quantized_model)


def tflite_operators(network: bytes) -> list[Operator]:
    """The operators of a TFLite network that export.py has just made; no file of others is read so."""
    with require_package("ai-edge-litert", "export.py --include tflite", TFLITE_HINT):
        from ai_edge_litert import schema_py_generated as schema
    model = schema.ModelT.InitFromPackedBuf(network, 0)
    (graph,) = model.subgraphs
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    codes = [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
    return [
        Operator(codes[node.opcodeIndex], tuple(str(i) for i in node.inputs), str(node.outputs[0]))
        for node in graph.operators
    ]
