"""The published data sets, from samples in the form of their makers to labels in v6.1's layout."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from utils.data.config import DataConfig
from tools.convert import main, parse_opt
from utils.data.label_files import read_labels
from utils.data.labels import find_images, scan
from tools.datasets.published import PUBLISHED, XVIEW_TYPES


def picture(path, w=40, h=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(path.suffix, np.full((h, w, 3), 90, np.uint8))
    path.write_bytes(data.tobytes())


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def run(kind, source, out, *flags):
    main(parse_opt([kind, "--source", str(source), "--out", str(out), *flags]))
    return DataConfig.from_yaml(out / "data.yaml")


def labels(path, nc):
    return [[round(value, 4) for value in row] for row in read_labels(path, nc).boxes.tolist()]


def count(data, split):
    records, report = scan(find_images(data.split(split)), data.nc)
    assert not report.missing
    return len(records)


# Samples --------------------------------------------------------------------------------------------------------------


def voc0712(root):
    for year, splits in (("2007", ("train", "val", "test")), ("2012", ("train", "val"))):
        for number, split in enumerate(splits):
            folder = root / f"{split}-{year}/VOCdevkit/VOC{year}"  # each archive by itself
            picture(folder / f"JPEGImages/{year}_{number}.jpg")
            text(folder / f"ImageSets/Main/{split}.txt", f"{year}_{number}\n")
            boxes = (("dog", 0, 11, 6, 31, 16), ("cat", 1, 1, 1, 9, 9))
            objects = "".join(
                f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
                f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
                for name, difficult, x1, y1, x2, y2 in boxes
            )
            text(folder / f"Annotations/{year}_{number}.xml", f"<annotation>{objects}</annotation>")


def visdrone(root):
    for split in ("train", "val", "test-dev"):
        folder = root / f"VisDrone2019-DET-{split}"
        picture(folder / "images/0001.jpg")
        rows = "10,5,20,10,1,4,0,0\n0,0,40,20,0,0,0,0\n1,1,4,4,0,1,0,0\n0,0,8,4,1,1,1,2,\n1,1,4,4,1,11,0,0\n"
        text(folder / "annotations/0001.txt", rows)


def argoverse(root):
    for split in ("train", "val"):
        picture(root / f"Argoverse-1.1/tracking/{split}/log/ring/a.jpg", 1920, 1200)
        content = {
            "images": [{"id": 7, "sid": 0, "name": "a.jpg", "width": 1920, "height": 1200}],
            "annotations": [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [480, 300, 960, 600]}],
            "seq_dirs": [f"{split}/log/ring"],
        }
        text(root / f"Argoverse-HD/annotations/{split}.json", content)
    text(root / "Argoverse-HD/annotations/test-meta.json", {})


def sku110k(root):
    for split in ("train", "val", "test"):
        picture(root / f"SKU110K_fixed/images/{split}_0.jpg")
        rows = f"{split}_0.jpg,10,5,30,15,object,40,20\n{split}_0.jpg,0,0,4,2,object,40,20\n"
        text(root / f"SKU110K_fixed/annotations/annotations_{split}.csv", rows)


def xview(root):
    features = []
    for number in range(20):
        picture(root / f"train_images/{number}.tif")
        for kind in (11, 94, 75):
            about = {"image_id": f"{number}.tif", "type_id": kind, "bounds_imcoords": "10,5,30,15"}
            features.append({"properties": about})
    text(root / "xView_train.geojson", {"features": features})


def globalwheat(root):
    for domain in ("arvalis_1", "ethz_1", "utokyo_2"):
        picture(root / f"global-wheat-codalab-official/{domain}/x.png")
        text(root / f"labels/{domain}/x.txt", "0 0.5 0.5 0.25 0.5\n")


def objects365(root):
    for split in ("train", "val"):
        picture(root / f"patch{split}/objects365_{split}.jpg")
        content = {
            "images": [{"id": 1, "file_name": f"images/v1/patch0/objects365_{split}.jpg", "width": 40, "height": 20}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [10, 5, 20, 10], "iscrowd": 0}],
            "categories": [{"id": 1, "name": "Person"}, {"id": 2, "name": "Sneakers"}],
        }
        text(root / f"zhiyuan_objv2_{split}.json", content)


SAMPLES = {made.__name__: made for made in (voc0712, visdrone, argoverse, sku110k, xview, globalwheat, objects365)}
MIDDLE = [0.5, 0.5, 0.5, 0.5]
EXPECTED = {  # a label file, its boxes, pictures of train, val and test
    "voc0712": ("labels/val2012/2012_1.txt", [[11.0, *MIDDLE]], (4, 1, 1)),
    "visdrone": (
        "VisDrone2019-DET-test-dev/labels/0001.txt",
        [[3.0, *MIDDLE], [0.0, 0.1, 0.1, 0.2, 0.2]],
        (1, 1, 1),
    ),
    "argoverse": ("Argoverse-1.1/labels/val/log/ring/a.txt", [[2.0, *MIDDLE]], (1, 1, 0)),
    "sku110k": ("labels/val_0.txt", [[0.0, *MIDDLE], [0.0, 0.05, 0.05, 0.1, 0.1]], (1, 1, 1)),
    "xview": ("labels/train/7.txt", [[0.0, *MIDDLE], [59.0, *MIDDLE]], (18, 2, 0)),
    "globalwheat": ("labels/ethz_1/x.txt", [[0.0, 0.5, 0.5, 0.25, 0.5]], (2, 1, 1)),
    "objects365": ("labels/val/v1/patch0/objects365_val.txt", [[1.0, *MIDDLE]], (1, 1, 0)),
}


def missing_parts(data):
    """A sample has not every place of the wheat, and no labels of Argoverse's test."""
    for split in ("train", "val", "test"):
        object.__setattr__(data, split, tuple(path for path in getattr(data, split) if path.exists()))
    return data


@pytest.mark.parametrize("kind", SAMPLES)
def test_conversion(tmp_path, kind):
    SAMPLES[kind](tmp_path / "source")
    label, boxes, counts = EXPECTED[kind]
    data = missing_parts(run(kind, tmp_path / "source", tmp_path / "out"))
    assert labels(tmp_path / "out" / label, data.nc) == boxes
    found = [count(data, split) if getattr(data, split) else 0 for split in ("train", "val", "test")]
    assert sum(found) == sum(counts)
    if kind != "xview":
        assert tuple(found) == counts
    with pytest.raises(FileExistsError, match="not written over"):
        run(kind, tmp_path / "source", tmp_path / "out")


@pytest.mark.parametrize("form", ["zip", "gztar"])
@pytest.mark.parametrize("kind", ["visdrone", "sku110k"])
def test_from_archives(tmp_path, kind, form):
    SAMPLES[kind](tmp_path / "content")
    (tmp_path / "source").mkdir()
    shutil.make_archive(str(tmp_path / "source" / "published"), form, tmp_path / "content")
    data = run(kind, tmp_path / "source", tmp_path / "out")
    assert [count(data, split) for split in ("train", "val", "test")] == [1, 1, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["content", "out", "source"]
    assert len(list((tmp_path / "source").iterdir())) == 1


@pytest.mark.parametrize("kind", PUBLISHED)
def test_its_yaml(kind):
    """The converter's places are those of the yaml in data/, whose comment says the command."""
    published = PUBLISHED[kind]
    data = DataConfig.from_yaml(published.description)
    comment = data.file.read_text(encoding="utf-8").partition("\n\n")[0]
    assert f"python -m tools.convert {kind} --source" in comment
    assert ("--download" in comment) == bool(published.urls)
    content = yaml.safe_load(data.file.read_text(encoding="utf-8"))
    if published.lists or published.is_split:
        return
    for split in {"train", "val", "test"} & content.keys():
        places = content[split] if isinstance(content[split], list) else [content[split]]
        folders = (published.folders[split],) if split in published.folders else tuple(published.folders.values())
        assert all(place.startswith(folders) for place in places)


def test_class_table_of_xview():
    assert len(XVIEW_TYPES) == len(set(XVIEW_TYPES)) == 60
    assert list(XVIEW_TYPES) == sorted(XVIEW_TYPES)
    assert (XVIEW_TYPES[0], XVIEW_TYPES[-1]) == (11, 94)
    assert not {75, 82} & set(XVIEW_TYPES)


@pytest.mark.parametrize("kind", SAMPLES)
def test_nothing_there(tmp_path, kind):
    with pytest.raises(FileNotFoundError, match="no such folder; --source holds the published archives"):
        run(kind, tmp_path / "absent", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: no "):
        run(kind, tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


FAULTS = {
    "voc0712": ("val-2012/VOCdevkit/VOC2012/Annotations/2012_1.xml", "<annotation>", r"2012_1\.xml"),
    "visdrone": ("VisDrone2019-DET-train/annotations/0001.txt", "1,2,x,4,1,1", r"0001\.txt:1: .* 6 numbers"),
    "argoverse": (
        "Argoverse-HD/annotations/val.json",
        {"images": [], "annotations": [{"image_id": 1, "category_id": 0, "bbox": [1, 2, 3, 4]}], "seq_dirs": []},
        r"val\.json: annotations\[0\]: image_id",
    ),
    "sku110k": (
        "SKU110K_fixed/annotations/annotations_val.csv",
        "gone.jpg,1,1,2,2,object,40,20\n",
        "gone.jpg is not there",
    ),
    "xview": ("xView_train.geojson", {"features": [{"properties": None}]}, r"features\[0\]: image_id"),
    "globalwheat": ("labels/ethz_1/x.txt", "7 0.5 0.5 0.1 0.1\n", "class 7"),
    "objects365": ("zhiyuan_objv2_val.json", "[]", "not a COCO annotations file"),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_faults_are_named(tmp_path, kind):
    SAMPLES[kind](tmp_path / "source")
    name, content, message = FAULTS[kind]
    text(tmp_path / "source" / name, content)
    with pytest.raises(ValueError, match=message) as error:
        run(kind, tmp_path / "source", tmp_path / "out")
    assert Path(name).name in str(error.value)
    assert not (tmp_path / "out").exists()


def test_download_is_refused_where_it_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="xview wants an account"):
        run("xview", tmp_path, tmp_path / "out", "--download")
    with pytest.raises(ValueError, match="voc is a form"):
        run("voc", tmp_path, tmp_path / "out", "--download")
