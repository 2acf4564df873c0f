"""Live video: one thread per stream keeps its newest frame, reconnects when it breaks off, and never stops another.

A frame that was not received is never replaced by a black one: a stream without a new frame is left out of the batch.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from utils.files.addresses import QUERY, URL, is_url, split_url, without_credentials
from utils.files.images import VIDEO_SUFFIXES
from utils.files.names import safe_name
from utils.general import LOGGER, one_line, plural
from utils.predict.opencv import silence
from utils.predict.recordings import RecordingEnd
from utils.predict.remote import TIMEOUT_S, is_http, remote_kind

STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https")
POLL_S = 0.002
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
MAX_FAILURES = 8  # in a row, with a minute of pauses between them: then a stream is given up
MAX_FIRST_FAILURES = 2  # of each stream, where none has ever sent a frame: then all are given up


class Capture(Protocol):
    """What this module uses of cv2.VideoCapture."""

    def isOpened(self) -> bool:
        """Whether frames may be read."""

    def read(self) -> tuple[bool, np.ndarray | None]:
        """Whether there was a frame, and the frame."""

    def get(self, prop: int) -> float:
        """A property of the video."""

    def release(self) -> None:
        """Closes it."""


class NoFrameError(ValueError):
    """No stream has ever sent a frame."""


class Snapshot(NamedTuple):
    """The newest frame of a stream, (h, w, 3) uint8 BGR, its number from 1, and how many were dropped before it."""

    image: np.ndarray
    number: int
    skipped: int


def path_of(url: str) -> str:
    """The path of a URL, even of one that is none: `/a/b.mp4`, without its query."""
    _, slash, path = without_credentials(url).removesuffix(QUERY).partition("://")[2].partition("/")
    return slash + path


def suffix_of(address: str) -> str:
    """The lower-case suffix of a file or of what a URL names, without its query: `.mp4`, or empty."""
    return PurePosixPath(path_of(address) if is_url(address) else address).suffix.lower()


def is_recording(address: str) -> bool:
    """Whether the address is that of a video file, on a disk or a web server: one that ends."""
    scheme = URL.match(address)
    is_file = scheme is None or scheme[1].lower() in {"file", "http", "https"}
    return is_file and suffix_of(address) in VIDEO_SUFFIXES


def check_url(url: str) -> None:
    """ValueError where the scheme is none that is read, or the page is a player and not a video."""
    shown = without_credentials(url)
    scheme = shown.partition("://")[0]
    if scheme not in STREAM_SCHEMES:
        raise ValueError(f"{shown}: cannot read {scheme}://, only {', '.join(STREAM_SCHEMES)}")
    if (split_url(url).hostname or "").removeprefix("www.") in {"youtube.com", "m.youtube.com", "youtu.be"}:
        raise ValueError(f"{shown}: a page, not a video; fetch the video, for instance with yt-dlp, and name its file")


def open_capture(address: str) -> cv2.VideoCapture:
    """OpenCV's reader for a camera number, a URL or a file; it may turn out not to be opened."""
    silence()
    if address.isdecimal():
        return cv2.VideoCapture(int(address))
    if not cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
        return cv2.VideoCapture(address)
    timeout = int(TIMEOUT_S * 1000)
    limits = (
        [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout] if is_url(address) else []
    )
    # FFmpeg by name: OpenCV's other readers would repeat the address, password included, in their warnings.
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)


class Stream:
    """One stream and the thread that reads it: `newest` gives what came last."""

    def __init__(
        self,
        address: str,
        opener: Callable[[str], Capture] = open_capture,
        pause_s: float = FIRST_PAUSE_S,
        vid_stride: int = 1,
    ) -> None:
        self.address = address
        self.name = without_credentials(address)
        self.vid_stride = vid_stride
        self.taken = self.dropped = self.lost = 0  # frames given and left out, connections that broke off
        self.fps: float | None = None
        self.failures = 0  # attempts without a frame since the last frame
        # A recording ends; everything else is expected to go on, and is called again if it does not.
        self.is_recording = is_recording(address)
        self._opener = opener
        self._pause_s = pause_s
        self._latest: tuple[np.ndarray, int] | None = None
        self._given = 1 - vid_stride
        self._lock = threading.Lock()
        self._stop = threading.Event()
        # A daemon, because a read inside FFmpeg may outlast the program's last line by TIMEOUT_S.
        self._thread = threading.Thread(target=self._run, name=f"stream {self.name}", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether no frame will come any more."""
        return not self._thread.is_alive()

    def newest(self) -> Snapshot | None:
        """The last frame received, if it was not given before."""
        with self._lock:
            latest, self._latest = self._latest, None
        if latest is None:
            return None
        image, number = latest
        skipped, self._given = (number - self._given) // self.vid_stride - 1, number
        self.taken += 1
        self.dropped += skipped
        return Snapshot(image, number, skipped)

    def summary(self) -> str:
        """`rtsp://host/path: 90 frames taken, 10 dropped, 1 connection lost`."""
        lost = f", {plural(self.lost, 'connection')} lost" if self.lost else ""
        return f"{self.name}: {plural(self.taken, 'frame')} taken, {self.dropped} dropped{lost}"

    def close(self) -> None:
        """Asks the thread to end and waits for it as long as one read may take."""
        self.stop()
        self._thread.join(TIMEOUT_S)

    def stop(self) -> None:
        """Asks the thread to end."""
        self._stop.set()

    def _run(self) -> None:
        """Connects, reads until the connection breaks, pauses, and again; gives up after MAX_FAILURES."""
        number = 0
        if is_http(self.address) and suffix_of(self.address) not in VIDEO_SUFFIXES:
            try:
                self.is_recording = remote_kind(self.address) != "live"
            except ValueError as error:
                LOGGER.warning(one_line(error))
                self.failures = MAX_FIRST_FAILURES
                return
        while not self._stop.is_set():
            before = number
            try:
                number = self._read_connection(number)
            except (cv2.error, ValueError) as error:
                LOGGER.warning(f"{self.name}: {one_line(error)}".replace(self.address, self.name))
            if self._stop.is_set() or (self.is_recording and number > before):
                return
            self.failures = 1 if number > before else self.failures + 1
            if self.failures >= MAX_FAILURES:
                LOGGER.warning(f"{self.name}: given up after {self.failures} attempts without a frame")
                return
            pause = min(self._pause_s * 2 ** (self.failures - 1), LONGEST_PAUSE_S)
            self.lost += number > before
            state = "connection lost" if number > before else "no frame"
            LOGGER.warning(f"{self.name}: {state}, trying again in {pause:.3g} s")
            self._stop.wait(pause)

    def _read_connection(self, number: int) -> int:
        """Reads one connection to its end, counting on from `number`; the number of the last frame."""
        capture = self._opener(self.address)
        try:
            if not capture.isOpened():
                return number
            fps = capture.get(cv2.CAP_PROP_FPS)
            self.fps = fps / self.vid_stride
            # A recording comes as fast as it is read: its own clock says when each frame is due.
            period = 1 / fps if self.is_recording and fps > 0 else 0.0
            end = RecordingEnd(capture) if self.is_recording else None
            began, wait, last = time.monotonic(), period, 0.0
            while not self._stop.wait(max(wait, 0.0)):
                received, image = capture.read()
                if not received or image is None:
                    if end is None or end.is_reached(number):
                        break
                    wait = 0.0
                    continue
                number += 1
                if end is not None:
                    number += end.recovered()
                if (number - 1) % self.vid_stride == 0:
                    with self._lock:
                        self._latest = (image, number)
                if end is not None:
                    stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                    wait = began + stamp + period - time.monotonic() if stamp > last else period
                    last = max(stamp, last)
            return number
        finally:
            capture.release()


def stem_of_stream(address: str) -> str:
    """The name of a stream's files, without credentials."""
    return safe_name(without_credentials(address).split("://")[-1])


def open_streams(
    addresses: Sequence[str], opener: Callable[[str], Capture] = open_capture, vid_stride: int = 1
) -> list[Stream]:
    """A running stream for each address; ValueError before any is opened where one cannot be read."""
    for address in filter(is_url, addresses):
        check_url(address)
    return [Stream(address, opener, vid_stride=vid_stride) for address in addresses]


def new_frames(streams: Sequence[Stream]) -> Iterator[list[tuple[int, Snapshot]]]:
    """For each round the (index of stream, frame) that are new, one at least, until all streams have ended.

    NoFrameError where no stream has ever sent a frame and each was tried MAX_FIRST_FAILURES times.
    """
    is_silent = True
    while True:
        # Asked before the frames are taken: what a stream received just before its end is not lost.
        all_ended = all(stream.ended for stream in streams)
        snapshots = [stream.newest() for stream in streams]
        batch = [(i, snapshot) for i, snapshot in enumerate(snapshots) if snapshot is not None]
        if batch:
            is_silent = False
            yield batch
        elif is_silent and all(stream.ended or stream.failures >= MAX_FIRST_FAILURES for stream in streams):
            names = ", ".join(stream.name for stream in streams)
            raise NoFrameError(f"no frame came from {names}; is the address right, is the camera connected and free?")
        elif all_ended:
            return
        else:
            time.sleep(POLL_S)


def close_streams(streams: Sequence[Stream]) -> None:
    """Ends all threads: all are asked to before one is waited for."""
    for stream in streams:
        stream.stop()
    for stream in streams:
        stream.close()
