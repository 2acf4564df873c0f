"""v6.1's data loaders for inference, over the readers of utils/predict: files, a webcam, streams and the screen.

Each yields path, image for the network, image as it came, capture and the start of a console line. The image for the
network is letterboxed, (3, H, W) RGB uint8 and contiguous; as it came it is (h, w, 3) BGR. Streams yield lists of paths
and images, and one array (S, 3, H, W) of all S streams.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import cv2
import numpy as np

from utils.augmentations import letterbox, letterbox_placement
from utils.files.addresses import is_url
from utils.files.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, read_image
from utils.predict.screen import ScreenCapture, is_screen
from utils.predict.source_lists import read_source_list
from utils.predict.sources import find_media
from utils.predict.streams import (
    MAX_FIRST_FAILURES,
    close_streams,
    new_frames,
    open_capture,
    open_streams,
    suffix_of,
)
from utils.v61.checks import clean_str

IMG_FORMATS = sorted(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
VID_FORMATS = sorted(suffix.removeprefix(".") for suffix in VIDEO_SUFFIXES)
Size = int | Sequence[int]
Transforms = Callable[[np.ndarray], object] | None
Item = tuple[str, np.ndarray, np.ndarray, cv2.VideoCapture | None, str]
StreamItem = tuple[list[str], np.ndarray, list[np.ndarray], None, str]


def network_image(image: np.ndarray, img_size: Size, stride: int, auto: bool, transforms: Transforms) -> np.ndarray:
    """The image (h, w, 3) BGR for the network: letterboxed (3, H, W) RGB, or what `transforms` makes of it."""
    if transforms is not None:
        return transforms(image)
    fitted = letterbox(image, size_of(img_size), stride=stride, auto=auto)[0]
    return np.ascontiguousarray(fitted.transpose(2, 0, 1)[::-1])


def size_of(img_size: Size) -> int | tuple[int, int]:
    """One side of a square, or height and width."""
    return img_size if isinstance(img_size, int) else (int(img_size[0]), int(img_size[-1]))


class LoadImages:
    """The images, then the videos, of a file, a folder, a glob, a .txt list of files, or several of these.

    mode: `image` or `video`, of what was yielded last. frame and frames: of a video, the number of the one yielded
    last, from 1, and how many it says to have. count: the file's index. cap: the video that is being read. nf: the
    number of files. A file that cannot be read is a ValueError, which names it.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        img_size: Size = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Transforms = None,
        vid_stride: int = 1,
    ) -> None:
        self.img_size, self.stride, self.auto = img_size, int(stride), auto
        self.transforms, self.vid_stride = transforms, vid_stride
        self.files = media_files(path)
        self.video_flag = [suffix_of(file) in VIDEO_SUFFIXES for file in self.files]
        self.nf = self.ni = len(self.files)
        self.ni -= sum(self.video_flag)
        self.mode = "image"
        self.count = self.frame = self.frames = 0
        self.cap: cv2.VideoCapture | None = None

    def __iter__(self) -> Self:
        """Begin with the first file."""
        self.count = 0
        self._close()
        return self

    def __next__(self) -> Item:
        """The next image, or the next frame of a video."""
        while self.count < self.nf:
            path = self.files[self.count]
            if not self.video_flag[self.count]:
                self.count += 1
                self.mode = "image"
                return self._item(path, read_image(path), f"image {self.count}/{self.nf} {path}: ")
            self.mode = "video"
            if self.cap is None:
                self.new_video(path)
            image = self._next_frame()
            if image is not None:
                start = f"video {self.count + 1}/{self.nf} ({self.frame}/{self.frames}) {path}: "
                return self._item(path, image, start)
            if not self.frame:
                raise ValueError(f"{path}: a video without a readable frame")
            self._close()
            self.count += 1
        raise StopIteration

    def __len__(self) -> int:
        """The number of files."""
        return self.nf

    def new_video(self, path: str) -> None:
        """Open a video and begin with its first frame; ValueError if it cannot be opened."""
        self.frame = 0
        self.cap = open_capture(path)
        if not self.cap.isOpened():
            raise ValueError(f"{path}: not a readable video")
        self.frames = int(self.cap.get(cv2.CAP_PROP_FRAME_COUNT) / self.vid_stride)

    def _next_frame(self) -> np.ndarray | None:
        """The next frame of the open video, after vid_stride - 1 that are passed over; None at its end."""
        assert self.cap is not None
        for _ in range(self.vid_stride - 1 if self.frame else 0):
            self.cap.grab()
        received, image = self.cap.read()
        self.frame += received
        return image if received else None

    def _item(self, path: str, image: np.ndarray, start: str) -> Item:
        made = network_image(image, self.img_size, self.stride, self.auto, self.transforms)
        return path, made, image, self.cap, start

    def _close(self) -> None:
        if self.cap is not None:
            self.cap.release()
            self.cap = None


def media_files(path: str | Path | Sequence[str | Path]) -> list[str]:
    """The absolute paths of the images, then the videos, that one place or several name."""
    found: list[str] = []
    for place in [path] if isinstance(path, str | Path) else path:
        place = Path(place).expanduser()
        if place.suffix.lower() == ".txt" and place.is_file():
            found += read_source_list(place)[1]
        else:
            found += find_media(place.resolve())
    return sorted(found, key=lambda file: suffix_of(file) in VIDEO_SUFFIXES)


class LoadStreams:
    """The newest frames of streams, cameras or videos, of all in each round; a thread for each keeps its newest.

    sources: one address, or a file with one a line. imgs: the newest frame of each, of a stream without a new one that
    which it had before. fps and frames: of each, 30 and infinity where it does not say. rect: whether all are of one
    shape, and so are padded to whole strides only. Ends when all have ended, or with key q in a window of OpenCV's.
    ValueError if no frame comes from one of them.
    """

    mode = "stream"

    def __init__(
        self,
        sources: str | Path | Sequence[str] = "streams.txt",
        img_size: Size = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Transforms = None,
        vid_stride: int = 1,
    ) -> None:
        self.img_size, self.stride, self.auto, self.transforms = img_size, int(stride), auto, transforms
        addresses = stream_addresses(sources)
        self.streams = open_streams(addresses, vid_stride=vid_stride)
        self.sources = [clean_str(stream.name) for stream in self.streams]  # without passwords
        self.count = -1
        self.rounds = self._rounds()
        try:
            self.imgs = self._first_frames()
        except ValueError:
            self.close()
            raise
        self.fps = [stream.fps if stream.fps and stream.fps > 0 else 30.0 for stream in self.streams]
        self.frames = [float("inf")] * len(addresses)
        placements = {
            letterbox_placement(image.shape[:2], size_of(img_size), stride=self.stride) for image in self.imgs
        }
        self.rect = len({(each.hw, each.pad) for each in placements}) == 1
        self._is_first = True

    def _rounds(self) -> Iterator[dict[int, np.ndarray]]:
        """The new frames of each round by the index of their stream."""
        for batch in new_frames(self.streams):
            yield {index: shot.image for index, shot in batch}

    def _first_frames(self) -> list[np.ndarray]:
        """One frame of each stream; ValueError if one ends, or was tried several times, without any."""
        found: dict[int, np.ndarray] = {}
        while len(found) < len(self.streams):
            silent = [stream for i, stream in enumerate(self.streams) if i not in found]
            failed = [stream for stream in silent if stream.ended or stream.failures >= MAX_FIRST_FAILURES]
            fresh = next(self.rounds, None)
            if fresh is None or (failed and not fresh.keys() - found.keys()):
                name = (failed or silent)[0].name
                raise ValueError(f"{name}: no frame came from it; is the address right, is the camera free?")
            found |= fresh
        return [found[i] for i in range(len(self.streams))]

    def __iter__(self) -> Self:
        """Count from the first round on."""
        self.count = -1
        return self

    def __next__(self) -> StreamItem:
        """The streams, their letterboxed frames (S, 3, H, W), the frames, None and an empty text."""
        self.count += 1
        if not self._is_first:
            fresh = next(self.rounds, None)
            if fresh is None or cv2_key_pressed("q"):
                self.close()
                raise StopIteration
            self.imgs = [fresh.get(i, image) for i, image in enumerate(self.imgs)]
        self._is_first = False
        frames = list(self.imgs)
        auto = self.rect and self.auto
        made = [network_image(image, self.img_size, self.stride, auto, self.transforms) for image in frames]
        return self.sources, np.stack(made), frames, None, ""

    def __len__(self) -> int:
        """The number of streams."""
        return len(self.sources)

    def close(self) -> None:
        """End all threads."""
        close_streams(self.streams)


def stream_addresses(sources: str | Path | Sequence[str]) -> list[str]:
    """The addresses of one stream, or of those that a file names; ValueError if it names none."""
    if not isinstance(sources, str | Path):
        return [str(source) for source in sources]
    path = Path(sources)
    if is_url(str(sources)) or not path.is_file() or suffix_of(str(path)) in VIDEO_SUFFIXES:
        return [str(sources)]
    return read_source_list(path)[1]


def cv2_key_pressed(key: str) -> bool:
    """Whether this key was just pressed in a window of OpenCV's; without a display there are no windows."""
    try:
        return cv2.waitKey(1) == ord(key)
    except cv2.error:
        return False


class LoadWebcam:
    """The mirrored frames of a camera or stream, one after another; key q in a window of OpenCV's ends them."""

    mode = "webcam"

    def __init__(self, pipe: str | int = "0", img_size: Size = 640, stride: int = 32) -> None:
        self.img_size, self.stride, self.pipe = img_size, int(stride), str(pipe)
        self.cap = open_capture(self.pipe)
        self.count = -1

    def __iter__(self) -> Self:
        """Count from the first frame on."""
        self.count = -1
        return self

    def __next__(self) -> Item:
        """`webcam.jpg`, the letterboxed frame, the frame, None and the start of a console line."""
        self.count += 1
        received, image = self.cap.read()
        if received and not cv2_key_pressed("q"):
            image = cv2.flip(image, 1)
            made = network_image(image, self.img_size, self.stride, True, None)
            return "webcam.jpg", made, image, None, f"webcam {self.count}: "
        self.cap.release()
        if not received and not self.count:
            raise ValueError(f"{self.pipe}: no frame came from it; is the camera connected and free?")
        raise StopIteration

    def __len__(self) -> int:
        """0: nobody knows how many frames will come."""
        return 0


class LoadScreenshots:
    """Pictures of a screen or a part of it: `screen`, `screen 1`, `screen 1 left top width height`; it never ends."""

    mode = "stream"

    def __init__(
        self, source: str, img_size: Size = 640, stride: int = 32, auto: bool = True, transforms: Transforms = None
    ) -> None:
        if not is_screen(source):
            raise ValueError(f"{source!r}: screen, screen N or screen N left top width height")
        self.img_size, self.stride, self.auto, self.transforms = img_size, int(stride), auto, transforms
        self.source, self.frame = source, 0
        self.capture = ScreenCapture(source)

    def __iter__(self) -> Self:
        """The screen itself."""
        return self

    def __next__(self) -> Item:
        """The screen's name, the letterboxed picture, the picture, None and the start of a console line."""
        image = self.capture.picture()
        self.frame += 1
        made = network_image(image, self.img_size, self.stride, self.auto, self.transforms)
        return self.source, made, image, None, f"{self.source} {self.frame}: "
