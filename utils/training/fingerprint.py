"""Fingerprint of a data set, 16 bytes per image, by which a resumed run detects changes.

Shapes: N images of a split.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.data.labels import LabelRecord
from utils.general import plural

HALF = 8  # bytes of a hash: the first half of a row is of the image's name, the second of its size and labels


def fingerprint(records: Sequence[LabelRecord], root: Path) -> Tensor:
    """Hash each image's path below the root, then its size and objects: (N, 16) uint8.

    A data set that was moved as a whole keeps its fingerprint. Pixels are not read.
    """
    start = f"{root}{os.sep}"
    rows = bytearray()
    for record in records:
        content = hashlib.blake2b(np.array(record.hw, np.int64).tobytes(), digest_size=HALF)
        content.update(np.ascontiguousarray(record.boxes, np.float32).tobytes())
        for polygon in record.polygons:
            content.update(b"|" if polygon is None else np.ascontiguousarray(polygon, np.float32).tobytes())
        rows += _name_hash(record.image.removeprefix(start)) + content.digest()
    return torch.from_numpy(np.frombuffer(bytes(rows), np.uint8).reshape(-1, 2 * HALF).copy())


def describe_changes(before: Mapping[str, object], now: Mapping[str, Tensor]) -> list[str]:
    """Describe the changes per split, `train: 2 images added, 1 removed, labels of 3 changed`; empty if none.

    Both arguments are fingerprints by split.

    Raises:
        ValueError: if `before`, from a file, is not a fingerprint.
    """
    lines = []
    for split, rows in now.items():
        before_rows, now_rows = (_split_rows(part, split) for part in (before.get(split), rows))
        old, new = dict(before_rows), dict(now_rows)
        # A list may repeat an image, and repeats count.
        old_counts, new_counts = (Counter(name for name, _ in pairs) for pairs in (before_rows, now_rows))
        added, removed = (new_counts - old_counts).total(), (old_counts - new_counts).total()
        changed = sum(old[name] != new[name] for name in old.keys() & new.keys())
        if added or removed or changed:
            lines.append(f"{split}: {plural(added, 'image')} added, {removed} removed, labels of {changed} changed")
    return lines


def _name_hash(name: str) -> bytes:
    return hashlib.blake2b(name.replace(os.sep, "/").encode("utf-8", "surrogateescape"), digest_size=HALF).digest()


def _split_rows(rows: object, split: str) -> list[tuple[bytes, bytes]]:
    if not isinstance(rows, Tensor) or rows.dtype != torch.uint8 or rows.ndim != 2 or rows.shape[1] != 2 * HALF:
        raise ValueError(f"the checkpoint's record of the {split} images is damaged; start from it with --weights")
    data = rows.numpy().tobytes()
    return [(data[i : i + HALF], data[i + HALF : i + 2 * HALF]) for i in range(0, len(data), 2 * HALF)]
