"""The child process of models/runtimes/first_load.py: loads a foreign file and computes one image of noise.

It imports no more than the one reader, so that it starts in a fraction of a second.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from models.runtimes.onnx_header import FLOAT16, Shape, read_onnx_header

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SIDE = 64  # pixels of an image where the file leaves the size open
MOST_THREADS = 4  # of a reader; each takes memory
MEMORY_WORDS = ("alloc", "memory", "bad_array_new_length")  # in what readers say where they get none
Compute = Callable[[], object]
Package = Any  # the reader's


def main() -> None:
    """Does what the arguments say: kind, file, seconds of the processor, bytes of memory. The last line is the answer.

    The limits hold from when the reader is imported. The process ends at once, without what readers do at their end.
    """
    kind, path, seconds, memory = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:MOST_THREADS])
    name, load = LOADERS[kind]
    try:
        package = importlib.import_module(name)
    except ImportError:  # which the parent says better
        answer("no package", 0)
    limit(seconds, memory)
    try:
        compute = load(package, kind, path)
    except ImportError:  # of a package that the reader loads late
        answer("no package", 0)
    except Exception as error:  # of classes that the packages do not publish
        answer("no memory" if is_of_memory(error) else f"refused: {reason(error)}", 1)
    try:
        compute()
    except Exception as error:
        answer("no memory" if is_of_memory(error) else "failed", 1 if is_of_memory(error) else 0)
    answer("loaded", 0)


def answer(text: str, status: int) -> NoReturn:
    """Writes the last line and ends the process."""
    with suppress(OSError):
        sys.stdout.flush()
        os.write(1, f"\n{text}\n".encode("utf-8", "replace"))
    os._exit(status)


def limit(seconds: int, memory: int) -> None:
    """Bounds the processor's time and, on Linux, the memory beyond what is in use already; elsewhere time alone."""
    if resource is None:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        used = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (used + memory, used + memory))


def is_of_memory(error: Exception) -> bool:
    """Whether a reader's error says that it got no memory."""
    text = str(getattr(error, "err", error)).lower()
    return isinstance(error, MemoryError) or any(word in text for word in MEMORY_WORDS)


def reason(error: Exception) -> str:
    """The last line of an error, as models/runtimes/base.py has it."""
    lines = str(getattr(error, "err", error)).strip().splitlines() or [type(error).__name__]
    return lines[-1][:200]


def noise(shape: Shape | None, kind: type = np.float32) -> np.ndarray:
    """Images (B, 3, H, W) of noise in 0..1; one image, of SIDE, where the shape leaves that open."""
    known = shape if shape is not None and len(shape) == 4 else (None, None, None, None)
    sizes = [size or usual for size, usual in zip(known, (1, 3, SIDE, SIDE), strict=True)]
    return np.random.default_rng(0).random(sizes, np.float32).astype(kind)


# One for each kind: loads a file by its package, and gives what computes ---------------------------------------------


def load_onnx(package: Package, _kind: str, path: Path) -> Compute:
    """ONNX Runtime on the CPU."""
    port = read_onnx_header(path).inputs[0]
    options = package.SessionOptions()
    options.intra_op_num_threads = MOST_THREADS
    options.log_severity_level = 4
    session = package.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    images = noise(port.shape, np.float16 if port.kind == FLOAT16 else np.float32)
    return lambda: session.run(None, {port.name: images})


def load_dnn(package: Package, _kind: str, path: Path) -> Compute:
    """OpenCV's DNN module."""
    images = noise(read_onnx_header(path).inputs[0].shape)
    package.setNumThreads(MOST_THREADS)
    network = package.dnn.readNetFromONNX(str(path))

    def compute() -> None:
        network.setInput(images)
        network.forward(network.getUnconnectedOutLayersNames())

    return compute


def load_openvino(package: Package, _kind: str, path: Path) -> Compute:
    """OpenVINO on the CPU."""
    core = package.Core()
    file = path if path.is_file() else next(path.glob("*.xml"))
    network = core.read_model(str(file))
    shape = tuple(None if size.is_dynamic else size.get_length() for size in network.input(0).partial_shape)
    compiled = core.compile_model(network, "CPU", {"INFERENCE_NUM_THREADS": MOST_THREADS})
    return lambda: compiled([noise(shape)])


def load_mnn(package: Package, _kind: str, path: Path) -> Compute:
    """MNN on the CPU."""
    manager = package.nn.create_runtime_manager(({"backend": "CPU", "numThread": 1},))
    network = package.nn.load_module_from_file(
        str(path), ["images"], ["output"], runtime_manager=manager, rearrange=True
    )
    shape = stated_shape(network.get_info()["bizCode"])

    def compute() -> None:
        images = noise(shape)
        value = package.expr.const(images, list(images.shape), package.expr.NCHW)
        package.expr.convert(network.onForward([value])[0], package.expr.NCHW).read()

    return compute


def load_ncnn(package: Package, _kind: str, path: Path) -> Compute:
    """The reader of ncnn, without a GPU."""
    folder = path if path.is_dir() else path.parent
    shape = stated_shape((folder / "metadata.json").read_text(encoding="utf-8"))
    network = package.Net()
    network.opt.use_vulkan_compute = False
    network.opt.num_threads = MOST_THREADS
    param, weights = (str(folder / f"model.ncnn.{suffix}") for suffix in ("param", "bin"))
    if network.load_param(param) or network.load_model(weights):
        raise ValueError("it is damaged, or of another version")

    def compute() -> None:
        extractor = network.create_extractor()
        extractor.input("in0", package.Mat(noise(shape)[0]).clone())
        extractor.extract("out0")

    return compute


def load_for_apps(package: Package, kind: str, path: Path) -> Compute:
    """ExecuTorch and LiteRT, by this project's own classes for them, which look for damage first."""
    torch = importlib.import_module("torch")
    runtime = package.APP_RUNTIMES[kind](path, torch.device("cpu"), list)
    images = torch.from_numpy(noise((runtime.fixed_batch, 3, *(runtime.fixed_hw or (None, None)))))
    return lambda: runtime.outputs(images)


def stated_shape(metadata: str) -> Shape:
    """The shape of images that a file's metadata states; open where it states none that can be."""
    known = json.loads(metadata)
    stated = known.get("shape") if isinstance(known, dict) else None
    stated = json.loads(stated) if isinstance(stated, str) else stated
    fits = isinstance(stated, list) and len(stated) == 4 and all(isinstance(size, int) for size in stated)
    return (stated[0], 3, stated[2], stated[3]) if fits else (None, 3, None, None)


LOADERS: dict[str, tuple[str, Callable[[Package, str, Path], Compute]]] = {
    "onnx": ("onnxruntime", load_onnx),
    "dnn": ("cv2", load_dnn),
    "openvino": ("openvino", load_openvino),
    "mnn": ("MNN", load_mnn),
    "ncnn": ("ncnn", load_ncnn),
    "executorch": ("models.runtimes.mobile_apps", load_for_apps),
    "tflite": ("models.runtimes.mobile_apps", load_for_apps),
}
