"""Files with some bytes changed: whatever they are, something whole comes out, or a ValueError of one line."""

import warnings
import zipfile

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.runtimes.onnx_header import check_external_data, read_onnx_header
from models.runtimes.torch_files import read_pt2
from utils.files.archives import DAMAGED, open_archive
from utils.files.checkpoint import load_checkpoint
from utils.files.images import decode_image

QUICK = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Places, as shares of the length, with the bytes that are put there; and how much is left of the file.
CHANGES = st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=4)), min_size=1, max_size=5)
LEFT = st.sampled_from([1.0, 1.0, 1.0, 0.999, 0.5, 0.01])


def changed(content, changes, left):
    data = bytearray(content)
    for place, new in changes:
        at = int(place * len(data))
        data[at : at + len(new)] = new
    return bytes(data[: int(left * len(data))])


def check_error(error, source):
    assert str(error).startswith(source)
    assert "\n" not in str(error)


def check(read, path):
    try:
        read(path)
    except ValueError as error:
        check_error(error, str(path))


@pytest.fixture(scope="module")
def pickle(small_weights):
    """The pickle of a checkpoint, and what else is in its archive."""
    with zipfile.ZipFile(small_weights) as archive:
        parts = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    return parts.pop("data.pkl"), parts


@QUICK
@given(changes=CHANGES, left=LEFT)
def test_checkpoints(small_weights, tmp_path, changes, left):
    path = tmp_path / "x.pt"
    path.write_bytes(changed(small_weights.read_bytes(), changes, left))
    check(load_checkpoint, path)


@QUICK
@given(changes=CHANGES, left=LEFT)
def test_pickles_in_a_whole_archive(pickle, tmp_path, changes, left):
    data, parts = pickle
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", changed(data, changes, left))
        for name, content in parts.items():
            archive.writestr(f"a/{name}", content)
    check(load_checkpoint, path)


ONNX = (
    bytes.fromhex("0808")
    + b':V\n\x1f\n\x01w\n\x01x\x12\x01y\x1a\x01n"\x03Add*\x11\x08\x01\x10\x01B\x01w'
    + b"\x6a\x12\n\x08location\x12\x06../key"
)


@QUICK
@given(st.binary(max_size=200) | CHANGES.map(lambda changes: changed(ONNX * 3, changes, 1.0)))
def test_onnx_headers(tmp_path, data):
    path = tmp_path / "x.onnx"
    path.write_bytes(data)
    check(read_onnx_header, path)
    check(check_external_data, path)


@QUICK
@given(st.lists(st.tuples(st.text(min_size=1, max_size=12), st.binary(max_size=30)), max_size=5), CHANGES, LEFT)
def test_archives(tmp_path, entries, changes, left):
    path = tmp_path / "x.pt2"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # of names that come twice
        for name, content in entries:
            archive.writestr(f"a{name}".encode(errors="replace").decode(), content)
    check(read_pt2, path)
    path.write_bytes(changed(path.read_bytes(), changes, left))
    check(read_pt2, path)
    try:
        with open_archive(path) as (_, found):
            assert len({name.casefold() for name in found}) == len(found)
    except (*DAMAGED, ValueError) as error:
        check_error(error, "")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's
@QUICK
@given(st.sampled_from([".jpg", ".png", ".bmp", ".webp", ".tif"]), CHANGES, LEFT)
def test_images(suffix, changes, left):
    data = cv2.imencode(suffix, np.arange(3 * 20 * 30, dtype=np.uint8).reshape(20, 30, 3))[1].tobytes()
    try:
        image = decode_image(changed(data, changes, left), "x")
    except ValueError as error:
        check_error(error, "x: ")
        return
    assert (image.ndim, image.dtype) == (3, np.uint8)
    assert image.size <= 3 * 179e6
