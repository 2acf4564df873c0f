"""VOC and COCO into labels and back: numbers, names, hostile files, and that nothing is lost or written over."""

import json

import cv2
import numpy as np
import pytest
import yaml

from tools.convert import ConvertOptions, main, parse_opt
from utils.data.config import DataConfig
from utils.data.label_files import read_labels
from utils.data.labels import find_images, load_split, scan

OBJECT = (
    "<object><name>{}</name>{}<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def picture(path, w=40, h=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(path.suffix, np.full((h, w, 3), 90, np.uint8))
    path.write_bytes(data.tobytes())
    return path


def voc(root, stem, *objects, size="<size><width>40</width><height>20</height></size>", head=""):
    picture(root / "JPEGImages" / f"{stem}.png")
    rows = "".join(OBJECT.format(name, extra, *box) for name, extra, *box in objects)
    path = root / "Annotations" / f"{stem}.xml"
    path.parent.mkdir(exist_ok=True)
    text = f"{head}<annotation><filename>{stem}.png</filename>{size}{rows}</annotation>"
    path.write_text(text, encoding="utf-8")
    return path


def coco(root, name="instances_train.json", **change):
    picture(root / "images" / "ü.png")
    picture(root / "images" / "b" / "empty.png")
    content = {
        "images": [
            {"id": 5, "file_name": "ü.png", "width": 40, "height": 20},
            {"id": 6, "file_name": "b/empty.png", "width": 40, "height": 20},
        ],
        "categories": [{"id": 90, "name": "Hündin"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 90, "bbox": [10, 5, 20, 10], "iscrowd": 0},
            {
                "id": 2,
                "image_id": 5,
                "category_id": 3,
                "bbox": [4, 2, 8, 4],
                "segmentation": [[4, 2, 12, 2, 8, 6]],
            },
            {"id": 3, "image_id": 5, "category_id": 3, "bbox": [0, 0, 40, 20], "iscrowd": 1},
        ],
    } | change
    path = root / "annotations" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def run(kind, source, out, *flags):
    main(parse_opt([kind, "--source", str(source), "--out", str(out), *flags]))
    return yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))


# Pascal VOC -----------------------------------------------------------------------------------------------------------


def test_voc(tmp_path):
    root, out = tmp_path / "voc", tmp_path / "out"
    hard = "<difficult>1</difficult>"
    voc(
        root,
        "a 图",
        ("dog", "", 11, 6, 31, 16),
        ("cat", hard, 1, 1, 9, 9),
        ("Ä", "<difficult>0</difficult>", 1, 1, 41, 21),
    )
    voc(root, "none")
    assert run("voc", root, out) == {"train": "images/train", "nc": 2, "names": ["dog", "Ä"]}
    boxes = read_labels(out / "labels/train/a 图.txt", 2).boxes
    # v6.1: the centre is one pixel less than that of the corners, the size is their difference
    np.testing.assert_allclose(boxes, [[0, 0.5, 0.5, 0.5, 0.5], [1, 0.5, 0.5, 1, 1]], atol=1e-6)
    assert (out / "labels/train/none.txt").read_text() == ""
    assert (out / "images/train/a 图.png").stat().st_ino == (root / "JPEGImages/a 图.png").stat().st_ino
    kept = run("voc", root, tmp_path / "more", "--difficult", "--zero-based", "--copy")
    assert kept["names"] == ["cat", "dog", "Ä"]
    boxes = read_labels(tmp_path / "more/labels/train/a 图.txt", 3).boxes
    np.testing.assert_allclose(boxes[0], [1, 21 / 40, 11 / 20, 0.5, 0.5], atol=1e-6)
    assert (tmp_path / "more/images/train/a 图.png").stat().st_nlink == 1


def test_voc_splits_and_given_names(tmp_path):
    root, out = tmp_path / "voc", tmp_path / "out"
    for stem in ("a", "b", "unused"):
        voc(root, stem, ("dog", "", 11, 6, 31, 16))
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b  1\n")
    content = run("voc", root, out, "--names", "cat", "dog")
    assert content == {"train": "images/train", "val": "images/val", "nc": 2, "names": ["cat", "dog"]}
    assert (out / "labels/val/b.txt").read_text().startswith("1 ")
    data = DataConfig.from_yaml(out / "data.yaml")
    assert [len(find_images(data.split(split))) for split in ("train", "val")] == [1, 1]


BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]>'


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (BOMB + "<annotation>&y;</annotation>", "<!DOCTYPE, which no annotation needs"),
        ('<!ENTITY f SYSTEM "file:///etc/passwd"><annotation/>', "<!ENTITY"),
        ("<annotation><object>", "a.xml: "),
        ("<html/>", "root is <html>"),
        ("", "no element found"),
        ("<annotation><object/></annotation>", "object 1: has no <name>"),
        ("<annotation><object><name>dog</name></object></annotation>", r"object 1 \(dog\): has no <bndbox>"),
        (f"<annotation>{OBJECT.format('dog', '', 'x', 1, 2, 2)}</annotation>", "<xmin> is 'x', a number is wanted"),
        (f"<annotation>{OBJECT.format('dog', '', 'nan', 1, 2, 2)}</annotation>", "<xmin> is 'nan'"),
        (
            f"<annotation>{OBJECT.format('dog', '', 9, 1, 2, 2)}</annotation>",
            r"object 1 \(dog\).*ends before it begins",
        ),
    ],
)
def test_bad_xml_is_named_and_nothing_is_written(tmp_path, text, what):
    root, out = tmp_path / "voc", tmp_path / "out"
    voc(root, "a").write_text(text)
    voc(root, "b", ("dog", "", 11, 6, 31, 16))
    with pytest.raises(ValueError, match=what) as error:
        run("voc", root, out)
    assert "a.xml" in str(error.value)
    assert not out.exists()
    assert run("voc", root, out, "--skip-bad")["names"] == ["dog"]
    assert [path.name for path in (out / "images/train").iterdir()] == ["b.png"]


def test_a_bomb_in_utf_16_is_refused(tmp_path):
    path = voc(tmp_path / "voc", "a")
    path.write_bytes((BOMB + "<annotation>&y;</annotation>").encode("utf-16"))
    with pytest.raises(ValueError, match=r"a\.xml: "):
        run("voc", tmp_path / "voc", tmp_path / "out")


def test_voc_missing_image_wrong_size_unknown_class(tmp_path):
    root, out = tmp_path / "voc", tmp_path / "out"
    voc(root, "a", ("dog", "", 11, 6, 31, 16))
    with pytest.raises(ValueError, match=r"a\.xml: object 1 \(dog\): class 'dog' is none of cat"):
        run("voc", root, out, "--names", "cat")
    voc(root, "a", size="<size><width>4</width><height>20</height></size>")
    with pytest.raises(ValueError, match=r"a\.xml: says 4x20 pixels, but .*a\.png has 40x20"):
        run("voc", root, out)
    (root / "JPEGImages/a.png").unlink()
    with pytest.raises(ValueError, match=r"a\.xml: its image a\.png is neither in"):
        run("voc", root, out)
    assert not out.exists()


# COCO -----------------------------------------------------------------------------------------------------------------


def test_coco(tmp_path):
    out = tmp_path / "out"
    assert run("coco", coco(tmp_path), out) == {"train": "images/train", "nc": 2, "names": ["cat", "Hündin"]}
    labels = read_labels(out / "labels/train/ü.txt", 2)
    np.testing.assert_allclose(labels.boxes, [[1, 0.5, 0.5, 0.5, 0.5], [0, 0.2, 0.2, 0.2, 0.2]], atol=1e-6)
    np.testing.assert_allclose(labels.polygons[1], [[0.1, 0.1], [0.3, 0.1], [0.2, 0.3]], atol=1e-6)
    assert (out / "labels/train/b/empty.txt").read_text() == ""
    assert (tmp_path / "images/ü.png").is_file()
    run("coco", tmp_path / "annotations/instances_train.json", tmp_path / "boxes", "--boxes")
    assert read_labels(tmp_path / "boxes/labels/train/ü.txt", 2).polygons == ()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"annotations": [{"image_id": 7}]}, r"annotations\[0\]: image_id 7 is none"),
        ({"annotations": [{"image_id": 5, "category_id": 4}]}, r"annotations\[0\]: category_id 4 is none"),
        ({"annotations": [{"image_id": 5, "category_id": []}]}, r"annotations\[0\]: category_id \[\] is none"),
        ({"annotations": [{"image_id": 5, "category_id": 3, "bbox": [1, 2]}]}, r"annotations\[0\]: bbox is \[1, 2\]"),
        ({"annotations": [{"image_id": 5, "category_id": 3, "bbox": [1, 2, 10**400, 3]}]}, "bbox is"),
        (
            {"images": [{"id": 5, "file_name": "../../x.png"}], "annotations": []},
            r"images\[0\]: file_name '../../x.png'",
        ),
        ({"images": [{"id": 5, "file_name": "gone.png"}], "annotations": []}, r"images\[0\]: gone.png is not there"),
        ({"images": [{"id": []}], "annotations": []}, r"images\[0\]: id \[\]"),
        ({"categories": [{"id": "a"}]}, r"categories\[0\]"),
        ({"images": [{"id": 5, "file_name": "ü.png"}] * 2}, r"images\[1\]: id 5 is that of an image before"),
        ({"categories": 3}, "categories: a list"),
    ],
)
def test_bad_coco_is_named_and_nothing_is_written(tmp_path, change, what):
    path = coco(tmp_path, **change)
    with pytest.raises(ValueError, match=what) as error:
        run("coco", path, tmp_path / "out")
    assert str(path) in str(error.value)
    assert not (tmp_path / "out").exists()


def test_two_images_of_one_label_file_are_refused(tmp_path):
    picture(tmp_path / "images" / "ü.jpg")
    images = [{"id": i, "file_name": name} for i, name in ((5, "ü.png"), (6, "ü.jpg"))]
    with pytest.raises(ValueError, match=r"ü\.jpg and .*ü\.png would share the label file"):
        run("coco", coco(tmp_path, images=images), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_images_in_file_names_does_not_hide_the_labels(tmp_path):
    run("coco", coco(tmp_path, images=[{"id": 5, "file_name": "images/ü.png"}]), tmp_path / "out")
    records, report = scan(find_images([tmp_path / "out/images/train"]), 2)
    assert (len(records), report.found) == (1, 1)


@pytest.mark.parametrize("taken", ["data.yaml", "labels/train/ü.txt", "images/train/ü.png"])
def test_nothing_is_written_over(tmp_path, taken):
    path = tmp_path / "out" / taken
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="is not written over"):
        run("coco", coco(tmp_path), tmp_path / "out")
    assert [file for file in (tmp_path / "out").rglob("*") if file.is_file()] == [path]
    assert path.read_text() == "mine"


def test_there_and_back(tmp_path):
    out, again = tmp_path / "out", tmp_path / "again"
    run("coco", coco(tmp_path), out)
    main(ConvertOptions("yolo", [str(out / "data.yaml")], str(out / "annotations"), [], "", "train"))
    path = out / "annotations" / "instances_train.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["annotations"][0]["bbox"] == [10, 5, 20, 10]
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "Hündin"}]
    assert run("coco", path, again, "--images", str(out))["names"] == ["cat", "Hündin"]
    first, second = (read_labels(root / "labels/train/ü.txt", 2) for root in (out, again))
    np.testing.assert_allclose(first.boxes, second.boxes, atol=1e-4)
    np.testing.assert_allclose(first.polygons[1], second.polygons[1], atol=1e-4)
    with pytest.raises(FileExistsError):
        main(ConvertOptions("yolo", [str(out / "data.yaml")], str(out / "annotations"), [], "", "train"))


# Roboflow's COCO ------------------------------------------------------------------------------------------------------


def roboflow(root, categories, used, split="train"):
    """A split as Roboflow exports it, images beside their JSON file; used: the category of each image's object."""
    images, rows = [], []
    for i, category in enumerate(used):
        picture(root / split / f"i{i}.png")
        images.append({"id": i, "file_name": f"i{i}.png", "width": 40, "height": 20})
        rows.append({"id": i, "image_id": i, "category_id": category, "bbox": [4, 2, 8, 4]})
    listed = [{"id": i, "name": name, "supercategory": group} for i, name, group in categories]
    path = root / split / "_annotations.coco.json"
    path.write_text(json.dumps({"images": images, "categories": listed, "annotations": rows}), encoding="utf-8")
    return path


def classes_of(out, split="train"):
    files = sorted((out / "labels" / split).iterdir())
    return [int(read_labels(file).boxes[0, 0]) for file in files]


@pytest.mark.parametrize("project", ["fish", "my-project"])
def test_roboflows_placeholder_is_no_class_and_named(tmp_path, caplog, project):
    path = roboflow(tmp_path, [(0, project, "none"), (1, "fish", project), (2, "crab", project)], [1, 2])
    assert run("coco", path, tmp_path / "out")["names"] == ["fish", "crab"]
    assert classes_of(tmp_path / "out") == [0, 1]
    assert any(f"category 0 {project!r}" in line and path.name in line for line in caplog.messages)


@pytest.mark.parametrize(
    ("categories", "used"),
    [
        ([(0, "animal", "none"), (1, "fish", "animal")], [0, 1]),  # it has an object
        ([(0, "animal", "none"), (1, "fish", "animal"), (2, "car", "none")], [1, 2]),  # it is not the group of all
        ([(0, "animal", "none")], [0]),
    ],
)
def test_what_is_no_placeholder_stays_a_class(tmp_path, categories, used):
    names = run("coco", roboflow(tmp_path, categories, used), tmp_path / "out")["names"]
    assert names == [name for _, name, _ in categories]
    assert classes_of(tmp_path / "out") == used


def test_two_categories_of_one_name_stay_two_classes_or_are_joined_by_names(tmp_path, caplog):
    path = roboflow(tmp_path, [(3, "cell", "a"), (5, "dot", "a"), (9, "cell", "b")], [9, 3, 5])
    assert run("coco", path, tmp_path / "two")["names"] == ["cell", "dot", "cell"]
    assert classes_of(tmp_path / "two") == [2, 0, 1]
    assert any("'cell'" in line and "--names cell dot" in line for line in caplog.messages)
    assert run("coco", path, tmp_path / "one", "--names", "cell", "dot")["names"] == ["cell", "dot"]
    assert classes_of(tmp_path / "one") == [0, 0, 1]
    with pytest.raises(ValueError, match=r"--names: class 'cell' is named twice"):
        run("coco", path, tmp_path / "wrong", "--names", "cell", "dot", "cell")


def test_folders_name_the_splits(tmp_path):
    categories = [(0, "fish", "sea")]
    for split, count in (("train", 3), ("valid", 2), ("test", 1)):
        roboflow(tmp_path, categories, [0] * count, split)
    files = [str(tmp_path / split / "_annotations.coco.json") for split in ("train", "valid", "test")]
    main(parse_opt(["coco", "--source", *files, "--out", str(tmp_path / "out")]))
    counts = {split: len(list((tmp_path / "out/images" / split).iterdir())) for split in ("train", "val", "test")}
    assert counts == {"train": 3, "val": 2, "test": 1}


def test_voc_folders_name_the_splits(tmp_path):
    for split in ("train", "valid"):
        path = voc(tmp_path / "voc" / split, split, ("dog", "", 11, 6, 31, 16))
        path.rename(path.parent.parent / path.name)
        (tmp_path / f"voc/{split}/JPEGImages/{split}.png").rename(tmp_path / f"voc/{split}/{split}.png")
    content = run("voc", tmp_path / "voc", tmp_path / "out")
    assert (content["train"], content["val"]) == ("images/train", "images/val")


# Division and what comes next -----------------------------------------------------------------------------------------


def many(root, count, value=None):
    """`count` VOC pictures, each of its own content, or all of one."""
    for i in range(count):
        voc(root, f"p{i:03}", ("dog", "", 11, 6, 31, 16))
        shade = np.full((20, 40, 3), i if value is None else value, np.uint8)
        cv2.imwrite(str(root / f"JPEGImages/p{i:03}.png"), shade)


def names_in(out, split):
    return sorted(path.name for path in (out / "images" / split).iterdir())


def test_val_is_exact_repeatable_and_trains_at_once(tmp_path, caplog):
    caplog.set_level("INFO", "yolov5")
    root = tmp_path / "voc"
    many(root, 50)
    content = run("voc", root, tmp_path / "a", "--val", "0.2", "--seed", "0")
    assert content == {"train": "images/train", "val": "images/val", "nc": 1, "names": ["dog"]}
    assert [len(names_in(tmp_path / "a", split)) for split in ("train", "val")] == [40, 10]
    assert caplog.messages[-1].startswith("Next: python train.py --data ")
    assert str(tmp_path / "a/data.yaml") in caplog.messages[-1]
    data = DataConfig.from_yaml(tmp_path / "a/data.yaml")
    assert [len(load_split(data, split, 1)) for split in ("train", "val")] == [40, 10]
    run("voc", root, tmp_path / "b", "--val", "0.2", "--seed", "0")
    run("voc", root, tmp_path / "c", "--val", "0.2", "--seed", "1")
    assert names_in(tmp_path / "a", "val") == names_in(tmp_path / "b", "val") != names_in(tmp_path / "c", "val")
    with pytest.raises(FileExistsError):
        run("voc", root, tmp_path / "a", "--val", "0.2")


def test_copies_of_an_image_stay_in_one_split(tmp_path):
    root = tmp_path / "voc"
    many(root, 20)
    for i in range(0, 12, 2):  # six pairs
        (root / f"JPEGImages/p{i + 1:03}.png").write_bytes((root / f"JPEGImages/p{i:03}.png").read_bytes())
    for seed in range(4):
        out = tmp_path / f"out{seed}"
        run("voc", root, out, "--val", "0.25", "--seed", str(seed))
        val = set(names_in(out, "val"))
        assert len(val) == 5
        assert all((f"p{i:03}.png" in val) == (f"p{i + 1:03}.png" in val) for i in range(0, 12, 2))


@pytest.mark.parametrize(("share", "what"), [("1", "--val 1"), ("-0.1", "--val -0.1"), ("0.5", "at least 2")])
def test_a_val_that_cannot_be_had(tmp_path, share, what):
    voc(tmp_path / "voc", "a", ("dog", "", 11, 6, 31, 16))
    with pytest.raises(ValueError, match=what):
        run("voc", tmp_path / "voc", tmp_path / "out", "--val", share)
    assert not (tmp_path / "out").exists()


def test_a_source_with_val_is_not_divided_again(tmp_path):
    many(tmp_path / "voc/train", 2)
    many(tmp_path / "voc/val", 2)
    with pytest.raises(ValueError, match="--val: the source has a val split"):
        run("voc", tmp_path / "voc", tmp_path / "out", "--val", "0.5")


def test_without_val_the_way_to_one_is_named(tmp_path, caplog):
    many(tmp_path / "voc", 2)
    run("voc", tmp_path / "voc", tmp_path / "out")
    assert any("has no val" in line and "--val 0.2" in line for line in caplog.messages)


def test_a_truncated_jpeg_is_one_message_that_names_skip_bad(tmp_path, caplog):
    root = tmp_path / "voc"
    voc(root, "a", ("dog", "", 11, 6, 31, 16))
    voc(root, "b", ("dog", "", 11, 6, 31, 16))
    noise = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", noise)[1].tobytes()
    (root / "JPEGImages/a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"a\.png: .*truncated.*--skip-bad"):
        run("voc", root, tmp_path / "out")
    assert not caplog.messages
    run("voc", root, tmp_path / "out", "--skip-bad")
    assert [line for line in caplog.messages if "a.png" in line and "left out" in line]
    assert names_in(tmp_path / "out", "train") == ["b.png"]
