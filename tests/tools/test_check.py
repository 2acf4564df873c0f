"""What the check of a data set finds, by file and line, its exit status, and its page."""

import logging
import re

import cv2
import numpy as np
import pytest
import yaml

from tools.check import CheckOptions, check_data, main, parse_opt, split_text
from tools.datasets.split_check import check_split, find_leaks
from utils.data.config import DataConfig


def add(root, split, name, text="0 .5 .5 .2 .4\n", seed=None):
    """An image of noise, its own for each name, and its label file; text None makes none."""
    rng = np.random.default_rng(list(f"{split}{name}".encode()) if seed is None else seed)
    image = root / "images" / split / name
    label = (root / "labels" / split / name).with_suffix(".txt")
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(image.suffix, rng.integers(0, 256, (20, 40, 3), dtype=np.uint8))
    image.write_bytes(data.tobytes())
    if text is not None:
        label.write_text(text, encoding="utf-8")
    return image


def describe(root, names=("cat", "dog"), **more):
    path = root / "data.yaml"
    content = {"train": "images/train", "val": "images/val", "names": list(names)} | more
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path):
    """A data set without a fault."""
    add(tmp_path, "train", "a.png", "0 .5 .5 .2 .4\n1 .25 .5 .5 .5\n")
    add(tmp_path, "train", "b.png", "1 .5 .5 .2 .4\n")
    add(tmp_path, "val", "c.png")
    describe(tmp_path)
    return tmp_path


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "yolov5")
    return caplog


def test_a_good_set_ends_with_one_line_and_status_0(root, log):
    main(parse_opt([str(root / "data.yaml")]))
    assert log.messages[-1] == f"{root / 'data.yaml'}: 3 usable images, 4 objects, no problem found"
    assert not [record for record in log.records if record.levelno >= logging.WARNING]


def test_counts_ranges_and_histogram(root):
    data = DataConfig.from_yaml(root / "data.yaml")
    check = check_split(data, "train", workers=1)
    assert check.counts.tolist() == [1, 2]
    ranges = dict(check.ranges())
    assert ranges["image width, pixels"] == [40] * 5
    assert ranges["box width, share"][0] == pytest.approx(0.2)
    assert ranges["box width, share"][-1] == pytest.approx(0.5)
    assert ranges["box side (root of area), pixels"][0] == pytest.approx(8)  # 8 x 8 pixels
    text = split_text(check, data.names)
    assert re.search(rf"cat +1 {'#' * 15}\n", text)
    assert re.search(rf"dog +2 {'#' * 30}$", text)
    assert "2 found, 0 missing, 0 empty, 0 corrupt" in text


@pytest.mark.parametrize(
    ("rows", "line", "what"),
    [
        ("0 .5 .5 .2 .4\n\n2 .5 .5 .1 .1\n", 3, "label class 2 >= nc 2"),
        ("-1 .5 .5 .2 .4\n", 1, "label class -1 is negative"),
        ("0 .5 .5 .2 .4\n0 .5 .5 .2\n", 2, "4 values"),
        ("0 .5 .5 .2\n", 1, "4 values"),
        ("0 .5 .5 .2 .4\n1 320 240 64 48\n", 2, "pixels?"),
        ("0 .5 .5 .2 .4\n1 .5 .5 0 .4\n", 2, "without area"),
        ("0 .5 .5 .2 .4\n1 .5 .5 .3 .4\n0 .5 .5 .2 .4\n", 3, "repeats line 1"),
    ],
)
def test_a_bad_row_is_named_once_by_file_and_line(root, log, rows, line, what):
    add(root, "train", "ß 图.png", rows)
    with pytest.raises(SystemExit) as ended:
        main(CheckOptions(str(root / "data.yaml")))
    assert ended.value.code == 1
    label = root / "labels" / "train" / "ß 图.txt"
    assert [what in message for message in log.messages if f"{label}:{line}: " in message] == [True]
    assert log.messages[-1].endswith(", 1 problem found")


def test_bad_files(root, log):
    add(root, "train", "broken.png").write_bytes(b"no image")
    add(root, "train", "binary.png")
    (root / "labels/train/binary.txt").write_bytes(b"\xff\xfe0")
    assert check_data(CheckOptions(str(root / "data.yaml"))) == 2
    assert any("broken.png: not an image" in message for message in log.messages)
    assert any("binary.txt" in message and "line 1" in message for message in log.messages)
    assert any("2 found, 0 missing, 0 empty, 2 corrupt" in message for message in log.messages)


def test_background_and_a_class_without_objects_are_notes(root, log):
    add(root, "val", "d.png", None)
    add(root, "val", "e.png", "")
    assert check_data(CheckOptions(str(root / "data.yaml"))) == 0
    assert any("2 found, 1 missing, 1 empty, 0 corrupt" in message for message in log.messages)
    assert any("1 image without a label file" in message and "d.txt" in message for message in log.messages)
    assert "note: val: 1 class without an object: dog" in log.messages


def test_copies_and_leaks(root, log):
    for split, name in (("train", "x.png"), ("train", "y.png"), ("val", "z.png")):
        add(root, split, name, seed=7)
    assert check_data(CheckOptions(str(root / "data.yaml"))) == 2
    images = root / "images"
    assert f"train: {images}/train/y.png: the same picture as {images}/train/x.png" in log.messages
    leak = f"{images}/val/z.png (val): the same picture as {images}/train/x.png (train): a leak between splits"
    assert any(leak in message for message in log.messages)


def test_test_may_be_val_but_not_train(root):
    data = DataConfig.from_yaml(describe(root, test="images/val"))
    checks = [check_split(data, split, 1) for split in ("train", "val", "test")]
    assert find_leaks(checks) == []
    data = DataConfig.from_yaml(describe(root, test="images/train"))
    checks = [check_split(data, split, 1) for split in ("train", "val", "test")]
    assert len(find_leaks(checks)) == 2


def test_a_missing_split_and_a_missing_folder_are_problems(root, log):
    (root / "data.yaml").write_text("train: images/train\nnames: [cat, dog]\n", encoding="utf-8")
    assert check_data(CheckOptions(str(root / "data.yaml"))) == 1
    assert any("has no `val`" in message for message in log.messages)
    assert check_data(CheckOptions(str(describe(root, val="images/nowhere")))) == 1
    assert any("nowhere does not exist" in message for message in log.messages)


def test_nothing_is_written_into_the_data_set(root):
    before = sorted(root.rglob("*"))
    check_data(CheckOptions(str(root / "data.yaml")))
    assert sorted(root.rglob("*")) == before


def test_the_page_holds_all_and_needs_nothing_else(root, tmp_path, log):
    evil = '<script src="http://x.example/a.js">'
    add(root, "train", "ü&'.png", "9 .5 .5 .2 .4\n")
    path = describe(root, (evil, "犬"))
    page = tmp_path / "pages" / "page.html"
    assert check_data(CheckOptions(str(path), html=str(page), samples=2)) == 1
    text = page.read_text(encoding="utf-8")
    assert "&lt;script src=&quot;http://x.example" in text
    assert "<script" not in text
    assert "犬" in text
    assert "ü&amp;&#x27;.txt:1: label class 9" in text
    assert "2 objects, 1 problem found" not in text
    assert text.count('src="data:image/jpeg;base64,') == 3  # two of train, the one of val
    sources = re.findall(r"<[^>]*?\b(?:src|href|url)\s*[=(]\s*[\"']?([^\"'> ]{5})", text)
    assert set(sources) == {"data:"}
    assert check_data(CheckOptions(str(path), html=str(page), samples=0)) == 1  # an older page is replaced
    assert "base64" not in page.read_text(encoding="utf-8")


def test_names_of_markup_and_controls_are_shown_as_text(root, tmp_path):
    names = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "\u202egpj.exe", "a\x1b[2J\x07b", "&lt;"]
    add(root, "train", "<b onload=x>&\u202e.png", "4 .5 .5 .2 .4\n9 .5 .5 .2 .4\n")
    page = tmp_path / "page.html"
    check_data(CheckOptions(str(describe(root, names)), html=str(page), samples=9))
    text = page.read_text(encoding="utf-8")
    assert not set("\u202e\x1b\x07") & set(text)
    assert not [tag for tag in ("<script", "<img src=x", "<b onload") if tag in text]
    for shown in ("&lt;script&gt;alert(1)", r"\u202egpj.exe", r"\x1b[2J\x07b", "&amp;lt;"):
        assert shown in text


def test_a_browser_shows_the_page(root, tmp_path, open_page):
    evil = '<script>alert(1)</script>"'
    add(root, "train", "ü&'.png", "9 .5 .5 .2 .4\n")
    check_data(CheckOptions(str(describe(root, (evil, "犬"))), html=str(tmp_path / "page.html")))
    page = open_page(tmp_path / "page.html")
    assert (page.console, page.outside) == ([], [])
    assert [page.dom.count(f"<h2{part}") for part in (' id="train"', ' id="val"')] == [1, 1]
    assert page.dom.count("<img ") == 4
    assert np.median(page.shot) > 200
    assert np.median(open_page(tmp_path / "page.html", width=400, dark=True).shot) < 60


def test_repeats_of_a_list_count_and_are_a_note(root, log):
    (root / "train.txt").write_text("./images/train/a.png\n./images/train/b.png\n./images/train/b.png\n", "utf-8")
    describe(root, train="train.txt")
    check = check_split(DataConfig.from_yaml(root / "data.yaml"), "train", 1)
    assert check.counts.tolist() == [1, 3]
    assert check.report.found == 3
    assert not check.problems
    assert any("1 repetition" in note for note in check.notes)


def test_files_that_are_not_used_are_notes(root):
    add(root, "train", "d.png", text=None)
    (root / "images/train/d.txt").write_text("0 .5 .5 .2 .2\n", "utf-8")
    (root / "labels/train/lone.txt").write_text("0 .5 .5 .2 .2\n", "utf-8")
    notes = check_split(DataConfig.from_yaml(root / "data.yaml"), "train", 1).notes
    assert any("images/train/d.txt" in note for note in notes)
    assert any("labels/train/lone.txt" in note for note in notes)
