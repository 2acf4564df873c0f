"""What AutoShape found in images: boxes in four forms, drawn, written, cut out, or handed to other packages.

Images are (h, w, 3) uint8 RGB arrays. The caller's own are never drawn upon: after `render()` the results hold copies
with boxes in their place, as v6.1's tutorials expect.

Legend: B images, n detections of an image.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageShow
from torch import Tensor

from utils.files.images import write_image
from utils.files.names import safe_name
from utils.files.output_names import crop_separators, distinct_names, shortened
from utils.general import increment_path, plural
from utils.ops.boxes import xyxy2xywh, xyxy2xywhn
from utils.plots import Annotator, colors, crop_box

if TYPE_CHECKING:
    from pandas import DataFrame

SAVE_DIR = "runs/detect/exp"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
CENTRES = ("xcenter", "ycenter", "width", "height")


class Tables(NamedTuple):
    """One pandas.DataFrame an image for each form of its boxes."""

    xyxy: "list[DataFrame]"
    xyxyn: "list[DataFrame]"
    xywh: "list[DataFrame]"
    xywhn: "list[DataFrame]"


class Detections:
    """The detections of B images; its length is B.

    imgs: the images, after `render` those with boxes. files: their names, with suffix .jpg. names: the classes. xyxy
    (also as `pred`), xywh, xyxyn and xywhn: for each image (n, 6) of a box, confidence, class, surest first; pixels of
    the image, or with n shares of its sides. times: seconds for pre-processing, inference and NMS of all images; t:
    milliseconds of an image. n: B. s: the shape of the network's input, (B, 3, H, W).
    """

    __module__ = "models.common"  # where v6.1 has it

    def __init__(
        self,
        imgs: Sequence[np.ndarray],
        pred: Sequence[Tensor],
        files: Sequence[str],
        times: Sequence[float],
        names: Sequence[str] | Mapping[int, str],
        shape: Sequence[int],
    ) -> None:
        assert len(imgs) == len(pred) == len(files), "an image, its detections and its name belong together"
        self.imgs, self.pred, self.files = list(imgs), list(pred), list(files)
        self.rendered: list[tuple[np.ndarray, np.ndarray]] | None = None  # with boxes, and as they were
        self.names = list(names.values() if isinstance(names, Mapping) else names)
        self.times = tuple(times)
        self.n = len(self.imgs)
        self.t = tuple(seconds * 1000 / max(self.n, 1) for seconds in self.times)
        self.s = tuple(shape)
        self.xyxy = self.pred
        self.xywh = [_with_boxes(rows, xyxy2xywh(rows[:, :4])) for rows in self.pred]
        self.xyxyn, self.xywhn = [], []
        for image, rows in zip(self.imgs, self.pred, strict=True):
            h, w = image.shape[:2]
            self.xyxyn.append(_with_boxes(rows, rows[:, :4] / rows.new_tensor([w, h, w, h])))
            self.xywhn.append(_with_boxes(rows, xyxy2xywhn(rows[:, :4], w, h)))

    def __len__(self) -> int:
        """The number of images."""
        return self.n

    def __str__(self) -> str:
        """A line for each image, `image 1/2: 1080x810 4 persons, 1 bus`, and one for the speed."""
        lines = []
        for i, (image, rows) in enumerate(zip(self.imgs, self.pred, strict=True), 1):
            counts = Counter(rows[:, 5].sort().values.int().tolist())  # by class: two may have the same name
            found = ", ".join(plural(count, self.names[index]) for index, count in counts.items()) or "(no detections)"
            lines.append(f"image {i}/{self.n}: {image.shape[0]}x{image.shape[1]} {found}")
        pre, inference, nms = self.t
        speeds = f"{pre:.1f}ms pre-process, {inference:.1f}ms inference, {nms:.1f}ms NMS"
        return "\n".join((*lines, f"Speed: {speeds} per image at shape {self.s}"))

    def print(self) -> None:
        """Prints what was found and how long it took."""
        print(self)

    @property
    def ims(self) -> list[np.ndarray]:
        """The images, under the name that they have since v6.2."""
        return self.imgs

    def display(
        self,
        pprint: bool = False,
        show: bool = False,
        save: bool = False,
        crop: bool = False,
        render: bool = False,
        labels: bool = True,
        save_dir: str | Path = SAVE_DIR,
    ) -> list[dict[str, Any]] | None:
        """Do several at once, as v6.1's method: print, show, save, crop and render; return the crops where asked for.

        With `render` the images in `imgs` become the drawn ones. What is saved goes to save_dir.
        """
        if pprint:
            self.print()
        if show:
            self.show(labels)
        if save:
            self.save(labels, save_dir)
        found = self.crop(save, save_dir) if crop else None
        if render:
            self.render(labels)
        return found

    def tolist(self) -> "list[Detections]":
        """B Detections of one image each; the times are equal shares."""
        times = [seconds / max(self.n, 1) for seconds in self.times]
        shape = (1, *self.s[1:])
        found = []
        for i, (image, rows, file) in enumerate(zip(self._plain(), self.pred, self.files, strict=True)):
            one = Detections([image], [rows], [file], times, self.names, shape)
            if self.rendered is not None:
                one.imgs, one.rendered = [self.imgs[i]], [(self.imgs[i], image)]
            found.append(one)
        return found

    # Pictures ---------------------------------------------------------------------------------------------------------

    def render(self, labels: bool = True) -> list[np.ndarray]:
        """Draw boxes, and with `labels` their classes and confidences, on copies of the images, then to be `imgs`."""
        plain = self._plain()
        self.imgs = [self._drawn(i, image, labels) for i, image in enumerate(plain)]
        self.rendered = [*zip(self.imgs, plain, strict=True)]
        return list(self.imgs)

    def _plain(self) -> list[np.ndarray]:
        """The images without boxes; of those that somebody else has put into `imgs` these."""
        if self.rendered is None:
            return self.imgs
        both = zip(self.imgs, self.rendered, strict=True)
        return [plain if image is drawn else image for image, (drawn, plain) in both]

    def _drawn(self, i: int, image: np.ndarray, labels: bool) -> np.ndarray:
        annotator = Annotator(image[..., ::-1].copy())
        annotator.labels_last = True
        for *box_xyxy, confidence, index in self.pred[i].flip(0).tolist():  # the surest on top
            label = self._label(index, confidence) if labels else ""
            annotator.box_label(box_xyxy, label, colors(int(index), bgr=True))
        return np.ascontiguousarray(annotator.result()[..., ::-1])

    def _label(self, index: float, confidence: float) -> str:
        return f"{self.names[int(index)]} {confidence:.2f}"

    def show(self, labels: bool = True) -> None:
        """Opens the drawn images in the system's viewer; ValueError where there is none."""
        for i, (image, file) in enumerate(zip(self._plain(), self.files, strict=True)):
            image = self._drawn(i, image, labels)
            if not ImageShow.show(Image.fromarray(image), title=file):
                raise ValueError("this machine has no viewer for images; write them with save()")

    def save(self, labels: bool | str | Path = True, save_dir: str | Path = SAVE_DIR) -> Path:
        """Write the drawn images as .jpg into save_dir; return the folder.

        A folder that is named is the one that is written into, also if it exists. The default one gets a number then.
        Images of one name are told apart by a number, `bus_2.jpg`. The folder may also come first, as in some versions
        of YOLOv5.
        """
        if not isinstance(labels, bool):
            labels, save_dir = True, labels
        folder = results_folder(save_dir)
        for i, (image, stem) in enumerate(zip(self._plain(), distinct_names(map(stem_of, self.files)), strict=True)):
            write_image(folder / f"{stem}.jpg", self._drawn(i, image, labels)[..., ::-1])
        return folder

    def crop(self, save: bool = True, save_dir: str | Path = SAVE_DIR) -> list[dict[str, Any]]:
        """What is in the boxes, a little widened, of all images in a row.

        Each is a dictionary: box (4,) xyxy, conf, cls, label `bus 0.87`, im (h, w, 3) uint8 RGB, a copy. `save` writes
        them as crops/<class>/<image>.jpg, <image>_2.jpg, ... below save_dir, which gets a number if it is the default
        and exists. Crops that are there already stay.
        """
        folder = results_folder(save_dir) if save else None
        folders = distinct_names(map(safe_name, self.names))
        stems = distinct_names(map(stem_of, self.files))
        separators = crop_separators([(stem, False) for stem in stems])
        crops = []
        for image, rows, stem, separator in zip(self._plain(), self.pred, stems, separators, strict=True):
            for row in rows.cpu():
                index, confidence = int(row[5]), float(row[4])
                part = crop_box(image, row[:4])
                if not part.size:
                    continue
                label = self._label(index, confidence)
                crops.append({"box": row[:4], "conf": confidence, "cls": index, "label": label, "im": part})
                if folder is not None:
                    place = folder / "crops" / folders[index]
                    place.mkdir(parents=True, exist_ok=True)
                    write_image(free_path(place, stem, separator), part[..., ::-1])
        return crops

    # Other packages ---------------------------------------------------------------------------------------------------

    def pandas(self) -> Tables:
        """Tables with the columns xmin ymin xmax ymax (or xcenter ycenter width height) confidence class name.

        ImportError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("tables need pandas: pip install pandas; xyxy and the others are tensors") from error

        def tables(forms: list[Tensor], columns: Sequence[str]) -> "list[DataFrame]":
            found = []
            for rows in forms:
                table = pandas.DataFrame(rows[:, :5].cpu().double().numpy(), columns=[*columns, "confidence"])
                table["class"] = rows[:, 5].cpu().long().numpy()
                table["name"] = [self.names[index] for index in table["class"]]
                found.append(table)
            return found

        return Tables(
            tables(self.xyxy, CORNERS),
            tables(self.xyxyn, CORNERS),
            tables(self.xywh, CENTRES),
            tables(self.xywhn, CENTRES),
        )

    def to_supervision(self) -> list[Any]:
        """A supervision.Detections for each image, class names as data["class_name"].

        ImportError where supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError("to_supervision() needs supervision: pip install supervision") from error
        found = []
        for rows in self.pred:
            values = rows.detach().cpu().float().numpy()  # (n, 6)
            classes = values[:, 5].astype(int)
            names = np.array([self.names[index] for index in classes], dtype=str)
            found.append(
                supervision.Detections(
                    xyxy=values[:, :4], confidence=values[:, 4], class_id=classes, data={"class_name": names}
                )
            )
        return found


def results_folder(save_dir: str | Path) -> Path:
    """Make the folder for results: the one that is named, and of the default's name a new one."""
    is_named = Path(save_dir) != Path(SAVE_DIR)
    return increment_path(save_dir, exist_ok=is_named, mkdir=True)


def stem_of(file: str) -> str:
    """The name of an image's results."""
    return shortened(Path(file).stem)


def free_path(folder: Path, stem: str, separator: str) -> Path:
    """The first of <stem>.jpg, <stem>_2.jpg, ... that is not there."""
    path, number = folder / f"{stem}.jpg", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}{separator}{number}.jpg"
    return path


def _with_boxes(rows: Tensor, boxes: Tensor) -> Tensor:
    """The rows (n, 6) with other boxes (n, 4)."""
    return torch.cat((boxes, rows[:, 4:]), 1)
