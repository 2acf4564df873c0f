"""Videos: what was written is read back, whatever the size, the rate, the encoder, and however writing ended."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction

import cv2
import numpy as np
import pytest

from utils.predict import video
from utils.predict.video import VideoWriter, even_sides, frame_rate


def frames(count, hw=(64, 96)):
    """Grey frames, each lighter than the one before."""
    return [np.full((*hw, 3), 20 + 10 * i, np.uint8) for i in range(count)]


def read(path):
    capture = cv2.VideoCapture(str(path))
    images = []
    while (answer := capture.read())[0]:
        images.append(answer[1])
    rate, code = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode()
    capture.release()
    return images, rate, code


def encoders():
    """The encoders that this machine has, as names."""
    found = ["opencv"]
    with contextlib.suppress(ImportError):  # an optional package
        import av

        found += ["pyav"] * ("libx264" in av.codecs_available)
    return found + ["ffmpeg"] * bool(shutil.which("ffmpeg"))


@pytest.fixture(params=["pyav", "ffmpeg", "opencv"])
def encoder(request, monkeypatch):
    """Makes `open_encoder` choose one of the three."""
    if request.param not in encoders():
        pytest.skip(f"{request.param} is not installed")
    if request.param != "pyav":
        monkeypatch.setitem(sys.modules, "av", None)
    if request.param == "opencv":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    return request.param


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (25.0, Fraction(25)),
        (29.97, Fraction(30000, 1001)),
        (29.97002997002997, Fraction(30000, 1001)),
        (23.976, Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (12.5, Fraction(25, 2)),
        (30.0, Fraction(30)),
        (None, Fraction(30)),
        (0.0, Fraction(30)),
        (-1.0, Fraction(30)),
        (float("nan"), Fraction(30)),
        (float("inf"), Fraction(30)),
        (90000.0, Fraction(30)),
    ],
)
def test_frame_rate(given, expected):
    assert frame_rate(given) == expected


def test_even_sides():
    frame = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    assert even_sides(frame).shape == (6, 8, 3)
    np.testing.assert_array_equal(even_sides(frame)[:5, :7], frame)
    np.testing.assert_array_equal(even_sides(frame)[5, :7], frame[4])
    assert even_sides(frame[:4, :6]).shape == (4, 6, 3)


@pytest.mark.parametrize("hw", [(64, 96), (63, 97)], ids=["even", "odd"])
def test_round_trip(encoder, tmp_path, hw):
    path = tmp_path / "new folder" / "straße.mp4"
    with VideoWriter(path, 29.97) as writer:
        for frame in frames(12, hw):
            writer.write(frame)
    images, rate, code = read(path)
    assert len(images) == 12
    assert images[0].shape == (64, hw[1] + hw[1] % 2, 3)
    assert rate == pytest.approx(30000 / 1001, abs=1e-3)
    assert code in ({"FMP4", "mp4v"} if encoder == "opencv" else {"h264", "avc1"})
    assert [image.mean() for image in images] == pytest.approx([20 + 10 * i for i in range(12)], abs=9)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_video_can_be_played(encoder, tmp_path, error):
    def write_and_fail():
        with VideoWriter(tmp_path / "a.mp4") as writer:
            for frame in frames(5):
                writer.write(frame)
            raise error

    with pytest.raises(error):
        write_and_fail()
    assert len(read(tmp_path / "a.mp4")[0]) == 5


def test_no_frame_no_file(encoder, tmp_path):
    with VideoWriter(tmp_path / "a.mp4"):
        pass
    assert not list(tmp_path.iterdir())


def test_repeated_and_resized_frames(encoder, tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 10) as writer:
        writer.write(frames(1)[0])
        writer.write(frames(1, hw=(32, 40))[0], repeat=4)
    images, _, _ = read(tmp_path / "a.mp4")
    assert [image.shape for image in images] == [(64, 96, 3)] * 5


def test_closing_twice(encoder, tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4")
    writer.write(frames(1)[0])
    writer.close()
    writer.close()
    assert len(read(tmp_path / "a.mp4")[0]) == 1


def test_opencv_says_that_browsers_may_not_play(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with caplog.at_level("WARNING", "yolov5"), VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(frames(1)[0])
    assert "browsers may not play" in caplog.text
    assert len(caplog.records) == 1


def fake_ffmpeg(folder, body, encoder="libx264"):
    """A program named ffmpeg: Python lines that have `arguments` and `pixels`, the bytes of standard input.

    Asked for its encoders, which goes to a file `asked`, it names one.
    """
    program = folder / "ffmpeg"
    head = "import json, sys\narguments, pixels = sys.argv[1:], sys.stdin.buffer.read()\n"
    asked = f"open({str(folder / 'asked')!r}, 'a').write('x')"
    answer = f"if '-encoders' in arguments:\n    {asked}\n    sys.exit(print(' V....D {encoder} H.264 / AVC'))\n"
    program.write_text(f"#!{sys.executable}\n{head}{answer}{body}\n")
    program.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for ffmpeg is a script")
def test_ffmpeg_gets_arguments_and_raw_frames(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    fake_ffmpeg(tmp_path, "open(arguments[-1][5:], 'w').write(json.dumps([arguments, len(pixels)]))")
    with VideoWriter(tmp_path / "a b;c.mp4", 29.97) as writer:
        for frame in frames(3, (63, 97)):
            writer.write(frame)
    arguments, size = json.loads((tmp_path / "a b;c.mp4").read_text())
    assert size == 3 * 64 * 98 * 3
    assert arguments[arguments.index("-s") + 1] == "98x64"
    assert arguments[arguments.index("-r") + 1] == "30000/1001"
    assert arguments[arguments.index("-c:v") + 1] == "libx264"


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for ffmpeg is a script")
def test_ffmpeg_failure_is_told_in_its_words(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    fake_ffmpeg(tmp_path, "sys.exit('Unknown encoder libx264')")
    writer = VideoWriter(tmp_path / "a.mp4")
    writer.write(frames(1)[0])
    with pytest.raises(ValueError, match=r"a\.mp4: ffmpeg failed: Unknown encoder libx264"):
        writer.close()


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for ffmpeg is a script")
def test_ffmpeg_without_h264_is_passed_over(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    fake_ffmpeg(tmp_path, "sys.exit('Unknown encoder libx264')", encoder="libopenh264")
    for name in ("a.mp4", "b.mp4"):
        with caplog.at_level("WARNING", "yolov5"), VideoWriter(tmp_path / name) as writer:
            writer.write(frames(1)[0])
        assert read(tmp_path / name)[2] in {"FMP4", "mp4v"}
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == ["a.mp4", "b.mp4"]
    assert f"{tmp_path / 'ffmpeg'} has no libx264" in caplog.text
    assert (tmp_path / "asked").read_text() == "x"  # once


@pytest.mark.parametrize("content", ["#!/nowhere\n", "not a program\n"])
def test_broken_ffmpeg_has_no_h264(tmp_path, content):
    (tmp_path / "ffmpeg").write_text(content)
    (tmp_path / "ffmpeg").chmod(0o755)
    assert not video.encodes_h264(str(tmp_path / "ffmpeg"))


def test_pyav_is_imported_with_the_first_frame_only():
    code = "import sys, utils.predict.video; assert 'av' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=video.__file__.rsplit("utils", 1)[0], check=True)
