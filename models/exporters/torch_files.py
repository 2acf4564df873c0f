"""Writes a network in torch's newer formats: pt2 by torch.export or AOTInductor, and safetensors."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from models.exporters.dynamo import open_dims
from models.exporters.onnx import NAM_NODES, ExportModel, as_user_error, nam_layers, quiet
from models.runtimes.base import METADATA_FILE, require_package
from models.runtimes.metadata import Metadata
from models.runtimes.torch_files import EXTRA_ENTRY, METADATA_KEY, YAML_KEY

COMPILERS = ("c++", "g++", "clang++")
OPERATORS = {"mul.Tensor": "Mul", "add.Tensor": "Add", "sigmoid.default": "Sigmoid"}  # of torch, as ONNX has them


def write_pt2(model: ExportModel, images: Tensor, metadata: Metadata, path: Path, aoti: bool) -> None:
    """A network of torch.export, or with `aoti` its machine code; ValueError where NAM is not four operators in it."""
    program = trace(model, images, metadata)
    if not aoti:
        content = io.BytesIO()  # torch's own writer ends the process where the disk is full
        torch.export.save(program, content, extra_files={METADATA_FILE: metadata.to_json()})
        path.write_bytes(content.getbuffer())
        return
    if images.device.type == "cpu" and images.dtype == torch.float16:
        raise ValueError("--aoti with --half is for a GPU: on a CPU the code would compute in FP16, which is slower")
    if not any(shutil.which(name) for name in COMPILERS):
        raise ValueError(f"--aoti: needs a C++ compiler, one of {', '.join(COMPILERS)}; without the flag none is used")
    package = io.BytesIO()
    with quiet(), as_user_error("AOTInductor's code"):
        torch._inductor.aoti_compile_and_package(program, package_path=package)
    path.write_bytes(package.getbuffer())
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/{EXTRA_ENTRY}", metadata.to_json())


def trace(model: ExportModel, images: Tensor, metadata: Metadata) -> torch.export.ExportedProgram:
    """The network as torch.export sees it, for any batch and size where the metadata has these axes open."""
    images, axes = open_dims(images, metadata)
    with quiet(), torch.no_grad(), as_user_error("a pt2 file"):
        program = torch.export.export(model, (images,), dynamic_shapes={"images": axes} if axes else None)
    for layer in nam_layers(model.network):
        found = nam_nodes(program, f"network.{layer}.Channel_Att")
        if strip_gain(found) != NAM_NODES:
            raise ValueError(f"NAM at {layer} came out as {found}, where {NAM_NODES} is wanted")
    return program


def nam_nodes(program: torch.export.ExportedProgram, layer: str) -> list[str]:
    """The operators of a layer, as ONNX calls those that NAM has; views of its weights are none."""
    found = []
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        owners = [name.removeprefix("L['self'].") for name, _ in node.meta.get("nn_module_stack", {}).values()]
        name = getattr(node.target, "__name__", "").removeprefix("aten.")  # in ExecuTorch's dialect
        if layer in owners and not name.startswith(("view", "reshape")):
            found.append(OPERATORS.get(name, name))
    return found


def strip_gain(nodes: list[str]) -> list[str]:
    """The operators of NAM's channel part without the one more that gain_out is."""
    return nodes[:-1] if len(nodes) == len(NAM_NODES) + 1 and nodes[-1] == "Mul" else nodes


def write_safetensors(network: nn.Module, metadata: Metadata, path: Path) -> None:
    """The weights of a network (not fused) with its yaml and metadata as JSON in the header."""
    with require_package("safetensors", "export.py --include safetensors"):
        from safetensors.torch import save
    is_half = metadata.details["precision"] == "fp16"
    state = {
        name: (value.half() if is_half and value.is_floating_point() else value).detach().cpu().contiguous().clone()
        for name, value in network.state_dict().items()
    }
    header = {METADATA_KEY: metadata.to_json(), YAML_KEY: json.dumps(network.yaml, ensure_ascii=False)}
    path.write_bytes(save(state, metadata=header))
