"""The screen as a stream, by `mss` (10.2 or newer, `pip install mss`), an optional package imported here only."""

import time
from collections.abc import Sequence
from types import ModuleType

import cv2
import numpy as np

from utils.general import LOGGER

SCREEN_FPS = 30.0  # at most
PARTS = 4  # left, top, width, height


def is_screen(source: str) -> bool:
    """Whether the source is `screen`, with or without numbers behind."""
    return source.lower().split(None, 1)[:1] == ["screen"]


def screen_area(source: str) -> tuple[int, tuple[int, int, int, int] | None]:
    """The screen's number (0 is all of them side by side, 1 the first) and the part of it, None for the whole.

    `screen`, `screen N`, `screen left top width height`, `screen N left top width height`; ValueError for another.
    """
    words = source.split()[1:]
    if not all(word.removeprefix("-").isdecimal() for word in words) or len(words) not in {0, 1, PARTS, PARTS + 1}:
        raise ValueError(
            f"--source {source!r}: screen, screen N, screen left top width height, or "
            "screen N left top width height, in whole pixels"
        )
    numbers = [int(word) for word in words]
    number = numbers.pop(0) if len(numbers) in {1, PARTS + 1} else 0
    if not numbers:
        return number, None
    left, top, width, height = numbers
    if width < 1 or height < 1:
        raise ValueError(f"--source {source!r}: width and height are 1 pixel or more")
    return number, (left, top, width, height)


def import_mss() -> ModuleType:
    """The package; ImportError that says how to get it."""
    try:
        import mss
    except ImportError:
        raise ImportError("--source screen needs the package mss: pip install mss") from None
    return mss


def check_screen(source: str) -> None:
    """Takes one picture; ValueError or ImportError where that is not possible."""
    capture = ScreenCapture(source)
    try:
        capture.picture()
    finally:
        capture.release()


class ScreenCapture:
    """A screen or a part of it as what cv2.VideoCapture is for a camera; to be used by one thread."""

    def __init__(self, source: str) -> None:
        number, area = screen_area(source)
        mss = import_mss()
        self.errors = (mss.ScreenShotError, OSError)
        self.name = source
        self.due = time.monotonic()
        self.grabber = None
        try:
            self.grabber = mss.MSS()
            self.area = self._pixels(self.grabber.monitors, number, area)
        except self.errors as error:
            raise ValueError(f"--source {source}: the screen cannot be read: {error}") from None
        except ValueError:
            self.release()
            raise

    def _pixels(
        self, screens: Sequence[dict[str, int]], number: int, area: tuple[int, int, int, int] | None
    ) -> dict[str, int]:
        """The area among all screens; ValueError where it reaches beyond its own."""
        if not 0 <= number < len(screens):
            raise ValueError(f"--source {self.name}: screens are 1 to {len(screens) - 1}, and 0 for all side by side")
        screen = screens[number]
        left, top, width, height = area or (0, 0, screen["width"], screen["height"])
        if left < 0 or top < 0 or left + width > screen["width"] or top + height > screen["height"]:
            raise ValueError(f"--source {self.name}: the screen has {screen['width']} x {screen['height']} pixels")
        return {"left": screen["left"] + left, "top": screen["top"] + top, "width": width, "height": height}

    def isOpened(self) -> bool:
        """Whether pictures can be taken."""
        return self.grabber is not None

    def picture(self) -> np.ndarray:
        """The picture (h, w, 3) uint8 BGR of this moment; ValueError where there is none."""
        assert self.grabber is not None
        try:
            shot = self.grabber.grab(self.area)
        except self.errors as error:
            raise ValueError(f"--source {self.name}: the screen cannot be read: {error}") from None
        return np.ascontiguousarray(np.asarray(shot)[..., :3])  # without alpha

    def read(self) -> tuple[bool, np.ndarray | None]:
        """Waits until the next picture is due, and takes it."""
        now = time.monotonic()
        time.sleep(max(self.due - now, 0))
        self.due = max(self.due, now) + 1 / SCREEN_FPS
        try:
            return True, self.picture()
        except ValueError as error:
            LOGGER.warning(str(error))
            return False, None

    def get(self, prop: int) -> float:
        """The rate of pictures; 0 for what else a camera could tell."""
        return SCREEN_FPS if prop == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        """Closes the connection to the display."""
        if self.grabber is not None:
            self.grabber.close()
            self.grabber = None
