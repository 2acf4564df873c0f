"""Reading and writing images: colour formats, turned photographs, broken and hostile files, any name."""

import resource
import struct
import subprocess
import sys
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from utils.files.images import IMAGE_SUFFIXES, read_image, write_image
from utils.general import ROOT

ORIENTATION = 0x0112
NAMES = ["plain", "with space", "naïve-训练-🙂", "a[1]*", "100%d", "UPPER"]


@pytest.fixture(scope="module")
def picture():
    """A smooth picture (45, 70, 3) uint8 RGB, which survives JPEG, with a corner that tells its turn."""
    y, x = np.mgrid[:45, :70].astype(np.float32)
    image = np.stack((x / 70, y / 45, (x + y) / 115), -1) * 200 + 20
    image[:9, :14] = 240
    return image.astype(np.uint8)


def rgb(path, reduce=1):
    """What read_image gives as RGB; checks what it promises."""
    image = read_image(path, reduce)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.flags.c_contiguous
    assert image.flags.writeable
    return image[..., ::-1].astype(int)


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [*sorted(IMAGE_SUFFIXES - {".dng"}), ".JPG", ".Png"])
def test_formats(tmp_path, picture, suffix):
    path = tmp_path / f"image{suffix}"
    kind = "MPO" if suffix == ".mpo" else None
    Image.fromarray(picture).save(path, kind, **({"lossless": True} if suffix == ".webp" else {"quality": 95}))
    lossy = suffix.lower() in {".jpg", ".jpeg", ".mpo"}
    assert np.abs(rgb(path) - picture).mean() <= 3 * lossy


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_turns_the_image(tmp_path, picture, orientation, suffix):
    path = tmp_path / f"image.{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(picture).save(path, exif=exif, quality=100, lossless=True)
    with Image.open(path) as file:
        expected = np.asarray(ImageOps.exif_transpose(file).convert("RGB")).astype(int)
    assert expected.shape[:2] == ((45, 70) if orientation < 5 else (70, 45))
    assert np.abs(rgb(path) - expected).max() <= 5 * (suffix == "jpg")


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "I;16"])
def test_colour_formats_of_png(tmp_path, picture, mode):
    path = tmp_path / "image.png"
    gray = Image.fromarray(picture).convert("L")
    if mode == "I;16":
        image, expected = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257), np.asarray(gray)
    else:
        image = Image.fromarray(picture).convert(mode)
        expected = np.asarray(image.convert("RGB")).astype(int)
    image.save(path)
    expected = expected if expected.ndim == 3 else expected[..., None].repeat(3, -1)
    assert (rgb(path) == expected).all()


def test_transparent_pixels_keep_their_colour(tmp_path, picture):
    alpha = np.zeros((45, 70, 1), np.uint8)
    Image.fromarray(np.concatenate((picture, alpha), -1)).save(tmp_path / "image.png")
    assert (rgb(tmp_path / "image.png") == picture).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_colours(tmp_path, picture, suffix):
    path = tmp_path / f"image.{suffix}"
    cv2.imwrite(str(path), picture[..., ::-1].astype(np.uint16) * 256 + 77)
    assert np.abs(rgb(path) - picture).max() <= 1


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path, picture, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(picture).convert("CMYK").save(path, quality=100)
    assert np.abs(rgb(path) - picture).mean() < 3


@pytest.mark.parametrize("name", NAMES)
def test_names(tmp_path, picture, name):
    folder = tmp_path / name
    folder.mkdir()
    for path in (folder / f"{name}.png", str(folder / f"{name}.png")):
        write_image(path, picture)
        assert (read_image(path) == picture).all()


@pytest.mark.parametrize("reduce", [2, 4, 8])
@pytest.mark.parametrize("size", [(45, 70), (64, 64), (3, 400), (400, 3), (1, 1), (97, 33)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_reduced_decoding(tmp_path, reduce, size, orientation):
    """Sides are rounded up, and the pixels are those of the whole image shrunk."""
    y, x = np.mgrid[: size[0], : size[1]]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    shade = (60 + 120 * (x + y) / sum(size)).astype(np.uint8)
    Image.fromarray(shade).save(tmp_path / "image.jpg", quality=95, exif=exif)
    whole, small = rgb(tmp_path / "image.jpg"), rgb(tmp_path / "image.jpg", reduce)
    assert small.shape[:2] == tuple(-(-side // reduce) for side in whole.shape[:2])
    h, w = (side // reduce for side in whole.shape[:2])
    blocks = whole[: h * reduce, : w * reduce].reshape(h, reduce, w, reduce, 3).mean((1, 3))
    assert np.abs(small[:h, :w] - blocks).max(initial=0) < 8  # a turned image starts at its other end


@pytest.mark.parametrize("size", [(400, 3), (3, 400), (1, 1)])
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif"])
def test_narrow_images(tmp_path, size, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", size, (90, 90, 90)).save(path)
    assert rgb(path).shape == (size[1], size[0], 3)


# Files that are no images ---------------------------------------------------------------------------------------------


def png(width, height, pixels=b""):
    """A PNG's bytes with a header of this size and these pixel rows."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n", "not a readable image"),
        (b"<html>404</html>", "not a readable image"),
        (b"\xff\xd8\xff", "not a readable image"),
        (b"\x89PNG\r\n\x1a\n", "not a readable image"),
        (b"II*\x00\x08\x00\x00\x00" + bytes(8), "not a readable image"),
        (b"RIFF\xff\xff\xff\xffWEBPVP8 ", "not a readable image"),
        (b"BM" + bytes(60), "not a readable image"),
        (bytes(1000), "not a readable image"),
        (png(0, 5), "not a readable image"),
        (png(5, 5, b""), "not a readable image"),
    ],
)
@pytest.mark.parametrize("reduce", [1, 8])
def test_no_image(tmp_path, content, message, reduce):
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_image(path, reduce)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated(tmp_path, picture, suffix, share):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(picture).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="not a readable image"):
        read_image(path)


@pytest.mark.parametrize(("name", "error"), [("none.jpg", FileNotFoundError), ("", IsADirectoryError)])
def test_no_file(tmp_path, name, error):
    with pytest.raises(error):
        read_image(tmp_path / name)


def jpeg_of_size(picture, tmp_path, width, height):
    """A small JPEG whose header says another size; libjpeg would fill what is missing with gray."""
    Image.fromarray(picture).save(tmp_path / "small.jpg")
    data = bytearray((tmp_path / "small.jpg").read_bytes())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("size", [(20000, 10000), (30000, 30000), (65000, 65000)])
@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("reduce", [1, 8])
def test_bombs_are_refused_without_memory(tmp_path, picture, size, kind, reduce, monkeypatch):
    def decode(*_):
        pytest.fail("a bomb must not reach the decoder")

    monkeypatch.setattr(cv2, "imdecode", decode)
    path = tmp_path / f"bomb.{kind}"
    path.write_bytes(png(*size, bytes(100)) if kind == "png" else jpeg_of_size(picture, tmp_path, *size))
    with pytest.raises(ValueError, match="decompression bomb"):
        read_image(path, reduce)


def test_a_real_bomb_takes_no_memory(tmp_path):
    """600 kB that unpack to 600 MB; the address space ends long before."""
    packer = zlib.compressobj()
    row = packer.compress(bytes(1 + 3 * 20000))
    rows = row + b"".join(packer.compress(bytes(1 + 3 * 20000)) for _ in range(9999)) + packer.flush()
    data = png(20000, 10000)
    start, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    body = struct.pack(">I", len(rows)) + b"IDAT" + rows + struct.pack(">I", zlib.crc32(b"IDAT" + rows))
    path = tmp_path / "bomb.png"
    path.write_bytes(data[:start] + body + data[end:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="200000000 pixels"):
        read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_large_photographs_are_read(tmp_path):
    """100 megapixels, as cameras make them; Pillow's warning about them is not ours to silence."""
    write_image(tmp_path / "large.jpg", np.full((1, 1, 3), 9, np.uint8).repeat(10_000, 0).repeat(10_000, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        assert read_image(tmp_path / "large.jpg", 8).shape == (1250, 1250, 3)


# Writing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".webp", ".jpg", ".jpeg", ".JPG"])
def test_written_is_read_back(tmp_path, picture, suffix):
    write_image(tmp_path / f"image{suffix}", picture)
    lossy = suffix.lower() in {".jpg", ".jpeg"}
    assert np.abs(read_image(tmp_path / f"image{suffix}").astype(int) - picture).mean() <= 3 * lossy


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("a", (4, 4, 3)),
        ("a.xyz", (4, 4, 3)),
        ("a.txt", (4, 4, 3)),
        ("a.png", (0, 4, 3)),
        ("a.jpg", (2, 70_000, 3)),
        ("a.webp", (2, 17_000, 3)),
        ("a.jpg", (4, 4, 5)),
    ],
)
def test_what_cannot_be_written(tmp_path, name, shape):
    with pytest.raises(ValueError, match="cannot write an image of shape") as error:
        write_image(tmp_path / name, np.zeros(shape, np.uint8))
    assert str(error.value).startswith(str(tmp_path / name))
    assert not list(tmp_path.iterdir())


def test_no_folder_to_write_to(tmp_path, picture):
    with pytest.raises(FileNotFoundError):
        write_image(tmp_path / "none" / "a.png", picture)


def test_reading_loads_no_torch():
    code = "import sys, utils.files.images; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
