"""ONNX by torch's newer exporter, which takes what torch.export sees of a network (export.py --dynamo).

Its nodes are called as those of the older exporter, by the layer that they are of, so that all that looks for a layer
in a file finds it; the paths and lines of this machine, which torch puts into the file, are taken out.
"""

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.runtimes.metadata import Metadata

SCOPES = "pkg.torch.onnx.name_scopes"  # where torch says which layers a node is of, from the outermost to its own name
OnnxModel = Any  # onnx.ModelProto; the package is optional
Dims = dict[int, Any]  # torch.export.Dim or a multiple of one, by axis


def open_dims(images: Tensor, metadata: Metadata) -> tuple[Tensor, Dims]:
    """Images to trace a network with, and the axes of them that stay open, as torch.export wants them.

    Of sizes that torch does not take for the only ones that there are, as it does one image, or a square.
    """
    axes: Dims = {}
    if "batch" in metadata.dynamic:
        images = images.new_zeros(2, 3, images.shape[2], images.shape[3])
        axes[0] = torch.export.Dim("batch", min=1)
    if "height" in metadata.dynamic:
        images = images.new_zeros(*images.shape[:2], 4 * metadata.stride, 5 * metadata.stride)
        axes |= {2: metadata.stride * torch.export.Dim("h"), 3: metadata.stride * torch.export.Dim("w")}
    return images, axes


def write_by_dynamo(
    model: nn.Module, images: Tensor, metadata: Metadata, path: Path, opset: int, names: tuple[str, Sequence[str]]
) -> None:
    """An ONNX file, its weights within; RuntimeError where torch cannot. names: of the input, and of the outputs."""
    images, axes = open_dims(images, metadata)
    program = torch.onnx.export(
        model,
        (images,),
        dynamo=True,
        opset_version=opset,
        input_names=[names[0]],
        output_names=list(names[1]),
        dynamic_shapes={"images": axes} if axes else None,
        external_data=False,
        verbose=False,
    )
    program.save(str(path), external_data=False)


def tidy_dynamo(graph: OnnxModel, axes: Mapping[str, Mapping[int, str]]) -> None:
    """Names the nodes by their layers, and open axes as the older exporter does: their names by port and number."""
    counts: Counter[str] = Counter()
    for node in graph.graph.node:
        texts = {entry.key: entry.value for entry in node.metadata_props}
        name = f"{layer_path(texts[SCOPES])}/{node.op_type}" if SCOPES in texts else node.name
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name] - 1}"
        del node.metadata_props[:]
    for part in (graph.graph, *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        del part.metadata_props[:]
    del graph.graph.value_info[:]  # the shapes between the layers, in formulas; ONNX finds them itself
    for port in (*graph.graph.input, *graph.graph.output):
        for number, axis in axes.get(port.name, {}).items():
            port.type.tensor_type.shape.dim[number].dim_param = axis


def layer_path(scopes: str) -> str:
    """`/network/model.7/Channel_Att` of "['', 'network', 'network.model.7', 'network.model.7.Channel_Att', 'mul']"."""
    parts, outer = [""], ""
    for scope in ast.literal_eval(scopes)[:-1]:
        if scope:
            parts.append(scope.removeprefix(f"{outer}."))
            outer = scope
    return "/".join(parts)
