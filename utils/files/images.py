"""Reading and writing image files of any path, name and colour format as (h, w, 3) uint8 BGR arrays."""

import io
import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from utils.files.pixels import to_uint8
from utils.files.reading import read_plain
from utils.files.results import whole_or_none

IMAGE_SUFFIXES = frozenset({".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
TIFF_STARTS = frozenset({b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"})
PNG_START = b"\x89PNG\r\n\x1a\n"
DEEP_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})  # Pillow's, of one channel
BITS_PER_SAMPLE = 258  # TIFF tag
LOGGER = logging.getLogger("yolov5")  # not that of utils.general, which loads torch
MOST_BYTES = 2 << 30  # of an image file
# what Pillow raises for a damaged file
BROKEN = (OSError, EOFError, ValueError, SyntaxError, LookupError, ArithmeticError, TypeError, struct.error)


def read_image(path: str | Path, reduce: int = 1, note: Callable[[str], object] = LOGGER.warning) -> np.ndarray:
    """The image (h, w, 3) uint8 BGR, turned as its EXIF tag says; `reduce` 2, 4 or 8 decodes a JPEG that much smaller.

    More than 8 bits are scaled by the rule of utils/files/pixels.py; `note` takes a line that begins with the path
    where that scale is not certain.
    OpenCV gets bytes, not a name: names beyond ASCII would fail on Windows. What OpenCV cannot decode, Pillow tries.
    Raises ValueError that begins with the path for a file that is no image, whose pixels have no known scale, or whose
    header says that it is larger than Pillow's limit (179 million pixels), before memory is taken for it; OSError for
    one that cannot be opened.
    """
    return decode_image(read_plain(path, MOST_BYTES, "image"), path, reduce, note)


def decode_image(
    data: bytes, name: str | Path, reduce: int = 1, note: Callable[[str], object] = LOGGER.warning
) -> np.ndarray:
    """The image in the bytes of a file, as `read_image` has it; errors and notes begin with the name."""
    if not data:
        raise ValueError(f"{name}: the file is empty")
    mode = _check_header(name, data)
    if may_be_deep(data):
        image = _read_deep(name, data, mode, note)
        if image is not None:
            return image if reduce == 1 else np.asarray(Image.fromarray(image).reduce(reduce)).copy()
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), REDUCED[reduce])
    except cv2.error:  # a damaged header
        image = None
    return _read_with_pillow(name, data, reduce, note) if image is None else image


def may_be_deep(header: bytes) -> bool:
    """Whether a file that begins so, with 25 bytes or more, can have more than 8 bits: TIFF, and PNG of 16 bits."""
    return header[:4] in TIFF_STARTS or (header[:8] == PNG_START and header[24:25] == b"\x10")


def pillow_to_rgb(image: Image.Image, name: str, note: Callable[[str], object] = LOGGER.warning) -> np.ndarray:
    """A PIL image of any mode as (h, w, 3) uint8 RGB, turned as its EXIF tag says; alpha is left out.

    ValueError that begins with the name where its pixels have no known scale.
    """
    turned = ImageOps.exif_transpose(image)
    if turned.mode not in DEEP_MODES:
        return np.asarray(turned.convert("RGB"))
    pixels = np.asarray(turned)  # (h, w)
    if turned.mode == "I" and dict(getattr(image, "tag_v2", {})).get(BITS_PER_SAMPLE) == (16,):
        pixels = pixels.astype(np.int16)  # Pillow widens TIFF's signed 16 bits
    return np.repeat(scaled_to_uint8(pixels, name, note)[..., None], 3, 2)


def scaled_to_uint8(pixels: np.ndarray, name: str | Path, note: Callable[[str], object] = LOGGER.warning) -> np.ndarray:
    """Pixels by the rule of utils/files/pixels.py; its errors and its remark begin with the name."""
    try:
        scaled, remark = to_uint8(pixels)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if remark:
        note(f"{name}: {remark}")
    return scaled


def _check_header(path: str | Path, data: bytes) -> str:
    """Pillow's mode of the image, if it knows it; reads the header only, some 15 microseconds.

    ValueError where a few bytes would unpack to gigabytes.
    """
    try:
        with Image.open(io.BytesIO(data)) as file:
            return file.mode
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: {error}") from None
    except BROKEN:  # OpenCV may know the format; it has a limit of its own
        return ""


def _read_deep(path: str | Path, data: bytes, mode: str, note: Callable[[str], object]) -> np.ndarray | None:
    """The image (h, w, 3) uint8 BGR of a file with up to 32 bits; None where it cannot be decoded.

    OpenCV turns gray floats and 32-bit integers into colours only with an error, Pillow does not know those in colour.
    """
    if mode in DEEP_MODES:
        return _read_with_pillow(path, data, 1, note)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH if mode else cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    if image is None:
        return None
    if image.ndim == 2:
        image = image[..., None]
    image = np.repeat(image, 3, 2) if image.shape[2] == 1 else image[..., :3]
    return np.ascontiguousarray(scaled_to_uint8(image, path, note))


def _read_with_pillow(path: str | Path, data: bytes, reduce: int, note: Callable[[str], object]) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as file:
            file.load()
            pixels = Image.fromarray(pillow_to_rgb(file, str(path), note))
    except BROKEN as error:
        if str(error).startswith(f"{path}: "):  # pixels without a known scale
            raise
        raise ValueError(f"{path}: not a readable image") from None
    if reduce > 1:
        pixels = pixels.reduce(reduce)
    return np.asarray(pixels)[..., ::-1].copy()


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
