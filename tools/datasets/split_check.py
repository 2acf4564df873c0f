"""One split of a data set looked at closely: its pairs, values and copies. `python -m tools.check` reports it.

Shapes: n objects of an image, N objects of a split, C classes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool

import numpy as np

from utils.data.config import DataConfig
from utils.general import one_line, plural, progress
from utils.data.label_cache import Entry
from utils.data.label_files import find_faults, read_bytes
from utils.data.labels import (
    LabelRecord,
    ScanReport,
    count_entries,
    examine_all,
    find_images,
    label_path,
    layout_notes,
)

PERCENTILES = (0, 5, 50, 95, 100)


@dataclass(frozen=True, slots=True)
class SplitCheck:
    """What is in a split. records: the usable images. problems and notes: a line each, with file names.

    digests: image path by the hash of its content. counts: (C,) objects of each class.
    """

    name: str
    report: ScanReport
    records: tuple[LabelRecord, ...]
    digests: dict[bytes, str]
    counts: np.ndarray
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def ranges(self) -> list[tuple[str, list[float]]]:
        """Name and PERCENTILES of the images' sides and the boxes' values; empty where there is nothing."""
        rows: list[tuple[str, np.ndarray]] = []
        if self.records:
            hw = np.array([record.hw for record in self.records], np.float64)  # (images, 2)
            rows += [("image width, pixels", hw[:, 1]), ("image height, pixels", hw[:, 0])]
        boxes = [record.boxes[:, 1:] for record in self.records]
        if any(map(len, boxes)):
            values = np.concatenate(boxes)  # (N, 4)
            names = ("x centre", "y centre", "width", "height")
            rows += [(f"box {name}, share", values[:, i]) for i, name in enumerate(names)]
            pixels = np.concatenate(
                [np.sqrt(np.prod(r.boxes[:, 3:] * (r.hw[1], r.hw[0]), 1)) for r in self.records]  # (N,)
            )
            rows.append(("box side (root of area), pixels", pixels))
            rows.append(("objects an image", np.array([len(rows_) for rows_ in boxes])))
        return [(name, np.percentile(value, PERCENTILES).tolist()) for name, value in rows]


# Checks ---------------------------------------------------------------------------------------------------------------


def check_split(data: DataConfig, split: str, workers: int) -> SplitCheck:
    """Everything about one split; raises FileNotFoundError and ValueError where it cannot be read at all."""
    images = find_images(data.split(split))
    once = list(dict.fromkeys(images))
    paths = [label_path(image) for image in once]
    entries = examine_all(list(zip(once, paths, strict=True)), {}, workers, f"Checking {split}")
    problems: list[str] = []
    notes: list[str] = []
    of_image: dict[str, LabelRecord] = {}
    for image, path, entry in zip(once, paths, entries, strict=True):
        faults = label_faults(path, entry, data.nc)
        problems += faults
        if entry.corrupt and not any(entry.corrupt.startswith(fault.partition(": ")[0]) for fault in faults):
            problems.append(f"{image}: {entry.corrupt}")
        harmless = (" clipped", "confidence", f"{image}: ")
        notes += [note for note in entry.problems if any(words in note for words in harmless)]
        if not entry.corrupt:
            known = (entry.boxes[:, 0] >= 0) & (entry.boxes[:, 0] < data.nc)  # (n,)
            of_image[image] = LabelRecord(image, entry.hw, entry.boxes[known])
    records = [of_image[image] for image in images if image in of_image]
    digests, copies = hash_images(once, workers, split)
    counts = np.bincount(
        np.concatenate([np.zeros(0), *(record.boxes[:, 0] for record in records)]).astype(np.int64), minlength=data.nc
    )
    report = count_entries(images, dict(zip(once, entries, strict=True)))
    if report.found and report.missing:
        lone = next(path for path, entry in zip(paths, entries, strict=True) if not (entry.digest or entry.corrupt))
        notes.append(f"{plural(report.missing, 'image')} without a label file, e.g. {lone}")
    if len(once) < len(images):
        repeats = plural(len(images) - len(once), "repetition")
        notes.append(f"{repeats} of {plural(len(once), 'image')} in its sources, which count as often as they are listed")
    notes += layout_notes(once, paths, entries)
    if split != "test" and not counts.sum():
        problems.append(f"{data.file}: {split}: no image with labels; looked for e.g. {paths[0]}")
    absent = [name for name, count in zip(data.names, counts, strict=True) if not count]
    if absent and counts.sum():
        notes.append(f"{plural(len(absent), 'class')} without an object: {', '.join(absent[:10])}")
    return SplitCheck(split, report, tuple(records), digests, counts, (*problems, *copies), tuple(notes))


def label_faults(path: str, entry: Entry, nc: int) -> list[str]:
    """What is wrong in a label file, row by row; it is read again only where the scan saw something."""
    labels = entry.boxes[:, 0]
    if not entry.digest or not (entry.problems or entry.corrupt or ((labels < 0) | (labels >= nc)).any()):
        return []
    try:
        return find_faults(read_bytes(path), path, nc)
    except (OSError, ValueError) as error:
        return [one_line(error)]


def hash_images(images: Sequence[str], workers: int, desc: str) -> tuple[dict[bytes, str], list[str]]:
    """The first image of each content, and a line about each other one with the same content."""
    first: dict[bytes, str] = {}
    copies = []
    with ThreadPool(max(1, workers)) as pool:
        hashes = progress(
            pool.imap(_digest, images, chunksize=16), total=len(images), desc=f"Hashing {desc}", delay=0.5
        )
        for image, digest in zip(images, hashes, strict=True):
            if digest and first.setdefault(digest, image) != image:
                copies.append(f"{image}: the same picture as {first[digest]}")
    return first, copies


def _digest(image: str) -> bytes:
    """Hash of a file's content; empty for one that cannot be read, which the scan has reported."""
    try:
        with open(image, "rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return b""


def find_leaks(checks: Sequence[SplitCheck]) -> list[str]:
    """A line about each picture that is in two splits. That test is val as a whole is common, and no leak."""
    leaks = []
    for i, later in enumerate(checks):
        for earlier in checks[:i]:
            if later.name == "test" and earlier.name == "val" and later.digests == earlier.digests:
                continue
            shared = [digest for digest in later.digests if digest in earlier.digests]
            leaks += [
                f"{later.digests[digest]} ({later.name}): the same picture as {earlier.digests[digest]} "
                f"({earlier.name}): a leak between splits"
                for digest in shared
            ]
    return leaks
