"""The screen as a source: what is asked for, what comes, and what is said where there is none."""

import itertools
import shutil
import subprocess
import sys
import types
from contextlib import closing
from typing import ClassVar

import numpy as np
import pytest

from utils.predict import screen
from utils.predict.screen import check_screen, is_screen, screen_area
from utils.predict.sources import open_source


class FakeMss:
    """Stands in for the package: two screens side by side, red above row 50, blue below."""

    monitors = (
        {"left": 0, "top": 0, "width": 300, "height": 100},
        {"left": 0, "top": 0, "width": 200, "height": 100},
        {"left": 200, "top": 0, "width": 100, "height": 80},
    )
    areas: ClassVar = []
    open_now = 0

    def __init__(self):
        FakeMss.open_now += 1

    def grab(self, area):
        FakeMss.areas.append(area)
        image = np.zeros((area["height"], area["width"], 4), np.uint8)  # BGRA
        image[: max(50 - area["top"], 0), :, 2] = 255
        image[max(50 - area["top"], 0) :, :, 0] = 255
        return image

    def close(self):
        FakeMss.open_now -= 1


@pytest.fixture
def fake(monkeypatch):
    package = types.SimpleNamespace(MSS=FakeMss, ScreenShotError=type("ScreenShotError", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "mss", package)
    monkeypatch.setattr(FakeMss, "areas", [])
    monkeypatch.setattr(FakeMss, "open_now", 0)
    return package


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("screen", (0, None)),
        ("Screen 2", (2, None)),
        ("screen 10 20 30 40", (0, (10, 20, 30, 40))),
        ("screen 1 10 20 30 40", (1, (10, 20, 30, 40))),
    ],
)
def test_areas(source, expected):
    assert is_screen(source)
    assert screen_area(source) == expected


@pytest.mark.parametrize("source", ["screens", "a screen", "screen.jpg", "", "0"])
def test_other_sources(source):
    assert not is_screen(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("screen one", "in whole pixels"),
        ("screen 1 2", "in whole pixels"),
        ("screen 0 0 0 10", "1 pixel or more"),
        ("screen 3", "screens are 1 to 2, and 0 for all"),
        ("screen -1", "screens are 1 to 2"),
        ("screen 2 0 0 101 20", "the screen has 100 x 80 pixels"),
        ("screen 1 -5 0 10 20", "the screen has 200 x 100 pixels"),
    ],
)
@pytest.mark.usefixtures("fake")
def test_user_errors(source, message):
    with pytest.raises(ValueError, match=message):
        open_source(source)
    assert FakeMss.open_now == 0


@pytest.mark.parametrize(
    ("source", "hw", "left"),
    [("screen", (100, 300), 0), ("screen 2", (80, 100), 200), ("screen 2 10 5 20 70", (70, 20), 210)],
)
def test_frames(fake, source, hw, left):
    with closing(open_source(source)) as frames:
        (first,), (second,) = itertools.islice(frames, 2)
    assert first.image.shape == (*hw, 3)
    assert first.image[0, 0].tolist() == [0, 0, 255]
    assert first.image[-1, 0].tolist() == [255, 0, 0]
    assert second.number > first.number >= 1
    assert (first.fps, first.suffix, first.is_still, first.prefix) == (screen.SCREEN_FPS, ".mp4", False, "0: ")
    assert FakeMss.areas[-1]["left"] == left
    assert FakeMss.open_now == 0


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "mss", None)
    with pytest.raises(ImportError, match="pip install mss"):
        check_screen("screen")


def test_no_display(fake, monkeypatch):
    def fail(self):
        raise fake.ScreenShotError("$DISPLAY not set")

    monkeypatch.setattr(FakeMss, "__init__", fail)
    with pytest.raises(ValueError, match=r"the screen cannot be read: .DISPLAY not set"):
        open_source("screen")


@pytest.mark.skipif(not shutil.which("Xvfb"), reason="needs Debian's xvfb")
def test_a_real_display(monkeypatch, tmp_path):
    pytest.importorskip("mss")
    with (tmp_path / "number").open("w+") as number:
        command = ["Xvfb", "-displayfd", str(number.fileno()), "-screen", "0", "160x120x24", "-br"]
        server = subprocess.Popen(command, pass_fds=[number.fileno()], stderr=subprocess.DEVNULL)
        try:
            for _ in range(600):
                if (tmp_path / "number").read_text().endswith("\n"):
                    break
                screen.time.sleep(0.05)
            monkeypatch.setenv("DISPLAY", f":{(tmp_path / 'number').read_text().strip()}")
            with closing(open_source("screen 1 8 4 100 50")) as frames:
                (frame,) = next(iter(frames))
        finally:
            server.terminate()
            server.wait()
    assert frame.image.shape == (50, 100, 3)
