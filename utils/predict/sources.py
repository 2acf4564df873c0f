"""What detect.py looks at: images, folders, globs, lists, videos, cameras, streams and the screen, as frames.

`open_source` chooses by what the text is. Files are decoded ahead by one thread, in their order; of streams come those
that have a new frame. A file that cannot be read is named and skipped, unless it is all there is. Of several processes
each reads a part of the files or streams, under the names that they have for one.
"""

import base64
import glob
import itertools
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import quote, unquote, urlunsplit

import cv2
import numpy as np

from utils.dist import SINGLE, DistEnv
from utils.files.addresses import is_url, split_url, without_credentials
from utils.files.images import VIDEO_SUFFIXES, decode_image, read_image
from utils.files.names import UniqueNames, safe_name
from utils.files.reading import open_plain
from utils.general import LOGGER, one_line
from utils.predict.screen import ScreenCapture, check_screen, is_screen
from utils.predict.source_lists import (
    MOST_MISSING,
    READABLE,
    check_file_name,
    is_media_url,
    read_source_list,
    standard_input,
)
from utils.predict.streams import (
    TIMEOUT_S,
    Capture,
    NoFrameError,
    check_url,
    close_streams,
    new_frames,
    open_capture,
    open_streams,
    path_of,
    stem_of_stream,
    suffix_of,
)
from utils.predict.threads import Prefetcher

MAX_IMAGE_BYTES = 64 << 20
ASCII = "%/:;,@!$&'()*+=~?[]"  # what stays as it is where other characters of an address are percent-encoded
LIST_SUFFIX = ".txt"
STANDARD_INPUT = "-"


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


class Reading(NamedTuple):
    """How to read: every how many-th frame of videos and streams, how many frames at a time, and for which process."""

    vid_stride: int = 1
    window: int = 1
    ranks: DistEnv = SINGLE


DEFAULT_READING = Reading()


class FileSource:
    """The frames of images and videos in lists of `window` (the last has fewer); `skipped` counts unreadable files.

    files: all there are, of all processes, or a generator of names. is_list: somebody named each of them, so that one
    that is missing is an error at the end.
    """

    is_live = False
    saves_pictures = True

    def __init__(self, files: Iterable[str], reading: Reading = DEFAULT_READING, is_list: bool = False) -> None:
        self.files = files
        self.total = len(files) if isinstance(files, Sequence) else None
        self.reading = reading
        self.is_list = is_list
        self.tried = self.skipped = 0
        self.last_error: Exception | None = None
        self._ahead: Prefetcher[Frame] | None = None

    def __iter__(self) -> Iterator[list[Frame]]:
        """Lists of frames; ValueError where no file at all can be read."""
        self._ahead = Prefetcher(self._frames(), max(self.reading.window, 2))
        while window := [*itertools.islice(self._ahead, self.reading.window)]:
            yield window
        if self.reading.ranks.size == 1:
            check_any_was_read(self.tried, self.skipped, self.last_error and one_line(self.last_error))

    def close(self) -> None:
        """Ends the reading thread."""
        if self._ahead is not None:
            self._ahead.close()

    def summary(self) -> list[str]:
        """Nothing to say beyond `skipped`."""
        return []

    def _frames(self) -> Iterator[Frame]:
        """All frames of this process in order; runs in the reading thread."""
        names = UniqueNames()
        total = "?" if self.total is None else self.total
        share = None if self.total is None else self.reading.ranks.share(self.total)
        for i, file in enumerate(self.files):
            stem = names.claim(safe_name(stem_of(file)))
            if share is not None and i not in share:
                continue
            self.tried += 1
            try:
                if self.is_list:
                    check_file_name(file)
                if suffix_of(file) in VIDEO_SUFFIXES:
                    yield from read_video(file, f"{i + 1}/{total}", stem, self.reading.vid_stride)
                else:
                    yield from read_still(file, f"{i + 1}/{total}", stem)
            except (ValueError, OSError) as error:
                self.skipped += 1
                self.last_error = error
                if self.skipped > MOST_MISSING:
                    raise ValueError(
                        f"more than {MOST_MISSING} files cannot be read; the last: {one_line(error)}"
                    ) from None
                if self.total != 1:
                    LOGGER.warning(f"skipped: {one_line(error)}")


class LiveSource:
    """The newest frames of cameras, streams or a screen, a list for each round.

    ValueError where none ever sends a frame; of several processes this one then only says so, others may have some.
    """

    is_live = True
    is_list = False
    tried = skipped = 0
    last_error = None

    def __init__(
        self, addresses: Sequence[str], reading: Reading = DEFAULT_READING, saves_pictures: bool = True
    ) -> None:
        self.saves_pictures = saves_pictures
        self.numbers = reading.ranks.share(len(addresses))
        self.is_alone = reading.ranks.size == 1
        own = addresses[self.numbers.start : self.numbers.stop]
        self.streams = open_streams(own, open_live, reading.vid_stride)
        names = UniqueNames()
        stems = [names.claim(stem_of_stream(address)) for address in addresses]
        self.stems = stems[self.numbers.start : self.numbers.stop]

    def __iter__(self) -> Iterator[list[Frame]]:
        """Lists of one frame per stream that has a new one."""
        if not self.streams:
            return
        try:
            for batch in new_frames(self.streams):
                frames = []
                for i, shot in batch:
                    name, fps = self.streams[i].name, self.streams[i].fps
                    prefix, stem = f"{self.numbers[i]}: ", self.stems[i]
                    frames.append(Frame(shot.image, name, prefix, stem, ".mp4", shot.number, shot.skipped, fps))
                yield frames
        except NoFrameError as error:
            if self.is_alone:
                raise
            LOGGER.warning(str(error))

    def close(self) -> None:
        """Ends all streams."""
        close_streams(self.streams)

    def summary(self) -> list[str]:
        """A line for each stream: frames taken and dropped, connections lost."""
        return [f"{number}: {stream.summary()}" for number, stream in zip(self.numbers, self.streams, strict=True)]


def check_any_was_read(tried: int, skipped: int, last_error: str | None) -> None:
    """ValueError where there were files and none could be read."""
    if skipped == tried and last_error is not None:
        raise ValueError(
            last_error if skipped == 1 else f"none of the {skipped} files could be read; the last: {last_error}"
        )


def open_live(address: str) -> Capture:
    """The reader for a camera, stream or screen."""
    return ScreenCapture(address) if is_screen(address) else open_capture(address)


def open_source(source: str, reading: Reading = DEFAULT_READING) -> FileSource | LiveSource:
    """The frames that `source` stands for: a file, folder, glob, camera number, URL, `screen`, a .txt, or `-`.

    FileNotFoundError or ValueError says what is wrong with it. All processes must call it, in the same order.
    """
    source = source.strip()
    if not source:
        raise ValueError("--source is empty: name a file, folder, glob, camera number, URL, screen, .txt or -")
    if source == STANDARD_INPUT:
        return FileSource(named_on_standard_input(reading), reading, is_list=True)
    path = Path(source).expanduser()
    if is_screen(source) and not path.exists():
        check_screen(source)
        return LiveSource([source], reading)
    if source.isdecimal():
        return LiveSource([source], reading)
    if is_url(source):
        check_url(source)
        return FileSource([source], reading) if is_media_url(source) else LiveSource([source], reading)
    if path.suffix.lower() == LIST_SUFFIX and path.is_file():
        has_streams, listed = read_source_list(path)
        return LiveSource(listed, reading, False) if has_streams else FileSource(listed, reading, is_list=True)
    return FileSource(find_media(path), reading)


def named_on_standard_input(reading: Reading) -> Iterable[str]:
    """The names as they come; where several processes share them, all that rank 0 gets. ValueError without any."""
    if reading.ranks.is_main and sys.stdin is not None and sys.stdin.isatty():
        LOGGER.info("--source -: type the names of images and videos, one a line; Ctrl-D ends the list")
    if reading.ranks.size > 1:
        listed = reading.ranks.broadcast([*standard_input()] if reading.ranks.is_main else None)
        assert isinstance(listed, list)
        names: Iterator[str] = iter(listed)
    else:
        names = standard_input()
    first = next(names, None)
    if first is None:
        raise ValueError("--source -: standard input names no file; one image or video a line is wanted")
    return [first, *names] if reading.ranks.size > 1 else itertools.chain([first], names)


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


def stem_of(file: str) -> str:
    """The file name of a path or URL without its suffix."""
    return PurePosixPath(unquote(path_of(file))).stem if is_url(file) else Path(file).stem


def read_still(file: str, position: str, stem: str) -> Iterator[Frame]:
    """The one frame of an image file or URL."""
    name = without_credentials(file)
    image = fetch_image(file) if is_url(file) else read_image(file)
    suffix = suffix_of(file) if is_url(file) else Path(file).suffix
    yield Frame(image, name, f"image {position} {name}: ", stem, suffix)


def read_video(file: str, position: str, stem: str, vid_stride: int = 1) -> Iterator[Frame]:
    """The first and each vid_stride-th frame after it of a video file or URL, under their own numbers in the video.

    Their rate is that of the video divided by vid_stride. ValueError where there is no frame, a warning where they end
    too early.
    """
    name = without_credentials(file)
    if not is_url(file):
        open_plain(file).close()  # FFmpeg would wait at a pipe for ever
    capture = open_capture(file)
    try:
        if not capture.isOpened():
            raise ValueError(f"{name}: not a readable video")
        count, fps = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
        total = str(count) if count > 0 else "?"
        number = 0
        while capture.grab():
            if number % vid_stride == 0:
                received, image = capture.retrieve()
                if not received or image is None:
                    break
                prefix = f"video {position} ({number + 1}/{total}) {name}: "
                yield Frame(image, name, prefix, stem, ".mp4", number + 1, 0, fps / vid_stride)
            number += 1
    finally:
        capture.release()
    if not number:
        raise ValueError(f"{name}: a video without a readable frame")
    if number < 0.95 * count - 2:  # headers are often wrong by a few
        LOGGER.warning(f"{name}: {number} frames could be read of the {count} it promises; the file may be damaged")


class NoRedirection(urllib.request.HTTPRedirectHandler):
    """Answers that send elsewhere are errors."""

    def redirect_request(self, *_: object) -> None:
        """None: nothing is asked for."""


def fetch_bytes(url: str, most: int, follow: bool = True) -> bytes:
    """What lies at an http(s) address, `most` bytes of it at most; ValueError where there is nothing, or more.

    follow: whether an answer may send elsewhere.
    """
    name = without_credentials(url)
    opened = urllib.request.urlopen if follow else urllib.request.build_opener(NoRedirection).open
    try:
        with opened(image_request(url), timeout=TIMEOUT_S) as answer:
            data = answer.read(most + 1)
    except urllib.error.HTTPError as error:
        raise ValueError(f"{name}: {error}") from None
    except (OSError, HTTPException) as error:
        raise ValueError(f"{name}: {getattr(error, 'reason', error)}") from None
    if len(data) > most:
        raise ValueError(f"{name}: larger than {most >> 20} MiB")
    return data


def fetch_image(url: str) -> np.ndarray:
    """The (h, w, 3) uint8 BGR image at an http(s) address, at most MAX_IMAGE_BYTES; ValueError where there is none."""
    return decode_image(fetch_bytes(url, MAX_IMAGE_BYTES), without_credentials(url))


def image_request(url: str) -> urllib.request.Request:
    """The request for a URL; its user and password go into a header, which a redirection to elsewhere does not get."""
    parts = split_url(url)
    user, _, host = parts.netloc.rpartition("@")
    plain = parts._replace(
        netloc=host.encode("idna").decode(), path=quote(parts.path, ASCII), query=quote(parts.query, ASCII), fragment=""
    )
    request = urllib.request.Request(urlunsplit(plain), headers={"User-Agent": "yolov5-nam"})
    if user:
        token = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request
