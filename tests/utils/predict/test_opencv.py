"""OpenCV prints no lines of its own."""

import subprocess
import sys

import pytest

from utils.general import ROOT


@pytest.mark.parametrize("address", ["bad.mp4", "bad.avi", "99"])
def test_what_cannot_be_opened_says_nothing_of_its_own(tmp_path, address):
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    (tmp_path / "bad.avi").write_bytes(bytes(range(256)) * 40)
    code = f"from utils.predict.streams import open_capture; assert not open_capture({address!r}).isOpened()"
    start = f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); os.chdir({str(tmp_path)!r}); "
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
