"""The generated data set: the same every time, labels on the drawn pixels, whole or not there at all."""

import hashlib
import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from tools import shapes as shapes_tool
from utils.data import shape_scenes, shapes
from utils.data.labels import cache_path, find_images, scan
from utils.data.shape_scenes import NAMES, OUTLINES, draw_scene
from utils.data.shapes import ShapesSettings, generate
from utils.general import ROOT

SMALL = ShapesSettings(train=12, val=4, test=2)


def digest(root: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(np.random.default_rng((1, i))) for i in range(160)]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("made") / "shapes"
    generate(root, SMALL)
    return root


# Scenes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_outlines_fill_their_circle_and_have_the_right_form(name):
    convex = name in {"circle", "triangle", "square", "hexagon"}
    for seed in range(20):
        outline = OUTLINES[name](np.random.default_rng(seed))
        reach = np.linalg.norm(np.concatenate(outline), axis=1).max()
        assert 0.95 < reach < 1.3
        contours = [contour.astype(np.float32) for contour in outline]
        area = cv2.contourArea(contours[0]) - sum(map(cv2.contourArea, contours[1:]))
        share = area / cv2.contourArea(cv2.convexHull(contours[0]))
        assert share > 0.999 if convex else 0.15 < share < 0.95
        assert len(outline) == 1 + (name == "ring")


def test_labels_lie_on_the_drawn_pixels(monkeypatch):
    """White shapes on black, one a picture: what is drawn, found by its brightness, has the label's bounds."""
    monkeypatch.setattr(shape_scenes, "EMPTY_SHARE", 0)
    monkeypatch.setattr(shape_scenes, "OBJECTS", (1,))
    monkeypatch.setattr(shape_scenes, "OBJECTS_P", (1.0,))
    monkeypatch.setattr(shape_scenes, "_ground", lambda hw, rng: np.zeros((3, *hw), np.float32))
    monkeypatch.setattr(shape_scenes, "_fill", lambda image, cover, rng: np.full(3, 255, np.float32))
    monkeypatch.setattr(shape_scenes, "_expose", lambda image, rng: image.transpose(1, 2, 0).astype(np.uint8))
    for i in range(200):
        image, labels, _ = draw_scene(np.random.default_rng((7, i)))
        height, width = image.shape[:2]
        x, y, w, h = cv2.boundingRect((image[..., 0] > 127).astype(np.uint8))
        drawn = np.array([x, y, x + w, y + h])
        (_, cx, cy, bw, bh) = labels[0]
        label = np.array([(cx - bw / 2) * width, (cy - bh / 2) * height, (cx + bw / 2) * width, (cy + bh / 2) * height])
        assert np.abs(drawn - label).max() <= 1


def test_boxes_are_the_bounds_of_the_visible_parts(scenes):
    for image, labels, owner in scenes:
        assert image.dtype == np.uint8
        assert image.shape == (*owner.shape, 3)
        assert sorted(set(owner[owner >= 0].tolist())) == list(range(len(labels)))  # nothing unlabelled, nothing unseen
        for i, (_, cx, cy, w, h) in enumerate(labels):
            ys, xs = np.nonzero(owner == i)
            size = np.array(owner.shape[::-1])
            np.testing.assert_allclose(
                (np.array([cx, cy]) - np.array([w, h]) / 2) * size, (xs.min(), ys.min()), atol=1e-6
            )
            np.testing.assert_allclose(np.array([w, h]) * size, (np.ptp(xs) + 1, np.ptp(ys) + 1), atol=1e-6)


def test_classes_are_balanced_and_scenes_varied(scenes):
    labels = np.concatenate([scene.labels for scene in scenes])
    counts = np.bincount(labels[:, 0].astype(int), minlength=len(NAMES))
    assert counts.min() > 0.6 * counts.mean()
    empty = np.mean([len(scene.labels) == 0 for scene in scenes])
    assert 0.03 < empty < 0.13
    assert 2 < len(labels) / len(scenes) < 4
    sides = labels[:, 3:].max(1)
    assert np.quantile(sides, 0.1) < 0.2
    assert np.quantile(sides, 0.9) > 0.3
    assert len({scene.image.shape for scene in scenes}) == len(shape_scenes.SIDES)
    assert all(scene.image.std() > 3 for scene in scenes)


def test_scene_depends_on_its_generator_only():
    first, second, other = (draw_scene(np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.image.shape != other.image.shape or not np.array_equal(first.image, other.image)


# Files ----------------------------------------------------------------------------------------------------------------


def test_generation_is_deterministic_to_the_byte(small, tmp_path):
    generate(tmp_path / "again", SMALL)
    assert digest(tmp_path / "again") == digest(small)
    generate(tmp_path / "other", ShapesSettings(train=12, val=4, test=2, seed=1))
    assert digest(tmp_path / "other") != digest(small)


def test_a_picture_does_not_depend_on_how_many_there_are(small, tmp_path):
    generate(tmp_path / "fewer", ShapesSettings(train=2, val=1, test=0))
    for name in ("images/train/000001.jpg", "labels/val/000000.txt"):
        assert (tmp_path / "fewer" / name).read_bytes() == (small / name).read_bytes()


def test_scan_finds_nothing_to_complain_about(small):
    for split, count in (("train", 12), ("val", 4), ("test", 2)):
        records, report = scan(find_images([small / "images" / split]), len(NAMES))
        assert (len(records), report.found, report.notes) == (count, count, ())


def test_splits_differ(small):
    images = [path.read_bytes() for path in small.rglob("*.jpg")]
    assert len(set(images)) == len(images)


def test_present_set_is_left_alone_and_another_one_replaced(tmp_path):
    root = tmp_path / "shapes"
    generate(root, SMALL)
    assert shapes._read_stamp(root)["settings"]["train"] == 12
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    generate(root, SMALL)
    generate(root)  # as data/shapes.yaml does: a set made by hand with other numbers is as good
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    scan(find_images([root / "images/train"]), 10, cache_path([root / "images/train"]))  # a cache is no hindrance
    generate(root, ShapesSettings(train=3, val=1, test=1))
    assert len(list((root / "images/train").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_set_of_an_older_version_is_made_anew_with_its_numbers(tmp_path, monkeypatch):
    root = tmp_path / "shapes"
    generate(root, SMALL)
    before = digest(root)
    monkeypatch.setattr(shapes, "VERSION", shapes.VERSION + 1)
    generate(root)
    assert digest(root) != before
    assert len(list((root / "images/train").iterdir())) == 12


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match="train -1: 0 or more"):
        ShapesSettings(train=-1)


def test_files_of_the_user_survive(tmp_path, caplog):
    foreign = tmp_path / "shapes"
    foreign.mkdir()
    generate(foreign, ShapesSettings(1, 1, 1))  # an empty folder may be filled
    (foreign / "labels/train/notes.md").write_text("mine")
    generate(foreign, ShapesSettings(2, 1, 1))
    kept = [path for path in tmp_path.rglob("notes.md")]
    assert len(kept) == 1
    assert "files of yours" in caplog.text
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.jpg").touch()
    with pytest.raises(ValueError, match="was not made by"):
        generate(other, SMALL)
    assert (other / "a.jpg").exists()


def test_interruption_leaves_nothing_half_made(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "_write_scene", interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "shapes", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_agree(tmp_path):
    root = tmp_path / "shapes"
    errors = []

    def work():
        try:
            generate(root, SMALL)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]
    assert len(list(root.rglob("*.jpg"))) == 18


def test_data_yaml_describes_the_set():
    data = yaml.safe_load((ROOT / "data/shapes.yaml").read_text(encoding="utf-8"))
    assert data["generate"] == "shapes"
    assert tuple(data["names"]) == NAMES
    assert data["nc"] == len(NAMES)


def test_command_line(tmp_path, caplog):
    caplog.set_level("INFO")
    opt = shapes_tool.parse_opt(["--root", str(tmp_path / "s"), "--train", "1", "--val", "1", "--test", "0"])
    shapes_tool.main(opt)
    assert len(list((tmp_path / "s").rglob("*.jpg"))) == 2
    assert "1 train, 1 val, 0 test" in caplog.text


def test_a_set_of_an_earlier_version_is_taken(tmp_path):
    """The stamp is a file format: it names the generator by the place that it had when the first sets were drawn."""
    settings = shapes.ShapesSettings(train=1, val=1, test=0)
    generate(tmp_path / "s", settings)
    stamp = json.loads((tmp_path / "s" / "shapes.json").read_text())
    assert stamp["made by"] == "utils/shapes.py"
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.jpg"))
    generate(tmp_path / "s", settings)
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.jpg")) == before
