"""Core ML: a network in an .mlpackage, which is a folder. It is run by Apple's own library, on a Mac only."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.runtimes.base import Names, Runtime, own_metadata, preserve_logging, reason, require_package
from models.runtimes.metadata import Metadata
from utils.files.reading import read_json

COREML_INPUT, COREML_OUTPUT = "images", "output"
COREML_HINT = ", or -r requirements-coreml.txt"
MANIFEST = "Manifest.json"
SPEC = Path("Data", "com.apple.CoreML", "model.mlmodel")  # the graph, and what it says of itself
WEIGHTS = Path("Data", "com.apple.CoreML", "weights", "weight.bin")
WEIGHTS_HASH = "network_sha256"  # of the weights; the graph, where it is kept, is checked by its parser
Spec = Any  # coremltools' Model of protobuf; the package is optional


class CoreMLRuntime(Runtime):
    """An .mlpackage of export.py, by Core ML on whatever the Mac has for it; it has never been run by its authors."""

    errors = (Exception,)  # of classes that the package does not publish

    def __init__(self, path: Path, device: torch.device, names: Names, threads: int = 0) -> None:
        del names, threads  # Core ML decides by itself how many
        check_package(path)
        if sys.platform != "darwin":
            raise ValueError(f"{path}: Core ML runs on a Mac only; use the .onnx file here, or the checkpoint")
        with require_package("coremltools", str(path), COREML_HINT), preserve_logging("coremltools"):
            import coremltools
        metadata, _ = read_package(path)
        super().__init__(metadata, device)
        try:
            self.network = coremltools.models.MLModel(str(path))
        except self.errors as error:
            raise ValueError(f"{path}: Core ML cannot load it: {reason(error)}") from error

    def compute(self, images: Tensor) -> list[Tensor]:
        """See Runtime."""
        found = self.network.predict({COREML_INPUT: images.cpu().numpy()})
        return [torch.from_numpy(np.array(found[COREML_OUTPUT], dtype=np.float32))]


def check_package(path: Path) -> None:
    """ValueError where a folder lacks a part of a Core ML package."""
    missing = [name for name in (MANIFEST, SPEC, WEIGHTS) if not (path / name).is_file()]
    if missing:
        raise ValueError(f"{path}: has no {missing[0]}; export it again with export.py")
    read_json(path / MANIFEST)


def read_package(path: Path) -> tuple[Metadata, Spec]:
    """What a Core ML package says of itself, and its graph; ValueError where it is damaged. Works on any system."""
    check_package(path)
    with require_package("coremltools", str(path), COREML_HINT), preserve_logging("coremltools"):
        from coremltools.proto.Model_pb2 import Model
        from google.protobuf.message import DecodeError
    spec = Model()
    try:
        spec.ParseFromString((path / SPEC).read_bytes())
    except DecodeError as error:
        raise ValueError(f"{path / SPEC}: not a Core ML network, or a damaged one") from error
    texts = dict(spec.description.metadata.userDefined)
    shapes = [tuple(item.type.multiArrayType.shape) for item in spec.description.input]
    if len(shapes) != 1 or len(shapes[0]) != 4 or not spec.mlProgram.functions:
        raise ValueError(f"{path}: takes {shapes}; wanted is a detector of images (B, 3, H, W)")
    metadata = own_metadata(path, texts, shapes[0])
    if hashlib.sha256((path / WEIGHTS).read_bytes()).hexdigest() != texts.get(WEIGHTS_HASH):
        raise ValueError(f"{path / WEIGHTS}: is damaged, or of another file; export it again")
    return metadata, spec
