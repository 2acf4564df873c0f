"""OpenCV before it opens anything: without a display, and without lines of its own."""

import subprocess
import sys

import pytest

from utils.general import ROOT
from utils.predict import opencv


@pytest.mark.parametrize(
    ("platform", "set_", "has_display"),
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ""}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {"QT_QPA_PLATFORM": "offscreen"}, True),
        ("win32", {}, True),
        ("darwin", {}, True),
    ],
)
def test_display(monkeypatch, platform, set_, has_display):
    monkeypatch.setattr(sys, "platform", platform)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_.items():
        monkeypatch.setenv(name, value)
    if has_display:
        opencv.check_display()
    else:
        with pytest.raises(ValueError, match="--view-img: there is no display"):
            opencv.check_display()


@pytest.mark.parametrize("address", ["bad.mp4", "bad.avi", "99"])
def test_what_cannot_be_opened_says_nothing_of_its_own(tmp_path, address):
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    (tmp_path / "bad.avi").write_bytes(bytes(range(256)) * 40)
    code = f"from utils.predict.streams import open_capture; assert not open_capture({address!r}).isOpened()"
    start = f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); os.chdir({str(tmp_path)!r}); "
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
