"""What detect.py leaves on disk: annotated images and videos, label files, crops, tables.

Each input has names of its own (utils/files/output_names.py); what an earlier run left under the same name in the same
folder (`--exist-ok`) is replaced, never appended to. Of several processes all but the first write tables into a folder
of their own, whose rows the first one takes over at the end, in their order: rows are those that one process would have
written.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from torch import Tensor

from utils.data.label_files import label_rows
from utils.files.images import write_image
from utils.files.names import safe_name
from utils.files.output_names import distinct_names
from utils.files.results import naming, whole_or_none
from utils.plots import crop_box
from utils.predict.sources import Frame
from utils.predict.tables import NO_COLUMNS, Columns, PredictionFiles
from utils.predict.video import VideoWriter

MAX_REPEATED_S = 10  # of a stream's pause are filled with its last frame
MAX_STREAM_FPS = 240  # more is what a camera's driver says when it does not know


def output_stem(frame: Frame) -> str:
    """`bus` for an image, `street_17` for the 17th frame of a video or stream."""
    return frame.stem if frame.is_still else f"{frame.stem}_{frame.number}"


def part_folder(folder: Path, rank: int) -> Path:
    """Where a process other than the first keeps the tables that are joined at the end."""
    return folder if rank == 0 else folder / f".rank{rank}"


class ResultWriter:
    """Writes the results of frames below `folder`; a context manager, so that videos are finished whatever happens.

    tables: which of "csv" and "json" are wanted. rank: of this process among several. further: names of the tables'
    columns after those of a detection.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        tables: Sequence[str] = (),
        rank: int = 0,
        further: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.names = names
        self.part = part_folder(folder, rank)
        if rank:
            shutil.rmtree(self.part, ignore_errors=True)  # a run that was killed left it
        self.tables = PredictionFiles(self.part, names, tables, further)
        self.crop_folders = distinct_names(map(safe_name, names))  # of each class, also where two have one name
        self.crops: set[Path] = set()  # that this run has written
        self.videos: dict[str, VideoWriter] = {}
        self.mot_files: set[Path] = set()  # that this run has begun
        self.written: Counter[str] = Counter()

    def __enter__(self) -> Self:
        """The writer."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Finishes the videos and tables."""
        try:
            self.close()
        finally:
            self.tables.close()

    def save_picture(self, frame: Frame, drawn: np.ndarray, is_live: bool = False) -> None:
        """Writes the drawn image under its file's name, or as the next frame of its video."""
        suffix = frame.suffix if not frame.is_still or cv2.haveImageWriter(frame.suffix) else ".jpg"  # .dng, .mpo
        stem = frame.picture or frame.stem
        path = self.folder / f"{stem}{suffix}"
        if path.exists() and Path(frame.name).exists() and path.samefile(frame.name):
            raise ValueError(f"{path} would be overwritten by its own result; choose another --project or --name")
        if frame.is_still:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_image(path, drawn)
            self.written["image"] += 1
            return
        if stem not in self.videos:
            if not is_live:  # files come one after another: the one before is complete
                self.close()
            fps = None if is_live and (frame.fps or 0) > MAX_STREAM_FPS else frame.fps
            self.videos[stem] = VideoWriter(path, fps)
            self.written["video"] += 1
            self.videos[stem].write(drawn, seconds=frame.seconds)
            return
        video = self.videos[stem]
        # A stream's frames that were dropped are filled in: the video lasts as long as what it shows.
        repeat = 1 + min(frame.skipped, round(MAX_REPEATED_S * video.fps))
        video.write(drawn, repeat, frame.seconds)

    def save_labels(
        self, frame: Frame, detections: Tensor, with_confidence: bool, ids: Sequence[int] | None = None
    ) -> None:
        """Writes labels/<stem>.txt, or <stem>_<frame>.txt: rows `class cx cy w h [confidence] [id]`, boxes in 0..1.

        detections are (n, 6): xyxy in pixels of the frame, confidence, class. Without any there is no file.
        """
        path = self.folder / "labels" / f"{output_stem(frame)}.txt"
        if not len(detections):
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_or_none(path) as file:
            file.write_text(label_rows(detections, frame.image.shape[:2], with_confidence, ids), encoding="utf-8")
        self.written["label file"] += 1

    def save_mot(self, frame: Frame, rows: str) -> None:
        """Append rows of MOT Challenge's result format to mot/<stem>.txt; an image has none."""
        if frame.is_still:
            return
        path = self.folder / "mot" / f"{frame.stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path), path.open("a" if path in self.mot_files else "w", encoding="utf-8") as file:
            file.write(rows)
        if path not in self.mot_files:
            self.mot_files.add(path)
            self.written["MOT file"] += 1

    def save_crops(self, frame: Frame, detections: Tensor) -> None:
        """Write what is in each box, a little widened, as crops/<class>/<stem>.jpg, the second as <stem>_2.jpg.

        Of a video's frame it is <stem>_<frame>.jpg and <stem>_<frame>_2.jpg.
        """
        counts: Counter[int] = Counter()
        for row in detections:
            crop = crop_box(frame.image, row[:4])
            if not crop.size:
                continue
            kind = int(row[5])
            folder = self.folder / "crops" / self.crop_folders[kind]
            counts[kind] += 1
            path = folder / f"{output_stem(frame)}.jpg"
            if counts[kind] > 1:
                path = folder / f"{output_stem(frame)}{frame.separator}{counts[kind]}.jpg"
            while path in self.crops:  # of an input that came before all were known
                counts[kind] += 1
                path = folder / f"{output_stem(frame)}{frame.separator}{counts[kind]}.jpg"
            self.crops.add(path)
            folder.mkdir(parents=True, exist_ok=True)
            write_image(path, crop)
            self.written["crop"] += 1

    def save_rows(self, frame: Frame, detections: Tensor, columns: Columns = NO_COLUMNS) -> None:
        """Appends the detections to predictions.csv and predictions.json, as far as they are wanted."""
        self.tables.add(frame, output_stem(frame), detections, columns)

    def take_over(self, rank: int) -> None:
        """Append the rows of another process's tables to those of this one."""
        part = part_folder(self.folder, rank)
        self.tables.append_folder(part)
        shutil.rmtree(part, ignore_errors=True)

    def close(self) -> None:
        """Finishes the open videos: all of them, also where one fails."""
        with ExitStack() as stack:
            for video in self.videos.values():
                stack.callback(video.close)
            self.videos = {}
