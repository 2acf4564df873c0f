"""The display that windows are shown on."""

import os
import sys


def check_display() -> None:
    """ValueError where no window can be shown; asked beforehand, for OpenCV's Qt would abort the process."""
    if sys.platform == "linux" and not any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    ):
        raise ValueError(
            "--view-img: there is no display here (DISPLAY and WAYLAND_DISPLAY are not set); "
            "leave --view-img out and look at the saved results"
        )
