"""The rule for pixels of more than 8 bits, and that files, PIL images and arrays are all read by it."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.data.labels import check_image, scan
from utils.files.images import decode_image, pillow_to_rgb, read_image, scaled_to_uint8
from utils.files.pixels import to_uint8
from utils.predict.autoshape import read_picture

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def scaled(dtype, factor=1.0):
    values = RAMP.astype(np.float64) * factor
    return (values if np.dtype(dtype).kind == "f" else np.rint(values)).astype(dtype)


CERTAIN = {
    "uint8": RAMP,
    "bytes in int64": scaled(np.int64),
    "bytes in int32": scaled(np.int32),
    "bytes in float64": scaled(np.float64),
    "bytes in float16": scaled(np.float16),
    "0..1 in float32": scaled(np.float32, 1 / 255),
    "0..1 in float64": scaled(np.float64, 1 / 255),
    "uint16": scaled(np.uint16, 257),
    "uint16, big-endian": scaled(">u2", 257),
    "uint16 in int32": scaled(np.int32, 257),
    "uint32": scaled(np.uint32, 0x01010101),
    "int16": scaled(np.int16, 32767 / 255),
    "int32": scaled(np.int32, (2**31 - 1) / 255),
}
LIKELY = {
    "uint16, 12 bits": (scaled(np.uint16, 4095 / 255), "12-bit"),
    "uint16, 10 bits": (scaled(np.uint16, 1023 / 255), "10-bit"),
    "uint16, 14 bits": (scaled(np.uint16, 16383 / 255), "14-bit"),
    "uint16, 8 bits": (scaled(np.uint16), "8-bit"),
    "int32, 12 bits": (scaled(np.int32, 4095 / 255), "12-bit"),
    "float32, 12 bits": (scaled(np.float32, 4095 / 255), "12-bit"),
    "float32, 16 bits": (scaled(np.float32, 257), "16-bit"),
}
UNCERTAIN = {
    "negative int16": (np.array([[-5, 300]], np.int16), "from -5 to 300"),
    "negative floats": (np.array([[-1.0, 1.0]]), "from -1 to 1"),
    "NaN": (np.array([[np.nan, 1.0]]), "NaN"),
    "infinity": (np.array([[np.inf, 1.0]]), "NaN or infinity"),
    "floats to 4": (np.array([[0.0, 4.0]]), "from 0 to 4"),
    "20 bits": (np.array([[0, 2**20]], np.int32), "no certain scale"),
    "large floats": (np.array([[0, 1e6]]), "no certain scale"),
    "complex": (np.array([[1j]]), "complex128"),
}


@pytest.mark.parametrize("pixels", CERTAIN.values(), ids=CERTAIN)
def test_certain_scales(pixels):
    image, remark = to_uint8(pixels)
    assert image.dtype == np.uint8
    assert remark == ""
    assert np.abs(image.astype(int) - RAMP).max() <= ("float16" in str(pixels.dtype))


@pytest.mark.parametrize(("pixels", "bits"), LIKELY.values(), ids=LIKELY)
def test_likely_scales_are_named(pixels, bits):
    image, remark = to_uint8(pixels)
    assert np.abs(image.astype(int) - RAMP).max() <= 1
    assert bits in remark
    assert f"to {pixels.max():g}" in remark


@pytest.mark.parametrize(("pixels", "message"), UNCERTAIN.values(), ids=UNCERTAIN)
def test_uncertain_scales_are_refused(pixels, message):
    with pytest.raises(ValueError, match=f"^a.tif: .*{message}"):
        scaled_to_uint8(pixels, "a.tif")


def test_bool_black_and_overshoot():
    assert to_uint8(np.array([[False, True]]))[0].tolist() == [[0, 255]]
    assert to_uint8(np.zeros((4, 4), np.uint16))[1] == ""
    assert to_uint8(np.array([[-0.02, 0.5, 1.03]]))[0].tolist() == [[0, 128, 255]]
    assert to_uint8(np.array([[-3.0, 100.0, 258.0]]))[0].tolist() == [[0, 100, 255]]


def test_a_dark_copy_of_an_8_bit_image_stays_dark():
    image, remark = to_uint8((RAMP // 8).astype(np.uint16) * 257)
    assert (image == RAMP // 8).all()
    assert remark == ""


# The same rule for all ------------------------------------------------------------------------------------------------

DEEP = {
    "I;16": scaled(np.uint16, 257),
    "12 bits": scaled(np.uint16, 4095 / 255),
    "I": scaled(np.int32, 257),
    "F": scaled(np.float32, 1 / 255),
    "F, bytes": scaled(np.float32),
    "int16": scaled(np.int16, 32767 / 255),
    "1": RAMP > 99,
}


@pytest.mark.parametrize("pixels", DEEP.values(), ids=DEEP)
def test_file_array_and_pil_image_agree(tmp_path, pixels):
    path = tmp_path / "deep.tif"
    if pixels.dtype == np.int16:
        cv2.imwrite(str(path), pixels)
    else:
        Image.fromarray(pixels).save(path)
    expected = (RAMP > 99) * 255 if pixels.dtype == bool else RAMP
    with Image.open(path) as image:
        given = [
            read_image(path)[..., ::-1],
            read_picture(image)[0],
            read_picture(str(path))[0],
            read_picture(pixels)[0],
        ]
    for rgb in given:
        assert rgb.shape == (16, 16, 3)
        assert np.abs(rgb[..., 1].astype(int) - expected).max() <= 1
        assert (rgb == given[0]).all()
    assert check_image(str(path)) == (16, 16)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64, np.int32, np.int16])
def test_colours_and_alpha_of_tiff(tmp_path, channels, dtype):
    factor = {np.uint16: 257, np.int32: 257, np.int16: 32767 / 255}.get(dtype, 1 / 255)
    bgr = np.stack((RAMP, RAMP.T, RAMP[::-1], np.full_like(RAMP, 255)), -1)[..., :channels]
    path = tmp_path / "deep.tif"
    cv2.imwrite(str(path), (bgr.astype(np.float64) * factor).astype(dtype))
    image = read_image(path)
    expected = bgr[..., :3] if channels > 1 else np.repeat(bgr, 3, 2)
    assert np.abs(image.astype(int) - expected).max() <= 1
    assert check_image(str(path)) == (16, 16)


def test_exif_turns_deep_images(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for pixels in (scaled(np.uint16, 257)[:10], scaled(np.float32, 1 / 255)[:10]):
        Image.fromarray(pixels).save(tmp_path / "a.tif", exif=exif)
        assert (read_image(tmp_path / "a.tif")[..., 0] == np.rot90(RAMP[:10], -1)).all()


def test_what_a_12_bit_file_says(tmp_path):
    file = io.BytesIO()
    Image.fromarray(scaled(np.uint16, 4095 / 255)).save(file, "PNG")
    notes = []
    decode_image(file.getvalue(), "deep.png", note=notes.append)
    pillow_to_rgb(Image.open(file), "pil", notes.append)
    assert [note.split(":")[0] for note in notes] == ["deep.png", "pil"]
    assert all("12-bit" in note for note in notes)


def test_the_scan_names_both_kinds(tmp_path):
    for i in range(3):
        Image.fromarray(scaled(np.uint16, 4095 / 255)).save(tmp_path / f"{i}.png")
    Image.fromarray(np.full((16, 16), np.nan, np.float32)).save(tmp_path / "nan.tif")
    images = [str(path) for path in sorted(tmp_path.iterdir())]
    for _ in range(2):  # the second time from the cache
        records, report = scan(images, 1, tmp_path / "cache.npz")
        assert len(records) == 3
        assert report.corrupt == 1
        assert sum("3 images" in note and "0.png" in note and "12-bit" in note for note in report.notes) == 1
        assert any("nan.tif" in note and "NaN" in note for note in report.notes)
