"""Turns data sets of other tools into images/, labels/ and a data yaml, and ours into COCO's JSON.

    python -m tools.convert voc  --source VOCdevkit/VOC2012 --out ../datasets/voc
    python -m tools.convert voc  --source VOC_of_one_folder --out ../datasets/mine --val 0.2 --seed 0
    python -m tools.convert coco --source annotations/instances_train.json annotations/instances_val.json --out ../mine
    python -m tools.convert yolo --source data.yaml --out ../mine/annotations
    python -m tools.convert visdrone --source ~/Downloads/VisDrone --out ../datasets/VisDrone

The last form takes the published files of a data set that v6.1 describes, archives or what was in them: voc0712,
visdrone, argoverse, sku110k, xview, globalwheat, objects365. With --download, and only then, it fetches them into
--source first.

All is read and checked before anything is written; no file that exists is written over, and no image is moved: they
are hard links where the file system allows it, else copies.
"""

import json
import os
import shlex
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import yaml

from tools.datasets.annotations import SPLITS, AnnotatedObject, CocoSource, Picture, VocSource
from tools.datasets.fetch import fetch_all, unpacked
from tools.datasets.published import OBJECTS365_URLS, PUBLISHED, objects365_source
from utils.cli.arguments import tool_parser
from utils.data.config import DataConfig
from utils.data.dividing import divide, group_copies
from utils.data.labels import LabelRecord, find_images, scan
from utils.data.tools import autosplit, extract_boxes, flatten_recursive
from utils.files.yamls import read_yaml
from utils.general import LOGGER, find_file, plural, progress, run_script

MAX_SHOWN = 20  # errors that are said one by one


@dataclass(frozen=True)
class ConvertOptions:
    """The flags of `parse_opt`, which holds their defaults and meanings."""

    format: str
    source: list[str]
    out: str
    names: list[str]
    images: str
    split: str
    skip_bad: bool = False
    copy: bool = False
    val: float = 0.0
    seed: int = 0
    difficult: bool = False
    zero_based: bool = False
    boxes: bool = False
    download: bool = False


# Into labels ----------------------------------------------------------------------------------------------------------


def label_row(item: AnnotatedObject, hw: tuple[int, int], index: int, boxes_only: bool) -> str | None:
    """The row of a label file, clipped to the image; None where nothing with an area is left."""
    h, w = hw
    x1, y1, x2, y2 = item.box_xyxy
    if x2 < x1 or y2 < y1:
        raise ValueError(f"{item.place}: the box {item.box_xyxy} ends before it begins")
    points = item.polygon if item.polygon and not boxes_only else ((x1, y1), (x2, y2))
    shares = [(min(max(x / w, 0.0), 1.0), min(max(y / h, 0.0), 1.0)) for x, y in points]
    xs, ys = zip(*shares, strict=True)
    if max(xs) - min(xs) < 1e-6 or max(ys) - min(ys) < 1e-6:
        return None
    values = [value for point in shares for value in point]
    if len(shares) == 2:
        values = [(xs[0] + xs[1]) / 2, (ys[0] + ys[1]) / 2, xs[1] - xs[0], ys[1] - ys[0]]
    return " ".join([str(index), *(f"{value:.6f}" for value in values)])


def label_text(picture: Picture, names: Sequence[str], boxes_only: bool, by_name: bool = True) -> str:
    """A label file's text; ValueError names an object of an unknown class.

    by_name: whether a class is known by its name alone, also where its source numbers it.
    """
    rows = []
    for item in picture.objects:
        if item.name not in names:
            raise ValueError(f"{item.place}: class {item.name!r} is none of {', '.join(names)}")
        index = names.index(item.name) if by_name or item.index is None else item.index
        row = label_row(item, picture.hw, index, boxes_only)
        if row is None:
            LOGGER.warning(f"{item.place}: no area inside the image; left out")
        else:
            rows.append(row + "\n")
    return "".join(rows)


def convert(opt: ConvertOptions) -> None:
    """Writes images/, labels/ and data.yaml of VOC or COCO annotations into opt.out."""
    images = Path(opt.images) if opt.images else None
    source: VocSource | CocoSource
    if opt.format == "voc":
        source = VocSource(_one_source(opt), images, opt.split, opt.difficult, opt.zero_based)
    else:
        source = CocoSource([Path(file) for file in opt.source], images, opt.split)
    errors: list[str] = []
    pictures: Iterable[Picture] = source.pictures(errors)
    names = tuple(opt.names)
    if not names and isinstance(source, CocoSource):
        names = source.ordered_names()
    elif not names:
        pictures = list(pictures)
        names = tuple(sorted({item.name for picture in pictures for item in picture.objects}))
    texts = labelled(pictures, names, errors, opt)
    log_next_command(write_data_set(Path(opt.out), texts, names, opt.copy), texts)


def _one_source(opt: ConvertOptions) -> Path:
    if len(opt.source) > 1:
        raise ValueError(f"--source {' '.join(opt.source)}: one folder is wanted for {opt.format}")
    return Path(opt.source[0]).expanduser()


def convert_published(opt: ConvertOptions) -> None:
    """Writes images and labels of a published data set into opt.out, in v6.1's layout, with a data.yaml."""
    source, out = _one_source(opt), Path(opt.out).expanduser()
    published = PUBLISHED.get(opt.format)
    written = [out / name for name in ("data.yaml", *(published.lists.values() if published else ()))]
    if taken := [path for path in written if os.path.lexists(path)]:
        raise FileExistsError(f"{taken[0]} exists and is not written over; choose another --out")
    if opt.download:
        urls = published.urls if published else OBJECTS365_URLS
        if not urls:
            raise ValueError(f"--download: {opt.format} wants an account: get its files by hand, as its yaml says")
        fetch_all(urls, source)
    errors: list[str] = []
    with unpacked(source, out) as roots:
        if published is None:
            objects365 = objects365_source(roots)
            names = objects365.ordered_names()
            texts = labelled(objects365.pictures(errors), names, errors, replace(opt, boxes=True))
            log_next_command(write_data_set(out, texts, names, opt.copy), texts)
            return
        description = find_file(published.description)
        names = DataConfig.from_yaml(description).names
        texts = labelled(published.read(roots, names, errors), names, errors, opt)
        content = {key: value for key, value in read_yaml(description).items() if key != "path"}
        write_data_set(out, texts, names, opt.copy, folders=published.folders, content=content)
    for split, name in published.lists.items():
        images = [f"./{published.folders[split]}/{picture.name}\n" for picture, _ in texts if picture.split == split]
        with (out / name).open("x", encoding="utf-8") as file:
            file.writelines(images)
    if published.is_split:
        autosplit(out / published.folders["train"], (0.9, 0.1, 0.0))
    LOGGER.info(
        f"Next: python train.py --data {shlex.quote(str(out / 'data.yaml'))} --weights '' --cfg yolov5s-NAM.yaml"
    )


def labelled(
    pictures: Iterable[Picture], names: Sequence[str], errors: list[str], opt: ConvertOptions
) -> list[tuple[Picture, str]]:
    """The pictures with their label files' texts; ValueError where there are none, or errors that are not skipped."""
    repeated = [name for i, name in enumerate(names) if name in names[:i]]
    if repeated and opt.names:
        raise ValueError(f"--names: class {repeated[0]!r} is named twice; name it once: its objects become one class")
    if repeated:
        once = " ".join(shlex.quote(name) for name in dict.fromkeys(names))
        LOGGER.warning(
            f"{opt.source[0]}: {repeated[0]!r} is the name of several categories, which stay several classes; "
            f"--names {once} makes one of them"
        )
    texts = []
    for picture in pictures:
        try:
            text = label_text(picture, names, opt.boxes, by_name=bool(opt.names))
            texts.append((replace(picture, objects=()), text))  # a large set's outlines would fill the memory
        except ValueError as error:
            errors.append(str(error))
    _report(errors, opt.skip_bad)
    if not texts or not names:
        raise ValueError(f"{' '.join(opt.source)}: no picture with objects that could be converted")
    return with_val(texts, opt.val, opt.seed) if opt.val else texts


def with_val(texts: list[tuple[Picture, str]], share: float, seed: int) -> list[tuple[Picture, str]]:
    """The pictures with a share of those of train moved to val, exactly, copies of one image together."""
    if any(picture.split == "val" for picture, _ in texts):
        raise ValueError("--val: the source has a val split of its own; leave --val out")
    chosen = [i for i, (picture, _) in enumerate(texts) if picture.split == "train"]
    if len(chosen) < 2:
        raise ValueError(f"--val {share:g}: {plural(len(chosen), 'picture')} to divide; at least 2 are needed")
    order = sorted(chosen, key=lambda i: texts[i][0].name)  # the same parts wherever the files lie
    parts = divide(group_copies([texts[i][0].image for i in order]), (1 - share, share), seed)
    divided = list(texts)
    for i, part in zip(order, parts, strict=True):
        picture, text = texts[i]
        divided[i] = (replace(picture, split="val" if part else "train"), text)
    return divided


def _report(errors: Sequence[str], skip_bad: bool) -> None:
    """Name each error once: in the log, the first one by ValueError unless bad ones are skipped."""
    logged = errors if skip_bad else errors[1:]
    for error in logged[:MAX_SHOWN]:
        LOGGER.warning(f"{error}; left out" if skip_bad else error)
    if len(logged) > MAX_SHOWN:
        LOGGER.warning(f"... and {len(logged) - MAX_SHOWN} more of this kind")
    if errors and not skip_bad:
        others = f" ({plural(len(errors) - 1, 'other error')} above)" if len(errors) > 1 else ""
        raise ValueError(f"{errors[0]}{others}; correct it, or leave out what is wrong with --skip-bad")


def write_data_set(
    out: Path,
    texts: Sequence[tuple[Picture, str]],
    names: Sequence[str],
    copy: bool,
    *,
    folders: Mapping[str, str] | None = None,
    content: Mapping[str, object] | None = None,
) -> Path:
    """Writes the pictures with their labels and the yaml, whose path it gives; FileExistsError before it overwrites.

    folders: where a split's images go, images/<split> where it says nothing. content: what the yaml holds, where that
    is not folders and names.
    """
    targets: dict[Path, Path] = {}  # label file -> image it belongs to
    jobs = []
    for picture, text in texts:
        folder = (folders or {}).get(picture.split, f"images/{picture.split}")
        image = out / folder / picture.name
        label = (out / _labels_folder(folder) / picture.name).with_suffix(".txt")
        if label in targets:
            raise ValueError(f"{picture.image} and {targets[label]} would share the label file {label}; rename one")
        targets[label] = picture.image
        jobs.append((picture, image, label, text))
    description = out / "data.yaml"
    taken = [path for job in jobs for path in job[1:3] if os.path.lexists(path)]
    if os.path.lexists(description) or taken:
        raise FileExistsError(f"{(taken or [description])[0]} exists and is not written over; choose another --out")
    for picture, image, label, text in progress(jobs, desc=f"Writing {out}", delay=0.5):
        image.parent.mkdir(parents=True, exist_ok=True)
        label.parent.mkdir(parents=True, exist_ok=True)
        place_image(picture.image, image, copy)
        with label.open("x", encoding="utf-8") as file:
            file.write(text)
    present = {picture.split for picture, _ in texts}
    if content is None:
        images = {split: f"images/{split}" for split in SPLITS if split in present}
        content = {**images, "nc": len(names), "names": list(names)}
    with description.open("x", encoding="utf-8") as file:
        yaml.safe_dump(dict(content), file, allow_unicode=True, sort_keys=False)
    counts = Counter(picture.split for picture, _ in texts)
    parts = ", ".join(f"{split} {count}" for split, count in counts.items())
    LOGGER.info(f"{description}: {plural(len(jobs), 'picture')} ({parts}), {plural(len(names), 'class')}")
    return description


def log_next_command(description: Path, texts: Sequence[tuple[Picture, str]]) -> None:
    """Log the command that comes after a conversion: training, or what it needs before."""
    splits = {picture.split for picture, _ in texts}
    absent = [split for split in ("train", "val") if split not in splits]
    if absent:
        LOGGER.warning(
            f"{description}: has no {' and no '.join(absent)}, which training needs; convert again with another --out "
            "and --val 0.2, or with --split for what lies apart"
        )
        LOGGER.info(f"Next: python -m tools.check {shlex.quote(str(description))}")
        return
    LOGGER.info(f"Next: python train.py --data {shlex.quote(str(description))} --weights '' --cfg yolov5s-NAM.yaml")


def _labels_folder(folder: str) -> str:
    """The folder of the labels of a folder of images: its last part `images` becomes `labels`."""
    before, _, after = f"/{folder}/".rpartition("/images/")
    return f"{before}/labels/{after}".strip("/")


def place_image(source: Path, target: Path, copy: bool) -> None:
    """A hard link to the image, or a copy where links are not wanted or not possible; never over another file."""
    if not copy:
        with suppress(OSError):  # another file system, or one without links; an existing target fails below
            os.link(source.resolve(), target)
            return
    with source.open("rb") as old, target.open("xb") as new:
        shutil.copyfileobj(old, new)


# Into COCO ------------------------------------------------------------------------------------------------------------


def to_coco(opt: ConvertOptions) -> None:
    """Writes instances_<split>.json of each split of a data yaml into opt.out.

    Image and annotation ids count from 1, a category's id is its class + 1; file names start at the yaml's root.
    """
    data = DataConfig.from_yaml(opt.source[0])
    data.prepare()
    jobs = []
    for split in SPLITS:
        if getattr(data, split):
            sources = data.split(split)
            stem = sources[0].stem if len(sources) == 1 else split
            jobs.append((split, sources, Path(opt.out) / f"instances_{stem}.json"))
    paths = [path for _, _, path in jobs]
    taken = [path for path in paths if os.path.lexists(path)]
    if taken or len(set(paths)) < len(paths):
        raise FileExistsError(f"{(taken or paths)[0]} exists or is that of two splits; it is not written over")
    Path(opt.out).mkdir(parents=True, exist_ok=True)
    for split, sources, path in jobs:
        images = list(dict.fromkeys(find_images(sources)))  # COCO has an image once
        records, _ = scan(images, data.nc, None, desc=split)
        content = coco_content(records, data)
        with path.open("x", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False)
        LOGGER.info(f"{path}: {plural(len(records), 'picture')}, {plural(len(content['annotations']), 'object')}")


def coco_content(records: Sequence[LabelRecord], data: DataConfig) -> dict[str, list[dict[str, object]]]:
    """What COCO's instances JSON of these images says, boxes and areas in pixels."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, record in enumerate(records, 1):
        h, w = record.hw
        path = Path(record.image)
        name = path.relative_to(data.root) if path.is_relative_to(data.root) else path
        images.append({"id": number, "file_name": PurePosixPath(name.as_posix()).as_posix(), "height": h, "width": w})
        polygons = record.polygons or (None,) * len(record.boxes)
        for (label, cx, cy, bw, bh), polygon in zip(record.boxes.tolist(), polygons, strict=True):
            box = [(cx - bw / 2) * w, (cy - bh / 2) * h, bw * w, bh * h]
            outline = [] if polygon is None else [[round(v, 3) for v in (polygon * (w, h)).ravel().tolist()]]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": [round(value, 3) for value in box],
                    "area": round(box[2] * box[3], 3),
                    "segmentation": outline,
                    "iscrowd": 0,
                }
            )
    categories: list[dict[str, object]] = [{"id": i, "name": name} for i, name in enumerate(data.names, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


# Command --------------------------------------------------------------------------------------------------------------


def parse_opt(args: list[str] | None = None) -> ConvertOptions:
    """The options of `python -m tools.convert`."""
    parser = tool_parser(
        "convert",
        "Convert a data set: VOC or COCO into labels, labels into COCO.",
        "voc --source VOCdevkit/VOC2012 --out ../datasets/VOC2012",
    )
    parser.add_argument(
        "format",
        choices=("voc", "coco", "yolo", "crops", "flat", *PUBLISHED, "objects365"),
        help="of --source; yolo is written as COCO, crops writes what is in the boxes of a folder of images by class, "
        "flat copies the files of all its folders into one",
    )
    parser.add_argument(
        "--source",
        nargs="+",
        required=True,
        help="voc: folder; coco: .json files; yolo: data yaml; published set: folder of its archives or their content",
    )
    parser.add_argument("--out", required=True, help="folder to write into")
    parser.add_argument("--names", nargs="+", default=[], help="classes in their order; any other is an error")
    parser.add_argument("--images", default="", help="folder of the images, if they are not found by themselves")
    parser.add_argument("--split", choices=SPLITS, default="train", help="split of what names none")
    parser.add_argument("--val", type=float, default=0.0, help="share of the pictures of train that becomes val")
    parser.add_argument("--seed", type=int, default=0, help="of --val: another one divides differently")
    parser.add_argument("--skip-bad", action="store_true", help="leave out what is wrong, with a warning")
    parser.add_argument("--copy", action="store_true", help="copy images instead of linking them")
    parser.add_argument("--difficult", action="store_true", help="voc: keep objects marked as difficult")
    parser.add_argument("--zero-based", action="store_true", help="voc: corners count from 0, as some tools write them")
    parser.add_argument("--boxes", action="store_true", help="coco: boxes only, no polygons")
    parser.add_argument("--download", action="store_true", help="published sets: first fetch them into --source")
    return ConvertOptions(**vars(parser.parse_args(args)))


def main(opt: ConvertOptions) -> None:
    """Convert and say where the result is."""
    if opt.download and opt.format in ("voc", "coco", "yolo", "crops", "flat"):
        raise ValueError(f"--download: {opt.format} is a form, no data set that could be fetched")
    if opt.val and opt.format not in ("voc", "coco"):
        raise ValueError(f"--val: only voc and coco are divided, not {opt.format}")
    if not 0 <= opt.val < 1:
        raise ValueError(f"--val {opt.val:g}: a share from 0 to below 1 is needed")
    if opt.format in ("crops", "flat"):
        if len(opt.source) != 1:
            raise ValueError(f"--source: {opt.format} takes one folder, not {len(opt.source)}")
        (extract_boxes if opt.format == "crops" else flatten_recursive)(opt.source[0], opt.out)
    elif opt.format == "yolo":
        to_coco(opt)
    elif opt.format in PUBLISHED or opt.format == "objects365":
        convert_published(opt)
    else:
        convert(opt)


if __name__ == "__main__":
    run_script(main, parse_opt())
