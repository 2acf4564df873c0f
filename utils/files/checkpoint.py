"""Checkpoints as plain data: tensors, numbers, texts, lists. Reading one never runs anything that the file brings.

Files of YOLOv5 v6.x and v7.0 are read too (utils/files/legacy.py). A file is written whole or not at all.
"""

import errno
import io
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from utils.files.archives import DAMAGED, open_archive, read_entry
from utils.files.legacy import interpret, is_side, stand_ins, trained_size
from utils.files.pickled import MOST_BYTES as MOST_PICKLE
from utils.files.pickled import Machine, check_parts, names_in
from utils.files.reading import open_plain
from utils.general import LOGGER, atomic_write, size_text

FORMAT, VERSION = "yolov5-nam checkpoint", 1
SCALARS = (bool, int, float, str, type(None))
MAX_DEPTH = 8  # of lists within lists in a model yaml
TENSOR_NAMES = re.compile(r"torch\.\w+Storage|torch\._utils\._rebuild_\w+|torch\.Size|collections\.OrderedDict")
ZIP_START = b"PK\x03\x04"
WRITER_ERROR = "inline_container"  # torch's source file, which its writer's errors name
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # of files by torch before 1.6: a pickled magic number
SHOWN_PICKLE_BYTES = 2**24  # of a file that is refused anyway, searched for names to show


@dataclass(frozen=True)
class Checkpoint:
    """A network's yaml, class names and weights (the moving average's, where there is one), in FP32.

    `training` is all that a resume needs, None in a stripped file; `epoch` counts from 0 and is -1 in a stripped file.
    `imgsz`: the longer side of the images that it was trained on, in pixels, None where a file does not say it.
    """

    yaml: dict
    names: tuple[str, ...]
    state: dict[str, Tensor]
    epoch: int = -1
    best_fitness: float | None = None
    training: dict | None = None
    date: str = ""
    origin: str = "yolov5-nam"
    imgsz: int | None = None


# Writing --------------------------------------------------------------------------------------------------------------


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes the checkpoint, its tensors as they are; a crash leaves the file that was there before, or the new one.

    OSError where it cannot be written.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "date": checkpoint.date,
        "origin": checkpoint.origin,
        "yaml": checkpoint.yaml,
        "names": list(checkpoint.names),
        "epoch": checkpoint.epoch,
        "best_fitness": checkpoint.best_fitness,
        "imgsz": checkpoint.imgsz,
        "state": {name: value.detach() for name, value in checkpoint.state.items()},
        "training": checkpoint.training,
    }
    _assert_plain(content, "checkpoint")
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
    except (RuntimeError, OSError) as error:
        # torch's writer turns whatever the file system says into a RuntimeError of its own.
        is_writers = isinstance(error, RuntimeError) and WRITER_ERROR in str(error)
        if not is_writers and getattr(error, "errno", None) not in NO_SPACE:
            raise
        kept = "; the file that was there stays as it was" if Path(path).exists() else ""
        raise OSError(f"{path}: cannot be written, there may be no space left on the disk{kept}") from error


def _assert_plain(value: object, where: str) -> None:
    if isinstance(value, dict):
        assert type(value) in (dict, OrderedDict), f"{where}: {type(value)} cannot be read back safely"
        for key, part in value.items():
            assert type(key) in (str, int), f"{where}: key {key!r} cannot be read back safely"
            _assert_plain(part, f"{where}.{key}")
    elif type(value) in (list, tuple):
        for i, part in enumerate(value):
            _assert_plain(part, f"{where}[{i}]")
    else:
        assert type(value) in (*SCALARS, Tensor), f"{where}: {type(value)} cannot be read back safely"


def strip_optimizer(path: str | Path, out: str | Path | None = None) -> None:
    """Leaves only what inference needs, in FP16: in `out`, or in place. A YOLOv5 file becomes one of this project."""
    checkpoint = load_checkpoint(path)
    stripped = replace(
        checkpoint,
        state=halved(checkpoint.state),
        epoch=-1,
        best_fitness=None,
        training=None,
    )
    target = Path(path if out is None else out)
    save_checkpoint(target, stripped)
    kind = "" if checkpoint.origin == Checkpoint.origin else f", converted from {checkpoint.origin}"
    saved_as = "" if out is None else f", saved as {target}"
    LOGGER.info(f"Optimizer stripped from {path}{saved_as}, {size_text(target.stat().st_size)}{kind}")


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in FP16, but for those that are integers or hold a number too large for FP16."""
    found = {}
    for name, value in state.items():
        half = value.half() if value.is_floating_point() else value
        found[name] = value if bool((half.isinf() & value.isfinite()).any()) else half
    return found


# Reading --------------------------------------------------------------------------------------------------------------


def load_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint in a file of this project, or of YOLOv5 v6.x or v7.0, on the CPU, with weights in FP32.

    FileNotFoundError, or a ValueError that says what is wrong with the file and names what it was refused for.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: a folder; a .pt file is wanted")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return _load(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _load(path: Path) -> Checkpoint:
    """As `load_checkpoint`; no error names the file."""
    _check_start(path)
    try:
        with open_archive(path) as (archive, entries):
            _check_archive(path, archive, entries)
            data = read_entry(archive, entries["data.pkl"], MOST_PICKLE)
            names = _names_in(data)
            content = _read(data, archive, entries, {name: make for make, name in stand_ins(names)})
    except DAMAGED:
        raise ValueError("truncated or damaged: it begins as a checkpoint and does not end as one") from None
    check_parts(content)
    if any(name.startswith("models.") for name in names):
        checkpoint = Checkpoint(**interpret(content)._asdict())
    else:
        checkpoint = _interpret(content)
    _check_yaml(checkpoint)
    return replace(checkpoint, state=_checked_state(checkpoint.state, path.stat().st_size))


def _check_start(path: Path) -> None:
    """ValueError where the file is no zip archive, with what it may be."""
    with open_plain(path) as file:
        head = file.read(len(ZIP_START))
        data = head + file.read(SHOWN_PICKLE_BYTES) if head != ZIP_START else b""
    if not head:
        raise ValueError("the file is empty")
    if head != ZIP_START:
        named = _pickled_names(data)
        if data.startswith(LEGACY_START):
            stand_ins(name for name in named if not TENSOR_NAMES.fullmatch(name))  # refuses harm by its name
            raise ValueError(
                "in the format of torch before 1.6, which is not read; where you trust it, load it with the program "
                "that made it and save it with a newer torch: torch.save(torch.load(file), file)"
            )
        if named:
            raise ValueError(f"refused, a bare pickle that names {', '.join(named[:5])}; nothing in it was run")
        raise ValueError("not a checkpoint: torch writes a zip file")


def _check_archive(path: Path, archive: zipfile.ZipFile, entries: Mapping[str, str]) -> None:
    """ValueError where the archive is no whole one such as torch writes."""
    is_packed = sum(info.file_size for info in archive.infolist()) > path.stat().st_size
    damaged = None if is_packed else archive.testzip()
    if "constants.pkl" in entries:
        raise ValueError(
            "a program (TorchScript), not a checkpoint; where you trust it, rename it to end with .torchscript and "
            "give --trust"
        )
    if "data.pkl" not in entries:
        raise ValueError("a zip file, but not a checkpoint")
    if is_packed or any(info.compress_type for info in archive.infolist()):
        raise ValueError("a packed zip file, not one that torch wrote; unpack it and name the .pt file in it")
    if damaged:
        raise ValueError(f"damaged: {damaged} is not what was written")
    if "byteorder" in entries and read_entry(archive, entries["byteorder"], 16) != b"little":
        raise ValueError("written on a machine of another byte order; save it again on one like this")


def _names_in(data: bytes) -> set[str]:
    """The classes and functions that a pickle names besides those of plain tensors; nothing is looked up or called."""
    try:
        return names_in(data)
    except (ValueError, IndexError, OverflowError):
        named = _pickled_names(data)
    if named:
        raise ValueError(f"refused, for it names {', '.join(named[:5])}; nothing in it was run")
    raise ValueError("not a checkpoint: its content is not what torch.save writes")


def _read(
    data: bytes, archive: zipfile.ZipFile, entries: Mapping[str, str], allowed: Mapping[str, Callable[..., object]]
) -> object:
    """What the pickle of an archive makes, with numbers out of the archive's other entries."""
    read: dict[str, bytearray] = {}

    def storage(key: str, dtype: torch.dtype) -> Tensor:
        entry = entries.get(f"data/{key}")
        if entry is None:
            raise ValueError(f"damaged: it has no numbers of the key {key!r:.40}")
        if key not in read:
            read[key] = bytearray(archive.getinfo(entry).file_size)
            with archive.open(entry) as file:
                file.readinto(read[key])
        whole = len(read[key]) // dtype.itemsize * dtype.itemsize
        return (
            torch.frombuffer(read[key], dtype=dtype, count=whole // dtype.itemsize)
            if whole
            else torch.empty(0, dtype=dtype)
        )

    try:
        return Machine(allowed, storage).run(data)
    except (ValueError, UnicodeError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None


def _pickled_names(data: bytes) -> list[str]:
    """The names in pickles of any protocol, one after another, as far as they can be followed; none is ever run."""
    found: list[str] = []
    texts: list[str] = []
    stream = io.BytesIO(data)
    try:
        while stream.tell() < len(data):
            for operation, value, _ in pickletools.genops(stream):
                if operation.name in ("GLOBAL", "INST"):
                    found.append(str(value).replace(" ", ".", 1))
                elif operation.name == "STACK_GLOBAL" and len(texts) > 1:
                    found.append(".".join(texts[-2:]))
                elif isinstance(value, str):
                    texts.append(value)
    except (ValueError, IndexError, OverflowError):  # no pickle, or cut off; UnicodeDecodeError is a ValueError
        return sorted(set(found))
    return sorted(set(found))


def _interpret(content: object) -> Checkpoint:
    """The checkpoint in a file of this project."""
    if not isinstance(content, dict) or "format" not in content:
        if isinstance(content, dict) and content and all(isinstance(value, Tensor) for value in content.values()):
            raise ValueError("weights only (a state dict): a checkpoint also has the model's yaml and class names")
        raise ValueError("not a checkpoint of this project or of YOLOv5")
    mark = (content["format"], content.get("version"))
    if not all(isinstance(part, str | int) for part in mark) or mark != (FORMAT, VERSION):
        raise ValueError(f"a {mark[0]!r:.60} of version {mark[1]!r:.60}; this program reads version {VERSION}")
    kinds = {
        "yaml": dict,
        "names": list,
        "state": dict,
        "epoch": int,
        "date": str,
        "origin": str,
        "best_fitness": int | float | None,
        "training": dict | None,
    }
    for key, kind in kinds.items():
        if key not in content:
            raise ValueError(f"damaged: it has no {key}")
        if not isinstance(content[key], kind):
            raise ValueError(f"damaged: {key} is of type {type(content[key]).__name__}")
    found = Checkpoint(**{key: content[key] for key in kinds} | {"names": tuple(content["names"])})
    if content.get("imgsz") is None:  # not in files of before it was kept, but a resumable one has the run's options
        return replace(found, imgsz=trained_size((found.training or {}).get("opt")))
    if not is_side(content["imgsz"]):
        raise ValueError(f"damaged: imgsz is {content['imgsz']!r:.60}")
    return replace(found, imgsz=content["imgsz"])


def _check_yaml(checkpoint: Checkpoint) -> None:
    """ValueError where yaml or names could not be those of a detector."""
    yaml, names = checkpoint.yaml, checkpoint.names
    kinds = {
        "nc": int,
        "ch": int,
        "backbone": list,
        "head": list,
        "anchors": int | list,
        "depth_multiple": int | float,
        "width_multiple": int | float,
    }
    for key, kind in kinds.items():
        if not isinstance(yaml.get(key), kind):
            raise ValueError(f"damaged: {key} of its yaml is {yaml.get(key)!r:.60}")
    if not _is_plain(yaml):
        raise ValueError("damaged: its yaml holds more than numbers and texts")
    if not all(isinstance(name, str) for name in names) or len(names) != yaml["nc"]:
        raise ValueError(f"damaged: {len(names)} class names for {yaml['nc']} classes")


def _is_plain(value: object, depth: int = 0) -> bool:
    if depth > MAX_DEPTH:
        return False
    if type(value) is dict:
        return all(type(key) is str and _is_plain(part, depth + 1) for key, part in value.items())
    if type(value) in (list, tuple):
        return all(_is_plain(part, depth + 1) for part in value)
    return type(value) in SCALARS


def _checked_state(state: dict, file_bytes: int) -> dict[str, Tensor]:
    """The weights in FP32, integers as they are; ValueError where they are none, or claim more than the file holds.

    So do views of the same numbers again and again: in FP32 each would take memory of its own.
    """
    if not state:
        raise ValueError("damaged: it has no weights")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise ValueError(f"damaged: weight {name!r:.60} is no tensor")
        if value.is_quantized or value.is_complex() or value.is_meta:
            raise ValueError(f"weight {name} is of type {value.dtype}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"damaged: weight {name} claims {value.numel()} numbers, the file has fewer")
    claimed = sum(value.numel() * value.element_size() for value in state.values())
    if claimed > 2 * file_bytes:
        raise ValueError(f"damaged: its weights claim {claimed} bytes, the file has {file_bytes}")
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
