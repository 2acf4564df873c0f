"""Cache of a label scan: plain arrays in an .npz, without pickle.

A missing, foreign or damaged cache is ignored and rewritten. It contains the hash of its content, and values that no
scan can produce are rejected. Entries do not depend on the number of classes. utils/data/labels.py decides whether an
entry is valid.

Shapes: N images, n boxes of an image, k points of a polygon.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from utils.files.reading import parse_json
from utils.general import LOGGER, atomic_write, one_line, remove_stale

FORMAT = "yolov5 label cache 3"  # a cache that says anything else is not read
MOST_BYTES = 4 << 30  # of a cache; one of a million images has some 200 MB
MOST_SIDE = 1 << 20  # pixels

# What zipfile, numpy and the unpacking below raise on a file that is damaged or was made by others.
_UNREADABLE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, MemoryError, ArithmeticError),
    *(RuntimeError, zipfile.BadZipFile),  # RuntimeError: encrypted
)


class Entry(NamedTuple):
    """Scan result of one pair, valid while the image's stamp (mtime_ns, bytes) and the label file's digest match."""

    stamp: tuple[int, int]
    digest: bytes  # of the label file's content; b"" if there is no such file
    hw: tuple[int, int]
    boxes: np.ndarray
    polygons: tuple[np.ndarray | None, ...]
    problems: tuple[str, ...]
    corrupt: str  # why the pair cannot be used; "" if it can


def save_cache(path: Path, images: Sequence[str], entries: Sequence[Entry]) -> None:
    """Write the entries; a folder that is not writable is logged and only costs time at the next start."""
    texts = {i: [e.corrupt, *e.problems] for i, e in enumerate(entries) if e.corrupt or e.problems}
    polygons = [polygon for e in entries for polygon in (e.polygons or (None,) * len(e.boxes))]
    arrays = {
        "format": np.array(FORMAT),
        "images": _pack("\0".join(images)),
        "stamps": np.array([e.stamp for e in entries], np.int64),
        "digests": np.frombuffer(b"".join(e.digest.ljust(16, b"\0") for e in entries), np.uint8),
        "has_labels": np.array([bool(e.digest) for e in entries]),
        "hw": np.array([e.hw for e in entries], np.int32),
        "box_counts": np.array([len(e.boxes) for e in entries], np.int64),
        "boxes": np.concatenate([np.zeros((0, 5), np.float32), *(e.boxes for e in entries)]),
        "point_counts": np.array([0 if polygon is None else len(polygon) for polygon in polygons], np.int64),
        "points": np.concatenate([np.zeros((0, 2), np.float32), *(p for p in polygons if p is not None)]),
        "texts": _pack(json.dumps(texts)),
    }
    arrays["hash"] = np.frombuffer(_hash(arrays), np.uint8)
    try:
        if not path.parent.stat().st_mode & 0o222:  # root could write even here, but the folder is marked as not to
            raise PermissionError(f"{path.parent} is read-only")
        remove_stale(path.parent, path.name)
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        LOGGER.warning(f"{path}: scan not kept, the next start reads all labels again ({one_line(error)})")


def load_cache(path: Path) -> dict[str, Entry]:
    """Read the entries by image; {} if there is no valid cache."""
    if not path.exists():
        return {}
    try:
        size = path.stat().st_size
        if not path.is_file() or size > MOST_BYTES:
            raise ValueError("no ordinary file, or too large a one")
        with zipfile.ZipFile(path) as archive:  # before numpy looks at it: nothing but a plain .npz is let through
            entries = archive.infolist()
            if any(info.compress_type for info in entries) or sum(info.file_size for info in entries) > size:
                raise ValueError("compressed")  # and so of unknown size in memory
            for info in entries:
                with archive.open(info) as file:
                    _check_header(file, info.file_size)
        with np.load(path, allow_pickle=False) as file:
            if str(file["format"]) != FORMAT:
                raise ValueError("of another version")
            arrays = dict(file)
        if arrays.pop("hash").tobytes() != _hash(arrays):
            raise ValueError("changed")
        return _unpack_entries(arrays)
    except _UNREADABLE as error:
        LOGGER.warning(f"{path}: not a label cache of this program, built anew ({str(error)[:100]})")
        return {}


def _hash(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Hash all arrays: names, dtypes, shapes and values."""
    whole = hashlib.blake2b(digest_size=16)
    for name, array in sorted(arrays.items()):
        whole.update(f"{name} {array.dtype.str} {array.shape};".encode())
        whole.update(np.ascontiguousarray(array).data)
    return whole.digest()


def _check_header(file: IO[bytes], size: int) -> None:
    """Raise ValueError if an array claims to be larger than its entry, before numpy allocates it."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize > size:
        raise ValueError("an array of another size")


def _unpack_entries(arrays: dict[str, np.ndarray]) -> dict[str, Entry]:
    images = arrays["images"].tobytes().decode("utf-8", "surrogateescape").split("\0")
    texts = parse_json(arrays["texts"].tobytes(), MOST_BYTES)
    box_ends = list(accumulate(arrays["box_counts"].tolist(), initial=0))
    point_ends = list(accumulate(arrays["point_counts"].tolist(), initial=0))
    boxes, points, digests = arrays["boxes"], arrays["points"], arrays["digests"].tobytes()
    if (box_ends[-1], 5) != boxes.shape or len(point_ends) != len(boxes) + 1 or (point_ends[-1], 2) != points.shape:
        raise ValueError("its arrays do not fit together")
    counts = np.concatenate([arrays["box_counts"].ravel(), arrays["point_counts"].ravel()])
    sides = arrays["hw"]
    is_possible = (
        (counts >= 0).all() and (sides >= 0).all() and (sides <= MOST_SIDE).all() and _are_shares(boxes[:, 1:])
    )
    if not is_possible or not _are_shares(points) or not np.array_equal(boxes[:, 0], np.round(boxes[:, 0])):
        raise ValueError("it has numbers that no label file has")
    entries = {}
    stamps, sizes, present = arrays["stamps"].tolist(), arrays["hw"].tolist(), arrays["has_labels"].tolist()
    spans = pairwise(box_ends)
    for i, (image, stamp, hw, has, (a, b)) in enumerate(zip(images, stamps, sizes, present, spans, strict=True)):
        polygons = tuple(points[s:e] if s < e else None for s, e in pairwise(point_ends[a : b + 1]))
        polygons = polygons if point_ends[a] < point_ends[b] else ()
        corrupt, *problems = texts.get(str(i), [""])
        digest = digests[16 * i : 16 * i + 16] if has else b""
        entries[image] = Entry(tuple(stamp), digest, tuple(hw), boxes[a:b], polygons, tuple(problems), corrupt)
    return entries


def _are_shares(values: np.ndarray) -> bool:
    """Return True if all values are in 0..1; nan is not."""
    return bool(((values >= 0) & (values <= 1)).all())


def _pack(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
