"""Tables of detections: read back at any moment, quoted, joined, with COCO's numbers."""

import csv
import json

import numpy as np
import pytest
import torch

from utils.data.config import DataConfig
from utils.general import ROOT
from utils.predict.sources import Frame
from utils.predict.tables import COLUMNS, PredictionFiles

NAMES = ["a, b", 'say "x"\nthen y']
FOUND = torch.tensor([[1.0, 2, 30, 40, 0.25, 1], [0.5, 0, 10, 10, 0.875, 0]])


def frame(name="p.jpg", number=0):
    return Frame(np.zeros((48, 64, 3), np.uint8), name, "", "p", ".jpg", number)


def read(folder):
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file)), json.loads((folder / "predictions.json").read_text(encoding="utf-8"))


def test_files_are_whole_after_each_frame(tmp_path):
    files = PredictionFiles(tmp_path / "new", NAMES, ["csv", "json"])
    for count in range(1, 4):
        files.add(frame(number=count), f"p_{count}", FOUND[: count - 1])
        rows, entries = read(tmp_path / "new")  # not closed: as if the process were killed now
        assert (len(rows) - 1, len(entries)) == (sum(range(count)),) * 2
    files.close()
    assert rows[0] == list(COLUMNS)
    assert rows[1:3] == [
        ["p.jpg", "2", "1", NAMES[1], "0.25", "1", "2", "30", "40"],
        ["p.jpg", "3", "1", NAMES[1], "0.25", "1", "2", "30", "40"],
    ]
    assert entries[2] == {
        "image_id": "p_3",
        "category_id": 0,
        "bbox": [0.5, 0, 9.5, 10],
        "score": 0.875,
        "image": "p.jpg",
        "frame": 3,
        "name": "a, b",
    }


def test_nothing_is_made_unasked_or_before_the_first_frame(tmp_path):
    for kinds in ([], ["csv", "json"]):
        files = PredictionFiles(tmp_path, NAMES, kinds)
        files.append_folder(tmp_path / "absent")
        files.close()
    PredictionFiles(tmp_path, NAMES, []).add(frame(), "p", FOUND)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("first", [0, 2])
def test_joined_tables_are_those_of_one_process(tmp_path, first):
    parts = [PredictionFiles(tmp_path / name, NAMES, ["csv", "json"]) for name in ("one", "a", "b")]
    for files, found in ((parts[0], FOUND[:first]), (parts[0], FOUND), (parts[1], FOUND[:first]), (parts[2], FOUND)):
        files.add(frame("ü.jpg"), "ü", found)
    parts[1].append_folder(tmp_path / "b")
    for files in parts:
        files.close()
    for name in ("predictions.csv", "predictions.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_coco_has_its_numbers_and_images_theirs(tmp_path):
    names = DataConfig.from_yaml(ROOT / "data" / "coco.yaml").names
    files = PredictionFiles(tmp_path, names, ["json"])
    files.add(frame(), "000000000139", torch.tensor([[0.0, 0, 5, 5, 0.5, 79]]))
    files.close()
    (entry,) = json.loads((tmp_path / "predictions.json").read_text())
    assert (entry["image_id"], entry["category_id"], entry["name"]) == (139, 90, names[79])


def test_tables_of_an_earlier_run_are_replaced(tmp_path):
    for _ in range(2):
        files = PredictionFiles(tmp_path, NAMES, ["csv", "json"])
        files.add(frame(), "p", FOUND)
        files.close()
    rows, entries = read(tmp_path)
    assert (len(rows), len(entries)) == (3, 2)


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "-2+3", "@SUM(1+1)", "+1+2", "\t=1", "  =1+1"])
def test_no_cell_is_run_by_a_spreadsheet(tmp_path, name):
    """Class and image alike; numbers stay, those of one below zero too, and JSON is as it was."""
    files = PredictionFiles(tmp_path, ["other", name], ["csv", "json"])
    files.add(frame(name), "p", FOUND - torch.tensor([5.0, 0, 0, 0, 0, 0]))
    files.close()
    rows, entries = read(tmp_path)
    assert rows[1][:6] == [f"'{name}", "0", "1", f"'{name}", "0.25", "-4"]
    assert (entries[0]["name"], entries[0]["image"]) == (name, name)
