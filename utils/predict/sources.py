"""What detect.py looks at: images, folders, globs, lists, videos, cameras, streams and the screen, as frames.

`open_source` chooses by what the text is. Files are decoded ahead by one thread, in their order; of streams come those
that have a new frame. A file that cannot be read is named and skipped, unless it is all there is. Of several processes
each reads a part of the files or streams, under the names that they have for one.
"""

import glob
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from utils.dist import SINGLE, DistEnv
from utils.files.addresses import is_url, without_credentials
from utils.files.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, read_image
from utils.files.output_names import (
    SEPARATOR,
    VIDEO_OUT,
    InputName,
    NamesAsTheyCome,
    OutputName,
    distinct_names,
    output_names,
)
from utils.files.reading import open_plain
from utils.general import LOGGER, one_line, plural
from utils.predict.recordings import MAX_NOMINAL_FPS, Recording, measured_rate
from utils.predict.remote import RemoteKind, fetch_image, is_http, remote_kind
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
    Capture,
    NoFrameError,
    check_url,
    close_streams,
    new_frames,
    open_capture,
    open_streams,
    stem_of_stream,
    suffix_of,
)
from utils.predict.threads import Prefetcher
from utils.predict.video import DEFAULT_FPS

LIST_SUFFIX = ".txt"
STANDARD_INPUT = "-"


class Frame(NamedTuple):
    """One picture of a source.

    image: (h, w, 3) uint8 BGR, not to be drawn upon. name: path or address, without credentials. prefix: the start of
    its console line. stem: of its output files, unique within the source. suffix: of the image file, `.mp4` for videos
    and streams. number: of the frame in a video or stream, from 1; 0 for an image. skipped: frames of a stream that
    were dropped before this one. fps: None for an image or where unknown. picture: stem of the annotated image or
    video, None for that of the other files. separator: between the stem and the number of a crop. seconds: since the
    start of a video file; None for an image or stream.
    """

    image: np.ndarray
    name: str
    prefix: str
    stem: str
    suffix: str
    number: int = 0
    skipped: int = 0
    fps: float | None = None
    picture: str | None = None
    separator: str = SEPARATOR
    seconds: float | None = None

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
    that is missing is an error at the end. kinds: of addresses without a suffix, as far as they have been asked.
    """

    is_live = False
    saves_pictures = True

    def __init__(
        self,
        files: Iterable[str],
        reading: Reading = DEFAULT_READING,
        is_list: bool = False,
        kinds: Mapping[str, RemoteKind] | None = None,
    ) -> None:
        self.files = files
        self.total = len(files) if isinstance(files, Sequence) else None
        self.reading = reading
        self.is_list = is_list
        self.kinds = kinds or {}
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
        total = "?" if self.total is None else self.total
        share = None if self.total is None else self.reading.ranks.share(self.total)
        for i, (file, names) in enumerate(self._named()):
            if share is not None and i not in share:
                continue
            self.tried += 1
            try:
                if self.is_list:
                    check_file_name(file)
                if self._is_video(file):
                    yield from read_video(file, f"{i + 1}/{total}", names, self.reading.vid_stride)
                else:
                    yield from read_still(file, f"{i + 1}/{total}", names)
            except (ValueError, OSError) as error:
                self.skipped += 1
                self.last_error = error
                if self.skipped > MOST_MISSING:
                    raise ValueError(
                        f"more than {MOST_MISSING} files cannot be read; the last: {one_line(error)}"
                    ) from None
                if self.total != 1:
                    LOGGER.warning(f"skipped: {one_line(error)}")

    def _named(self) -> Iterator[tuple[str, OutputName]]:
        """The files and what their results are called, planned for all of them where they are known beforehand."""
        if not isinstance(self.files, Sequence):
            names = NamesAsTheyCome()
            for file in self.files:
                yield file, names.next(file)
            return
        planned = output_names(self.files)
        renamed = [name for file, name in zip(self.files, planned, strict=True) if name.stem != stem_of(file)]
        if renamed and self.reading.ranks.is_main:
            LOGGER.info(
                f"{plural(len(renamed), 'file')} cannot give the results the plain name, which others have too: "
                f"suffix, folder or number tell them apart, as {renamed[0].stem}"
            )
        yield from zip(self.files, planned, strict=True)

    def _is_video(self, file: str) -> bool:
        """Whether it is a video: its suffix says so, or what an address without one sends. ValueError for a stream."""
        suffix = suffix_of(file)
        if suffix in VIDEO_SUFFIXES or suffix in IMAGE_SUFFIXES or not is_http(file):
            return suffix in VIDEO_SUFFIXES
        kind = self.kinds.get(file) or remote_kind(file)
        if kind == "live":
            raise ValueError(f"{without_credentials(file)}: a stream in a list of files; name it with --source")
        return kind == "video"


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
        stems = distinct_names(map(stem_of_stream, addresses))
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


def open_source(source: str | Sequence[str], reading: Reading = DEFAULT_READING) -> FileSource | LiveSource:
    """The frames that `source` stands for: a file, folder, glob, camera number, URL, `screen`, a .txt, or `-`.

    Of a list each is a file, folder, glob or the URL of a file, or each a camera or stream. FileNotFoundError or
    ValueError says what is wrong with it. All processes must call it, in the same order.
    """
    if not isinstance(source, str):
        return open_several([item.strip() for item in source], reading)
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
        if is_media_url(source):
            return FileSource([source], reading)
        kind = remote_kind(source) if is_http(source) else "live"
        return LiveSource([source], reading) if kind == "live" else FileSource([source], reading, kinds={source: kind})
    if path.suffix.lower() == LIST_SUFFIX and path.is_file():
        has_streams, listed = read_source_list(path)
        return LiveSource(listed, reading, False) if has_streams else FileSource(listed, reading, is_list=True)
    return FileSource(find_media(path), reading)


def open_several(sources: Sequence[str], reading: Reading) -> FileSource | LiveSource:
    """The frames of several sources: of files one after another, or of cameras and streams side by side."""
    if not sources:
        raise ValueError("--source is an empty list: name at least one file, folder, glob, camera number or URL")
    live = [item for item in sources if is_live_source(item)]
    if live and len(live) < len(sources):
        raise ValueError(
            f"--source: {without_credentials(live[0])} is a stream, others of the list are files; make two lists"
        )
    if live:
        return LiveSource(sources, reading)
    found = [[item] if is_url(item) else find_media(Path(item).expanduser()) for item in sources]
    return FileSource([*itertools.chain.from_iterable(found)], reading, is_list=True)


def is_live_source(source: str) -> bool:
    """Whether one of several sources is a camera, stream or screen. ValueError for an address that is not read."""
    if is_url(source):
        check_url(source)
        return not is_http(source) or (not is_media_url(source) and remote_kind(source) == "live")
    return source.isdecimal() or (is_screen(source) and not Path(source).exists())


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
        candidates = expand(path)
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


def expand(path: Path) -> set[str]:
    """The files of a glob. Folders that exist stand for themselves, as `[set] 1`, whatever characters they have.

    Brackets that match nothing as a glob are taken as they stand, too.
    """
    literal, pattern = Path(), Path()
    for part in path.parts:
        literal /= part
        pattern /= glob.escape(part) if literal.exists() else part
    for text in (str(pattern), str(path), str(path).replace("[", "[[]")):
        found = glob.glob(text, recursive=True)
        if found:
            return set(found)
    return set()


def stem_of(file: str) -> str:
    """The plain stem of a path or URL, as v6.1 calls results."""
    return InputName.parse(file).stem


def read_still(file: str, position: str, names: OutputName) -> Iterator[Frame]:
    """The one frame of an image file or URL."""
    name = without_credentials(file)
    image = fetch_image(file) if is_url(file) else read_image(file)
    suffix = (suffix_of(file) or ".jpg") if is_url(file) else Path(file).suffix
    prefix = f"image {position} {name}: "
    yield Frame(image, name, prefix, names.stem, suffix, picture=names.picture, separator=names.separator)


def read_video(file: str, position: str, names: OutputName, vid_stride: int = 1) -> Iterator[Frame]:
    """The first and each vid_stride-th frame after it of a video file or URL, under their own numbers in the video.

    Their rate is that of the video divided by vid_stride. Frames that cannot be read are passed over and told at the
    end. ValueError where there is no frame, a warning where they end too early.
    """
    name = without_credentials(file)
    if not is_url(file):
        open_plain(file).close()  # FFmpeg would wait at a pipe for ever
    capture = open_capture(file)
    try:
        if not capture.isOpened():
            raise ValueError(f"{name}: not a readable video")
        recording = Recording(capture, rate_of(file, capture.get(cv2.CAP_PROP_FPS)))
        total = recording.total or "?"
        wanted = 1
        while recording.grab():
            if recording.number < wanted:
                continue
            image = recording.image()
            if image is None:
                continue
            yield Frame(
                image,
                name,
                f"video {position} ({recording.number}/{total}) {name}: ",
                names.stem,
                VIDEO_OUT,
                recording.number,
                fps=recording.fps / vid_stride,
                picture=names.picture,
                separator=names.separator,
                seconds=recording.seconds,
            )
            wanted += (recording.number - wanted) // vid_stride * vid_stride + vid_stride
    finally:
        capture.release()
    if not recording.readable:
        raise ValueError(f"{name}: a video without a readable frame")
    if recording.unreadable:
        LOGGER.warning(
            f"{name}: {plural(recording.unreadable, 'frame')} of {recording.number} could not be read and "
            "are left out; the file may be damaged"
        )
    if recording.is_cut_off:
        LOGGER.warning(
            f"{name}: {recording.number} frames could be read of the {total} it promises; the file may be damaged"
        )


def rate_of(file: str, nominal: float) -> float:
    """The rate of a video: the one that its header says unless the times of its first frames say another."""
    if is_url(file) and 0 < nominal <= MAX_NOMINAL_FPS:  # it is not fetched twice
        return nominal
    capture = open_capture(file)
    try:
        rate = measured_rate(capture, nominal)
    finally:
        capture.release()
    return rate if rate > 0 else float(DEFAULT_FPS)
