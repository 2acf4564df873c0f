"""With which options a run is resumed."""

import logging

import pytest

from utils.training.resumed_options import merged_options

TYPES = {"epochs": int, "imgsz": int, "seed": int}


def merge(tmp_path, stored, named):
    return merged_options(tmp_path, stored, {"epochs": 300, "imgsz": 640, "seed": 0}, named, {"epochs"}, TYPES)


@pytest.mark.parametrize(
    ("stored", "named", "expected"),
    [
        ({"epochs": 9, "imgsz": 64, "seed": 1}, {}, {"epochs": 9, "imgsz": 64, "seed": 1}),
        ({"epochs": 9, "imgsz": 64, "seed": 1}, {"epochs": 12, "imgsz": 64}, {"epochs": 12, "imgsz": 64, "seed": 1}),
        ({"epochs": 9, "imgsz": 64}, {}, {"epochs": 9, "imgsz": 64, "seed": 0}),  # of a version without --seed
        ({"epochs": 9, "imgsz": 64, "seed": 1, "gone": 2}, {}, {"epochs": 9, "imgsz": 64, "seed": 1}),
    ],
    ids=["stored", "named", "older", "newer"],
)
def test_options(tmp_path, stored, named, expected):
    assert merge(tmp_path, stored, named) == expected


def test_a_change_is_told(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "yolov5"):
        merge(tmp_path, {"epochs": 9}, {"epochs": 12})
    assert caplog.messages == ["--epochs 12 from here on, 9 before"]


def test_what_may_not_change(tmp_path):
    with pytest.raises(ValueError, match=r"--imgsz 128 cannot change when resuming; .* has 64"):
        merge(tmp_path, {"imgsz": 64}, {"imgsz": 128})


@pytest.mark.parametrize("stored", [{"epochs": "x"}, {"seed": None}, {"imgsz": [64]}, {"seed": True}])
def test_stored_options_of_another_type(tmp_path, stored):
    with pytest.raises(ValueError, match=f"its option {next(iter(stored))} is"):
        merge(tmp_path, stored, {})


@pytest.mark.parametrize(
    ("annotation", "value", "fits"),
    [
        (str | None, None, True),
        (str | None, True, False),
        (str | None, 5, False),
        (str | bool, True, True),
        (int | None, True, False),
        (float, 3, True),
        (float, "3", False),
        (list[int], [1], True),
        (list[int], 1, False),
    ],
    ids=str,
)
def test_the_annotations_of_options_are_checked(tmp_path, annotation, value, fits):
    arguments = tmp_path, {"option": value}, {"option": None}, {}, set(), {"option": annotation}
    if fits:
        assert merged_options(*arguments) == {"option": value}
    else:
        with pytest.raises(ValueError, match="its option option is"):
            merged_options(*arguments)
