"""Which files are loaded just so: programs only where they are this machine's own, or where --trust is given.

A TorchScript file, a .pt2 and an engine are programs: what loads them lets them do all that the user can do, and
nothing that a file says of itself tells whether it does harm. All other formats are data. Their readers are C++, so
files that were not written here are loaded in a child process first.
"""

from pathlib import Path

from models.runtimes.first_load import READERS, size_of, try_first
from models.runtimes.onnx_header import check_external_data
from utils.files.exported import is_remembered

PROGRAMS = {
    "torchscript": "a TorchScript file, which is a program",
    "pt2": "a pt2 file, which is a program",
    "engine": "machine code",
}
MOST_BYTES = 4 << 30  # of an exported file: the largest network has 1.4 GB of weights, see models/spec/budget.py
FOLDER_OF = {"ncnn"}  # kinds of which the file that is named is a part


def admit(kind: str, path: Path, trust: bool = False, dnn: bool = False) -> None:
    """ValueError where a file must not be loaded, or cannot be without harm.

    trust: the user answers for it. dnn: whether OpenCV reads an ONNX file.
    """
    if kind == "onnx":
        check_external_data(path)
    if trust or (kind not in PROGRAMS and kind not in READERS):
        return
    whole = path.parent if (kind in FOLDER_OF or path.suffix.lower() == ".xml") and path.is_file() else path
    size = size_of(whole)
    if size > MOST_BYTES:
        raise ValueError(f"{path}: has {size / 2**30:.0f} GiB, no exported network has more than {MOST_BYTES >> 30}")
    if is_remembered(whole):
        return
    if kind in PROGRAMS:
        raise ValueError(
            f"{path}: is {PROGRAMS[kind]}, and export.py did not write it on this machine: it can do all that you can; "
            "give --trust where you know who made it, or name the checkpoint or an .onnx file"
        )
    try_first("dnn" if dnn else kind, path)
