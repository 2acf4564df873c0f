"""One rule by which pixel values of any type become uint8, for image files, PIL images and arrays alike.

| values | read as |
|---|---|
| uint8, bool | as they stand; False and True are 0 and 255 |
| whole numbers | of 8, 10, 12, 14, 16 or all bits of their type, the fewest that hold the largest one |
| floats up to 1 | 0..1 |
| floats from 16 to 255 | 0..255 |
| larger floats | whole numbers of 10 to 16 bits, as above |

Floats may lie 5 % outside of their range, as resampling leaves them, and are clipped. A file does not tell how many
bits its camera had: wherever another reading is possible, the rule gives a remark that names the one taken. Anything
else - NaN, negative values, floats that end between 1 and 16 - has no certain scale and is a ValueError.
"""

import numpy as np

USUAL_BITS = (8, 10, 12, 14, 16)
OVERSHOOT = 0.05  # of the range
LEAST_BYTE = 16.0  # floats that end between 1 and this are neither 0..1 nor 0..255
REMEDY = "save it as an 8-bit image"


def to_uint8(pixels: np.ndarray) -> tuple[np.ndarray, str]:
    """Scale pixel values to uint8, and say how where another scale is possible; ValueError if none is certain."""
    if pixels.dtype == np.uint8:
        return pixels, ""
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * 255, ""
    if pixels.dtype.kind not in "uif" or not pixels.size:
        raise ValueError(f"pixels of type {pixels.dtype} are not supported; {REMEDY}")
    low, high = float(pixels.min()), float(pixels.max())
    kind = f"{pixels.dtype.name} values from {low:g} to {high:g}"
    if not np.isfinite((low, high)).all():
        raise ValueError(f"its {pixels.dtype.name} pixels hold NaN or infinity; replace them and {REMEDY}")
    if low < -OVERSHOOT * max(high, 1.0) or (low < 0 and pixels.dtype.kind == "i"):
        raise ValueError(f"{kind}: negative pixels have no certain scale; {REMEDY}")
    top, is_sure = _float_top(high) if pixels.dtype.kind == "f" else _integer_top(pixels, int(high))
    if not top:
        raise ValueError(f"{kind} have no certain scale; {REMEDY}, as 16-bit values or as floats in 0..1")
    scaled = np.rint(np.clip(pixels.astype(np.float32) * np.float32(255 / top), 0, 255)).astype(np.uint8)
    remark = "" if is_sure else f"{kind} are read as {top.bit_length()}-bit; if they are not, {REMEDY}"
    return scaled, remark


def _integer_top(pixels: np.ndarray, high: int) -> tuple[int, bool]:
    """Find the value that is white, 0 if unknown, and whether it is certain."""
    largest = int(np.iinfo(pixels.dtype).max)
    bits = next((bits for bits in USUAL_BITS if high < 2**bits), 0)
    if not bits:
        return (largest, True) if high > largest // 2 else (0, False)
    if bits == 8:  # wide integers come of arithmetic on bytes, 16 bits from cameras
        return 255, high == 0 or pixels.dtype.itemsize != 2
    if bits == 16 or not (pixels % 257).any():  # all are multiples of 257: bytes that were widened to 16 bits
        return min(2**16 - 1, largest), True
    return 2**bits - 1, False


def _float_top(high: float) -> tuple[int, bool]:
    """Find the value that is white, 0 if unknown, and whether it is certain."""
    if high <= 1 + OVERSHOOT:
        return 1, True
    if high < LEAST_BYTE:
        return 0, False
    if high <= 255 * (1 + OVERSHOOT):
        return 255, True
    return next((2**bits - 1 for bits in USUAL_BITS if high < 2**bits), 0), False
