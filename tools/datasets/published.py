"""The published data sets that v6.1 ships descriptions of, each read in the form in which its makers publish it.

Each reader takes folders in which the published content lies, at any depth, and gives its pictures, of which
tools/convert.py makes labels in v6.1's layout. Their classes are those of the yaml of the same name in data/.
"""

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from tools.datasets.annotations import AnnotatedObject, CocoSource, Picture, VocSource, shown_size
from utils.general import one_line
from utils.files.images import IMAGE_SUFFIXES
from utils.files.reading import MOST_ANNOTATIONS, read_json
from utils.data.label_files import read_labels

ASSETS = "https://github.com/ultralytics/assets/releases/download/v0.0.0"
OBJECTS365 = "https://dorc.ks3-cn-beijing.ksyun.com/data-set/2020Objects365%E6%95%B0%E6%8D%AE%E9%9B%86"
XVIEW_TYPES = (  # the type_id of each class, in the classes' order; 75 and 82 are in the file, but belong to none
    11, 12, 13, 15, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 32, 33, 34, 35, 36, 37, 38, 40, 41, 42, 44, 45,
    47, 49, 50, 51, 52, 53, 54, 55, 56, 57, 59, 60, 61, 62, 63, 64, 65, 66, 71, 72, 73, 74, 76, 77, 79, 83, 84, 86,
    89, 91, 93, 94,
)  # fmt: skip
ARGOVERSE_HW = (1200, 1920)
VOC_SPLITS = ("train2012", "val2012", "train2007", "val2007", "test2007")
WHEAT_DOMAINS = {
    **dict.fromkeys(("arvalis_1", "arvalis_2", "arvalis_3", "ethz_1", "rres_1", "inrae_1", "usask_1"), "train"),
    **dict.fromkeys(("utokyo_1", "utokyo_2", "nau_1", "uq_1"), "test"),
}
Roots = Sequence[Path]
Reader = Callable[[Roots, Sequence[str], list[str]], Iterator[Picture]]


def _files(roots: Roots, pattern: str, what: str) -> list[Path]:
    """The files or folders of this pattern at any depth; FileNotFoundError where there is none."""
    found = [path for root in roots for path in sorted(root.rglob(pattern))]
    if not found:
        raise FileNotFoundError(f"{roots[0]}: no {pattern} in it; {what}")
    return found


def _numbers(words: Sequence[str], count: int, place: str) -> list[float]:
    """The first numbers of a row; ValueError where they are none."""
    try:
        values = [float(word) for word in words[:count]]
    except ValueError:
        values = []
    if len(values) < count or not all(map(math.isfinite, values)):
        raise ValueError(f"{place}: {','.join(words)[:60]!r} does not begin with {count} numbers")
    return values


def _gathered(
    rows: Mapping[str, list[AnnotatedObject]],
    images: Mapping[str, Path],
    split: str,
    source: Path,
    errors: list[str],
    *,
    stated_hw: Mapping[str, tuple[int, int]] | None = None,
) -> Iterator[Picture]:
    """A picture for each image name that has rows; what is wrong with those left out is added to `errors`."""
    for name, objects in rows.items():
        try:
            if name not in images:
                raise FileNotFoundError(f"{source}: its image {name} is not there")
            hw = shown_size(images[name], (stated_hw or {}).get(name), str(source))
            yield Picture(images[name], PurePosixPath(name), split, hw, tuple(objects))
        except (ValueError, OSError) as error:
            errors.append(one_line(error))


# Readers --------------------------------------------------------------------------------------------------------------


def read_voc0712(roots: Roots, names: Sequence[str], errors: list[str]) -> Iterator[Picture]:
    """VOCdevkit/VOC2007 and VOC2012, divided by their own lists; objects marked difficult are left out.

    A split is one of a year, as train2012: v6.1 trains on three of 2007 and 2012 and validates on test2007.
    """
    for folder in _files(roots, "VOC20[01][72]", "unpack VOCtrainval_11-May-2012 and others there"):
        source = VocSource(folder, None, "train")
        if not source.splits:
            raise FileNotFoundError(f"{folder}: no ImageSets/Main/train.txt in it, which says what is to train on")
        for picture in source.pictures(errors):
            yield replace(picture, split=f"{picture.split}{folder.name.removeprefix('VOC')}")


def read_visdrone(roots: Roots, names: Sequence[str], errors: list[str]) -> Iterator[Picture]:
    """VisDrone2019-DET-*/annotations/*.txt: rows of x, y, w, h, score, class from 1, ...; those of score 0 are ignored.

    So are classes 0 (ignored regions) and 11 (others), whatever their score.
    """
    for folder in _files(roots, "VisDrone2019-DET-*/annotations", "unpack VisDrone2019-DET-train.zip and others there"):
        split = next((split for split in ("train", "val", "test") if f"-DET-{split}" in folder.parent.name), "test")
        for file in sorted(folder.glob("*.txt")):
            try:
                objects = []
                for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1):
                    if not line.strip():
                        continue
                    x, y, w, h, score, label = _numbers(line.split(","), 6, f"{file}:{number}")
                    if score and 0 < label <= len(names):
                        box = (x, y, x + w, y + h)
                        objects.append(AnnotatedObject(names[int(label) - 1], box, (), f"{file}:{number}"))
                image = folder.parent / "images" / f"{file.stem}.jpg"
                hw = shown_size(image, None, str(file))
                yield Picture(image, PurePosixPath(image.name), split, hw, tuple(objects))
            except (ValueError, OSError) as error:
                errors.append(one_line(error))


def read_argoverse(roots: Roots, names: Sequence[str], errors: list[str]) -> Iterator[Picture]:
    """Argoverse-HD/annotations/{train,val}.json: COCO-like, with sequences' folders, all images 1920x1200."""
    for file in _files(roots, "Argoverse-HD/annotations/*.json", "unpack Argoverse-HD-Full.zip there"):
        split = file.stem
        if split not in ("train", "val"):
            continue  # test-meta.json: its objects are kept by the evaluation server
        content = _json(file, ("images", "annotations", "seq_dirs"))
        paths: dict[object, str] = {}
        rows: dict[str, list[AnnotatedObject]] = {}
        images: dict[str, Path] = {}
        bases = [base / sub for base in (file.parents[2], *roots) for sub in ("Argoverse-1.1", ".")]
        for number, image in enumerate(content["images"]):
            try:
                folder = PurePosixPath(content["seq_dirs"][image["sid"]])
                name = folder / str(image["name"])
            except (LookupError, TypeError):
                errors.append(f"{file}: images[{number}]: sid and name of an image in seq_dirs are wanted")
                continue
            if name.is_absolute() or ".." in name.parts:
                errors.append(f"{file}: images[{number}]: {name} lies outside of the data set")
                continue
            below = str(PurePosixPath(*name.parts[1:])) if name.parts[0] == split else str(name)
            paths[image.get("id")] = below
            rows[below] = []
            places = [base / sub / name for base in bases for sub in ("tracking", "images", ".")]
            images |= [(below, place) for place in places if place.is_file()][:1]
        for number, row in enumerate(content["annotations"]):
            place = f"{file}: annotations[{number}]"
            try:
                x, y, w, h = _numbers([str(value) for value in row["bbox"]], 4, place)
                name = names[row["category_id"]]
                rows[paths[row["image_id"]]].append(AnnotatedObject(name, (x, y, x + w, y + h), (), place))
            except (LookupError, TypeError):
                errors.append(f"{place}: image_id, category_id (0 to {len(names) - 1}) and bbox are wanted")
            except ValueError as error:
                errors.append(str(error))
        yield from _gathered(rows, images, split, file, errors, stated_hw=dict.fromkeys(rows, ARGOVERSE_HW))


def read_sku110k(roots: Roots, names: Sequence[str], errors: list[str]) -> Iterator[Picture]:
    """annotations/annotations_{train,val,test}.csv: rows of image, x1, y1, x2, y2, class, image width, image height."""
    for split in ("train", "val", "test"):
        for file in _files(roots, f"annotations_{split}.csv", "unpack SKU110K_fixed.tar.gz there"):
            rows: dict[str, list[AnnotatedObject]] = {}
            sizes: dict[str, tuple[int, int]] = {}
            with file.open(newline="", encoding="utf-8-sig") as lines:
                for number, row in enumerate(csv.reader(lines), 1):
                    place = f"{file}:{number}"
                    try:
                        box = _numbers(row[1:], 4, place)
                        w, h = _numbers(row[6:], 2, place)
                    except ValueError as error:
                        errors.append(str(error))
                        continue
                    sizes[row[0]] = (int(h), int(w))
                    item = AnnotatedObject(names[0], (box[0], box[1], box[2], box[3]), (), place)
                    rows.setdefault(Path(row[0]).name, []).append(item)
            folder = file.parent.parent / "images"
            images = {name: folder / name for name in rows if (folder / name).is_file()}
            yield from _gathered(rows, images, split, file, errors, stated_hw=sizes)


def read_xview(roots: Roots, names: Sequence[str], errors: list[str]) -> Iterator[Picture]:
    """xView_train.geojson and the images of train_images.zip; type_id 11 to 94 become classes 0 to 59."""
    classes = dict(zip(XVIEW_TYPES, names, strict=True))
    for file in _files(roots, "xView_train.geojson", "get it and train_images.zip from xviewdataset.org"):
        found = {path.name: path for root in roots for path in root.rglob("*.tif")}
        rows: dict[str, list[AnnotatedObject]] = {}
        for number, feature in enumerate(_json(file, ("features",))["features"]):
            place = f"{file}: features[{number}]"
            try:
                about = feature["properties"]
                image, kind, text = Path(str(about["image_id"])).name, int(about["type_id"]), about["bounds_imcoords"]
                x1, y1, x2, y2 = _numbers(text.split(","), 4, place)
            except (LookupError, TypeError, AttributeError, ValueError):
                errors.append(f"{place}: image_id, type_id and bounds_imcoords of four numbers are wanted")
                continue
            objects = rows.setdefault(image, [])
            if kind in classes:
                objects.append(AnnotatedObject(classes[kind], (x1, y1, x2, y2), (), place))
        yield from _gathered(rows, found, "train", file, errors)


def read_globalwheat(roots: Roots, names: Sequence[str], errors: list[str]) -> Iterator[Picture]:
    """The folders of global-wheat-codalab-official.zip, a domain each, with GlobalWheat2020_labels.zip's rows."""
    labels = [path for path in _files(roots, "labels", "unpack GlobalWheat2020_labels.zip there") if path.is_dir()]
    is_any = False
    for domain, split in WHEAT_DOMAINS.items():
        folders = [p for root in roots for p in sorted(root.rglob(domain)) if p.is_dir() and p.parent.name != "labels"]
        for image in (path for folder in folders for path in sorted(folder.rglob("*"))):
            if image.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            is_any = True
            rows = [path for folder in labels if (path := folder / domain / f"{image.stem}.txt").is_file()]
            try:
                if not rows:
                    raise FileNotFoundError(f"{image}: no {domain}/{image.stem}.txt in {labels[0]}")
                h, w = shown_size(image, None, str(rows[0]))
                objects = []
                for number, (_, cx, cy, bw, bh) in enumerate(read_labels(rows[0], 1).boxes.astype(float).tolist(), 1):
                    box = ((cx - bw / 2) * w, (cy - bh / 2) * h, (cx + bw / 2) * w, (cy + bh / 2) * h)
                    objects.append(AnnotatedObject(names[0], box, (), f"{rows[0]}: object {number}"))
                yield Picture(image, PurePosixPath(domain, image.name), split, (h, w), tuple(objects))
            except (ValueError, OSError) as error:
                errors.append(one_line(error))
    if not is_any:
        raise FileNotFoundError(f"{roots[0]}: no folder of a domain with images in it, as arvalis_1/")


def objects365_source(roots: Roots) -> CocoSource:
    """zhiyuan_objv2_{train,val}.json, COCO's form, with the images of the patches, found by their names."""
    files = _files(roots, "zhiyuan_objv2_*.json", "unpack zhiyuan_objv2_train.tar.gz there")
    return CocoSource(files, None, "train", {path.name: path for root in roots for path in sorted(root.rglob("*.jpg"))})


def _json(file: Path, keys: Sequence[str]) -> dict:
    content = read_json(file, MOST_ANNOTATIONS)
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{file}: has no list {key!r}: not the published file")
    return content


# Sets -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PublishedSet:
    """A data set's reader, its yaml in data/, where its files are published and where v6.1 has each split's images.

    lists: files that name the images of a split, where the yaml wants some. is_split: whether its pictures, all of
    train, are divided at random into nine and one tenths.
    """

    read: Reader
    description: str
    urls: tuple[str, ...]
    folders: Mapping[str, str]
    lists: Mapping[str, str] = field(default_factory=dict)
    is_split: bool = False


def _by_split(pattern: str, test: str = "test") -> dict[str, str]:
    return {split: pattern.format(name) for split, name in (("train", "train"), ("val", "val"), ("test", test))}


PUBLISHED = {
    "voc0712": PublishedSet(
        read_voc0712,
        "VOC.yaml",
        tuple(
            f"{ASSETS}/VOC{name}.zip" for name in ("trainval_06-Nov-2007", "test_06-Nov-2007", "trainval_11-May-2012")
        ),
        {split: f"images/{split}" for split in VOC_SPLITS},
    ),
    "visdrone": PublishedSet(
        read_visdrone,
        "VisDrone.yaml",
        tuple(f"{ASSETS}/VisDrone2019-DET-{name}.zip" for name in ("train", "val", "test-dev")),
        _by_split("VisDrone2019-DET-{}/images", "test-dev"),
    ),
    "argoverse": PublishedSet(
        read_argoverse,
        "Argoverse.yaml",
        ("https://argoverse-hd.s3.us-east-2.amazonaws.com/Argoverse-HD-Full.zip",),
        _by_split("Argoverse-1.1/images/{}"),
    ),
    "sku110k": PublishedSet(
        read_sku110k,
        "SKU-110K.yaml",
        ("https://trax-geometry.s3.amazonaws.com/cvpr_challenge/SKU110K_fixed.tar.gz",),
        _by_split("images"),
        _by_split("{}.txt"),
    ),
    "xview": PublishedSet(read_xview, "xView.yaml", (), _by_split("images/train"), is_split=True),
    "globalwheat": PublishedSet(
        read_globalwheat,
        "GlobalWheat2020.yaml",
        (
            "https://zenodo.org/record/4298502/files/global-wheat-codalab-official.zip",
            f"{ASSETS}/GlobalWheat2020_labels.zip",
        ),
        _by_split("images"),
    ),
}
OBJECTS365_URLS = (
    f"{OBJECTS365}/train/zhiyuan_objv2_train.tar.gz",
    *(f"{OBJECTS365}/train/patch{i}.tar.gz#train-patch{i}.tar.gz" for i in range(51)),
    f"{OBJECTS365}/val/zhiyuan_objv2_val.json",
    *(f"{OBJECTS365}/val/images/{'v1' if i < 16 else 'v2'}/patch{i}.tar.gz#val-patch{i}.tar.gz" for i in range(44)),
)
