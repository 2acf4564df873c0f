"""Annotations of other tools, Pascal VOC's XML and COCO's JSON, read as pictures with their objects in pixels.

Nothing is written here; that is tools/convert.py's. What cannot be used is named by file and element.

Shapes: n objects of a picture, k points of a polygon.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from PIL import Image

from utils.evaluation.coco import read_annotations
from utils.general import LOGGER, one_line, progress
from utils.files.images import BROKEN, IMAGE_SUFFIXES
from utils.data.label_files import decode_text, read_bytes
from utils.data.labels import check_image

VOC_FOLDERS = ("JPEGImages", "images")  # where images lie, beside the folder of the XML files
SPLITS = ("train", "val", "test")
FOLDER_SPLITS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"} | {
    split: split for split in SPLITS
}
MAX_PIXEL = 1e9  # no coordinate is larger


@dataclass(frozen=True, slots=True)
class AnnotatedObject:
    """One object: its class's name, its corners and its outline (k, 2), if there is one, in pixels from 0 on.

    place: file and element, for messages. index: its class's number, where the source tells its classes apart by
    numbers, so that two may have one name.
    """

    name: str
    box_xyxy: tuple[float, float, float, float]
    polygon: tuple[tuple[float, float], ...]
    place: str
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file, the name it gets below images/<split>/, its size in pixels and its objects."""

    image: Path
    name: PurePosixPath
    split: str
    hw: tuple[int, int]
    objects: tuple[AnnotatedObject, ...]


def shown_size(image: Path, stated_hw: tuple[int, int] | None, place: str) -> tuple[int, int]:
    """(h, w) of an image file, which must be readable and as large as its annotation says; ValueError otherwise."""
    try:
        hw = check_image(str(image))
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise ValueError(f"{place}: {image}: {one_line(error).removeprefix(f'{image}: ')}") from None
    if stated_hw not in (None, hw):
        raise ValueError(
            f"{place}: says {stated_hw[1]}x{stated_hw[0]} pixels, but {image} has {hw[1]}x{hw[0]} as it is shown"
        )
    return hw


# Pascal VOC -----------------------------------------------------------------------------------------------------------


class VocSource:
    """Pascal VOC: a folder with XML files, at any depth, and images in JPEGImages/, images/ or beside them.

    Corners are counted from 1, as VOC does, unless zero_based. ImageSets/Main/{train,val,test}.txt divide the pictures;
    without them a folder train, valid, val or test does, as Roboflow exports; all others are of `split`.
    """

    def __init__(
        self, root: Path, images: Path | None, split: str, keep_difficult: bool = False, zero_based: bool = False
    ) -> None:
        if not root.is_dir():
            raise FileNotFoundError(f"{root}: no such folder; --source is the folder that holds the XML files")
        self.root, self.images, self.split = root, images, split
        self.keep_difficult, self.first_pixel = keep_difficult, 0 if zero_based else 1
        self.files = sorted(root.rglob("*.xml"))
        if not self.files:
            raise FileNotFoundError(f"{root}: no .xml file in it")
        self.splits = self._read_splits()
        if self.splits:
            self.files = [file for file in self.files if file.stem in self.splits]

    def _read_splits(self) -> dict[str, str]:
        """Split of each picture's stem; empty where there are no lists."""
        splits: dict[str, str] = {}
        for split in SPLITS:
            for path in sorted(self.root.rglob(f"ImageSets/Main/{split}.txt")):
                for number, line in enumerate(decode_text(path.read_bytes(), str(path)).splitlines(), 1):
                    words = line.split()
                    if words and splits.setdefault(words[0], split) != split:
                        raise ValueError(f"{path}:{number}: {words[0]} is in {splits[words[0]]}.txt, too")
        return splits

    def pictures(self, errors: list[str]) -> Iterator[Picture]:
        """The pictures one by one; what is wrong with those left out is added to `errors`."""
        for file in progress(self.files, desc="Reading VOC", delay=0.5):
            try:
                yield self._read(file)
            except (ValueError, OSError) as error:
                errors.append(one_line(error))

    def _read(self, file: Path) -> Picture:
        root = parse_xml(file)
        image = self._find_image(file, root)
        size = root.find("size")
        stated_hw = None
        if size is not None:
            h, w = (int(_number(size, side, f"{file}: size")) for side in ("height", "width"))
            stated_hw = (h, w) if h and w else None  # some tools write 0
        hw = shown_size(image, stated_hw, str(file))
        objects = []
        for number, element in enumerate(root.iterfind("object"), 1):
            place = f"{file}: object {number}"
            name = (element.findtext("name") or "").strip()
            if not name:
                raise ValueError(f"{place}: has no <name>")
            difficult = (element.findtext("difficult") or "0").strip() not in {"0", "false", "False", ""}
            if difficult and not self.keep_difficult:
                continue
            box = element.find("bndbox")
            if box is None:
                raise ValueError(f"{place} ({name}): has no <bndbox>")
            x1, y1, x2, y2 = (
                _number(box, side, f"{place} ({name}): bndbox") - self.first_pixel
                for side in ("xmin", "ymin", "xmax", "ymax")
            )
            objects.append(AnnotatedObject(name, (x1, y1, x2, y2), (), f"{place} ({name})"))
        split = self.splits.get(file.stem) or split_of_folders(file.relative_to(self.root).parent, self.split)
        return Picture(image, PurePosixPath(image.name), split, hw, tuple(objects))

    def _find_image(self, file: Path, root: ElementTree.Element) -> Path:
        stated = (root.findtext("filename") or "").strip().replace("\\", "/")
        names = [PurePosixPath(stated).name] if PurePosixPath(stated).suffix.lower() in IMAGE_SUFFIXES else []
        names += [file.stem + suffix for suffix in sorted(IMAGE_SUFFIXES)]
        folders = [file.parent.parent / name for name in VOC_FOLDERS] + [file.parent, self.root]
        for folder in [self.images] if self.images else folders:
            for name in names:
                if (folder / name).is_file():
                    return folder / name
        raise FileNotFoundError(
            f"{file}: its image {names[0]} is neither in {' nor in '.join(map(str, folders))}"
            if not self.images
            else f"{file}: its image {names[0]} is not in {self.images}"
        )


def parse_xml(file: Path) -> ElementTree.Element:
    """The root of an annotation; ValueError for what is no XML in UTF-8, or declares a document type or entities.

    Entities can blow a short file up to gigabytes or read other files; no annotation needs them.
    """
    text = decode_text(read_bytes(str(file)), str(file))
    for forbidden in ("<!DOCTYPE", "<!ENTITY"):
        if forbidden in text.upper():
            raise ValueError(f"{file}: holds {forbidden}, which no annotation needs: refused")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"{file}: {error}") from None
    if root.tag != "annotation":
        raise ValueError(f"{file}: its root is <{root.tag}>, not <annotation>: no Pascal VOC file")
    return root


def _number(parent: ElementTree.Element, tag: str, place: str) -> float:
    text = parent.findtext(tag)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not abs(value) <= MAX_PIXEL:  # true for NaN, too
        raise ValueError(f"{place}: <{tag}> is {'not there' if text is None else repr(text)}, a number is wanted")
    return value


# COCO -----------------------------------------------------------------------------------------------------------------


class CocoSource:
    """COCO instances: JSON files, each of the split that its name tells, and the folder where file names start.

    by_name: the images by their names without folder, where their folders are not those of the JSON file.
    """

    def __init__(
        self, files: Sequence[Path], images: Path | None, split: str, by_name: Mapping[str, Path] | None = None
    ) -> None:
        self.images, self.by_name = images, by_name
        self.contents = [(file, split_of(file, split), read_annotations(file)) for file in files]
        self.names: dict[int, str] = {}
        groups: dict[int, object] = {}
        for file, _, content in self.contents:
            for number, category in enumerate(_rows(content, "categories", file)):
                index, name = category.get("id"), category.get("name")
                place = f"{file}: categories[{number}]"
                if not isinstance(index, int) or not isinstance(name, str) or not name:
                    raise ValueError(f"{place}: a whole number `id` and a `name` are wanted")
                if self.names.setdefault(index, name) != name:
                    raise ValueError(f"{place}: id {index} is {self.names[index]!r} elsewhere, here {name!r}")
                groups[index] = category.get("supercategory")
        self._leave_out_placeholder(groups)
        self.order = {index: number for number, index in enumerate(sorted(self.names))}

    def _leave_out_placeholder(self, groups: Mapping[int, object]) -> None:
        """Forget the category that Roboflow writes for the project: the group of all others, without any object."""
        rows = [row for file, _, content in self.contents for row in _rows(content, "annotations", file)]
        used = {index for row in rows if isinstance(index := row.get("category_id"), int)}
        for index, name in self.names.items():
            others = [group for other, group in groups.items() if other != index]
            if index not in used and others and all(group == name for group in others):
                LOGGER.warning(
                    f"{self.contents[0][0]}: category {index} {name!r} has no objects and is the group of all others, as "
                    "Roboflow writes it: left out; name all classes with --names to keep it"
                )
                del self.names[index]
                return

    def ordered_names(self) -> tuple[str, ...]:
        """Class names in the order of their ids."""
        return tuple(self.names[index] for index in self.order)

    def pictures(self, errors: list[str]) -> Iterator[Picture]:
        """The pictures one by one; what is wrong with those left out is added to `errors`."""
        for file, split, content in self.contents:
            images = _rows(content, "images", file)
            known = {image.get("id") for image in images if isinstance(image.get("id"), int | str)}
            objects: dict[object, list[tuple[int, dict]]] = {index: [] for index in known}
            for number, row in enumerate(_rows(content, "annotations", file)):
                index = row.get("image_id")
                if not isinstance(index, int | str) or index not in known:
                    errors.append(f"{file}: annotations[{number}]: image_id {index!r} is none of its images")
                elif not row.get("iscrowd"):
                    objects[index].append((number, row))
            for number, image in enumerate(progress(images, desc=f"Reading {file.name}", delay=0.5)):
                try:
                    yield self._read(file, split, f"{file}: images[{number}]", image, objects)
                except (ValueError, OSError) as error:
                    errors.append(one_line(error))

    def _read(
        self, file: Path, split: str, place: str, image: dict, objects: dict[object, list[tuple[int, dict]]]
    ) -> Picture:
        index = image.get("id")
        if not isinstance(index, int | str):
            raise ValueError(f"{place}: id {index!r} is neither a number nor a text")
        if index not in objects:
            raise ValueError(f"{place}: id {index!r} is that of an image before")
        stated = image.get("file_name")
        if not isinstance(stated, str) or not stated:
            raise ValueError(f"{place}: has no file_name")
        name = PurePosixPath(stated.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or name.suffix.lower() not in IMAGE_SUFFIXES:
            raise ValueError(f"{place}: file_name {stated!r} is not that of an image below the folder of images")
        stem = file.stem.removeprefix("instances_")
        beside = (file.parent, file.parent.parent)
        folders = [folder / sub for folder in beside for sub in (stem, f"images/{stem}", "images", "")]
        found = [path for folder in ([self.images] if self.images else folders) if (path := folder / name).is_file()]
        if self.by_name is not None:
            found = [self.by_name[name.name]] if name.name in self.by_name else []
        if not found:
            hint = "" if self.by_name is not None else "; name the folder of the images with --images"
            raise FileNotFoundError(f"{place}: {stated} is not there{hint}")
        sides = (image.get("height"), image.get("width"))
        hw = shown_size(found[0], sides if all(isinstance(side, int) for side in sides) else None, place)
        rows = tuple(self._object(f"{file}: annotations[{i}]", row) for i, row in objects.pop(index))
        # A folder `images` below images/<split>/ would be the one that becomes `labels`.
        parts = [part for part in name.parts if part != "images"]
        name = PurePosixPath(*(parts[1:] if len(parts) > 1 and parts[0] == split else parts))
        return Picture(found[0], name, split, hw, rows)

    def _object(self, place: str, row: dict) -> AnnotatedObject:
        index = row.get("category_id")
        if not isinstance(index, int) or index not in self.names:
            raise ValueError(f"{place}: category_id {index!r} is none of its categories")
        x, y, w, h = _floats(row.get("bbox"), f"{place}: bbox", 4)
        parts = row.get("segmentation")
        polygon: tuple[tuple[float, float], ...] = ()
        if isinstance(parts, list) and len(parts) == 1:  # several parts, or a mask, are no one outline
            values = _floats(parts[0], f"{place}: segmentation[0]")
            if len(values) % 2 or len(values) < 6:
                raise ValueError(f"{place}: segmentation[0] has {len(values)} values; 6, 8, 10, ... are wanted")
            polygon = tuple(zip(values[::2], values[1::2], strict=True))
        return AnnotatedObject(self.names[index], (x, y, x + w, y + h), polygon, place, self.order[index])


def split_of(file: Path, default: str) -> str:
    """train, val or test, whichever the file's name holds, or else that of its folder: valid/_annotations.coco.json."""
    in_name = next((split for split in SPLITS if split in file.stem.lower()), "")
    return in_name or split_of_folders(Path(file.parent.name), default)


def split_of_folders(folder: Path, default: str) -> str:
    """train, val or test, whichever a part of the path is called, in one of the usual ways."""
    return next((FOLDER_SPLITS[part.lower()] for part in folder.parts if part.lower() in FOLDER_SPLITS), default)


def _rows(content: dict, key: str, file: Path) -> list[dict]:
    rows = content[key]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{file}: {key}: a list of objects is wanted")
    return rows


def _floats(values: object, place: str, count: int | None = None) -> list[float]:
    numbers = values if isinstance(values, list) else []
    plain = [float(v) for v in numbers if isinstance(v, int | float) and abs(v) <= MAX_PIXEL]  # false for NaN
    if len(plain) != len(numbers) or not numbers or count not in (None, len(numbers)):
        wanted = f"{count} numbers" if count else "a list of numbers"
        raise ValueError(f"{place} is {json.dumps(values)[:60]}; {wanted} wanted")
    return plain
