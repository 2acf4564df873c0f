"""The yamls in data/: the numbers of v6.1's hyperparameters, and names that match nc."""

import json

import pytest
import yaml

from utils.general import ROOT

FILES = sorted(path.name for path in (ROOT / "data").glob("*.yaml"))
HYPS = ("scratch-low", "scratch-med", "scratch-high", "VOC", "Objects365", "shapes")


def read(name):
    return yaml.safe_load((ROOT / "data" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FILES)
def test_data_yaml(name):
    data = read(name)
    assert set(data) <= {"path", "train", "val", "test", "nc", "names", "generate"}  # no download text
    assert len(data["names"]) == len(set(data["names"])) == data["nc"]
    assert all(isinstance(label, str) for label in data["names"])  # yaml makes booleans of `no` and `off`
    assert data["train"]
    assert data["val"]


@pytest.mark.parametrize(
    ("name", "nc"),
    [
        ("coco", 80),
        ("coco128", 80),
        ("VOC", 20),
        ("bccd", 3),
        ("shapes", 10),
        ("VisDrone", 10),
        ("Argoverse", 8),
        ("GlobalWheat2020", 1),
        ("SKU-110K", 1),
        ("xView", 60),
    ],
)
def test_class_counts(name, nc):
    assert read(f"{name}.yaml")["nc"] == nc


@pytest.mark.parametrize("name", HYPS)
def test_hyp_has_the_keys_of_v61_and_numbers_only(name):
    low, hyp = read("hyps/hyp.scratch-low.yaml"), read(f"hyps/hyp.{name}.yaml")
    assert len(low) == 28
    assert set(hyp) - set(low) == ({"anchors"} if name in {"VOC", "Objects365"} else set())
    assert all(isinstance(value, int | float) and not isinstance(value, bool) for value in hyp.values())


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("scratch-med", {"lrf": 0.1, "cls": 0.3, "obj": 0.7, "scale": 0.9, "mixup": 0.1}),
        ("scratch-high", {"lrf": 0.1, "cls": 0.3, "obj": 0.7, "scale": 0.9, "mixup": 0.1, "copy_paste": 0.1}),
    ],
)
def test_med_and_high_differ_from_low_as_in_v61(name, changed):
    assert read(f"hyps/hyp.{name}.yaml") == read("hyps/hyp.scratch-low.yaml") | changed


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "VOC",
            {"lr0": 0.0033, "momentum": 0.74747, "box": 0.02, "obj_pw": 0.6729, "anchors": 3.3556, "mixup": 0.04294},
        ),
        ("Objects365", {"lr0": 0.00258, "warmup_bias_lr": 0.0711, "cls_pw": 0.825, "anchor_t": 3.44, "scale": 0.491}),
    ],
)
def test_evolved_values(name, values):
    assert values.items() <= read(f"hyps/hyp.{name}.yaml").items()


def test_low_equals_the_original(shared):
    golden = json.loads((shared / "golden/hyp.json").read_text())
    golden.pop("label_smoothing")  # an option of train.py, not in the file
    assert read("hyps/hyp.scratch-low.yaml") == golden
