"""Images of a data set at the network's size, with caches in memory or on disk.

In training JPEGs are decoded at 1/2, 1/4 or 1/8 if that is large enough, and each process keeps recent images.
`cache="ram"` keeps all images in one tensor shared by the workers; `cache="disk"` keeps them as .npy files beside the
images' folder. Caches never change pixels.
"""

import os
from collections import OrderedDict
from multiprocessing.pool import ThreadPool
from pathlib import Path

import cv2
import numpy as np
import torch

from utils.files.images import read_image
from utils.general import LOGGER, atomic_write, progress

CACHES = (None, "ram", "disk")
BUFFER_BYTES, LEAST_BUFFER_BYTES = 256 << 20, 32 << 20  # of all processes together; of one
JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".mpo"})
MEMORY_MARGIN = 1.1
READING_RULE = 2  # of utils/files/pixels.py; another number makes earlier .npy files void


class ImageStore:
    """Images of `paths` (N,) with native sizes `hw` (N, 2), their longest side resized to imgsz.

    `strict` is for validation: full decoding, area interpolation, and a ValueError for a file that cannot be read.
    Otherwise speed matters more, and such a file is logged once and returned as None.
    """

    def __init__(
        self,
        paths: np.ndarray,
        hw: np.ndarray,
        imgsz: int,
        *,
        strict: bool,
        cache: str | None = None,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        if cache not in CACHES:
            raise ValueError(f"cache {cache!r}: must be 'ram' or 'disk' (or None for no cache)")
        self.paths, self.native_hw, self.hw = paths, hw, resized_hw(hw, imgsz)
        self.imgsz, self.strict, self.cache = imgsz, strict, cache
        _, firsts, numbers = np.unique(paths, return_index=True, return_inverse=True)
        self._first = firsts[numbers]  # (N,) index of the same file's first mention: a list may repeat an image
        self._capacity = self._room = buffer_bytes
        self._buffer: OrderedDict[int, np.ndarray] = OrderedDict()
        self._reported: set[int] = set()
        self._pool: torch.Tensor | None = None
        if cache == "ram":
            self._fill_pool()
        elif cache == "disk":
            self._prepare_folders()

    def get(self, index: int) -> np.ndarray | None:
        """Return image `index`, read-only (h, w, 3) uint8 BGR; None if it is unreadable and the store not strict."""
        index = int(self._first[index])
        if self._pool is not None:
            return self._from_pool(self._pool, index)
        image = self._buffer.get(index)
        if image is not None:
            self._buffer.move_to_end(index)
            return image
        try:
            image = self._from_disk(index) if self.cache == "disk" else self._decode(index)
        except (ValueError, OSError) as error:
            if self.strict:
                raise ValueError(str(error)) from error
            self._report(index, error)
            return None
        image.flags.writeable = False
        self._remember(index, image)
        return image

    def path(self, index: int) -> str:
        """Return the file of image `index`."""
        return os.fsdecode(self.paths[index])

    def _decode(self, index: int) -> np.ndarray:
        path, hw, native_hw = self.path(index), tuple(self.hw[index].tolist()), self.native_hw[index]
        reduce = 1
        if not self.strict and Path(path).suffix.lower() in JPEG_SUFFIXES:
            reduce = next((n for n in (8, 4, 2) if native_hw.max() >= n * self.imgsz), 1)
        image = read_image(path, reduce, note=LOGGER.debug)  # the scan has warned
        if (abs(np.array(image.shape[:2]) - native_hw / reduce) >= 1).any():
            raise ValueError(
                f"{path}: is not the {native_hw[1]}x{native_hw[0]} image that was scanned; start anew to scan it again"
            )
        if (native_hw % reduce).any():
            return shrink_rest(image, native_hw / reduce, hw)
        if image.shape[:2] == hw:
            return image
        shrinks = image.shape[0] > hw[0] or image.shape[1] > hw[1]
        how = cv2.INTER_AREA if self.strict and shrinks else cv2.INTER_LINEAR
        return cv2.resize(image, hw[::-1], interpolation=how)

    def _remember(self, index: int, image: np.ndarray) -> None:
        """Keep an image; the least recently used ones are dropped."""
        if image.nbytes > self._capacity:
            return
        self._buffer[index] = image
        self._room -= image.nbytes
        while self._room < 0:
            self._room += self._buffer.popitem(last=False)[1].nbytes

    def _report(self, index: int, error: Exception) -> None:
        if index not in self._reported:
            self._reported.add(index)
            LOGGER.warning("%s; it is trained on as a gray picture without labels", error)

    # RAM --------------------------------------------------------------------------------------------------------------

    def _fill_pool(self) -> None:
        once = np.unique(self._first)
        sizes = np.zeros(len(self.paths), np.int64)
        sizes[once] = self.hw[once].prod(1, dtype=np.int64) * 3
        needed, free = int(sizes.sum()), available_memory()
        if free is not None and needed * MEMORY_MARGIN > free:
            LOGGER.warning(
                "cache ram: %.1f GB needed for %d images and a tenth to spare, %.1f GB free; going on without a cache",
                needed / 1e9,
                len(once),
                free / 1e9,
            )
            return
        starts = np.concatenate(([0], sizes.cumsum()))
        # A tensor and not an array: where workers are not forked, torch hands them the memory instead of a copy.
        pool, readable = torch.empty(needed, dtype=torch.uint8), np.zeros(len(sizes), bool)
        pixels = pool.numpy()

        def fill(index: int) -> None:
            image = self.get(index)
            if image is not None:
                pixels[starts[index] : starts[index + 1]] = image.reshape(-1)
                readable[index] = True

        self._capacity = 0  # the buffer need not hold what the pool holds
        with ThreadPool(min(8, cpu_count())) as threads:
            for _ in progress(threads.imap_unordered(fill, once.tolist()), total=len(once), desc="cache ram"):
                pass
        self._pool, self._starts, self._readable = pool, starts, readable

    def _from_pool(self, pool: torch.Tensor, index: int) -> np.ndarray | None:
        if not self._readable[index]:
            return None
        image = pool.numpy()[self._starts[index] : self._starts[index + 1]].reshape(*self.hw[index], 3)
        image.flags.writeable = False
        return image

    # Disk -------------------------------------------------------------------------------------------------------------

    def _prepare_folders(self) -> None:
        try:
            for folder in {self._npy_path(index).parent for index in range(len(self.paths))}:
                folder.mkdir(exist_ok=True)
                if not os.access(folder, os.W_OK):
                    raise PermissionError(f"{folder}: not writable")
        except OSError as error:
            LOGGER.warning("cache disk: %s; going on without a cache", error)
            self.cache = None

    def _npy_path(self, index: int) -> Path:
        path, kind = Path(self.path(index)), "area" if self.strict else "linear"
        return path.parent.with_name(f"{path.parent.name}_npy") / f"{path.name}.{self.imgsz}-{kind}.npy"

    def _from_disk(self, index: int) -> np.ndarray:
        """Return the image from its .npy file if that is up to date, otherwise decode it and write a new .npy.

        40 bytes precede the pixels: the image file's mtime and size, the image's height and width, READING_RULE.
        """
        source = os.stat(self.path(index))
        h, w = self.hw[index].tolist()
        header = np.array((source.st_mtime_ns, source.st_size, h, w, READING_RULE), np.int64)
        path = self._npy_path(index)
        try:
            stored = np.load(path, allow_pickle=False)
            if stored.dtype == np.uint8 and np.array_equal(stored[: header.nbytes].view(np.int64), header):
                return stored[header.nbytes :].reshape(h, w, 3)
        except (OSError, EOFError, ValueError):
            LOGGER.debug("cache disk: %s is made anew", path)
        image = self._decode(index)
        try:
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                np.save(file, np.concatenate((header.view(np.uint8), image.reshape(-1))))
        except OSError as error:
            LOGGER.warning("cache disk: %s; going on without a cache", error)
            self.cache = None
        return image


def resized_hw(hw: np.ndarray, imgsz: int) -> np.ndarray:
    """Resize (..., 2) sizes so that the longest side is imgsz, rounded (v6.1 truncated), int64."""
    return np.rint(hw * (imgsz / hw.max(-1, keepdims=True))).astype(np.int64).clip(1)


def shrink_rest(image: np.ndarray, covered_hw: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """Resize an image decoded at reduced size to hw; covered_hw is the part of it that shows the image."""
    scale_y, scale_x = hw / covered_hw
    matrix = np.array([[scale_x, 0, scale_x / 2 - 0.5], [0, scale_y, scale_y / 2 - 0.5]])
    return cv2.warpAffine(image, matrix, hw[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def buffer_share(processes: int) -> int:
    """Return the bytes of images that each of `processes` may keep; 0 processes mean the main one alone."""
    return max(BUFFER_BYTES // max(processes, 1), LEAST_BUFFER_BYTES)


def cpu_count() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int | None:
    """Return the bytes available without swapping, within a container's limit; None unless on Linux."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free
    if free is None or limit == "max":
        return free
    return min(free, int(limit) - used + int(stat.get("inactive_file", 0)))  # file cache is given up on demand
