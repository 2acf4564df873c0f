"""What an address without a suffix sends: a picture, a clip or a stream, by type and first bytes."""

import http.server
import itertools
import threading
from contextlib import closing

import cv2
import numpy as np
import pytest

from utils.predict.remote import kind_of_answer, remote_kind
from utils.predict.sources import FileSource, LiveSource, open_source
from utils.predict.video import VideoWriter

JPEG = cv2.imencode(".jpg", np.full((24, 32, 3), 90, np.uint8))[1].tobytes()
PNG = cv2.imencode(".png", np.full((24, 32, 3), 90, np.uint8))[1].tobytes()
MP4, WEBM, TS = b"\0\0\0\x20ftypisom" + bytes(64), b"\x1aE\xdf\xa3" + bytes(64), b"G@\0\x10" + bytes(64)


@pytest.mark.parametrize(
    ("content_type", "head", "has_length", "expected"),
    [
        ("image/jpeg", JPEG, True, "image"),
        ("application/octet-stream", PNG, True, "image"),
        ("text/plain", JPEG, False, "image"),
        ("video/mp4", MP4, True, "video"),
        ("application/octet-stream", MP4, False, "video"),
        ("video/webm", WEBM, True, "video"),
        ("video/webm", WEBM, False, "live"),
        ("application/octet-stream", TS, False, "live"),
        ("video/x-flv", b"FLV\1" + bytes(64), True, "video"),
        ("multipart/x-mixed-replace", b"--frame\r\n", False, "live"),
        ("application/octet-stream", bytes(64), False, "live"),
    ],
)
def test_type_and_first_bytes(content_type, head, has_length, expected):
    assert kind_of_answer(content_type, head[:64], has_length, "http://host/get") == expected


def test_a_page_is_no_source():
    with pytest.raises(ValueError, match=r"http://host/get: a page \(text/html\)"):
        kind_of_answer("text/html", b"<!doctype html>", True, "http://host/get")


@pytest.fixture
def server(tmp_path):
    """The address of a server, whose `answers` are (type, bytes) by path; it counts what it is asked."""
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for i in range(5):
            writer.write(np.full((48, 64, 3), 20 + 40 * i, np.uint8))
    clip = (tmp_path / "clip.mp4").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        answers = {  # noqa: RUF012
            "/jpeg": ("image/jpeg", JPEG),
            "/unnamed": ("application/octet-stream", PNG),
            "/clip": ("video/mp4", clip),
            "/blob": ("application/octet-stream", clip),
            "/page": ("text/html", b"<html></html>"),
            "/ended.m3u8": ("application/vnd.apple.mpegurl", b"#EXTM3U\n#EXTINF:2,\na.ts\n#EXT-X-ENDLIST\n"),
            "/live.m3u8": ("application/vnd.apple.mpegurl", b"#EXTM3U\n#EXTINF:2,\na.ts\n"),
            "/variants.m3u8": ("text/plain", b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nended.m3u8\n"),
        }
        asked = 0

        def do_GET(self):
            Handler.asked += 1
            kind, data = self.answers.get(self.path.partition("?")[0], ("text/plain", b""))
            self.send_response(200 if data else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                self.wfile.write(data)
            except OSError:  # who asked has seen enough
                self.close_connection = True

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.handler = Handler
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("jpeg?id=3", "image"),
        ("unnamed", "image"),
        ("clip", "video"),
        ("blob", "video"),
        ("ended.m3u8", "video"),
        ("variants.m3u8", "video"),
        ("live.m3u8", "live"),
        ("absent", "live"),  # it is called again, as a camera that is being started
    ],
)
def test_kinds_by_http(server, path, expected):
    assert remote_kind(f"{server.url}/{path}") == expected


@pytest.mark.parametrize(("path", "numbers"), [("jpeg?id=3", [0]), ("unnamed", [0]), ("clip", [1, 2, 3, 4, 5])])
def test_what_ends_is_read_once_and_ends(server, path, numbers):
    with closing(open_source(f"{server.url}/{path}")) as source:
        assert isinstance(source, FileSource)
        frames = [frame for batch in source for frame in batch]
    assert [frame.number for frame in frames] == numbers
    assert {frame.stem for frame in frames} == {path.partition("?")[0]}
    assert {frame.suffix for frame in frames} == {".mp4" if numbers[-1] else ".jpg"}
    assert server.handler.asked < 10


def test_a_page_is_said(server):
    with pytest.raises(ValueError, match="a page"):
        open_source(f"{server.url}/page")


def test_a_list_of_addresses_of_pictures_ends(server, tmp_path):
    (tmp_path / "list.txt").write_text(f"{server.url}/jpeg?id=1\n{server.url}/unnamed\n")
    with closing(open_source(str(tmp_path / "list.txt"))) as source:
        frames = [frame for batch in source for frame in batch]
    assert [frame.stem for frame in frames] == ["jpeg", "unnamed"]


def test_addresses_beside_files_of_a_list(server, tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "list.txt").write_text(f"a.png\n{server.url}/jpeg\n{server.url}/live.m3u8\n")
    with closing(open_source(str(tmp_path / "list.txt"))) as source:
        frames = [frame for batch in source for frame in batch]
    assert [frame.stem for frame in frames] == ["a", "jpeg"]
    assert "a stream in a list of files" in str(source.last_error)


def test_a_picture_in_a_list_of_streams_ends(server, tmp_path):
    (tmp_path / "list.txt").write_text(f"{server.url}/clip\n{server.url}/blob\n")
    with closing(open_source(str(tmp_path / "list.txt"))) as source:
        assert isinstance(source, LiveSource)
        frames = [frame for batch in itertools.islice(source, 100) for frame in batch]
    assert {frame.prefix for frame in frames} == {"0: ", "1: "}
