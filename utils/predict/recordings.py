"""Frames of a video that ends: all that can be read, with the times that the file gives them."""

import itertools
import statistics
import time
from typing import Protocol

import cv2
import numpy as np

from utils.predict.remote import TIMEOUT_S

MAX_UNREADABLE = 1000  # frames in a row: then the rest of the file is given up
TRIES_AT_END = 30  # frames of which the header may not know
MAX_NOMINAL_FPS = 120  # more is the time base of a WebM or a screen recorder, not a rate
RATE_FRAMES = 33  # at the start, that tell the rate
LIKE_MEDIAN = 0.25  # share by which gaps between frames differ and still count as one rate


class Capture(Protocol):
    """What is used of cv2.VideoCapture."""

    def get(self, prop: int) -> float:
        """A property of the video."""


class RecordingEnd:
    """Tells the end of a recording from a frame that cannot be read: OpenCV says no to both."""

    def __init__(self, capture: Capture) -> None:
        self.count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))  # as the header has it; 0 or less: it does not
        self.failed = 0  # in a row
        self.failing_since = 0.0

    def is_reached(self, number: int) -> bool:
        """Count one more frame that cannot be read behind the frame `number`; return whether the video ends there."""
        if not self.failed:
            self.failing_since = time.monotonic()
        self.failed += 1
        if self.failed >= MAX_UNREADABLE or time.monotonic() - self.failing_since > TIMEOUT_S:
            return True
        return number + self.failed >= self.count and self.failed >= TRIES_AT_END

    def recovered(self) -> int:
        """Note that a frame could be read again; return how many could not before it."""
        failed, self.failed = self.failed, 0
        return failed


class Recording:
    """A video file that OpenCV has opened. number: of the frame last grabbed, from 1, unreadable ones counted.

    seconds: its time from the start of the video, later than that of the frame before. unreadable: frames that were
    passed over, those at the end not counted.
    """

    def __init__(self, capture: cv2.VideoCapture, fps: float) -> None:
        self.capture = capture
        self.fps = fps
        self.end = RecordingEnd(capture)
        nominal = capture.get(cv2.CAP_PROP_FPS)
        self.promised_s = self.end.count / nominal if self.end.count > 0 and nominal > 0 else 0.0
        self.number = self.readable = self.unreadable = 0
        self.seconds = 0.0

    @property
    def total(self) -> int:
        """The frames that the header promises, at the rate that the video has; 0 if it does not say."""
        return round(self.promised_s * self.fps) if self.promised_s else max(self.end.count, 0)

    @property
    def is_cut_off(self) -> bool:
        """Whether much less came than the header promises, both in frames and in time; headers are wrong by a few."""
        missing_frames = self.readable < 0.95 * self.end.count - 2
        return missing_frames and self.seconds + 1 / self.fps < 0.95 * self.promised_s - 2 / self.fps

    def grab(self) -> bool:
        """Go to the next frame that can be read; return whether there is one."""
        while not self._grab_one():
            if self.end.is_reached(self.number):
                return False
        failed = self.end.recovered()
        self.unreadable += failed
        self.number += failed + 1
        self.readable += 1
        stamp = self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        is_later = stamp > self.seconds or self.readable == 1
        self.seconds = stamp if is_later else self.seconds + (failed + 1) / self.fps
        return True

    def image(self) -> np.ndarray | None:
        """Return the frame last grabbed, (h, w, 3) uint8 BGR; None if it cannot be decoded, which is counted."""
        try:
            received, image = self.capture.retrieve()
        except cv2.error:
            received, image = False, None
        if received and image is not None:
            return image
        self.readable -= 1
        self.unreadable += 1
        return None

    def _grab_one(self) -> bool:
        try:
            return bool(self.capture.grab())
        except cv2.error:
            return False


def measured_rate(capture: cv2.VideoCapture, nominal: float) -> float:
    """Return the frames per second by the times of the first frames, if they contradict what the header says.

    The capture is of no use afterwards. A video without times has the nominal rate.
    """
    stamps = []
    while len(stamps) < RATE_FRAMES and capture.grab():
        stamps.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    gaps = [after - before for before, after in itertools.pairwise(stamps) if after > before]
    if not gaps:
        return nominal
    median = statistics.median(gaps)
    rate = 1000 / statistics.fmean(gap for gap in gaps if abs(gap - median) <= LIKE_MEDIAN * median)
    return nominal if 0 < nominal <= MAX_NOMINAL_FPS and abs(rate - nominal) <= 0.1 * nominal else rate
