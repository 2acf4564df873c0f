"""TensorRT engines, by the Python API of TensorRT 10 and 11: what lies in the file, and its run on tensors of a GPU.

A file of export.py is 4 bytes, the length of what follows (little-endian); JSON, what the file says of itself; and the
plan, TensorRT's own. A file that is a plan alone, as v6.1 and trtexec write it, is read too: its names come from the
ONNX file that `export.py --trtexec` leaves beside it, else from --data.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from models.runtimes.base import Names, Runtime, describe, require_package
from models.runtimes.metadata import Metadata
from models.runtimes.onnx_header import Shape, read_onnx_header
from utils.files.reading import parse_json
from utils.general import LOGGER

LENGTH_BYTES = 4
MAX_TEXT = 16 << 20  # bytes; a plan's first four, as a length, are far above it
ONNX_SUFFIX = "_tensorrt.onnx"  # after the stem of the weights: the ONNX file for trtexec
INSTALL = ", or give --trtexec for the command that builds it elsewhere"
PLUGIN_OUTPUTS = ("num_dets", "boxes", "scores", "classes")  # of an engine with NMS inside, in the order of NMS_OUTPUTS
TORCH_TYPES = {  # by the names of TensorRT's DataType
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "BOOL": torch.bool,
}
Logger = Any  # a tensorrt.ILogger; the package is optional
Engine = Any  # tensorrt.ICudaEngine
Plan = bytes | memoryview  # anything with the bytes of a plan


def import_tensorrt(what: str, hint: str = "") -> ModuleType:
    """The package; ImportError with the command that installs it."""
    with require_package("tensorrt", what, hint):
        import tensorrt as trt
    return trt


def check_gpu(device: torch.device, what: str) -> None:
    """ValueError where the device is no GPU, which TensorRT cannot do without."""
    if device.type != "cuda":
        found = "give --device 0" if torch.cuda.is_available() else "there is none that torch can use"
        raise ValueError(f"{what} needs an NVIDIA GPU: {found}")


def new_logger(trt: ModuleType, verbose: bool = False) -> Logger:
    """Where TensorRT's messages go: warnings to ours, all with `verbose`; `errors` keeps its errors."""
    severity = trt.ILogger.Severity

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, level: object, text: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                self.errors.append(text.strip())
                LOGGER.debug(f"TensorRT: {text}")
            elif level == severity.WARNING:
                LOGGER.warning(f"TensorRT: {text}")
            elif verbose:
                LOGGER.info(f"TensorRT: {text}")

    return Log()


def load_plugins(trt: ModuleType, log: Logger) -> None:
    """Makes TensorRT's own plug-ins known, EfficientNMS_TRT among them; ValueError where that fails."""
    if not trt.init_libnvinfer_plugins(log, ""):
        raise ValueError(f"TensorRT {trt.__version__} cannot load its plug-ins: {last_error(log)}")


def last_error(log: Logger) -> str:
    """The last error that TensorRT told of, in one line."""
    lines = log.errors[-1].splitlines() if log.errors else []
    return lines[0][:300] if lines else "it does not say why"


# The file -------------------------------------------------------------------------------------------------------------


def write_engine(path: Path, metadata: Metadata, plan: Plan) -> None:
    """Writes the length, what the file says of itself, and the plan."""
    text = metadata.to_json().encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(LENGTH_BYTES, "little"))
        file.write(text)
        file.write(plan)


def read_engine(path: Path) -> tuple[dict[str, object], Plan]:
    """What an engine's file says of itself, {} where it says nothing, and its plan; ValueError where it is no such."""
    content = memoryview(path.read_bytes())
    if len(content) <= LENGTH_BYTES:
        raise ValueError(f"{path}: not a TensorRT engine, or a damaged one")
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    if length > MAX_TEXT:
        return {}, content
    text, plan = content[LENGTH_BYTES : LENGTH_BYTES + length], content[LENGTH_BYTES + length :]
    try:
        texts = parse_json(bytes(text))
    except ValueError as error:
        raise ValueError(f"{path}: not a TensorRT engine, or a damaged one") from error
    if not isinstance(texts, dict) or not len(plan):
        raise ValueError(f"{path}: not a TensorRT engine, or a damaged one")
    return texts, plan


def origin(trt: ModuleType, device: torch.device) -> dict[str, str]:
    """What an engine is bound to: the version of TensorRT and the kind of GPU that it was built with."""
    major, minor = torch.cuda.get_device_capability(device)
    return {
        "tensorrt": trt.__version__,
        "gpu": torch.cuda.get_device_name(device),
        "compute_capability": f"{major}.{minor}",
    }


def check_origin(path: Path, texts: Mapping[str, object], here: Mapping[str, str]) -> None:
    """ValueError where an engine was built with another version of TensorRT, or for another kind of GPU."""
    for key, name in (("tensorrt", "TensorRT"), ("compute_capability", "GPUs of compute capability")):
        if str(texts.get(key, here[key])) != here[key]:
            raise ValueError(
                f"{path}: was built for {name} {texts[key]} ({texts.get('gpu', 'unknown GPU')}), here is {here[key]} "
                f"({here['gpu']}); export it again on this machine"
            )


def texts_beside(path: Path) -> dict[str, str]:
    """What the ONNX file says that trtexec made an engine of, {} where it does not lie beside it."""
    onnx = path.with_name(path.stem + ONNX_SUFFIX)
    return read_onnx_header(onnx).texts if onnx.is_file() else {}


# The run --------------------------------------------------------------------------------------------------------------


class EngineRuntime(Runtime):
    """A TensorRT engine on the GPU that it was built for; it takes the shapes that its profile allows."""

    def __init__(self, path: Path, device: torch.device, names: Names, threads: int = 0) -> None:
        del threads
        check_gpu(device, f"{path}")
        texts, plan = read_engine(path)
        trt = import_tensorrt(str(path))
        check_origin(path, texts, origin(trt, device))
        LOGGER.warning(f"{path}: is machine code, which can do anything that a program can; use your own only")
        log = new_logger(trt)
        load_plugins(trt, log)
        runtime = trt.Runtime(log)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ValueError(
                f"{path}: TensorRT {trt.__version__} cannot load it, most often as another version or GPU built it, "
                f"or it is damaged: {last_error(log)}"
            )
        context = engine.create_execution_context()
        if context is None:
            raise ValueError(f"{path}: TensorRT has no memory to run it: {last_error(log)}")
        inputs, outputs = tensor_names(trt, engine)
        if len(inputs) != 1:
            raise ValueError(f"{path}: takes {len(inputs)} tensors; wanted is a detector of images (B, 3, H, W)")
        shape = tuple(size if size >= 0 else None for size in engine.get_tensor_shape(inputs[0]))
        super().__init__(describe(path, texts or texts_beside(path), shape, names), device)
        self.input, self.device = inputs[0], device
        self.types = {name: torch_type(engine.get_tensor_dtype(name)) for name in (*inputs, *outputs)}
        self.shapes = profile_shapes(engine, self.input, shape)
        self.context, self.log, self.outputs_named = context, log, outputs
        self.kept = (runtime, engine)  # the context works on them
        self.stream = torch.cuda.Stream(device)

    def compute(self, images: Tensor) -> list[Tensor]:
        """See Runtime. More images than the profile allows are computed in parts."""
        low, high = self.shapes
        if any(not a <= size <= b for a, size, b in zip(low[1:], images.shape[1:], high[1:], strict=True)):
            ranges = [f"{a}" if a == b else f"{a} to {b}" for a, b in zip(low[2:], high[2:], strict=True)]
            raise ValueError(f"it was built for heights of {ranges[0]} and widths of {ranges[1]} pixels")
        parts = [self.compute_part(group) for group in images.split(high[0])]
        return [torch.cat(found) for found in zip(*parts, strict=True)]

    def compute_part(self, images: Tensor) -> list[Tensor]:
        """The engine's outputs for images (B, 3, H, W) that its profile allows."""
        context = self.context
        images = images.to(self.device, self.types[self.input]).contiguous()
        if not context.set_input_shape(self.input, tuple(images.shape)):
            raise ValueError(f"TensorRT refuses this shape: {last_error(self.log)}")
        found = []
        for name in self.outputs_named:
            shape = tuple(context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise ValueError(f"output {name} has no fixed shape {shape} for these images")
            found.append(torch.empty(shape, dtype=self.types[name], device=self.device))
        for name, tensor in zip((self.input, *self.outputs_named), (images, *found), strict=True):
            if not context.set_tensor_address(name, tensor.data_ptr()):
                raise ValueError(f"TensorRT refuses the place of {name}: {last_error(self.log)}")
        self.stream.wait_stream(torch.cuda.current_stream(self.device))  # which makes the images
        is_started = context.execute_async_v3(self.stream.cuda_stream)
        self.stream.synchronize()
        if not is_started:
            raise ValueError(f"TensorRT cannot compute it: {last_error(self.log)}")
        return found


def tensor_names(trt: ModuleType, engine: Engine) -> tuple[list[str], list[str]]:
    """The names of an engine's inputs and outputs, those of an NMS inside in the order of NMS_OUTPUTS."""
    named = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = [name for name in named if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in named if name not in inputs]
    return inputs, list(PLUGIN_OUTPUTS) if set(outputs) == set(PLUGIN_OUTPUTS) else outputs


def torch_type(kind: Any) -> torch.dtype:  # noqa: ANN401 a tensorrt.DataType
    """torch's type for one of TensorRT's; ValueError where it has none."""
    if kind.name not in TORCH_TYPES:
        raise ValueError(f"an engine with a tensor of {kind.name}, which torch does not have")
    return TORCH_TYPES[kind.name]


def profile_shapes(engine: Engine, name: str, shape: Shape) -> tuple[Sequence[int], Sequence[int]]:
    """The smallest and the largest shape of an input in an engine's first profile."""
    if None not in shape:
        fixed = tuple(size for size in shape if size is not None)
        return fixed, fixed
    low, _, high = engine.get_tensor_profile_shape(name, 0)
    return tuple(low), tuple(high)
