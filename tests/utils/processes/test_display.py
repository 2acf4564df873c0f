"""The display that windows need."""

import sys

import pytest

from utils.processes.display import check_display


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
        check_display()
    else:
        with pytest.raises(ValueError, match="--view-img: there is no display"):
            check_display()
