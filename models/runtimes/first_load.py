"""Foreign files are loaded in a child process first: what kills a reader there, or never ends, does no harm here.

The readers of these formats are C++ that was not written for hostile files: mutated ones end OpenCV with SIGFPE and MNN
with SIGSEGV, and a loop within a network may run for ever. The child has so much time and memory, loads the file and
computes one image of noise. This file is the parent's part; models/runtimes/child.py is the child's.
"""

import signal
import subprocess
import sys
from pathlib import Path

from utils.general import ROOT

READERS = {  # what reads each kind of file, as messages call it
    "onnx": "ONNX Runtime",
    "dnn": "OpenCV",
    "openvino": "OpenVINO",
    "mnn": "MNN",
    "ncnn": "ncnn",
    "executorch": "ExecuTorch",
    "tflite": "LiteRT",
}
REFUSALS = {"mnn": "not an MNN file of export.py, or a damaged one"}  # of readers that do not say what is wrong
CPU_S, WALL_S = 10.0, 14.0  # for a small file; both grow with its size
S_PER_BYTE = 0.05 / 2**20
MEMORY, MEMORY_PER_BYTE = 3 << 29, 8  # bytes beyond what the reader has when it is imported: 1.5 GiB for a small file
CODE = "from models.runtimes.child import main; main()"
REFUSED, NO_MEMORY = "refused", "no memory"  # what the child's answer may be besides what lets a file through


def try_first(kind: str, path: Path, cpu_s: float = CPU_S, wall_s: float = WALL_S, memory: int = MEMORY) -> None:
    """Loads a file in a child process; ValueError where its reader cannot, dies of it or takes too much.

    kind: one of READERS. A file that computes badly is let through: that is said better where it is used.
    """
    size = size_of(path)
    cpu_s, wall_s = cpu_s + size * S_PER_BYTE, wall_s + size * S_PER_BYTE
    arguments = [kind, str(path.resolve()), str(round(cpu_s + 0.5)), str(memory + MEMORY_PER_BYTE * size)]
    reader, remedy = READERS[kind], "; it is damaged or made to do harm; export it again, or --trust loads it as it is"
    try:
        done = subprocess.run(
            [sys.executable, "-c", CODE, *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=wall_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"{path}: {reader} had not computed one image after {wall_s:.0f} s{remedy}") from None
    answer, _, words = _last_line(done.stdout).partition(": ")
    if answer == NO_MEMORY:
        raise ValueError(f"{path}: {reader} wants more than {memory / 2**30:.1f} GiB of memory for it{remedy}")
    if answer == REFUSED:
        raise ValueError(f"{path}: {REFUSALS.get(kind) or f'{reader} cannot load it: {words}'}")
    if done.returncode == -getattr(signal, "SIGXCPU", 0):
        raise ValueError(f"{path}: {reader} had not computed one image after {cpu_s:.0f} s{remedy}")
    if done.returncode:
        raise ValueError(f"{path}: {reader} ended with {_cause(done.returncode)} on it{remedy}")


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    parts = [path] if path.is_file() else [part for part in path.iterdir() if part.is_file()]
    return sum(part.stat().st_size for part in parts)


def _last_line(output: bytes) -> str:
    """What the child says; before that its reader may have said anything."""
    lines = output.decode("utf-8", "replace").splitlines()
    return lines[-1] if lines else ""


def _cause(code: int) -> str:
    """`SIGSEGV`, or `status 1`."""
    try:
        return signal.Signals(-code).name if code < 0 else f"status {code}"
    except ValueError:
        return f"signal {-code}"
