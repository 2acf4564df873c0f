"""What OpenCV is told and asked before it opens anything: to be silent, and whether it has a display."""

import os
import sys
from functools import cache

import cv2

FFMPEG_QUIET = "-8"  # FFmpeg's AV_LOG_QUIET


@cache
def silence() -> None:
    """OpenCV and FFmpeg print nothing of their own from now on: what cannot be opened is said once, by this program.

    Who has set OPENCV_LOG_LEVEL or OPENCV_FFMPEG_LOGLEVEL has asked for their lines, and gets them.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", FFMPEG_QUIET)
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def check_display() -> None:
    """ValueError where no window can be shown; asked beforehand, for OpenCV's Qt would abort the process."""
    if sys.platform == "linux" and not any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    ):
        raise ValueError(
            "--view-img: there is no display here (DISPLAY and WAYLAND_DISPLAY are not set); "
            "leave --view-img out and look at the saved results"
        )
