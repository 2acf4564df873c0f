"""Streams: newest frame, reconnection, one dead stream, and a real one over HTTP."""

import itertools
import logging
import threading
import time

import numpy as np
import pytest

from utils.predict import streams
from utils.predict.streams import (
    Stream,
    check_url,
    close_streams,
    is_recording,
    new_frames,
    open_streams,
    suffix_of,
)


class FakeCamera:
    """Connections as lists of grey values: a list is read and then breaks off, None cannot be opened; then silence."""

    def __init__(self, *connections, interval=0.0):
        self.connections = iter(connections)
        self.interval = interval
        self.opened = self.released = 0

    def __call__(self, address):
        self.opened += 1
        self.values = next(self.connections, None)
        self.remaining = iter(self.values or ())
        return self

    def isOpened(self):
        return self.values is not None

    def read(self):
        time.sleep(self.interval)
        value = next(self.remaining, None)
        return (False, None) if value is None else (True, np.full((8, 8, 3), value, np.uint8))

    def get(self, prop):
        return 25.0

    def release(self):
        self.released += 1


def start(camera, address="rtsp://host/cam"):
    return Stream(address, camera, pause_s=0.001)


def wait_for(condition, timeout_s=5.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("address", "suffix", "recording"),
    [
        ("http://host/A.MP4?x=.jpg", ".mp4", True),
        ("a/b.AVI", ".avi", True),
        ("a#b.mp4", ".mp4", True),
        ("C:\\videos\\a.mp4", ".mp4", True),
        ("rtsp://host/a.mp4", ".mp4", False),
        ("http://host/live", "", False),
        ("http://host.mp4", "", False),
        ("0", "", False),
    ],
)
def test_suffix_and_recording(address, suffix, recording):
    assert (suffix_of(address), is_recording(address)) == (suffix, recording)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://u:secret@host/a", "cannot read ftp"),
        ("file:///etc/passwd", "cannot read file"),
        ("https://www.youtube.com/watch?v=x", "a page"),
        ("rtsp://user:secret[@host/cam", "rtsp://host/cam: not an address"),
        ("rtsp://user:secret\u2100@host/cam", "rtsp://host/cam: not an address"),
        ("rtsp://user:x/secret@host/cam", r"rtsp://\.\.\.@host/cam: not an address"),
        ("rtsp://user:secret#x@host/cam", "not an address"),
        ("rtsp://user:secret@", "not an address"),
    ],
)
def test_refused_urls(url, message):
    with pytest.raises(ValueError, match=message) as error:
        check_url(url)
    assert "secret" not in str(error.value)


def test_newest_frame_wins_once():
    camera = FakeCamera(range(1, 6))
    stream = start(camera)
    wait_for(lambda: stream.failures)
    snapshot = stream.newest()
    assert (snapshot.image[0, 0, 0], snapshot.number, snapshot.skipped) == (5, 5, 4)
    assert stream.newest() is None
    assert stream.fps == 25
    stream.close()


def test_reconnects_and_counts_on(caplog):
    camera = FakeCamera([1, 2], None, [7], None)
    with caplog.at_level(logging.WARNING, "yolov5"):
        stream = start(camera)
        wait_for(lambda: camera.opened >= 4)
        stream.close()
    snapshot = stream.newest()
    assert (snapshot.image[0, 0, 0], snapshot.number) == (7, 3)
    assert "connection lost, trying again" in caplog.text
    assert camera.released == camera.opened


def test_gives_up(monkeypatch, caplog):
    monkeypatch.setattr(streams, "LONGEST_PAUSE_S", 0.002)
    camera = FakeCamera([1])
    stream = start(camera)
    wait_for(lambda: stream.ended)
    assert camera.opened == streams.MAX_FAILURES
    assert "given up" in caplog.text


def test_recording_ends_and_is_not_opened_again():
    camera = FakeCamera([1, 2])
    stream = start(camera, "a.mp4")
    wait_for(lambda: stream.ended)
    assert camera.opened == 1
    assert stream.newest().number == 2


def test_opencv_error_is_a_lost_connection(caplog):
    def fail(address):
        raise streams.cv2.error("bad\nstate")

    stream = start(fail)
    wait_for(lambda: stream.failures >= 2)
    stream.close()
    assert "bad state" in caplog.text


def test_one_dead_stream_stops_no_other():
    cameras = {"rtsp://a": FakeCamera(None), "rtsp://b": FakeCamera([1] * 50, interval=0.01)}
    group = [Stream(address, camera, pause_s=0.001) for address, camera in cameras.items()]
    try:
        batches = list(itertools.islice(new_frames(group), 10))
    finally:
        close_streams(group)
    assert {i for batch in batches for i, _ in batch} == {1}
    assert all(snapshot.image.any() for batch in batches for _, snapshot in batch), "no black frame as a picture"


def test_all_streams_end():
    group = [start(FakeCamera([1, 2]), "a.mp4"), start(FakeCamera([3]), "b.mp4")]
    last = {i: snapshot.number for batch in new_frames(group) for i, snapshot in batch}
    assert last == {0: 2, 1: 1}


def test_no_stream_at_all(caplog):
    group = open_streams(["rtsp://user:secret@a/b", "rtsp://c"], opener=FakeCamera(None))
    with pytest.raises(ValueError, match="no frame came from rtsp://a/b, rtsp://c"):
        list(new_frames(group))
    close_streams(group)
    assert "secret" not in caplog.text


def test_bad_address_opens_nothing():
    camera = FakeCamera()
    with pytest.raises(ValueError, match="cannot read ftp"):
        open_streams(["rtsp://a", "ftp://b"], camera)
    assert camera.opened == 0


def test_closing_ends_the_thread():
    stream = start(FakeCamera(itertools.repeat(1), interval=0.001))
    wait_for(lambda: stream.newest() is not None)
    stream.close()
    assert stream.ended
    assert stream.name not in {thread.name for thread in threading.enumerate()}


def test_frames_taken_and_dropped_are_counted():
    stream = start(FakeCamera(range(1, 6), None), "rtsp://user:secret@host/cam")
    wait_for(lambda: stream.failures)
    stream.newest()
    stream.close()
    assert stream.summary() == "rtsp://host/cam: 1 frame taken, 4 dropped, 1 connection lost"


@pytest.mark.parametrize(("stride", "last"), [(2, 5), (3, 4), (9, 1)])
def test_stride_leaves_frames_out_which_are_not_dropped_ones(stride, last):
    stream = Stream("a.mp4", FakeCamera(range(1, 7)), vid_stride=stride)
    wait_for(lambda: stream.ended)
    snapshot = stream.newest()
    assert (snapshot.image[0, 0, 0], snapshot.number, snapshot.skipped) == (last, last, (last - 1) // stride)
    assert stream.fps == 25 / stride
