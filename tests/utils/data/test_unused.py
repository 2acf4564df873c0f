"""Files beside images and labels that are not used: each kind is named with an example and a remedy."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.data.labels import find_images, scan


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", np.zeros((16, 16, 3), np.uint8))
    path.write_bytes(data.tobytes())
    return path


def text(path, content="0 .5 .5 .2 .2\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def notes_of(folder):
    return scan(find_images([folder]), nc=1)[1].notes


@pytest.mark.parametrize(
    ("image", "file", "words"),
    [
        ("images/train/a.png", "images/train/a.txt", (".txt", "beside", "labels/train/a.txt")),
        ("images/train/a.png", "labels/train/a.TXT", (".TXT", "labels/train/a.txt")),
        ("images/train/a.png", "labels/train/a.xml", (".xml", "tools.convert voc")),
        ("images/train/a.png", "images/train/a.xml", (".xml", "tools.convert voc")),
        ("images/train/a.png", "Annotations/a.xml", ("Annotations", "tools.convert voc")),
        ("images/train/a.png", "labels/a.txt", ("labels/train/a.txt",)),
        ("images/train/a.png", "Labels/train/a.txt", ("Labels",)),
        ("images/train/a.png", "images/train/a.json", (".json", "convert")),
        ("photos/a.png", "labels/a.txt", ("labels/a.txt", "photos/a.txt")),
        ("Images/train/a.png", "labels/train/a.txt", ("Images/train/a.txt",)),
        ("imgs/train/a.png", "imgs_txt/train/a.txt", ("imgs/train/a.txt",)),
        ("images/train/a.png", "images/train/_annotations.coco.json", ("_annotations.coco.json", "tools.convert coco")),
    ],
)
def test_annotations_that_are_not_used_are_named(tmp_path, image, file, words):
    picture(tmp_path / image)
    text(tmp_path / file)
    named = [note for note in notes_of((tmp_path / image).parent) if str(tmp_path / file) in note]
    assert len(named) == 1
    assert all(word in named[0] for word in words)


def test_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(Path("images/a.png"))
    text(Path("Labels/a.txt"))
    assert any("Labels/a.txt" in note for note in notes_of("images"))


def test_they_are_counted(tmp_path):
    for name in "abc":
        picture(tmp_path / f"images/{name}.png")
        text(tmp_path / f"images/{name}.txt")
    picture(tmp_path / "images/d.png")
    text(tmp_path / "labels/d.txt")
    assert any(note.startswith("3 images without a label file") for note in notes_of(tmp_path / "images"))


def test_other_formats_and_lone_labels(tmp_path):
    picture(tmp_path / "images/a.png")
    for name in ("a", "b", "c", "classes"):
        text(tmp_path / f"labels/{name}.txt")
    (tmp_path / "images/d.heic").touch()
    notes = notes_of(tmp_path / "images")
    assert len(notes) == 2
    assert any("1 image of a format" in note and "d.heic" in note for note in notes)
    assert any("2 label files without an image" in note and "b.txt" in note for note in notes)


def test_a_good_set_has_no_notes(tmp_path):
    picture(tmp_path / "images/train/a.png")
    text(tmp_path / "labels/train/a.txt")
    text(tmp_path / "labels/train.cache", "")
    text(tmp_path / "images/readme.md", "")
    picture(tmp_path / "images/train/background.png")
    assert notes_of(tmp_path / "images/train") == ()
