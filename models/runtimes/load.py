"""Networks out of files of any kind, behind one call: checkpoints, TorchScript, ONNX, OpenVINO, and others.

What is loaded is a Module that takes images (B, 3, H, W) in 0..1 and gives (decoded (B, N, 5 + nc), raw maps or []),
with `names`, `nc` and `stride`; an exported file's come from the file itself. Which runtime reads a file is told by its
suffix: a .pt is a checkpoint or it is refused. Which are loaded at all is models/runtimes/trust.py's part.

Legend: B images, N boxes, no = 5 + nc numbers of a box, K detections of a file that has its NMS inside.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from models import common
from models.experimental import attempt_load
from models.runtimes.base import (
    NMS_OUTPUTS,
    Names,
    Runtime,
    check_setting,
    describe,
    import_onnxruntime,
    import_openvino,
    own_metadata,
    reason,
)
from models.runtimes.coreml import CoreMLRuntime
from models.runtimes.kserve import RemoteRuntime
from models.runtimes.metadata import Metadata
from models.runtimes.mobile_apps import ExecuTorchRuntime, TfliteRuntime
from models.runtimes.ncnn_mnn import NCNN_PARAM, MnnRuntime, NcnnRuntime
from models.runtimes.onnx_header import FLOAT16, Shape, read_onnx_header
from models.runtimes.tensorrt import EngineRuntime, read_engine
from models.runtimes.torch_files import Pt2Runtime, SafetensorsRuntime, read_pt2
from models.runtimes.trust import admit
from utils.base.constants import PRECISIONS
from utils.files.addresses import ModelAddress, is_url
from utils.files.archives import DAMAGED, open_archive, read_entry
from utils.files.reading import MOST_JSON, open_plain, parse_json
from utils.general import LOGGER

CONFIG = "config.txt"  # where a TorchScript file keeps its metadata, as in v6.1
CONFIG_ENTRY = f"extra/{CONFIG}"
OPENVINO_PLACE = ["yolov5", "metadata"]  # in an OpenVINO file's rt_info
READABLE = (
    ".pt, .torchscript, .pt2, .safetensors, .onnx, .mnn, .engine, .pte, .tflite, "
    "an OpenVINO .xml or its folder, an ncnn folder, an .mlpackage"
)
OpenVinoCore, OpenVinoModel, OpenVinoRequest = Any, Any, Any  # Core, Model and InferRequest; the package is optional
Weights = Path | ModelAddress


class TorchScriptRuntime(Runtime):
    """A traced network; it computes on the kind of device that it was traced on."""

    def __init__(self, path: Path, device: torch.device) -> None:
        metadata = _torchscript_metadata(path)  # before any of it is built
        made_on = metadata.details.get("device", device.type)
        if made_on != device.type:
            raise ValueError(f"{path}: was exported for {made_on}; use --device {made_on}, or export it for this one")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch calls TorchScript deprecated
                network = torch.jit.load(str(path), map_location=device)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path}: not a TorchScript file, or a damaged one") from error
        super().__init__(metadata, device)
        self.network = network.eval()
        self.dtype = torch.float16 if metadata.details.get("precision") == "fp16" else torch.float32

    def compute(self, images: Tensor) -> list[Tensor]:
        """See Runtime."""
        found = self.network(images.to(self.dtype))
        first = found if isinstance(found, Tensor) else found[0]
        if not isinstance(first, Tensor):
            return list(first)
        return [first] if isinstance(found, Tensor) or first.ndim == 3 else list(found)


class OnnxRuntime(Runtime):
    """An ONNX file by ONNX Runtime, on a GPU where one is wanted and this build of it has CUDA."""

    errors = (Exception,)  # of classes that the package does not publish

    def __init__(self, path: Path, device: torch.device, names: Names, threads: int = 0) -> None:
        header = read_onnx_header(path)
        super().__init__(describe(path, header.texts, header, names), device)
        ort = import_runtime("onnxruntime", path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # its errors are raised as well
        wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
        providers = [name for name in (*wanted, "CPUExecutionProvider") if name in ort.get_available_providers()]
        if wanted and wanted[0] not in providers:
            LOGGER.warning("this ONNX Runtime has no CUDA: it computes on the CPU; onnxruntime-gpu is the one that has")
        try:
            self.session = ort.InferenceSession(str(path), options, providers=providers)
        except self.errors as error:
            raise ValueError(f"{path}: ONNX Runtime cannot load it: {reason(error)}") from error
        self.input = header.inputs[0]

    def compute(self, images: Tensor) -> list[Tensor]:
        """See Runtime."""
        array = images.cpu().numpy().astype(np.float16 if self.input.kind == FLOAT16 else np.float32)
        return [torch.from_numpy(found) for found in self.session.run(None, {self.input.name: array})]


class OpenCVRuntime(Runtime):
    """An ONNX file by OpenCV's DNN module, which needs no further package."""

    errors = (cv2.error,)

    def __init__(self, path: Path, device: torch.device, names: Names, threads: int = 0) -> None:
        header = read_onnx_header(path)
        super().__init__(describe(path, header.texts, header, names), device)
        if header.inputs[0].kind == FLOAT16:
            raise ValueError(f"{path}: is of FP16, which OpenCV does not compute; leave --dnn out or export in FP32")
        if len(header.outputs) == NMS_OUTPUTS:
            raise ValueError(f"{path}: has its NMS inside, which OpenCV cannot run; leave --dnn out")
        if threads:
            cv2.setNumThreads(threads)
        try:
            self.network = cv2.dnn.readNetFromONNX(str(path))
        except self.errors as error:
            raise ValueError(f"{path}: OpenCV {cv2.__version__} cannot load it: {reason(error)}") from error

    def compute(self, images: Tensor) -> list[Tensor]:
        """See Runtime."""
        self.network.setInput(images.cpu().numpy())
        found = self.network.forward(self.network.getUnconnectedOutLayersNames())
        return [torch.from_numpy(output) for output in found]


class OpenVinoRuntime(Runtime):
    """An OpenVINO file on the CPU, in FP32 even where the CPU has bf16, so that its boxes are PyTorch's.

    precision: another one, of which `auto` is what OpenVINO chooses: bf16 where the CPU has it. hint: with `throughput`
    several groups of a batch are computed at a time, as many as there are streams.
    """

    precisions = ("fp32", "bf16", "fp16", "auto")
    hints = ("latency", "throughput")

    def __init__(
        self,
        path: Path,
        device: torch.device,
        names: Names,
        threads: int = 0,
        precision: str = "fp32",
        hint: str = "latency",
    ) -> None:
        xml = find_xml(path)
        openvino = import_runtime("openvino", path)
        core = openvino_core(openvino)
        settings = openvino_settings(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"), precision, hint)
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            network = core.read_model(str(xml))
            shape = network.input(0).partial_shape
            taken: Shape = tuple(None if size.is_dynamic else size.get_length() for size in shape)
            texts = _rt_texts(network)
            compiled = core.compile_model(network, "CPU", settings)
        except self.errors as error:
            raise ValueError(f"{path}: OpenVINO cannot load it: {reason(error)}") from error
        super().__init__(describe(path, texts, taken, names), device)
        self.network = compiled
        self.new_queue = partial(openvino.AsyncInferQueue, compiled)
        self.queue = self.new_queue() if hint == "throughput" else None
        self.at_a_time = 1 if self.queue is not None else None
        self.seconds: list[float] = []

    def compute(self, images: Tensor) -> list[Tensor]:
        """See Runtime."""
        found = self.network([images.cpu().numpy()])
        return [torch.from_numpy(np.array(found[output])) for output in self.network.outputs]

    def compute_groups(self, groups: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """See Runtime; `seconds` then says how long each of several groups was in the queue's hands."""
        if self.queue is None or len(groups) == 1:
            return super().compute_groups(groups)
        found: dict[int, list[Tensor]] = {}
        seconds: dict[int, float] = {}

        def keep(request: OpenVinoRequest, item: tuple[int, float]) -> None:
            found[item[0]] = [torch.from_numpy(np.array(tensor.data)) for tensor in request.output_tensors]
            seconds[item[0]] = time.perf_counter() - item[1]

        self.queue.set_callback(keep)
        try:
            for i, group in enumerate(groups):
                array = group.cpu().numpy()
                self.queue.get_idle_request_id()  # waits until one is free, which is not of its time
                self.queue.start_async([array], (i, time.perf_counter()))
            self.queue.wait_all()
        except self.errors:
            self.queue = self.new_queue()  # this one would raise the same error again
            raise
        self.seconds = [seconds[i] for i in range(len(groups))]
        return iter([found[i] for i in range(len(groups))])


@cache
def openvino_core(openvino: ModuleType) -> OpenVinoCore:
    """OpenVINO's core with its plug-in for CPUs, one for the whole process, which keeps it to its end.

    Such a plug-in gives the thread a stack for signal handlers, and puts the one before it back when it goes. Where two
    go in the order in which they came, that is one whose memory is gone already: the next signal, as Ctrl-C or the end
    of a process that loads data, then kills the program.
    """
    core = openvino.Core()
    core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")  # loads the plug-in
    return core


def openvino_settings(capabilities: Sequence[str], precision: str, hint: str) -> dict[str, str]:
    """What OpenVINO is told of a precision and a hint; ValueError where this CPU, which can do these, has no such."""
    words = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
    if precision in words and precision.upper() not in capabilities:
        raise ValueError(
            f"--precision {precision}: OpenVINO says that this CPU cannot; auto takes the best that it has"
        )
    chosen = {"INFERENCE_PRECISION_HINT": words[precision]} if precision in words else {}
    return chosen | {"PERFORMANCE_HINT": hint.upper()}


def _rt_texts(network: OpenVinoModel) -> dict[str, str]:
    """The metadata in an OpenVINO network, empty where it has none that can be read."""
    if not network.has_rt_info(OPENVINO_PLACE):
        return {}
    texts = parse_json(network.get_rt_info(OPENVINO_PLACE).astype(str))
    return texts if isinstance(texts, dict) else {}


RUNTIMES = {
    "onnx": OnnxRuntime,
    "openvino": OpenVinoRuntime,
    "pt2": Pt2Runtime,
    "safetensors": SafetensorsRuntime,
    "ncnn": NcnnRuntime,
    "mnn": MnnRuntime,
    "engine": EngineRuntime,
    "remote": RemoteRuntime,
    "executorch": ExecuTorchRuntime,
    "tflite": TfliteRuntime,
    "coreml": CoreMLRuntime,
}  # what reads a kind of file, but for checkpoints and TorchScript


# Loading --------------------------------------------------------------------------------------------------------------


@cache
def warn_of_pasted_backend() -> None:
    """Warn once that the commands do not call a DetectMultiBackend of the user's."""
    LOGGER.warning(
        "models/common.py: DetectMultiBackend is pasted here, but the commands do not call it; "
        "put changes to how a file is loaded into models/runtimes/load.py"
    )


def load_backend(
    weights: str | Weights | Sequence[str | Weights],
    device: torch.device | str = "cpu",
    *,
    dnn: bool = False,
    names: Names | None = None,
    threads: int = 0,
    precision: str = "fp32",
    hint: str = "latency",
    fuse: bool = True,
    trust: bool = False,
) -> nn.Module:
    """The network of a file of any kind, or the Ensemble of several checkpoints, for inference on the device.

    An address, `http://host:8000/model`, is that of a server's network.
    dnn: ONNX by OpenCV in place of ONNX Runtime. names: called for the class names of a file that brings none.
    threads: how many the runtime may use, 0 for as many as it likes. precision: what it computes in, fp32, bf16, fp16
    or auto; hint: latency, or throughput, where it can be told so. trust: load a program of another's making, such as
    TorchScript, which may do all that the user may. ValueError, FileNotFoundError or ImportError says what is wrong
    with the file or these settings, or what to install.
    """
    if "DetectMultiBackend" in vars(common):
        warn_of_pasted_backend()
    paths = [_place(path) for path in ([weights] if isinstance(weights, str | Weights) else weights)]
    kinds = [find_kind(path) for path in paths]
    if dnn and kinds != ["onnx"]:
        raise ValueError("--dnn reads one ONNX file; name one with --weights, as export.py writes it")
    classes = RUNTIMES | ({"onnx": OpenCVRuntime} if dnn else {})
    for kind in kinds:
        known = classes.get(kind, Runtime)  # which knows what torch does with a checkpoint or TorchScript
        precisions = PRECISIONS if kind == "pt" else known.precisions  # a checkpoint's is set where it is made ready
        check_setting(f".{kind}" if known is Runtime else kind, "--precision", precision, precisions)
        check_setting(f".{kind}" if known is Runtime else kind, "--hint", hint, known.hints)
    if threads and set(kinds) <= {"pt", "torchscript"}:
        torch.set_num_threads(threads)
    if set(kinds) <= {"pt"}:
        return attempt_load(paths, device, fuse=fuse)
    if len(paths) > 1:
        exported = paths[next(i for i, kind in enumerate(kinds) if kind != "pt")]
        raise ValueError(f"{exported}: only checkpoints (.pt) make an ensemble; name this one alone")
    (path,), (kind,), place = paths, kinds, torch.device(device)

    if isinstance(path, Path):
        if kind in PROGRAM_READERS:
            PROGRAM_READERS[kind](path)  # what is damaged is said first
        admit(kind, path, trust, dnn)

    def no_names() -> Sequence[str]:
        raise ValueError(f"{path}: brings no class names; name the data yaml that has them with --data")

    if kind == "torchscript":
        return TorchScriptRuntime(path, place).eval()
    settings = {"precision": precision, "hint": hint}
    given = {key: value for key, value in settings.items() if len(getattr(classes[kind], f"{key}s")) > 1}
    return classes[kind](path, place, names or no_names, threads, **given).eval()


def _place(weights: str | Weights) -> Weights:
    """Where weights are; ValueError for an address that is none of a network."""
    if isinstance(weights, str) and is_url(weights):
        return ModelAddress.parse(weights)
    return weights if isinstance(weights, ModelAddress) else Path(weights)


def find_kind(path: Weights) -> str:
    """`pt`, `torchscript` or one of RUNTIMES; FileNotFoundError or ValueError where the file is none of them."""
    if isinstance(path, ModelAddress):
        return "remote"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_dir() and not path.is_file():
        raise ValueError(f"{path}: neither a file nor a folder, but a pipe or a device; wanted is {READABLE}")
    if path.is_dir():
        if path.suffix.lower() == ".mlpackage":
            return "coreml"
        if (path / NCNN_PARAM).exists():
            return "ncnn"
        find_xml(path)
        return "openvino"
    kinds = {".pt": "pt", ".xml": "openvino", ".param": "ncnn", ".pte": "executorch"}
    kinds |= {f".{kind}": kind for kind in ("torchscript", "onnx", "pt2", "safetensors", "mnn", "engine", "tflite")}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: of no format that is read here; wanted is {READABLE}")
    return kind


def _torchscript_metadata(path: Path) -> Metadata:
    """What a TorchScript file says of itself in its extra file; ValueError where it says nothing, or is none."""
    try:
        with open_archive(path) as (archive, entries):
            if "constants.pkl" not in entries:
                raise ValueError("not a TorchScript file")
            texts = parse_json(read_entry(archive, entries[CONFIG_ENTRY], MOST_JSON)) if CONFIG_ENTRY in entries else {}
    except DAMAGED as error:
        raise ValueError(f"{path}: not a TorchScript file, or a damaged one") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return own_metadata(path, texts)


PROGRAM_READERS: dict[str, Callable[[Path], object]] = {  # what programs say of themselves, without running them
    "torchscript": _torchscript_metadata,
    "pt2": read_pt2,
    "engine": read_engine,
}


def find_xml(path: Path) -> Path:
    """The .xml of an OpenVINO folder, or the file itself; ValueError where there is not exactly one with its .bin."""
    found = sorted(path.glob("*.xml")) if path.is_dir() else [path]
    if len(found) != 1:
        raise ValueError(f"{path}: a folder with {len(found)} .xml files; wanted is {READABLE}")
    if not found[0].is_file():
        raise ValueError(f"{found[0]}: no ordinary file; wanted is {READABLE}")
    if not found[0].with_suffix(".bin").is_file():
        raise ValueError(f"{found[0]}: its weights, {found[0].with_suffix('.bin').name}, do not lie beside it")
    with open_plain(found[0]) as file:  # OpenVINO would read other formats too, by what is in them
        if not file.read(3).removeprefix(b"\xef\xbb\xbf").startswith(b"<") and file.read(1) != b"<":
            raise ValueError(f"{found[0]}: not an OpenVINO network, or a damaged one")
    return found[0]


def import_runtime(package: str, path: Path) -> ModuleType:
    """The package that runs such a file; ImportError with the command that installs it."""
    try:
        found = import_onnxruntime() if package == "onnxruntime" else import_openvino()
    except ImportError as error:
        hint = ", or give --dnn for OpenCV" if package == "onnxruntime" else ""
        raise ImportError(f"{path} needs {package}: pip install {package}{hint}") from error
    return found
