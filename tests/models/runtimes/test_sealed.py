"""A network with its metadata behind it: what is read back, and every way of being damaged that is noticed."""

import zipfile

import pytest

from models.runtimes.metadata import Metadata
from models.runtimes.sealed import HASH, LENGTH, seal, unseal
from utils.files.reading import MOST_JSON

NETWORK = b"\x1c\0\0\0TFL3" + bytes(range(256)) * 8
METADATA = Metadata(("Ameise", "蜂"), 32, 2, (64, 96), (), {"precision": "fp16"})


@pytest.fixture
def file(tmp_path):
    seal(NETWORK, METADATA, tmp_path / "x.tflite")
    return tmp_path / "x.tflite"


def test_what_is_read_back(file):
    metadata, network = unseal(file, b"TFL3", "a TFLite file")
    assert network == NETWORK
    assert (metadata.names, metadata.stride, metadata.batch, metadata.imgsz) == (METADATA.names, 32, 2, (64, 96))
    assert (metadata.fixed_batch, metadata.fixed_hw) == (2, (64, 96))
    assert metadata.details["precision"] == "fp16"
    assert metadata.details[LENGTH] == str(len(NETWORK))
    assert file.read_bytes().startswith(NETWORK)  # so that any runtime reads it
    with zipfile.ZipFile(file) as archive:  # and any program the metadata
        assert archive.namelist() == ["metadata.json"]


@pytest.mark.parametrize("cut", [1, 30, 400, 1500, 1 << 20])
def test_a_file_that_is_cut_off(file, cut):
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=r"x\.tflite: not a TFLite file of export\.py, or a damaged one"):
        unseal(file, b"TFL3", "a TFLite file")


@pytest.mark.parametrize("place", [0, 5, 100, len(NETWORK) - 1])
def test_a_byte_that_is_another(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="a damaged one"):
        unseal(file, b"TFL3", "a TFLite file")


def test_bytes_that_are_missing_in_the_middle(file):
    content = file.read_bytes()
    file.write_bytes(content[:500] + content[600:])
    with pytest.raises(ValueError, match="a damaged one"):
        unseal(file, b"TFL3", "a TFLite file")


def test_another_kind_of_network(file):
    with pytest.raises(ValueError, match="not an ExecuTorch file"):
        unseal(file, b"ET12", "an ExecuTorch file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "has no class names, stride and shape"),
        ("[]", "has no class names, stride and shape"),
        ("{", "a damaged one"),
        ("[" * 100_000, "a damaged one"),
        (" " * (MOST_JSON + 1), "a damaged one"),
        ('{"names": ["a"], "stride": 32, "shape": [1, 3, 64, 64]}', "a damaged one"),
        ('{"names": ["a"], "stride": 32, "shape": [1, 3, 64, 64], "network_bytes": "-1"}', "a damaged one"),
        ('{"names": ["a"], "stride": 32, "shape": [1, 3, 64, 64], "network_bytes": "9999999"}', "a damaged one"),
        ('{"names": ["a"], "stride": -1, "shape": [1, 3, 64, 64]}', "its metadata is damaged: stride"),
    ],
    ids=lambda value: value[:20],
)
def test_metadata_that_cannot_be_true(tmp_path, text, message):
    path = tmp_path / "x.tflite"
    path.write_bytes(NETWORK)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", text)
    with pytest.raises(ValueError, match=message):
        unseal(path, b"TFL3", "a TFLite file")


def test_a_hash_of_other_bytes(tmp_path):
    path = tmp_path / "x.tflite"
    seal(NETWORK, METADATA, path)
    with zipfile.ZipFile(path) as archive:
        text = archive.read("metadata.json").decode()
    digest = text.partition(f'"{HASH}": "')[2][:64]
    path.write_bytes(path.read_bytes().replace(digest.encode(), b"0" * 64))
    with pytest.raises(ValueError, match="a damaged one"):
        unseal(path, b"TFL3", "a TFLite file")
