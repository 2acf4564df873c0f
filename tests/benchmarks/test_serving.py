"""benchmarks/serving.py against a server of its own thread: answers counted and timed, losses told."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from benchmarks import serving


@contextmanager
def answering(status_of):
    """A server that reads a request and answers with status_of(its number), or hangs up where that is 0."""
    bodies, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            with lock:
                bodies.append((self.path, body))
                status = status_of(len(bodies))
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def source(tmp_path):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((8, 8, 3), i, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def options(url, source, clients, requests):
    given = ["--url", url, "--source", str(source), "--clients", str(clients), "--requests", str(requests)]
    return serving.parse_opt(given)


def test_each_image_is_asked_about_in_turn(source, caplog):
    caplog.set_level("INFO")
    with answering(lambda _: 200) as (url, bodies):
        answers = serving.main(options(url, source, 4, 10))
    assert [answer.status for answer in answers] == [200] * 10
    assert all(0 < answer.seconds < 60 for answer in answers)
    assert {path for path, _ in bodies} == {"/detect"}
    files = [file.read_bytes() for file in sorted(source.glob("*.png"))]
    assert sorted(sum(file in body for _, body in bodies) for file in files) == [3, 3, 4]
    assert "10 requests by 4 clients" in caplog.text


@pytest.mark.parametrize(("status", "told"), [(503, '"503": 1'), (0, "without response")])
def test_what_is_not_answered_is_told(source, status, told):
    with (
        answering(lambda number: status if number == 2 else 200) as (url, bodies),
        pytest.raises(ValueError, match=told),
    ):
        serving.main(options(url, source, 1, 4))
    assert len(bodies) == 4, "the client goes on"


def test_mistakes(source, tmp_path):
    with pytest.raises(ValueError, match="--clients 0: 1 or more"):
        serving.main(options("http://a", source, 0, 1))
    with pytest.raises(ValueError, match="--url ftp://a: wanted is http"):
        serving.main(options("ftp://a", source, 1, 1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no images in it"):
        serving.main(options("http://a", tmp_path / "empty", 1, 1))
