"""Detections as a COCO result file, and what pycocotools says of it.

Legend: n detections of an image.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from utils.data.coco_ids import COCO_IDS, is_coco
from utils.data.config import DataConfig
from utils.evaluation.evaluate import EvaluatedBatch, Observer
from utils.files.reading import MOST_ANNOTATIONS, read_json
from utils.general import LOGGER, atomic_write

ImageId = int | str


class CocoRating:
    """Writes detections to a COCO result file and has pycocotools compare it with the annotations, if there are any.

    With annotations images and classes have the numbers given there, found by their names. Without, a class of COCO's
    80 has its COCO number and any other its index, an image the number that its name is, or its name.
    """

    def __init__(self, path: Path, names: Sequence[str], annotations: Path | None = None) -> None:
        self.path, self.annotations = path, annotations
        self.images: dict[str, ImageId] = {}
        self.categories: tuple[int, ...] = COCO_IDS if is_coco(names) else tuple(range(len(names)))
        if annotations is None:
            return
        content = read_annotations(annotations)
        stems = [Path(image["file_name"]).stem for image in content["images"]]
        self.images = dict(zip(stems, (image["id"] for image in content["images"]), strict=True))
        by_name: dict[str, list[int]] = {}
        for category in content["categories"]:
            by_name.setdefault(str(category["name"]), []).append(category["id"])
        missing = [
            f"no category {name!r}" + (f" for each of {count} classes" if count > 1 else "")
            for name, count in Counter(names).items()
            if len(by_name.get(name, [])) < count
        ]
        wrong = missing + [f"several images named {stem!r}" for stem in repeated(stems)]
        if wrong:
            LOGGER.warning(f"{annotations} has {wrong[0]}: the official COCO result is left out")
            self.annotations = None
        else:
            self.categories = categories_of(names, by_name)

    def image_id(self, path: str) -> ImageId:
        """The number of an image, or its name without suffix."""
        stem = Path(path).stem
        return self.images.get(stem, int(stem) if stem.isdecimal() and stem.isascii() else stem)

    @contextmanager
    def writer(self) -> Iterator[Observer]:
        """An observer of `evaluate` that writes the file batch by batch; it is there when the block ends well.

        bbox is left, top, width and height in pixels of the image to three decimals, score has five.
        """
        with atomic_write(self.path) as temporary, temporary.open("w", encoding="utf-8") as file:
            separator = "["

            def observe(evaluated: EvaluatedBatch) -> None:
                nonlocal separator
                for name, detections in zip(evaluated.batch.paths, evaluated.native, strict=True):
                    for row in self.rows(self.image_id(name), detections):
                        file.write(separator + json.dumps(row))
                        separator = ",\n"

            yield observe
            file.write("[]\n" if separator == "[" else "]\n")

    def rows(self, image_id: ImageId, detections: Tensor) -> Iterator[dict[str, object]]:
        """The file's entries for detections (n, 6): xyxy in pixels of the image, confidence, class."""
        sizes = detections[:, 2:4] - detections[:, :2]
        for *box, score, index in torch.cat((detections[:, :2], sizes, detections[:, 4:]), 1).tolist():
            yield {
                "image_id": image_id,
                "category_id": self.categories[int(index)],
                "bbox": [round(value, 3) for value in box],
                "score": round(score, 5),
            }

    def log_scores(self, images: Sequence[str]) -> tuple[float, float] | None:
        """pycocotools' AP over IoU 0.5 to 0.95 and AP at 0.5 on these images, said in the log; its table is printed.

        None without annotations, and with the reason in the log where pycocotools is not there or cannot compare.
        """
        LOGGER.info(f"{self.path} is written")
        same = repeated([self.image_id(image) for image in images])
        if same:
            LOGGER.warning(
                f"{self.path}: several images have the image_id {same[0]!r}, made of their names without folder; "
                "there is no official COCO result of such a file"
            )
            return None
        if self.annotations is None:
            return None
        try:
            from pycocotools.coco import COCO  # optional
            from pycocotools.cocoeval import COCOeval
        except ImportError:
            LOGGER.warning("the official COCO result is left out: pycocotools is wanted, pip install pycocotools")
            return None
        truth = COCO(str(self.annotations))
        ids = {self.image_id(image) for image in images}
        strangers = [image for image in images if self.image_id(image) not in truth.imgs]
        if strangers or self.path.stat().st_size < len('[{"image_id"'):
            what = f"{strangers[0]} is not in {self.annotations}" if strangers else "nothing was found"
            LOGGER.warning(f"the official COCO result is left out: {what}")
            return None
        rating = COCOeval(truth, truth.loadRes(str(self.path)), "bbox")
        rating.params.imgIds = sorted(ids)
        rating.evaluate()
        rating.accumulate()
        rating.summarize()
        ap, ap50 = float(rating.stats[0]), float(rating.stats[1])
        LOGGER.info(
            f"pycocotools, at most 100 detections of a class in an image: mAP@.5 {ap50:.3f}, mAP@.5:.95 {ap:.3f}"
        )
        return ap, ap50


def categories_of(names: Sequence[str], by_name: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """The category of each class by its name; of a name that several have the last ones, in their order.

    A category that comes before them, as Roboflow's for the project, has no objects.
    """
    counts = Counter(names)
    left = {name: iter(by_name[name][-count:]) for name, count in counts.items()}
    return tuple(next(left[name]) for name in names)


def repeated(values: Sequence[ImageId]) -> list[ImageId]:
    """The values that are there more than once."""
    return [value for value, count in Counter(values).items() if count > 1]


def find_annotations(data: DataConfig, sources: Sequence[Path]) -> Path | None:
    """COCO annotations of a split, as <root>/annotations/instances_val2017.json for val2017.txt or a folder val2017."""
    path = data.root / "annotations" / f"instances_{sources[0].stem}.json"
    return path if len(sources) == 1 and path.is_file() else None


def read_annotations(path: Path) -> dict:
    """A COCO annotations file; ValueError where it is none."""
    content = read_json(path, MOST_ANNOTATIONS)
    present = content if isinstance(content, dict) else {}
    absent = [key for key in ("images", "annotations", "categories") if key not in present]
    if absent:
        raise ValueError(f"{path}: has no {absent[0]!r}: not a COCO annotations file")
    return content
