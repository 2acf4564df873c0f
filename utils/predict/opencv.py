"""Keep OpenCV and FFmpeg from printing lines of their own."""

import os
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
