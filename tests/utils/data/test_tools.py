"""v6.1's helpers for data sets: lists, crops, flat folders and numbers, always the same and never over other files."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from tools import check, convert, split
from utils.data.labels import find_images
from utils.data.tools import autosplit, dataset_stats, extract_boxes, flatten_recursive
from utils.files.images import read_image


@pytest.fixture
def images(tmp_path):
    """A folder of 40 pictures 40 x 20, in two subfolders, every other one with two boxes."""
    for number in range(40):
        path = tmp_path / "set" / "images" / "ab"[number % 2] / f"{number // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((20, 40, 3), number, np.uint8))
        if number % 2:
            label = tmp_path / "set" / "labels" / "b" / f"{number // 2}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("1 0.5 0.5 0.5 0.5\n0 0.1 0.1 0.2 0.2\n")
    return tmp_path / "set" / "images"


def test_autosplit(images):
    lists = autosplit(images, (0.7, 0.2, 0.1))
    assert [path.name for path in lists.values()] == [f"autosplit_{split}.txt" for split in ("train", "val", "test")]
    texts = {split: path.read_text() for split, path in lists.items()}
    lines = "".join(texts.values()).splitlines()
    assert len(lines) == len(set(lines)) == 40
    assert all(line.startswith("./images/") for line in lines)
    assert find_images(list(lists.values())) == find_images([images])
    again = autosplit(images, (0.7, 0.2, 0.1))
    assert {split: path.read_text() for split, path in again.items()} == texts
    assert [len(text.splitlines()) for text in texts.values()] == [28, 8, 4], "the shares are kept exactly"
    for other in ({"weights": (1, 0, 0)}, {"weights": (0.7, 0.2, 0.1), "seed": 1}):
        with pytest.raises(FileExistsError, match=r"autosplit_train\.txt exists"):
            autosplit(images, **other)
    assert {split: path.read_text() for split, path in lists.items()} == texts, "no list was written over"
    for path in lists.values():
        path.unlink()
    only = autosplit(images, (1, 0, 0), annotated_only=True)
    assert list(only) == ["train"]
    assert len(only["train"].read_text().splitlines()) == 20
    assert [path.name for path in images.parent.glob("autosplit_*")] == ["autosplit_train.txt"]


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0, 0, 0), (1, -1, 1)])
def test_wrong_shares(images, weights):
    with pytest.raises(ValueError, match="three shares of 0 or more"):
        autosplit(images, weights)


def test_no_label_at_all(images):
    with pytest.raises(ValueError, match="none of its images has a label file"):
        autosplit(images / "a", annotated_only=True)


def test_extract_boxes(images):
    out = extract_boxes(images)
    assert out == images.parent / "classifier"
    assert sorted(path.name for path in out.iterdir()) == ["0", "1"]
    assert len(list((out / "1").iterdir())) == 20
    assert read_image(out / "1" / "3_0.jpg").shape == (10, 20, 3)
    assert read_image(out / "0" / "3_1.jpg").shape == (4, 8, 3)
    with pytest.raises(FileExistsError):
        extract_boxes(images)


def test_flatten_recursive(images):
    out = flatten_recursive(images)
    assert out == images.parent / "images_flat"
    assert len(list(out.iterdir())) == 40
    assert {"0.png", "0_2.png", "19_2.png"} <= {path.name for path in out.iterdir()}
    values = sorted(int(read_image(path)[0, 0, 0]) for path in out.iterdir())
    assert values == list(range(40))
    with pytest.raises(FileExistsError):
        flatten_recursive(images)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        flatten_recursive(images / "absent")


def test_dataset_stats(images, capsys):
    file = images.parent / "set.yaml"
    file.write_text(yaml.safe_dump({"train": "images", "val": "images/b", "names": ["cat", "dog", "cow"]}))
    stats = dataset_stats(file)
    assert stats["nc"] == 3
    assert stats["test"] is None
    assert stats["train"]["instance_stats"] == {"total": 40, "per_class": [20, 20, 0]}
    assert stats["train"]["image_stats"] == {"total": 40, "unlabelled": 20, "per_class": [20, 20, 0]}
    assert stats["val"]["image_stats"]["unlabelled"] == 0
    assert [round(v, 4) for v in stats["val"]["labels"][0]["0.png"][0]] == [1, 0.5, 0.5, 0.5, 0.5]
    check.main(check.parse_opt([str(file), "--stats"]))
    printed = json.loads(capsys.readouterr().out)
    assert printed["train"] == {key: value for key, value in stats["train"].items() if key != "labels"}


def test_commands(images, tmp_path):
    split.main(split.parse_opt([str(images), "--weights", "0", "1", "0", "--annotated-only"]))
    assert len((images.parent / "autosplit_val.txt").read_text().splitlines()) == 20
    convert.main(convert.parse_opt(["crops", "--source", str(images), "--out", str(tmp_path / "crops")]))
    convert.main(convert.parse_opt(["flat", "--source", str(images), "--out", str(tmp_path / "flat")]))
    assert {path.name for path in Path(tmp_path).iterdir()} == {"set", "crops", "flat"}
