"""Find, pair, check and cache the images and labels of a data set.

Errors name file and line. The user's images and labels are never changed. utils/data/label_files.py parses label files,
utils/data/label_cache.py keeps the results of a scan; utils/datasets.py decodes and augments.

Shapes: n objects of an image, k points of a polygon.
"""

import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from PIL import Image

from utils.data.config import DataConfig
from utils.data.label_cache import Entry, load_cache, save_cache
from utils.data.label_files import MAX_CLASS, class_error, decode_text, parse_labels, read_bytes, read_labels
from utils.data.unused import unused_notes
from utils.files.images import BROKEN, IMAGE_SUFFIXES, TIFF_STARTS, may_be_deep, read_image
from utils.files.reading import open_plain, read_plain
from utils.general import LOGGER, one_line, plural, progress

MAX_LIST_BYTES = 256 << 20  # of a list; one of a million images has some 100 MB
MOST_MISSING = 20_000  # images of a list that are not there, before it is given up
MIN_SIDE = 10  # pixels; a smaller image is taken for a mistake
MAX_NOTES = 20  # lines of a scan's report that go to the log
PROBE = 64  # pairs that tell whether threads are worth it

_LAST_IMAGES_FOLDER = re.compile(r"(^|.*[\\/])images(?=[\\/])", re.DOTALL)
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap width and height


@dataclass(frozen=True, slots=True)
class LabelRecord:
    """One image and its objects.

    hw: pixels after EXIF rotation. boxes: (n, 5) float32 class, x centre, y centre, width, height in 0..1. polygons:
    for each box (k, 2) float32 points in 0..1, or None for a box row; () if the file has no polygon.
    """

    image: str
    hw: tuple[int, int]
    boxes: np.ndarray
    polygons: tuple[np.ndarray | None, ...] = ()


@dataclass(frozen=True, slots=True)
class ScanReport:
    """Counts of a scan: found + missing + corrupt = images; empty is part of found; corrupt images are dropped.

    checked: number of pairs read, not known from the cache. notes: messages with file names.
    """

    found: int
    missing: int
    empty: int
    corrupt: int
    checked: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Format v6.1's four counts in one line."""
        return f"{self.found} found, {self.missing} missing, {self.empty} empty, {self.corrupt} corrupt"


def as_one_class(record: LabelRecord) -> LabelRecord:
    """Return the record with all objects as class 0."""
    boxes = record.boxes.copy()
    boxes[:, 0] = 0
    return replace(record, boxes=boxes)


# Splits ---------------------------------------------------------------------------------------------------------------


def load_split(
    data: DataConfig, split: str, workers: int, single_cls: bool = False, needs_labels: bool = True
) -> list[LabelRecord]:
    """Load the usable images of a split with their labels; single_cls makes all objects class 0.

    Raises:
        ValueError: if no image can be used, or if labels are needed and none has any; otherwise that is a warning.
    """
    sources = data.split(split)
    images = find_images(sources)
    records, report = scan(images, None if single_cls else data.nc, cache_path(sources), max(workers, 1), split)
    where = f"{data.file}: {split}"
    if not records:
        raise ValueError(f"{where}: no image of {len(images)} can be used ({report})")
    if not any(len(record.boxes) for record in records):
        missing = f"{where}: no image with labels ({report}); looked for e.g. {label_path(images[0])}"
        if needs_labels:
            raise ValueError(missing)
        LOGGER.warning(missing)
    return [as_one_class(record) for record in records] if single_cls else records


# Images ---------------------------------------------------------------------------------------------------------------


def find_images(sources: Iterable[Path | str]) -> list[str]:
    """Return the paths of all images of folders (recursive), `.txt` lists and single images, sorted.

    An image that is listed several times is returned as often: repetition balances classes. A list has an image per
    line; relative lines, `./` first, are below the list's own folder, or below the current one if the image is only
    there. Hidden files are skipped.

    Raises:
        FileNotFoundError: if a source does not exist.
        ValueError: if a list is not text or has no images.
    """
    images: list[str] = []
    for source in map(Path, sources):
        if source.is_dir():
            found = list(_walk(source))
        elif not source.is_file():
            raise FileNotFoundError(f"{source}: no such folder, list or image; correct the data yaml")
        elif source.suffix.lower() == ".txt":
            found = _read_list(source)
        elif source.suffix.lower() in IMAGE_SUFFIXES:
            found = [str(source)]
        else:
            raise ValueError(f"{source}: neither a folder, nor a .txt list of images, nor an image ({_suffixes()})")
        if not found:
            raise FileNotFoundError(f"{source}: no image in it; suffixes looked for: {_suffixes()}")
        images += found
        _log_repeats(found, str(source))
    if len(images) > len(found):
        _log_repeats(images, "all sources together")
    return sorted(images)


def _log_repeats(images: Sequence[str], source: str) -> None:
    """Log if images are listed more than once."""
    once = len(set(images))
    if once < len(images):
        given = plural(once, "image")
        LOGGER.info(f"{source}: {given}, some repeated: {len(images)} in all; each counts as often as it is listed")


def label_path(image: str) -> str:
    """Return an image's label file: its last folder `images` becomes `labels`; without one it is beside the image."""
    folder = _LAST_IMAGES_FOLDER.match(image)
    if folder:
        image = f"{folder[1]}labels{image[folder.end() :]}"
    return os.path.splitext(image)[0] + ".txt"


def cache_path(sources: Sequence[Path | str]) -> Path:
    """Return the cache file of a scan: `labels/train.cache.npz` for `images/train`; beside a list.

    v6.1's `labels/train.cache` is another file, which is neither read nor overwritten.
    """
    first = Path(sources[0])
    others = f"+{len(sources) - 1}" if len(sources) > 1 else ""
    if not first.is_dir():
        return first.with_name(f"{first.stem}{others}.cache.npz")
    labels = Path(label_path(str(first / "image.jpg"))).parent
    if labels == first:  # labels lie beside the images; so does the cache, as the folder above may be anyone's
        labels = first / "labels"
    return labels.with_name(f"{labels.name}{others}.cache.npz")


def _suffixes() -> str:
    return " ".join(sorted(IMAGE_SUFFIXES))


def _tell(error: OSError) -> None:
    LOGGER.warning(f"{one_line(error)}; folder passed over")


def _walk(folder: Path) -> Iterable[str]:
    """Yield the images below a folder; follow links, but enter no folder twice."""
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, onerror=_tell, followlinks=True):
        info = os.stat(parent)
        if (info.st_dev, info.st_ino) in seen:
            folders.clear()
            continue
        seen.add((info.st_dev, info.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                yield os.path.join(parent, name)


def _read_list(path: Path) -> list[str]:
    """Read the images of a list. The scan reports missing ones; if all are missing, FileNotFoundError."""
    images, missing = [], 0
    text = decode_text(read_plain(path, MAX_LIST_BYTES, "list of images"), str(path))
    for number, line in enumerate(io.StringIO(text, newline=None), 1):  # one at a time: there may be millions
        line = line.strip()
        if not line:
            continue
        if os.path.splitext(line)[1].lower() not in IMAGE_SUFFIXES:
            raise ValueError(f"{path}:{number}: {line!r} is not an image; suffixes known: {_suffixes()}")
        if os.sep == "/" and "\\" in line and not os.path.exists(line):
            line = line.replace("\\", "/")  # a list made on Windows
        beside = os.path.join(path.parent, line.removeprefix("./"))  # `line` itself if it is absolute
        is_beside = os.path.exists(beside)
        elsewhere = not line.startswith("./") and not is_beside and os.path.exists(line)
        images.append(line if elsewhere else beside)
        missing += not is_beside and not elsewhere
        if missing > MOST_MISSING:
            raise FileNotFoundError(
                f"{path}: more than {MOST_MISSING} of its images are not there, e.g. line {number}: {images[-1]}"
            )
    if images and missing == len(images):
        raise FileNotFoundError(
            f"{path}: none of its {plural(len(images), 'image')} is there, e.g. line 1: {images[0]}"
        )
    return images


def check_image(path: str, note: Callable[[str], object] = LOGGER.warning) -> tuple[int, int]:
    """Return (h, w) after EXIF rotation; raise one of BROKEN if the file cannot be fully decoded.

    `note` is called with a message if the scale of the pixels is uncertain, see utils/files/pixels.py. 8-bit JPEG and
    PNG, nearly all files, are not decoded: a JPEG with its end marker and a PNG with valid checksums count as complete,
    which is twenty times faster.
    """
    with open_plain(path) as file:
        if not file.read(1):
            raise ValueError("the file is empty")
        try:
            image = Image.open(file)
        except Image.UnidentifiedImageError:
            file.seek(0)
            if file.read(4) in TIFF_STARTS:  # of colours in floats, which OpenCV knows
                return read_image(path, note=note).shape[:2]
            raise ValueError("not an image that Pillow can read") from None
        width, height = image.size
        if min(width, height) < MIN_SIDE:
            raise ValueError(f"{width}x{height} pixels, a side below {MIN_SIDE}")
        if image.format in {"JPEG", "MPO"}:
            file.seek(-2, os.SEEK_END)
            if file.read(2) != b"\xff\xd9":
                image.load()  # raises if truncated; other bytes after the end mark are harmless
        elif image.format == "PNG":
            file.seek(0)
            data = file.read()
            if may_be_deep(data):
                return read_image(path, note=note).shape[:2]
            image = Image.open(io.BytesIO(data))
            if b"eXIf" in data and "exif" not in image.info:
                image.load()  # the chunk stands behind the pixels
            else:
                image.verify()
        else:
            return read_image(path, note=note).shape[:2]
    tags = Image.Exif()
    tags.load(image.info.get("exif", b""))  # image.getexif() would read XMP too, which read_image does not heed
    return (width, height) if tags.get(_ORIENTATION, 1) in {5, 6, 7, 8} else (height, width)


# Scan -----------------------------------------------------------------------------------------------------------------


def scan(
    images: Sequence[str], nc: int | None, cache: Path | None = None, workers: int = 8, desc: str = "labels"
) -> tuple[list[LabelRecord], ScanReport]:
    """Return a record for each usable image, in order, and a report, which is also logged.

    An image without a label file, or with an empty one, is background: (0, 5) boxes. Only pairs that changed since
    `cache` was written are read; None uses no cache. nc None allows any class from 0, for single-class training.

    Raises:
        ValueError: for a class below 0 or >= nc.
    """
    known = load_cache(cache) if cache else {}
    once = list(dict.fromkeys(images))
    paths = [label_path(image) for image in once]
    entries = examine_all(list(zip(once, paths, strict=True)), known, workers, f"Scanning {desc}")
    checked = sum(entry is not known.get(image) for image, entry in zip(once, entries, strict=True))
    if cache and (checked or len(known) != len(once)):
        save_cache(cache, once, entries)
    of_image: dict[str, LabelRecord | None] = {}
    notes: list[str] = []
    unsure: list[str] = []
    for image, path, entry in zip(once, paths, entries, strict=True):
        of_pixels = [note for note in entry.problems if note.startswith(f"{image}: ")]
        unsure += of_pixels
        notes += [note for note in entry.problems if note not in of_pixels]
        of_image[image] = None
        if entry.corrupt:
            notes.append(f"{image}: {entry.corrupt}; image and labels left out")
            continue
        _check_classes(entry.boxes, path, nc)
        of_image[image] = LabelRecord(image, entry.hw, entry.boxes, entry.polygons)
    records = [record for image in images if (record := of_image[image])]
    if len(unsure) > 1:
        count = plural(len(unsure), "image")
        unsure = [f"{count} with more than 8 bits and a scale that is not certain, e.g. {unsure[0]}"]
    counts = count_entries(images, dict(zip(once, entries, strict=True)))
    notes = [*layout_notes(once, paths, entries), *unsure, *notes]  # the first ones are logged
    report = replace(counts, checked=checked, notes=tuple(notes))
    LOGGER.info(f"{desc}: {report}" + (f", {len(once) - checked} of them known from {cache}" if known else ""))
    for note in notes[:MAX_NOTES]:
        LOGGER.warning(f"{desc}: {note}")
    if len(notes) > MAX_NOTES:
        LOGGER.warning(f"{desc}: ... and {len(notes) - MAX_NOTES} more findings of this kind")
    return records, report


def count_entries(images: Sequence[str], entries: Mapping[str, Entry]) -> ScanReport:
    """Count a scan's results; repeated images count as often, and all count as read."""
    usable = [entries[image] for image in images if not entries[image].corrupt]
    missing = sum(not entry.digest for entry in usable)
    found = len(usable) - missing
    empty = found - sum(len(entry.boxes) > 0 for entry in usable)
    return ScanReport(found, missing, empty, len(images) - len(usable), len(entries), ())


def layout_notes(images: Sequence[str], paths: Sequence[str], entries: Sequence[Entry]) -> list[str]:
    """Return messages about where labels were searched, so that nothing becomes background silently."""
    notes = []
    beside = [i for i, image in enumerate(images) if not _LAST_IMAGES_FOLDER.match(image)]
    if beside:
        i = beside[0]
        lone = plural(len(beside), "image")
        notes.append(f"{lone} in no folder `images`: labels looked for beside them, e.g. {paths[i]}")
    is_missing = [not (entry.digest or entry.corrupt) for entry in entries]
    if any(is_missing) and not any(entry.digest and not entry.corrupt for entry in entries):
        given = plural(len(images), "image")
        notes.append(f"none of {given} has a label file: looked for e.g. {paths[0]} for {images[0]}")
    if len(set(paths)) < len(paths):
        shared = plural(len(paths) - len(set(paths)), "image")
        notes.append(f"{shared} with the label file of another that differs in its suffix only")
    return notes + unused_notes(images, paths, is_missing)


def examine_all(pairs: list[tuple[str, str]], known: dict[str, Entry], workers: int, desc: str) -> list[Entry]:
    """Examine all (image, label file) pairs, in threads if that is faster.

    From memory or a fast disk a pair takes about 0.2 ms, mostly in Python, where threads do not help. If the first
    pairs take longer, the time goes to a slow disk or to decoding, where they do.
    """
    examine = partial(_examine, known=known)
    start = time.perf_counter()
    entries = [examine(pair) for pair in pairs[:PROBE]]
    rest = pairs[PROBE:]
    slow = time.perf_counter() - start > PROBE * 1e-3
    with ThreadPool(max(1, workers)) if slow and rest else nullcontext() as pool:
        work = pool.imap(examine, rest, chunksize=16) if pool else map(examine, rest)
        return entries + list(progress(work, total=len(rest), desc=desc, delay=0.5))


def _examine(pair: tuple[str, str], known: dict[str, Entry]) -> Entry:
    """Return the known entry of a pair if both files are unchanged, otherwise a new one."""
    image, path = pair
    nothing = Entry((-1, -1), b"", (0, 0), np.zeros((0, 5), np.float32), (), (), "")
    try:
        info = os.stat(image)
        data = read_bytes(path) if os.path.exists(path) else None
    except (OSError, ValueError) as error:
        # Its stamp fits no file: it is looked at again the next time.
        return nothing._replace(corrupt=one_line(error).removeprefix(f"{image}: "))
    stamp = (info.st_mtime_ns, info.st_size)
    # Content, not mtime: a label file edited twice within the clock's grain, or copied with its old time, is noticed.
    digest = b"" if data is None else hashlib.blake2b(data, digest_size=16).digest()
    old = known.get(image)
    if old and old.stamp == stamp and old.digest == digest:
        return old
    entry = nothing._replace(stamp=stamp, digest=digest)
    notes: list[str] = []
    try:
        labels = parse_labels(data or b"", path, nc=None, any_class=True)
        hw = check_image(image, notes.append)
        problems = (*labels.problems, *notes)
        return entry._replace(hw=hw, boxes=labels.boxes, polygons=labels.polygons, problems=problems)
    except (*BROKEN, Image.DecompressionBombError) as error:
        return entry._replace(corrupt=one_line(error).removeprefix(f"{image}: "))


def _check_classes(boxes: np.ndarray, path: str, nc: int | None) -> None:
    """Raise ValueError with file and line if a class is below 0 or >= nc; only then is the file read again."""
    if not len(boxes) or 0 <= boxes[:, 0].min() <= boxes[:, 0].max() < (MAX_CLASS if nc is None else nc):
        return
    read_labels(path, nc)
    wrong = boxes[:, 0].min() if boxes[:, 0].min() < 0 else boxes[:, 0].max()
    raise ValueError(class_error(path, int(wrong), nc))  # the file was corrected in this very moment
