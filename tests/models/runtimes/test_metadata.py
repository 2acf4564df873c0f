"""What exported files say of themselves, and how it is read: ours, YOLOv5's, and damaged."""

import json

import pytest

from models.runtimes.metadata import AXES, Metadata

META = Metadata(("a b", "häm", 'c"'), 64, 2, (96, 128), (), {"task": "detect"})


@pytest.mark.parametrize("dynamic", [(), AXES])
def test_round_trip(dynamic):
    meta = Metadata(META.names, 64, 2, (96, 128), dynamic, {"task": "detect", "nam": '{"layers": []}'})
    shape = (None, 3, None, None) if dynamic else (2, 3, 96, 128)
    found = Metadata.from_text(meta.to_text(), shape)
    assert (found.names, found.stride, found.imgsz, found.dynamic) == (meta.names, 64, (96, 128), dynamic)
    assert found.details == meta.details
    assert Metadata.from_text(json.loads(meta.to_json())) == meta


def test_the_files_own_shape_counts_more_than_its_texts():
    found = Metadata.from_text(META.to_text(), (None, 3, 64, 64))
    assert (found.fixed_batch, found.fixed_hw, found.dynamic) == (None, (64, 64), ("batch",))
    assert (META.fixed_batch, META.fixed_hw, META.nc) == (2, (96, 128), 3)


@pytest.mark.parametrize(
    "texts",
    [
        {"names": "{0: 'a', 1: 'b'}", "stride": "32"},  # v7.0's ONNX files
        {"names": {"0": "a", "1": "b"}, "stride": 32, "shape": [1, 3, 64, 96]},  # v7.0's TorchScript files
        {"names": ["a", "b"], "stride": 32, "shape": [1, 3, 64, 96]},  # v6.1's
    ],
)
def test_files_of_yolov5(texts):
    found = Metadata.from_text(texts, None if "shape" in texts else (1, 3, 64, 96))
    assert (found.names, found.stride, found.fixed_batch, found.fixed_hw) == (("a", "b"), 32, 1, (64, 96))


def test_texts_without_names():
    assert Metadata.from_text({}, (1, 3, 64, 64)) is None
    assert Metadata.from_text({"names": "[]"}, (1, 3, 64, 64)) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": "[1, 2]"}, "names is"),
        ({"names": "{1: 'a'}"}, "names is"),
        ({"names": "__import__('os')"}, "names is"),
        ({"names": "[]"}, "names is"),
        ({"stride": "0"}, "stride is 0"),
        ({"stride": "true"}, "stride is True"),
        ({"imgsz": "[640]"}, "imgsz is"),
        ({"names": "[" * 100_000}, "names is"),
        ({"names": '{"a":' * 100_000}, "names is"),
        ({"names": "{[1]: 2}"}, "names is"),
        ({"stride": "9" * 10_000}, "stride is"),
        ({"imgsz": "[640, 1e9]"}, "imgsz is"),
    ],
)
def test_damaged_texts(change, message):
    with pytest.raises(ValueError, match=f"metadata is damaged: {message}"):
        Metadata.from_text({**META.to_text(), **change}, (1, 3, 64, 64))


def test_shapes_that_no_memory_holds():
    with pytest.raises(ValueError, match="damaged: shape is"):
        Metadata.from_text(META.to_text(), (2**40, 3, 64, 64))


@pytest.mark.parametrize("dynamic", ["[[1]]", "[1.5]", "{}", "batch"])
def test_damaged_list_of_open_axes(dynamic):
    with pytest.raises(ValueError, match="damaged: dynamic is"):
        Metadata.from_text({"names": '["a"]', "stride": "32", "shape": "[1, 3, 64, 64]", "dynamic": dynamic})


@pytest.mark.parametrize("shape", ["", "[1, 3, 64]", "[1, 3, 64, -1]", "[1, 3, 64, 64.5]"])
def test_damaged_shape(shape):
    with pytest.raises(ValueError, match="damaged: shape is"):
        Metadata.from_text({"names": '["a"]', "stride": "32", "shape": shape})
