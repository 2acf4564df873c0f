"""Writes a network for Apple's devices: an .mlpackage with a graph that Core ML compiles on the device."""

import contextlib
import copy
import hashlib
import io
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.exporters.compare import Comparison, Limits, check_images, compare
from models.exporters.coreml_graph import GraphRuntime, MilOperation, UnknownOperatorError, coreml_operators
from models.exporters.nam_chains import check_gates, summed_layers
from models.exporters.onnx import ExportModel, quiet
from models.exporters.torch_files import trace
from models.runtimes.base import preserve_logging, reason, require_package
from models.runtimes.coreml import COREML_HINT, COREML_INPUT, COREML_OUTPUT, SPEC, WEIGHTS, WEIGHTS_HASH, check_package
from models.runtimes.metadata import Metadata
from utils.general import LOGGER

MAP_AXES = 4  # B, C, H, W
OWN_MARKS = "executorch_debug_handle_mapping.json"  # written for any network of torch.export; no part of the package


def write_coreml(model: ExportModel, images: Tensor, metadata: Metadata, folder: Path) -> None:
    """An ML program for iOS 16, macOS 13 and later, in the metadata's precision; boxes stay in FP32.

    model is in FP32. The metadata are user-defined ones, which Xcode shows. ValueError where coremltools cannot convert
    it, or NAM is not four operators in it.
    """
    with require_package("coremltools", "export.py --include coreml", COREML_HINT), preserve_logging("coremltools"):
        import coremltools as ct
    model = copy.deepcopy(model).cpu()
    is_half = metadata.details["precision"] == "fp16"
    precision = ct.transform.FP16ComputePrecision(op_selector=of_map) if is_half else ct.precision.FLOAT32
    passes = ct.PassPipeline.DEFAULT
    passes.remove_passes({"common::fuse_elementwise_to_batchnorm"})  # NAM's product and sum are no batch norm any more
    program = trace(model, images.cpu().float(), metadata).run_decompositions({})
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / folder.name
        try:
            with quiet(), preserve_logging("coremltools"), contextlib.redirect_stderr(io.StringIO()):
                network = ct.convert(
                    program,
                    convert_to="mlprogram",
                    inputs=[ct.TensorType(name=COREML_INPUT, shape=tuple(images.shape), dtype=np.float32)],
                    outputs=[ct.TensorType(name=COREML_OUTPUT, dtype=np.float32)],
                    compute_precision=precision,
                    minimum_deployment_target=ct.target.iOS16,
                    pass_pipeline=passes,
                    skip_model_load=True,
                )
            network.save(str(package))
        except (RuntimeError, ValueError, NotImplementedError, TypeError, LookupError) as error:
            raise ValueError(f"coremltools cannot convert it: {reason(error)}") from error
        (package / OWN_MARKS).unlink(missing_ok=True)
        check_package(package)
        mark(package, metadata)
        check_gates(coreml_operators(package), summed_layers(model.network), ("mul", "add", "sigmoid", "mul"))
        for file in (part for part in package.rglob("*") if part.is_file()):
            target = folder / file.relative_to(package)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())


def of_map(operation: MilOperation) -> bool:
    """Whether an operator gives a map (B, C, H, W), which FP16 is enough for; boxes have other shapes."""
    return all(output.rank == MAP_AXES for output in operation.outputs)


def mark(package: Path, metadata: Metadata) -> None:
    """Writes what a package is to say of itself, and the hash of its weights, into its graph."""
    from coremltools.proto.Model_pb2 import Model

    digest = hashlib.sha256((package / WEIGHTS).read_bytes()).hexdigest()
    spec = Model()
    spec.ParseFromString((package / SPEC).read_bytes())
    texts = replace(metadata, details=metadata.details | {WEIGHTS_HASH: digest}).to_text()
    spec.description.metadata.userDefined.update(texts)
    what = "boxes xywh in pixels, objectness and scores"
    spec.description.metadata.shortDescription = f"Detector of {metadata.nc} classes: {what}"
    (package / SPEC).write_bytes(spec.SerializeToString())


def compare_graph(package: Path, model: ExportModel, device: torch.device, limits: Limits) -> Comparison:
    """The differences between a network, on that device, and the graph in its package, computed by torch.

    That takes no Mac. The milliseconds are NaN, as Core ML has not run; so is all where an operator is not known here.
    """
    LOGGER.warning("coreml: this is no Mac: the file is not run, but torch computes its graph and weights to compare")
    try:
        runtime = GraphRuntime(package, torch.device("cpu"))
    except UnknownOperatorError as error:
        LOGGER.warning(f"coreml: its graph is not computed either: {error}")
        return Comparison(math.nan, math.nan, math.nan, math.nan, ())
    images = [batch.to(device) for batch in check_images(runtime.metadata)]
    return replace(compare(runtime, model, images, limits), ms=math.nan)
