"""What detect.py looks at: images, folders, globs, videos, cameras and streams, as batches of frames.

`open_source` chooses by what the text is. Files come one by one, decoded ahead by one thread; streams come as a batch
of those that have a new frame. A file that cannot be read is named and skipped, unless it is all there is.
"""

import base64
import glob
import queue
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

import cv2
import numpy as np

from utils.general import LOGGER, one_line
from utils.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, read_image
from utils.runs import UniqueNames, safe_name
from utils.streams import (
    TIMEOUT_S,
    check_url,
    close_streams,
    is_recording,
    is_url,
    new_frames,
    open_capture,
    open_streams,
    suffix_of,
    without_credentials,
)

MAX_IMAGE_BYTES = 64 << 20
STREAM_LIST_SUFFIX = ".txt"
READABLE = IMAGE_SUFFIXES | VIDEO_SUFFIXES
T = TypeVar("T")


class Frame(NamedTuple):
    """One picture of a source.

    image: (h, w, 3) uint8 BGR, not to be drawn upon. name: path or address, without credentials. prefix: the start of
    its console line. stem: of its output files, unique within the source. suffix: of the image file, `.mp4` for videos
    and streams. number: of the frame in a video or stream, from 1; 0 for an image. skipped: frames of a stream that
    were dropped before this one. fps: None for an image or where unknown.
    """

    image: np.ndarray
    name: str
    prefix: str
    stem: str
    suffix: str
    number: int = 0
    skipped: int = 0
    fps: float | None = None

    @property
    def is_still(self) -> bool:
        """Whether it is an image, not a part of a video or stream."""
        return self.number == 0


class FileSource:
    """The frames of images and videos, each in a list of one; `skipped` counts files that could not be read."""

    is_live = False

    def __init__(self, files: Sequence[str]) -> None:
        self.files = files
        self.skipped = 0
        self._ahead: Prefetcher[Frame] | None = None

    def __iter__(self) -> Iterator[list[Frame]]:
        """Lists of one frame; ValueError where no file at all can be read."""
        self._ahead = Prefetcher(self._frames())
        return ([frame] for frame in self._ahead)

    def close(self) -> None:
        """Ends the reading thread."""
        if self._ahead is not None:
            self._ahead.close()

    def _frames(self) -> Iterator[Frame]:
        """All frames in order; runs in the reading thread."""
        names = UniqueNames()
        last_error: Exception | None = None
        for i, file in enumerate(self.files, 1):
            reader = read_video if suffix_of(file) in VIDEO_SUFFIXES else read_still
            stem = names.claim(safe_name(stem_of(file)))
            try:
                yield from reader(file, f"{i}/{len(self.files)}", stem)
            except (ValueError, OSError) as error:
                self.skipped += 1
                last_error = error
                if len(self.files) > 1:
                    LOGGER.warning(f"skipped: {one_line(error)}")
        if self.skipped == len(self.files) and last_error is not None:
            if self.skipped == 1:
                raise ValueError(one_line(last_error)) from last_error
            raise ValueError(f"none of the {self.skipped} files could be read; the last: {one_line(last_error)}")


class LiveSource:
    """The newest frames of cameras and streams, a list for each round; ValueError where none ever sends one."""

    is_live = True
    skipped = 0

    def __init__(self, addresses: Sequence[str]) -> None:
        self.streams = open_streams(addresses)
        names = UniqueNames()
        self.stems = [names.claim(stream.stem) for stream in self.streams]

    def __iter__(self) -> Iterator[list[Frame]]:
        """Lists of one frame per stream that has a new one."""
        for batch in new_frames(self.streams):
            frames = []
            for i, shot in batch:
                name, fps = self.streams[i].name, self.streams[i].fps
                frames.append(Frame(shot.image, name, f"{i}: ", self.stems[i], ".mp4", shot.number, shot.skipped, fps))
            yield frames

    def close(self) -> None:
        """Ends all streams."""
        close_streams(self.streams)


def open_source(source: str) -> FileSource | LiveSource:
    """The frames that `source` stands for: a file, folder, glob, camera number, URL, or a .txt of streams.

    FileNotFoundError or ValueError says what is wrong with it.
    """
    source = source.strip()
    if not source:
        raise ValueError("--source is empty: name a file, folder, glob, camera number, URL or .txt of streams")
    if source.isdecimal():
        return LiveSource([source])
    if is_url(source):
        check_url(source)
        is_file = urlsplit(source).scheme.lower() in {"http", "https"} and suffix_of(source) in READABLE
        return FileSource([source]) if is_file else LiveSource([source])
    path = Path(source).expanduser()
    if path.suffix.lower() == STREAM_LIST_SUFFIX and path.is_file():
        return LiveSource(read_stream_list(path))
    return FileSource(find_media(path))


def find_media(path: Path) -> list[str]:
    """The images, then the videos, of a file, a folder (not what is below it) or a glob with `*`, `?` and `**`."""
    known = " ".join(sorted(suffix[1:] for suffix in READABLE))
    if path.is_file():
        if path.suffix.lower() not in READABLE:
            raise ValueError(f"--source {path}: neither an image nor a video by its suffix; known: {known}")
        return [str(path)]
    if path.is_dir():
        candidates = {str(file) for file in path.iterdir() if not file.name.startswith(".")}
    elif glob.has_magic(str(path)):
        candidates = set(glob.glob(str(path), recursive=True))
    else:
        raise FileNotFoundError(f"--source {path}: no such file or folder")
    files = sorted(file for file in candidates if suffix_of(file) in READABLE and not Path(file).is_dir())
    if not files:
        below = glob.iglob(f"{glob.escape(str(path))}/**", recursive=True) if path.is_dir() else ()
        deeper = next((file for file in below if suffix_of(file) in READABLE and not Path(file).is_dir()), None)
        if deeper is not None:
            glob_text = Path(glob.escape(str(path))) / "**" / f"*{Path(deeper).suffix}"
            raise FileNotFoundError(
                f'--source {path}: only its subfolders hold images or videos, e.g. {deeper}; name "{glob_text}"'
            )
        raise FileNotFoundError(f"--source {path}: no image or video there; known suffixes are {known}")
    return sorted(files, key=lambda file: suffix_of(file) in VIDEO_SUFFIXES)


def read_stream_list(path: Path) -> list[str]:
    """The camera numbers, URLs and video files that a text file names, one a line; `#` begins a remark."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    streams = [line for line in lines if line and not line.startswith("#")]
    if not streams:
        raise ValueError(f"{path}: names no stream; one camera number, URL or video file a line")
    for stream in streams:
        if not (stream.isdecimal() or is_url(stream) or (is_recording(stream) and Path(stream).is_file())):
            raise ValueError(f"{path}: {stream!r} is neither a camera number nor a URL nor a video file")
    return streams


def stem_of(file: str) -> str:
    """The file name of a path or URL without its suffix."""
    return PurePosixPath(unquote(urlsplit(file).path)).stem if is_url(file) else Path(file).stem


def read_still(file: str, position: str, stem: str) -> Iterator[Frame]:
    """The one frame of an image file or URL."""
    name = without_credentials(file)
    image = fetch_image(file) if is_url(file) else read_image(file)
    suffix = suffix_of(file) if is_url(file) else Path(file).suffix
    yield Frame(image, name, f"image {position} {name}: ", stem, suffix)


def read_video(file: str, position: str, stem: str) -> Iterator[Frame]:
    """The frames of a video file or URL; ValueError where there is not one, a warning where they end too early."""
    name = without_credentials(file)
    capture = open_capture(file)
    try:
        if not capture.isOpened():
            raise ValueError(f"{name}: not a readable video")
        count, fps = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
        total = str(count) if count > 0 else "?"
        number = 0
        while True:
            received, image = capture.read()
            if not received or image is None:
                break
            number += 1
            yield Frame(image, name, f"video {position} ({number}/{total}) {name}: ", stem, ".mp4", number, 0, fps)
    finally:
        capture.release()
    if not number:
        raise ValueError(f"{name}: a video without a readable frame")
    if number < 0.95 * count - 2:  # headers are often wrong by a few
        LOGGER.warning(f"{name}: {number} frames could be read of the {count} it promises; the file may be damaged")


def fetch_image(url: str) -> np.ndarray:
    """The (h, w, 3) uint8 BGR image at an http(s) address, at most MAX_IMAGE_BYTES; ValueError where there is none."""
    name = without_credentials(url)
    try:
        with urllib.request.urlopen(image_request(url), timeout=TIMEOUT_S) as answer:
            data = answer.read(MAX_IMAGE_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise ValueError(f"{name}: {error}") from None
    except (OSError, HTTPException) as error:
        raise ValueError(f"{name}: {getattr(error, 'reason', error)}") from None
    if len(data) > MAX_IMAGE_BYTES:
        raise ValueError(f"{name}: larger than {MAX_IMAGE_BYTES >> 20} MiB")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"image{suffix_of(url)}"
        path.write_bytes(data)
        try:
            return read_image(path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), name)) from None


def image_request(url: str) -> urllib.request.Request:
    """The request for a URL; its user and password go into a header, which a redirection to elsewhere does not get."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)), headers={"User-Agent": "yolov5-nam"})
    if user:
        token = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


class End(NamedTuple):
    """What a Prefetcher's thread puts last: the error that ended it, if it was one."""

    error: Exception | None = None


class Prefetcher(Iterator[T]):
    """An iterator run by a thread, up to `depth` items ahead; its exceptions come out where the items do."""

    def __init__(self, items: Iterable[T], depth: int = 2) -> None:
        self._queue: queue.Queue[T | End] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(items,), name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        """The next item; waits for it."""
        if self._stop.is_set():
            raise StopIteration
        item = self._queue.get()
        if not isinstance(item, End):
            return item
        self.close()
        raise item.error or StopIteration

    def close(self) -> None:
        """Ends the thread after the item it works on; what is left is dropped."""
        self._stop.set()
        self._thread.join()

    def _run(self, items: Iterable[T]) -> None:
        """Puts the items into the queue; runs in the thread."""
        end = End()
        try:
            for item in items:
                if not self._put(item):
                    return
        except Exception as error:  # raised again by __next__
            end = End(error)
        self._put(end)

    def _put(self, item: T | End) -> bool:
        """Whether there was room before the end was asked for."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.05)
            except queue.Full:
                continue
            return True
        return False
