"""v6.1's small data set tools: random splits, statistics, crops of boxes, flat folders."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.data.config import DataConfig
from utils.data.dividing import divide, group_copies
from utils.data.label_files import read_labels
from utils.data.labels import find_images, label_path, scan
from utils.files.images import read_image, write_image
from utils.files.names import UniqueNames
from utils.general import LOGGER, ROOT, atomic_write, plural, progress
from utils.ops.boxes import xywhn2xyxy

SPLITS = ("train", "val", "test")


def autosplit(
    path: str | Path = ROOT.parent / "datasets" / "coco128" / "images",
    weights: Sequence[float] = (0.9, 0.1, 0.0),
    annotated_only: bool = False,
    seed: int = 0,
) -> dict[str, Path]:
    """Split the images of a folder at random, deterministic for a seed; return the lists written, by split.

    They are autosplit_{train,val,test}.txt beside the folder, with lines `./images/a.jpg`; a split without images is
    left out. weights: shares of train, val and test, kept exactly; copies of an image stay in one split. annotated_only
    leaves out images without a label file.

    Raises:
        ValueError: if there is nothing to split.
        FileExistsError: if other lists of these names exist.
    """
    folder = Path(path)
    if len(weights) != len(SPLITS) or min(weights) < 0 or not sum(weights) > 0:
        raise ValueError(f"weights {weights}: three shares of 0 or more, of train, val and test")
    images = find_images([folder])
    if annotated_only:
        images = [image for image in images if os.path.exists(label_path(image))]
        if not images:
            raise ValueError(f"{folder}: none of its images has a label file")
    parts = divide(group_copies(images), weights, seed)
    texts = {folder.parent / f"autosplit_{split}.txt": "" for split in SPLITS}
    for image, part in zip(images, parts, strict=True):
        line = f"./{Path(image).relative_to(folder.parent).as_posix()}\n"
        texts[folder.parent / f"autosplit_{SPLITS[part]}.txt"] += line
    others = [file for file, text in texts.items() if file.exists() and file.read_text(encoding="utf-8") != text]
    if others:
        raise FileExistsError(f"{others[0]} exists and is not written over; move it away, or divide as it was divided")
    written = {}
    for split, (target, text) in zip(SPLITS, texts.items(), strict=True):
        if text:
            with atomic_write(target) as temporary:
                temporary.write_text(text, encoding="utf-8")
            written[split] = target
            LOGGER.info(f"{target}: {plural(text.count(chr(10)), 'image')}")
    return written


def extract_boxes(path: str | Path, out: str | Path | None = None) -> Path:
    """Write each labelled box of a folder's images to <out>/<class>/<stem>_<number>.jpg; return the folder.

    The default `out` is `classifier` beside the images' folder. It must not exist, so that nothing is overwritten.
    """
    folder = Path(path)
    target = folder.parent / "classifier" if out is None else Path(out)
    images = find_images([folder])
    target.mkdir(parents=True)
    names, count = UniqueNames(), 0
    for image in progress(images, desc="Cutting out", delay=0.5):
        label = label_path(image)
        boxes = read_labels(label).boxes if os.path.exists(label) else np.zeros((0, 5), np.float32)
        if not len(boxes):
            continue
        picture = read_image(image)  # (h, w, 3)
        h, w = picture.shape[:2]
        corners = xywhn2xyxy(boxes[:, 1:], w, h).round().astype(int).clip(0, (w, h, w, h))  # (n, 4)
        for number, (index, (x1, y1, x2, y2)) in enumerate(zip(boxes[:, 0].astype(int), corners, strict=True)):
            if x2 > x1 and y2 > y1:
                file = target / str(index) / f"{names.claim(f'{index}/{Path(image).stem}_{number}').split('/')[1]}.jpg"
                file.parent.mkdir(exist_ok=True)
                write_image(file, np.ascontiguousarray(picture[y1:y2, x1:x2]))
                count += 1
    LOGGER.info(f"{target}: {plural(count, 'picture')}")
    return target


def flatten_recursive(path: str | Path, out: str | Path | None = None) -> Path:
    """Copy all files below a folder into one folder, by default `<path>_flat`, and return it.

    Files of one name get numbers. The folder must not exist, so that nothing is overwritten.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    target = folder.with_name(f"{folder.name}_flat") if out is None else Path(out)
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    target.mkdir(parents=True)
    names = UniqueNames()
    for file in progress(files, desc="Copying", delay=0.5):
        suffix = "".join(file.suffixes[-1:])
        shutil.copyfile(file, target / f"{_free(names, file.stem, suffix)}{suffix}")
    LOGGER.info(f"{target}: {plural(len(files), 'file')}")
    return target


def _free(names: UniqueNames, stem: str, suffix: str) -> str:
    """Return the stem, with a number if a file of this stem and suffix exists."""
    claimed = names.claim(f"{stem}{suffix}")
    return stem if claimed == f"{stem}{suffix}" else f"{stem}_{claimed.removeprefix(f'{stem}{suffix}')}"


def dataset_stats(path: str | Path, verbose: bool = False) -> dict[str, object]:
    """Return the numbers of images and objects in each split of a data yaml, in all and by class, as plain data.

    per_class counts the objects of each class and the images with it; labels lists each image's rows [class, x centre,
    y centre, width, height]. `verbose` prints it as JSON, without labels.
    """
    data = DataConfig.from_yaml(path)
    data.prepare()
    stats: dict[str, object] = {"nc": data.nc, "names": list(data.names)}
    for split in SPLITS:
        if not getattr(data, split):
            stats[split] = None
            continue
        records, _ = scan(find_images(data.split(split)), data.nc, desc=split)
        counts = np.array(
            [np.bincount(record.boxes[:, 0].astype(int), minlength=data.nc) for record in records], int
        ).reshape(-1, data.nc)  # (images, C)
        stats[split] = {
            "instance_stats": {"total": int(counts.sum()), "per_class": counts.sum(0).tolist()},
            "image_stats": {
                "total": len(records),
                "unlabelled": int((counts.sum(1) == 0).sum()),
                "per_class": (counts > 0).sum(0).tolist(),
            },
            "labels": [{Path(record.image).name: record.boxes.round(4).tolist()} for record in records],
        }
    if verbose:
        short = {
            key: {k: v for k, v in part.items() if k != "labels"} if isinstance(part, dict) else part
            for key, part in stats.items()
        }
        print(json.dumps(short, indent=2, ensure_ascii=False))
    return stats
