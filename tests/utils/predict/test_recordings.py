"""Videos as people have them: with times of their own, damaged, turned, of odd sizes; read, and written again."""

import logging
import random
import struct
from fractions import Fraction

import cv2
import numpy as np
import pytest

from utils.files.output_names import OutputName
from utils.predict import video as video_module
from utils.predict.outputs import ResultWriter
from utils.predict.recordings import MAX_UNREADABLE, RecordingEnd
from utils.predict.sources import open_source, read_video
from utils.predict.streams import Stream

av = pytest.importorskip("av")
BURSTS = [0, 33, 66, 100, 1000, 1033, 1066, 3000, 3033, 3066]  # ms: a phone or a screen recorder
TURN_90 = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
UNTURNED = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


def make(path, times_ms, codec="libx264", rate=30, hw=(48, 64), gop=12):
    """A video with these times, in the codec that its container takes; noise, so that each frame needs bytes."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate)
        stream.height, stream.width = hw
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base, stream.codec_context.gop_size = Fraction(1, 1000), gop
        for ms in times_ms:
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (*hw, 3), np.uint8), format="bgr24")
            frame.pts, frame.time_base = ms, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def written(source, folder, vid_stride=1):
    """The result of a video whose frames are written as they are: its path."""
    with ResultWriter(folder, ["thing"]) as writer:
        for frame in read_video(str(source), "1/1", OutputName("out", "out"), vid_stride):
            writer.save_picture(frame, frame.image)
    return folder / "out.mp4"


def times(path):
    """The times of a video's frames in seconds, and how long it says that it is."""
    with av.open(str(path)) as source:
        stamps = [float(frame.pts * frame.time_base) for frame in source.decode(video=0)]
        return stamps, source.duration / 1e6


@pytest.fixture(params=["pyav", "opencv"])
def encoder(request, monkeypatch):
    """The encoder that results are written by."""
    if request.param == "opencv":
        monkeypatch.setattr(video_module, "import_av", lambda: None)
        monkeypatch.setattr(video_module.shutil, "which", lambda name: None)
    return request.param


@pytest.mark.parametrize(
    ("name", "codec", "rate", "stamps"),
    [
        ("even.webm", "libvpx", 1000, [100 * i for i in range(30)]),  # a browser's recording
        ("bursts.webm", "libvpx", 1000, BURSTS),
        ("bursts.mp4", "libx264", 30, BURSTS),  # whose mean rate is 3 a second
        ("bursts.mkv", "libx264", 30, BURSTS),
        ("late.mp4", "libx264", 25, [2000 + 40 * i for i in range(20)]),
    ],
)
def test_length_and_rate_follow_the_times(encoder, tmp_path, caplog, name, codec, rate, stamps):
    result = written(make(tmp_path / name, stamps, codec, rate), tmp_path / "out")
    found, length = times(result)
    expected = [(stamp - stamps[0]) / 1000 for stamp in stamps]
    assert found[-1] == pytest.approx(expected[-1], abs=0.1)
    assert length == pytest.approx(expected[-1] + 0.07, abs=0.15)
    if encoder == "pyav":
        assert found == pytest.approx(expected, abs=0.002)
    assert "damaged" not in caplog.text


def test_each_nth_frame_keeps_its_time(tmp_path):
    result = written(make(tmp_path / "a.webm", [50 * i for i in range(20)], "libvpx", 1000), tmp_path / "out", 4)
    assert times(result)[0] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8], abs=0.002)


def test_a_gif_keeps_its_pauses(tmp_path):
    from PIL import Image

    frames = [Image.fromarray(np.full((30, 41, 3), 20 * i, np.uint8)) for i in range(6)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[100, 100, 700, 100, 100, 100])
    found, _ = times(written(tmp_path / "a.gif", tmp_path / "out"))
    assert found == pytest.approx([0, 0.1, 0.2, 0.9, 1.0, 1.1], abs=0.01)


@pytest.fixture
def damaged(tmp_path):
    """A video of 60 frames, some of which in its middle cannot be decoded."""
    path = make(tmp_path / "damaged.mp4", [100 * i for i in range(60)], rate=10, gop=10)
    data = bytearray(path.read_bytes())
    random.seed(1)
    for i in range(int(len(data) * 0.45), int(len(data) * 0.5)):
        data[i] = random.randrange(256)
    path.write_bytes(data)
    return path


def readable(path):
    """How many frames OpenCV reads if it is asked again, and how many before the first that it cannot."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    flags = [capture.grab() for _ in range(200)]
    return sum(flags), flags.index(False)


def test_frames_behind_a_damaged_place_are_read(damaged, tmp_path, caplog):
    count, first = readable(damaged)
    if count < first + 10:
        pytest.skip("this machine's codec conceals the damage")
    frames = [*read_video(str(damaged), "1/1", OutputName("out", "out"))]
    assert len(frames) == count
    assert [frame.number for frame in frames[:first]] == [*range(1, first + 1)]
    assert frames[-1].number == 60
    assert frames[-1].seconds == pytest.approx(5.9, abs=0.01)
    assert f"{60 - count} frames of 60 could not be read" in caplog.text
    assert times(written(damaged, tmp_path / "out"))[0][-1] == pytest.approx(5.9, abs=0.1)


def test_a_stream_list_reads_behind_a_damaged_place(damaged):
    count, first = readable(damaged)
    if count < first + 10:
        pytest.skip("this machine's codec conceals the damage")
    stream = Stream(str(damaged))
    stream._thread.join(20)
    assert stream.ended
    assert stream.newest().number == 60


@pytest.mark.parametrize(("count", "expected"), [(5, 30), (0, 30), (-1, 30), (2000, MAX_UNREADABLE)])
def test_the_end_is_found_after_so_many_tries(count, expected):
    class Header:
        def get(self, prop):
            return count

    end = RecordingEnd(Header())
    assert next(i for i in range(1, 5000) if end.is_reached(4)) == expected
    assert (end.recovered(), end.recovered()) == (expected, 0)


def test_a_turned_video_is_seen_upright(tmp_path):
    path = make(tmp_path / "phone.mp4", [40 * i for i in range(5)], hw=(48, 80))
    data = path.read_bytes()
    header = data.index(b"tkhd")
    at = data.index(UNTURNED, header)
    path.write_bytes(data[:at] + TURN_90 + data[at + len(TURN_90) :])
    (frames,) = [list(source) for source in [open_source(str(path))]]
    assert frames[0][0].image.shape == (80, 48, 3)
    with av.open(str(written(path, tmp_path / "out"))) as result:
        assert (result.streams.video[0].height, result.streams.video[0].width) == (80, 48)


def test_odd_sides_and_times(encoder, tmp_path):
    from PIL import Image

    frames = [Image.fromarray(np.full((31, 43, 3), 40 * i, np.uint8)) for i in range(4)]
    frames[0].save(tmp_path / "odd.gif", save_all=True, append_images=frames[1:], duration=[200, 200, 200, 200])
    with av.open(str(written(tmp_path / "odd.gif", tmp_path / "out"))) as result:
        assert (result.streams.video[0].height, result.streams.video[0].width) == (32, 44)
        assert result.duration / 1e6 == pytest.approx(0.8, abs=0.1)


def test_a_cut_off_recording_is_told(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "yolov5")
    path = make(tmp_path / "a.mkv", [40 * i for i in range(100)], rate=25)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert len([*read_video(str(path), "1/1", OutputName("a", "a"))]) < 60
    assert "may be damaged" in caplog.text
