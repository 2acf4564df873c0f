"""Networks in torch's newer formats: pt2 of torch.export or AOTInductor, and safetensors, which holds weights only.

A pt2 file is a program: torch evaluates the formulas of sizes in it, and AOTInductor's are machine code. It is loaded
only as models/runtimes/trust.py has it. What it says of itself is read here, and nothing is run for that.
"""

import math
from pathlib import Path

import torch
from torch import Tensor

from models.experimental import network_of
from models.runtimes.base import METADATA_FILE, Names, Runtime, own_metadata, require_package
from models.runtimes.metadata import Metadata
from models.spec.budget import MOST_NUMBERS
from utils.files.archives import DAMAGED, open_archive, read_entry
from utils.files.checkpoint import Checkpoint
from utils.files.reading import MOST_JSON, parse_json
from utils.general import LOGGER

EXTRA_ENTRY = f"extra/{METADATA_FILE}"
AOTI_FOLDER = "data/aotinductor/"
METADATA_KEY, YAML_KEY = "metadata", "yaml"  # in a safetensors header


class Pt2Runtime(Runtime):
    """A network of torch.export, or machine code of AOTInductor; it computes on the kind of device it was made on.

    Weights of FP16 are computed in FP32 on a CPU, as FP16 gains nothing there and costs precision.
    """

    def __init__(self, path: Path, device: torch.device, names: Names, threads: int = 0) -> None:
        del names
        metadata, is_code = read_pt2(path)
        made_on = metadata.details.get("device", device.type)
        if made_on != device.type:
            raise ValueError(f"{path}: was exported for {made_on}; use --device {made_on}, or export it for this one")
        super().__init__(metadata, device)
        if threads:
            torch.set_num_threads(threads)
        try:
            if is_code:
                LOGGER.warning(f"{path}: is machine code, which can do anything that a program can; use your own only")
                found = torch._inductor.aoti_load_package(str(path))
            else:
                # Its guards refuse a side of one stride, and images in another layout, though it computes them.
                found = torch.export.load(str(path)).module(check_guards=False)
        except Exception as error:  # of classes that differ with what is damaged
            raise ValueError(f"{path}: not a pt2 file that this torch reads: {_first_line(error)}") from error
        is_half = metadata.details.get("precision") == "fp16" and device.type != "cpu"
        if metadata.details.get("precision") == "fp16" and not is_half and not is_code:
            found = in_fp32(found)
        self.network = (found,)  # no submodule: what torch.export made refuses eval()
        self.dtype = torch.float16 if is_half else torch.float32

    def compute(self, images: Tensor) -> list[Tensor]:
        """See Runtime."""
        with torch.no_grad():
            return [self.network[0](images.to(self.dtype).contiguous())]


def in_fp32(network: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """The network of a program of FP16, made to compute in FP32: without what checks that numbers are of FP16."""
    for node in list(network.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            network.graph.erase_node(node)
    network.recompile()
    return network.float()


def read_pt2(path: Path) -> tuple[Metadata, bool]:
    """What a pt2 file says of itself, and whether it is machine code; ValueError where it is none."""
    try:
        with open_archive(path) as (archive, entries):
            content = parse_json(read_entry(archive, entries[EXTRA_ENTRY], MOST_JSON))
    except (*DAMAGED, KeyError, ValueError) as error:
        told = f": {error}" if type(error) is ValueError else ""
        raise ValueError(f"{path}: not a pt2 file of export.py, or a damaged one{told}") from error
    return own_metadata(path, content), any(name.startswith(AOTI_FOLDER) for name in entries)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class SafetensorsRuntime(Runtime):
    """The weights of a network beside the yaml that it is built from; trained ones, with their norms apart."""

    def __init__(self, path: Path, device: torch.device, names: Names, threads: int = 0) -> None:
        del names
        with require_package("safetensors", str(path)):
            from safetensors import SafetensorError, safe_open
        try:
            with safe_open(str(path), framework="pt") as file:
                header = file.metadata() or {}
                count = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
                if count > MOST_NUMBERS:
                    raise ValueError(f"it has {count} numbers, {MOST_NUMBERS} are possible")
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no mapping
            content, yaml = (parse_json(header[key]) for key in (METADATA_KEY, YAML_KEY))
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path}: not a safetensors file, or a damaged one: {_first_line(error)}") from error
        except KeyError as error:
            raise ValueError(f"{path}: has weights only, no yaml of their network; export it with export.py") from error
        if not isinstance(yaml, dict):
            raise ValueError(f"{path}: damaged: its yaml is a {type(yaml).__name__}, not a mapping; export it again")
        metadata = own_metadata(path, content)
        super().__init__(metadata, device)
        if threads:
            torch.set_num_threads(threads)
        state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
        self.network = network_of(path, Checkpoint(yaml, metadata.names, state, imgsz=self.imgsz), device, fuse=True)

    def compute(self, images: Tensor) -> list[Tensor]:
        """See Runtime."""
        with torch.no_grad():
            return [self.network(images)[0]]
