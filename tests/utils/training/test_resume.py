"""Which run goes on, with which options, and what is refused."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.data.config import Hyp
from utils.data.labels import LabelRecord
from utils.files.checkpoint import Checkpoint, save_checkpoint
from utils.general import ROOT
from utils.training.resume import (
    KEPT,
    TRAINING_PARTS,
    check_same_data,
    check_same_hyp,
    data_record,
    find_run,
    has_ended,
    load_run,
    why_finished,
)

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


@pytest.mark.parametrize("name", ["exp2", "exp2/weights", "exp2/weights/last.pt"])
def test_named_by_its_folder(project, name):
    assert find_run(project / name, project) == project / "exp2" / "weights" / "last.pt"


def test_a_run_without_checkpoint(project):
    (project / "exp2/weights/last.pt").unlink()
    with pytest.raises(FileNotFoundError, match="exp2: no such file; a run with --nosave has none before its last"):
        find_run(project / "exp2", project)


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
    """Its last.pt holds weights only; resume.pt beside it holds the rest. Without that nothing can go on."""
    last = tmp_path / "last.pt"
    save_checkpoint(last, replace(CHECKPOINT, training=None, epoch=-1))
    with pytest.raises(ValueError, match=r"last\.pt: holds weights only and there is no resume\.pt beside it"):
        load_run(last)
    save_checkpoint(tmp_path / KEPT, CHECKPOINT)
    assert load_run(last).epoch == load_run(tmp_path / KEPT).epoch == 3
    save_checkpoint(last, replace(CHECKPOINT, epoch=7))
    assert load_run(last).epoch == 7
    last.rename(tmp_path / "best.pt")
    save_checkpoint(tmp_path / "best.pt", replace(CHECKPOINT, training=None))
    with pytest.raises(ValueError, match=r"best\.pt: holds weights only; name the run's last\.pt"):
        load_run(tmp_path / "best.pt")


@pytest.mark.parametrize(
    ("stopper", "epochs", "patience", "message"),
    [
        ({}, 4, 100, "finished with 4 epochs; to go on name more with --epochs"),
        ({}, 5, 100, None),
        ({"stopped": True, "best_epoch": 1}, 9, 2, "stopped early after epoch 3, 2 epochs after its best, 1"),
        ({"stopped": True, "best_epoch": 1}, 9, 3, None),
        ({"stopped": True, "best_epoch": 1}, 9, 0, None),
        ({"stopped": True, "best_epoch": 1}, 4, 0, "finished with 4 epochs"),
        ({"stopped": False, "best_epoch": 0}, 9, 2, None),  # not validated since: it did not stop
    ],
)
def test_what_is_left_to_do(tmp_path, stopper, epochs, patience, message):
    checkpoint = replace(CHECKPOINT, training={**TRAINING, "stopper": stopper})
    reason = why_finished(tmp_path, checkpoint, epochs, patience)
    if message is None:
        assert not reason
    else:
        assert message in reason


@pytest.mark.parametrize(
    ("training", "names", "is_plotted", "expected"),
    [
        (None, ("results.json", "report.html"), True, True),
        (None, ("results.json",), True, False),
        (None, ("results.json",), False, True),
        (None, ("report.html",), False, False),
        (TRAINING, ("results.json", "report.html"), True, False),  # of an earlier end
    ],
)
def test_a_run_has_ended(tmp_path, training, names, is_plotted, expected):
    last = tmp_path / "weights" / "last.pt"
    last.parent.mkdir()
    for name in names:
        (tmp_path / name).touch()
    assert not has_ended(last, is_plotted)
    save_checkpoint(last, replace(CHECKPOINT, training=training))
    assert has_ended(last, is_plotted) == expected


def test_a_damaged_part_of_an_epoch(tmp_path):
    save_checkpoint(tmp_path / "last.pt", replace(CHECKPOINT, training={**TRAINING, "partial": {"epoch": 1}}))
    with pytest.raises(ValueError, match=r"'partial' is missing or damaged"):
        load_run(tmp_path / "last.pt")


@pytest.mark.parametrize("part", TRAINING_PARTS)
@pytest.mark.parametrize("value", [None, 1.5], ids=["missing", "foreign"])
def test_damaged_run(tmp_path, part, value):
    training = {name: kept for name, kept in TRAINING.items() if name != part}
    training |= {} if value is None else {part: value}
    save_checkpoint(tmp_path / "last.pt", replace(CHECKPOINT, training=training))
    with pytest.raises(ValueError, match=f"cannot be resumed, '{part}' is missing or damaged"):
        load_run(tmp_path / "last.pt")


def test_other_classes(tmp_path):
    check_same_data(tmp_path, CHECKPOINT, ("cell",))
    with pytest.raises(ValueError, match=r"its classes were 1 \(cell\), those of the data set are 1 \(bus\)"):
        check_same_data(tmp_path, CHECKPOINT, ("bus",))


LOW = ROOT / "data" / "hyps" / "hyp.scratch-low.yaml"


def test_hyp_named_when_resuming(tmp_path, caplog):
    trained, last = Hyp.from_yaml(LOW).to_dict(), tmp_path / "weights" / "last.pt"
    other = tmp_path / "other.yaml"
    other.write_text(LOW.read_text().replace("mosaic: 1.0", "mosaic: 0.5") + "\nanchors: 4\n")
    with caplog.at_level(logging.WARNING, "yolov5"):
        check_same_hyp(last, trained, str(LOW), str(other))
        check_same_hyp(last, trained, None, "absent.yaml")
        assert not caplog.messages
        with pytest.raises(ValueError, match=r"other\.yaml cannot change .* mosaic 1\.0 -> 0\.5, anchors None -> 4\.0"):
            check_same_hyp(last, trained, str(other), str(LOW))
        with pytest.raises(FileNotFoundError, match=r"absent\.yaml"):
            check_same_hyp(last, trained, "absent.yaml", str(LOW))
        check_same_hyp(last, trained, None, str(other))
    assert caplog.messages == [
        f"{other} is not what the run was trained with, which it keeps to: mosaic 1.0 -> 0.5, anchors None -> 4.0"
    ]


def records(*names, change=0.0):
    box = np.array([[0, 0.5, 0.5, 0.1 + change, 0.1]], np.float32)
    return {"train": [LabelRecord(f"/set/{name}", (8, 8), box) for name in names]}


def test_other_data_is_told_and_recorded(caplog):
    with caplog.at_level(logging.WARNING, "yolov5"):
        prints, changes = data_record({}, -1, records("a", "b"), Path("/set"))
        assert changes == []
        before = {"data": prints, "changes": ["from epoch 1 on: val: 1 image added"]}
        assert data_record(before, 3, records("b", "a"), Path("/set"))[1] == before["changes"]
        assert not caplog.messages
        _, changes = data_record(before, 3, records("b", "c", "d", change=0.1), Path("/set"))
    line = "from epoch 4 on: train: 2 images added, 1 removed, labels of 1 changed"
    assert changes == [*before["changes"], line]
    assert caplog.messages == [f"--resume: the data set is not what it was, {line}; opt.yaml keeps a record of it"]
