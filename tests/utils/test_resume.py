"""Which run goes on, with which options, and what is refused."""

import logging
import os
from dataclasses import replace

import pytest
import torch

from utils.checkpoint import Checkpoint, save_checkpoint
from utils.resume import TRAINING_PARTS, check_same_data, check_same_images, find_run, load_run, merged_options

TRAINING = {name: kind() for name, kind in TRAINING_PARTS.items()}
YAML = {
    "nc": 1,
    "ch": 3,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[1, 2]],
    "backbone": [[-1, 1, "Conv", [8]]],
    "head": [[[0], 1, "Detect", ["nc", "anchors"]]],
}
CHECKPOINT = Checkpoint(YAML, ("cell",), {"model.0.conv.weight": torch.zeros(8, 3, 1, 1)}, 3, 0.5, TRAINING)


@pytest.fixture
def project(tmp_path):
    """Two runs, of which exp wrote last."""
    for i, name in enumerate(("exp2", "exp")):
        last = tmp_path / name / "weights" / "last.pt"
        last.parent.mkdir(parents=True)
        save_checkpoint(last, CHECKPOINT)
        os.utime(last, (1000 + i, 1000 + i))
        (last.parents[1] / "opt.yaml").touch()
    return tmp_path


def test_newest_run(project):
    assert find_run(True, project) == project / "exp" / "weights" / "last.pt"
    with pytest.raises(FileNotFoundError, match=r"no run with a last\.pt below"):
        find_run(True, project / "exp")


def test_named_run(project, monkeypatch):
    monkeypatch.chdir(project)
    assert find_run("exp2/weights/last.pt", project) == project / "exp2" / "weights" / "last.pt"


def test_no_file_and_no_run(project):
    with pytest.raises(FileNotFoundError, match=r"absent\.pt: no such file"):
        find_run("absent.pt", project)
    stray = project / "last.pt"
    save_checkpoint(stray, CHECKPOINT)
    with pytest.raises(ValueError, match="not in a run's folder"):
        find_run(stray, project)


def test_checkpoint_of_a_run(tmp_path):
    save_checkpoint(tmp_path / "last.pt", CHECKPOINT)
    assert load_run(tmp_path / "last.pt").epoch == 3


def test_ended_run(tmp_path):
    save_checkpoint(tmp_path / "last.pt", replace(CHECKPOINT, training=None))
    with pytest.raises(ValueError, match="has ended"):
        load_run(tmp_path / "last.pt")


@pytest.mark.parametrize("part", TRAINING_PARTS)
@pytest.mark.parametrize("value", [None, [1.0]], ids=["missing", "foreign"])
def test_damaged_run(tmp_path, part, value):
    training = {name: kept for name, kept in TRAINING.items() if name != part}
    training |= {} if value is None else {part: value}
    save_checkpoint(tmp_path / "last.pt", replace(CHECKPOINT, training=training))
    with pytest.raises(ValueError, match=f"cannot be resumed, '{part}' is missing or damaged"):
        load_run(tmp_path / "last.pt")


def merge(tmp_path, stored, named):
    return merged_options(tmp_path, stored, {"epochs": 300, "imgsz": 640, "seed": 0}, named, {"epochs"})


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


def test_other_classes(tmp_path):
    check_same_data(tmp_path, CHECKPOINT, ("cell",))
    with pytest.raises(ValueError, match=r"its classes were 1 \(cell\), those of the data set are 1 \(bus\)"):
        check_same_data(tmp_path, CHECKPOINT, ("bus",))


def test_other_images_are_told(caplog):
    with caplog.at_level(logging.WARNING, "yolov5"):
        for before in (None, 12, 20):
            check_same_images(before, 12)
    assert caplog.messages == ["--resume: 12 images to train on, 20 before; the run goes on with those that are there"]
