"""Makes an OpenVINO network compute in INT8, by NNCF and images of a data set; the head and NAM stay as they are.

A box of 0..640 pixels and a score of 0..1 in one tensor would share one scale, on which all scores become 0: so the
head is left out. Activations get a scale with a zero of its own (NNCF's preset MIXED): SiLU's least value is -0.28 and
its largest may be 20, so that a scale which is the same on both sides of 0 wastes nearly half of its 256 steps. On
yolov5n and BCCD at 640 px that is mAP@.5:.95 0.248 in place of 0.220, where FP32 has 0.253.
"""

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.exporters.onnx import ExportModel, import_package, layer_pattern, nam_layers, save_openvino
from models.runtimes.base import preserve_logging, require_package
from models.runtimes.load import OPENVINO_PLACE, find_xml, openvino_core
from models.runtimes.metadata import Metadata

CALIBRATION_IMAGES = 300


@preserve_logging()
def quantize_openvino(folder: Path, model: ExportModel, metadata: Metadata, batches: Iterable[Tensor]) -> None:
    """Replaces the FP32 network in an OpenVINO folder by an INT8 one, and the precision that its metadata states.

    batches: images (B, 3, H, W) of 0..255 to fit the scales to, in batches of any length and of the file's own size.
    """
    os.environ.setdefault("NNCF_CI", "1")  # else it reports its use to its makers
    openvino = import_package("openvino")  # first: so NNCF finds no telemetry package either
    with require_package("nncf", "export.py --int8"):
        import nncf
    nncf.set_log_level(logging.ERROR)
    xml = find_xml(folder)
    network = openvino_core(openvino).read_model(str(xml))
    layers = [*nam_layers(model.network), f"model.{len(model.network.model) - 1}"]
    kept = nncf.IgnoredScope(patterns=[f".*{layer_pattern(layer)}.*" for layer in layers])
    images = list(islice(calibration_images(batches, metadata.batch), max(CALIBRATION_IMAGES // metadata.batch, 1)))
    if not images:
        raise ValueError(f"--int8: the data set has less than one batch of {metadata.batch} images to calibrate with")
    try:
        result = nncf.quantize(
            network,
            nncf.Dataset(images),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            ignored_scope=kept,
        )
    except (RuntimeError, ValueError, nncf.ValidationError) as error:
        raise ValueError(f"NNCF cannot quantize it: {str(error).strip().splitlines()[0][:200]}") from error
    details = metadata.details | {"precision": "int8", "calibration_images": str(len(images) * metadata.batch)}
    texts = replace(metadata, details=details).to_text()
    result.set_rt_info(json.dumps(texts, ensure_ascii=False), OPENVINO_PLACE)
    scratch = xml.with_name("int8.xml")  # the FP32 weights are read while this is written
    save_openvino(result, scratch)
    del network, result
    for suffix in (".xml", ".bin"):
        scratch.with_suffix(suffix).replace(xml.with_suffix(suffix))


def calibration_images(batches: Iterable[Tensor], size: int) -> Iterable[np.ndarray]:
    """Images (size, 3, H, W) float32 in 0..1 of batches of any length in 0..255; what is left over is not used."""
    waiting = torch.zeros(0)
    for batch in batches:
        part = batch.float() / 255
        waiting = torch.cat((waiting, part)) if len(waiting) else part
        while len(waiting) >= size:
            yield waiting[:size].numpy()
            waiting = waiting[size:]
