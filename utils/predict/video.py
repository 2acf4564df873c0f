"""Writing videos that browsers and players can play: H.264 by PyAV or by an ffmpeg program, else MPEG-4 by OpenCV.

PyAV (`pip install av`) is an optional package, imported here only.
"""

import functools
import math
import shutil
import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Protocol, Self

import cv2
import numpy as np

from utils.files.results import naming
from utils.general import LOGGER

DEFAULT_FPS = Fraction(30)
MOST_ANSWER_S = 30  # that an ffmpeg may take to list its encoders
MAX_FPS = 1000  # what a broken header claims is above it
FRAME_DURATION = 1 << 8  # FFmpeg's AV_CODEC_FLAG_FRAME_DURATION: frames last as long as each says
TICKS = 90_000  # of a second: a fraction of each usual rate
MAX_GAP_S = 600  # that an encoder of one rate fills with one frame


class Encoder(Protocol):
    """Takes frames of one even size and makes a file of them.

    keeps_times: whether it shows each frame at the time given for it; otherwise frames follow at one rate.
    """

    keeps_times: bool

    def write(self, frame: np.ndarray, start: Fraction, length: Fraction) -> None:
        """Append one (h, w, 3) uint8 BGR frame; start and length, in seconds, are when it is shown. Starts rise."""

    def close(self) -> None:
        """Writes what is buffered and the file's index; without it no player opens the file."""


class VideoWriter:
    """Writes BGR frames to an .mp4, opened with the first frame; a context manager, so that it is closed in any case.

    Each frame is shown at its own time if there is one, so that the video lasts as long as its source, also where that
    has no constant rate. An encoder of one rate gets frames again to fill the time, and the later one of two that would
    take one place. The rate is kept as a fraction (29.97 is 30000/1001). H.264 wants even sides: an odd one gets a copy
    of its last row or column. Frames of another size than the first are scaled to it.
    """

    def __init__(self, path: Path, fps: float | None = None) -> None:
        self.path = path
        self.fps = frame_rate(fps)
        self.encoder: Encoder | None = None
        self.hw = (0, 0)
        self.zero: float | None = None  # the source's time of the first frame
        self.pending: tuple[np.ndarray, Fraction] | None = None  # the latest frame and its start: its end is unknown
        self.written = 0  # frames that an encoder of one rate has

    def __enter__(self) -> Self:
        """The writer; its file is finished when the block is left, by an error or Ctrl-C too."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes the file."""
        self.close()

    def write(self, frame: np.ndarray, repeat: int = 1, seconds: float | None = None) -> None:
        """Append a (h, w, 3) uint8 BGR frame.

        repeat: how often, where the source was faster than whoever writes. seconds: the frame's time in its source,
        None for right after the one before; what does not rise is taken as that, too.
        """
        if self.encoder is None:
            self.hw = frame.shape[:2]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.encoder = open_encoder(self.path, self.fps, even_sides(frame).shape[:2])
        if frame.shape[:2] != self.hw:
            frame = cv2.resize(frame, self.hw[::-1], interpolation=cv2.INTER_LINEAR)
        frame = even_sides(frame)
        for _ in range(repeat):
            start = self._start(seconds)
            self._put_pending(start)
            self.pending = frame, start

    def _start(self, seconds: float | None) -> Fraction:
        """Return when a frame is shown, from 0 on, later than all before it."""
        latest = None if self.pending is None else self.pending[1]
        if seconds is not None:
            self.zero = seconds if self.zero is None else self.zero
            wanted = Fraction(seconds - self.zero).limit_denominator(TICKS)
            if latest is None or wanted - latest >= Fraction(1, TICKS):
                return wanted
        return Fraction(0) if latest is None else latest + 1 / self.fps

    def _put_pending(self, end: Fraction) -> None:
        """Give the latest frame to the encoder, shown until `end`."""
        if self.pending is None:
            return
        assert self.encoder is not None
        frame, start = self.pending
        self.pending = None
        if self.encoder.keeps_times:
            with naming(self.path):
                self.encoder.write(frame, start, end - start)
            return
        count = min(round(end * self.fps) - self.written, round(MAX_GAP_S * self.fps))
        for _ in range(count):
            with naming(self.path):
                self.encoder.write(frame, start, 1 / self.fps)
        self.written = max(round(end * self.fps), self.written)

    def close(self) -> None:
        """Finishes the file; nothing happens the second time, or where no frame came."""
        encoder = self.encoder
        if encoder is None:
            return
        try:
            if self.pending is not None:
                self._put_pending(self.pending[1] + 1 / self.fps)
        finally:
            self.encoder = self.pending = None
            with naming(self.path):
                encoder.close()


def frame_rate(fps: float | None) -> Fraction:
    """The rate as the fraction that is meant: 29.97 is 30000/1001; DEFAULT_FPS where none or nonsense is given."""
    if fps is None or not math.isfinite(fps) or not 0 < fps <= MAX_FPS:
        return DEFAULT_FPS
    broadcast = Fraction(round(fps * 1.001) * 1000, 1001)  # NTSC's family: 24000/1001, 30000/1001, 60000/1001
    if abs(fps - broadcast) < 0.005 and fps != round(fps):
        return broadcast
    return Fraction(fps).limit_denominator(1000)


def even_sides(frame: np.ndarray) -> np.ndarray:
    """The frame with the last row or column doubled where their number is odd."""
    h, w = frame.shape[:2]
    return cv2.copyMakeBorder(frame, 0, h % 2, 0, w % 2, cv2.BORDER_REPLICATE) if h % 2 or w % 2 else frame


def open_encoder(path: Path, fps: Fraction, hw: tuple[int, int]) -> Encoder:
    """The best encoder this machine has for a file of that rate and (even) size."""
    av = import_av()
    if av is not None and "libx264" in av.codecs_available:
        return PyAVEncoder(av, path, fps, hw)
    program = shutil.which("ffmpeg")
    if program is not None and encodes_h264(program):
        return FFmpegEncoder(program, path, fps, hw)
    how = "pip install av, or install ffmpeg" if program is None else f"pip install av ({program} has no libx264)"
    LOGGER.warning(f"{path.name}: written as MPEG-4, which browsers may not play; for H.264: {how}")
    return OpenCVEncoder(path, fps, hw)


@functools.cache
def encodes_h264(program: str) -> bool:
    """Whether this ffmpeg has libx264, which some are built without; it is asked once."""
    try:
        answer = subprocess.run(
            [program, "-hide_banner", "-encoders"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=MOST_ANSWER_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"libx264" in answer.stdout.split()


def import_av() -> ModuleType | None:
    """PyAV, or None where it is not installed."""
    try:
        import av
    except ImportError:
        return None
    return av


class PyAVEncoder:
    """H.264 by the libraries that PyAV brings along."""

    keeps_times = True

    def __init__(self, av: ModuleType, path: Path, fps: Fraction, hw: tuple[int, int]) -> None:
        self.av = av
        # The index in front lets a browser start before it has the whole file.
        self.container = av.open(str(path), mode="w", format="mp4", options={"movflags": "+faststart"})
        # No B-frames: where frames last differently, an .mp4 would end before its last ones.
        options = {"crf": "23", "preset": "veryfast", "bf": "0"}
        self.stream = self.container.add_stream("libx264", rate=fps, options=options)
        self.stream.height, self.stream.width = hw
        self.stream.pix_fmt = "yuv420p"  # the one layout all browsers decode
        self.stream.codec_context.time_base = Fraction(1, TICKS)
        self.stream.codec_context.flags |= FRAME_DURATION

    def write(self, frame: np.ndarray, start: Fraction, length: Fraction) -> None:
        """Append one frame."""
        picture = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="bgr24")
        picture.time_base = Fraction(1, TICKS)
        picture.pts, picture.duration = round(start * TICKS), round(length * TICKS)
        self.container.mux(self.stream.encode(picture))

    def close(self) -> None:
        """Flushes the encoder and writes the index."""
        try:
            self.container.mux(self.stream.encode())
        finally:
            self.container.close()


class FFmpegEncoder:
    """H.264 by an ffmpeg program that reads raw frames from a pipe."""

    keeps_times = False

    def __init__(self, program: str, path: Path, fps: Fraction, hw: tuple[int, int]) -> None:
        h, w = hw
        raw = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{w}x{h}", "-r", str(fps), "-i", "pipe:0"]
        h264 = ["-an", "-c:v", "libx264", "-crf", "23", "-preset", "veryfast", "-pix_fmt", "yuv420p"]
        command = [program, "-y", "-loglevel", "error", *raw, *h264, "-movflags", "+faststart", f"file:{path}"]
        self.path = path
        self.messages = tempfile.TemporaryFile()  # noqa: SIM115 - a file cannot fill up and block as a pipe can
        # Its own session: Ctrl-C in the terminal must reach us only, so that ffmpeg still writes the index.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self.messages, start_new_session=True
        )

    def write(self, frame: np.ndarray, _start: Fraction, _length: Fraction) -> None:
        """Appends one frame; ValueError with ffmpeg's own words if it has stopped."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError:
            raise ValueError(f"{self.path}: ffmpeg stopped: {self.last_words()}") from None

    def close(self) -> None:
        """Ends the stream and waits for the file; ValueError with ffmpeg's own words if there is none."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            LOGGER.debug("ffmpeg had closed its input before; its exit status below tells why")
        if self.process.wait() != 0:
            raise ValueError(f"{self.path}: ffmpeg failed: {self.last_words()}")
        self.messages.close()

    def last_words(self) -> str:
        """The end of ffmpeg's messages, in one line."""
        self.process.wait()
        self.messages.seek(0)
        return " ".join(self.messages.read().decode(errors="replace").split())[-300:] or "it said nothing"


class OpenCVEncoder:
    """MPEG-4 part 2 by OpenCV, which may not ship an H.264 encoder."""

    keeps_times = False

    def __init__(self, path: Path, fps: Fraction, hw: tuple[int, int]) -> None:
        self.writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), float(fps), hw[::-1])
        if not self.writer.isOpened():
            raise ValueError(f"{path}: OpenCV cannot write this video; pip install av")

    def write(self, frame: np.ndarray, _start: Fraction, _length: Fraction) -> None:
        """Appends one frame."""
        self.writer.write(frame)

    def close(self) -> None:
        """Writes the index."""
        self.writer.release()
