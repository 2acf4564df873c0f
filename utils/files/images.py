"""Reading and writing image files of any path, name and colour format as (h, w, 3) uint8 BGR arrays."""

import io
import os
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from utils.files.results import whole_or_none

IMAGE_SUFFIXES = frozenset({".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
# what Pillow raises for a damaged file
BROKEN = (OSError, EOFError, ValueError, SyntaxError, LookupError, ArithmeticError, TypeError, struct.error)


def read_image(path: str | Path, reduce: int = 1) -> np.ndarray:
    """The image (h, w, 3) uint8 BGR, turned as its EXIF tag says; `reduce` 2, 4 or 8 decodes a JPEG that much smaller.

    OpenCV gets bytes, not a name: names beyond ASCII would fail on Windows. What OpenCV cannot decode, Pillow tries.
    Raises ValueError that begins with the path for a file that is no image, or whose header says that it is larger than
    Pillow's limit (179 million pixels), before memory is taken for it; OSError for one that cannot be opened.
    """
    return decode_image(Path(path).read_bytes(), path, reduce)


def decode_image(data: bytes, name: str | Path, reduce: int = 1) -> np.ndarray:
    """The image in the bytes of a file, as `read_image` has it; errors begin with the name."""
    if not data:
        raise ValueError(f"{name}: the file is empty")
    _check_size(name, data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), REDUCED[reduce])
    except cv2.error:  # a damaged header
        image = None
    return _read_with_pillow(name, data, reduce) if image is None else image


def _check_size(path: str | Path, data: bytes) -> None:
    """ValueError where a few bytes would unpack to gigabytes; reads the header only, some 15 microseconds."""
    try:
        Image.open(io.BytesIO(data)).close()
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: {error}") from None
    except BROKEN:  # OpenCV may know the format; it has a limit of its own
        return


def _read_with_pillow(path: str | Path, data: bytes, reduce: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except BROKEN:
        raise ValueError(f"{path}: not a readable image") from None
    if reduce > 1:
        image = image.reduce(reduce)
    return np.asarray(image)[..., ::-1].copy()


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Writes (h, w, 3) uint8 BGR in the format of the path's suffix; ValueError where OpenCV cannot."""
    suffix = os.path.splitext(path)[1]
    try:
        written, data = cv2.imencode(suffix, image)
    except cv2.error:
        written, data = False, np.zeros(0)
    if not written:
        raise ValueError(f"{path}: cannot write an image of shape {image.shape} in the format {suffix or 'none'}")
    with whole_or_none(path) as file:
        file.write_bytes(data.tobytes())
