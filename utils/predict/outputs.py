"""What detect.py leaves on disk: annotated images and videos, label files, crops, tables.

Names are unique within a run (a.jpg and a.png give a.txt and a2.txt); what an earlier run left under the same name in
the same folder (`--exist-ok`) is replaced, never appended to. Of several processes all but the first write label files,
crops and tables into a folder of their own, which the first one takes over at the end, in their order: names and rows
are those that one process would have written.
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
from utils.files.names import UniqueNames, folder_names
from utils.plots import crop_box
from utils.predict.sources import Frame
from utils.predict.tables import PredictionFiles
from utils.predict.video import VideoWriter

MAX_REPEATED_S = 10  # of a stream's pause are filled with its last frame
MAX_STREAM_FPS = 240  # more is what a camera's driver says when it does not know


def output_stem(frame: Frame) -> str:
    """`bus` for an image, `street_17` for the 17th frame of a video or stream."""
    return frame.stem if frame.is_still else f"{frame.stem}_{frame.number}"


def part_folder(folder: Path, rank: int) -> Path:
    """Where a process other than the first keeps what is to be renamed or joined at the end."""
    return folder if rank == 0 else folder / f".rank{rank}"


class ResultWriter:
    """Writes the results of frames below `folder`; a context manager, so that videos are finished whatever happens.

    tables: which of "csv" and "json" are wanted. rank: of this process among several.
    """

    def __init__(self, folder: Path, names: Sequence[str], tables: Sequence[str] = (), rank: int = 0) -> None:
        self.folder = folder
        self.names = names
        self.part = part_folder(folder, rank)
        if rank:
            shutil.rmtree(self.part, ignore_errors=True)  # a run that was killed left it
        self.tables = PredictionFiles(self.part, names, tables)
        self.claims: list[tuple[str, str, str]] | None = [] if rank else None  # kind of crop, or "", stem, file
        self.label_names = UniqueNames()
        self.crop_names: dict[str, UniqueNames] = {}
        self.crop_folders = folder_names(names)
        self.videos: dict[str, VideoWriter] = {}
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
        path = self.folder / f"{frame.stem}{suffix}"
        if path.exists() and Path(frame.name).exists() and path.samefile(frame.name):
            raise ValueError(f"{path} would be overwritten by its own result; choose another --project or --name")
        if frame.is_still:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_image(path, drawn)
            self.written["image"] += 1
            return
        if frame.stem not in self.videos:
            if not is_live:  # files come one after another: the one before is complete
                self.close()
            fps = None if is_live and (frame.fps or 0) > MAX_STREAM_FPS else frame.fps
            self.videos[frame.stem] = VideoWriter(path, fps)
            self.written["video"] += 1
            self.videos[frame.stem].write(drawn)
            return
        video = self.videos[frame.stem]
        # A stream's frames that were dropped are filled in: the video lasts as long as what it shows.
        video.write(drawn, repeat=1 + min(frame.skipped, round(MAX_REPEATED_S * video.fps)))

    def save_labels(self, frame: Frame, detections: Tensor, with_confidence: bool) -> None:
        """Writes labels/<stem>.txt, or <stem>_<frame>.txt: rows `class cx cy w h [confidence]`, boxes in 0..1.

        detections are (n, 6): xyxy in pixels of the frame, confidence, class. Without any there is no file.
        """
        path = self._label_path(output_stem(frame))
        if not len(detections):
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(label_rows(detections, frame.image.shape[:2], with_confidence), encoding="utf-8")
        self.written["label file"] += 1

    def save_crops(self, frame: Frame, detections: Tensor) -> None:
        """Writes what is in each box, a little widened, as crops/<class name>/<stem>.jpg, the second as <stem>2.jpg."""
        for row in detections:
            crop = crop_box(frame.image, row[:4])
            if not crop.size:
                continue
            kind = self.crop_folders[int(row[5])]
            path = self._crop_path(kind, frame.stem)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, crop)
            self.written["crop"] += 1

    def save_rows(self, frame: Frame, detections: Tensor) -> None:
        """Appends the detections to predictions.csv and predictions.json, as far as they are wanted."""
        self.tables.add(frame, output_stem(frame), detections)

    def take_over(self, rank: int, claims: Sequence[tuple[str, str, str]]) -> None:
        """Moves what another process wrote to where this one would have written it, in the order of its claims."""
        part = part_folder(self.folder, rank)
        for kind, stem, file in claims:
            path = self._crop_path(kind, stem) if kind else self._label_path(stem)
            if (part / file).exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                (part / file).replace(path)
            else:
                path.unlink(missing_ok=True)
        self.tables.append_folder(part)
        shutil.rmtree(part, ignore_errors=True)

    def _label_path(self, stem: str) -> Path:
        """The label file that comes next under this name."""
        return self._claimed("", stem, Path("labels") / f"{self.label_names.claim(stem)}.txt")

    def _crop_path(self, kind: str, stem: str) -> Path:
        """The crop of a class that comes next under this name."""
        name = self.crop_names.setdefault(kind, UniqueNames()).claim(stem)
        return self._claimed(kind, stem, Path("crops") / kind / f"{name}.jpg")

    def _claimed(self, kind: str, stem: str, file: Path) -> Path:
        """The file's path; another process is told of it."""
        if self.claims is not None:
            self.claims.append((kind, stem, file.as_posix()))
        return self.part / file

    def close(self) -> None:
        """Finishes the open videos: all of them, also where one fails."""
        with ExitStack() as stack:
            for video in self.videos.values():
                stack.callback(video.close)
            self.videos = {}
