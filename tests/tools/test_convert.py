"""VOC and COCO into labels and back: numbers, names, hostile files, and that nothing is lost or written over."""

import json

import cv2
import numpy as np
import pytest
import yaml

from tools.convert import ConvertOptions, main, parse_opt
from utils.data.config import DataConfig
from utils.data.label_files import read_labels
from utils.data.labels import find_images, scan

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
    with pytest.raises(ValueError, match=r"a\.xml: not UTF-8"):
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
