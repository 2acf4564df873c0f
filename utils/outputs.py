"""What detect.py leaves on disk: annotated images and videos, label files, crops.

Names are unique within a run (a.jpg and a.png give a.txt and a2.txt); what an earlier run left under the same name in
the same folder (`--exist-ok`) is replaced, never appended to.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from torch import Tensor

from utils.images import write_image
from utils.plots import crop_box
from utils.runs import UniqueNames, label_rows, safe_name
from utils.sources import Frame
from utils.video import VideoWriter

MAX_REPEATED_S = 10  # of a stream's pause are filled with its last frame
MAX_STREAM_FPS = 240  # more is what a camera's driver says when it does not know


def output_stem(frame: Frame) -> str:
    """`bus` for an image, `street_17` for the 17th frame of a video or stream."""
    return frame.stem if frame.is_still else f"{frame.stem}_{frame.number}"


class ResultWriter:
    """Writes the results of frames below `folder`; a context manager, so that videos are finished whatever happens."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.names = names
        self.label_names = UniqueNames()
        self.crop_names: dict[str, UniqueNames] = {}
        self.videos: dict[str, VideoWriter] = {}
        self.written: Counter[str] = Counter()

    def __enter__(self) -> Self:
        """The writer."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Finishes the videos."""
        self.close()

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
        path = self.folder / "labels" / f"{self.label_names.claim(output_stem(frame))}.txt"
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
            kind = safe_name(self.names[int(row[5])])
            folder = self.folder / "crops" / kind
            folder.mkdir(parents=True, exist_ok=True)
            stem = self.crop_names.setdefault(kind, UniqueNames()).claim(frame.stem)
            write_image(folder / f"{stem}.jpg", crop)
            self.written["crop"] += 1

    def close(self) -> None:
        """Finishes the open videos."""
        while self.videos:
            _, video = self.videos.popitem()
            video.close()
