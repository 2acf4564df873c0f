"""Two real streams over HTTP, of which one breaks off and comes back, seen by detect.py; nothing tells the password."""

import http.server
import threading
import time
from contextlib import contextmanager

import cv2
import numpy as np
import pytest

import detect
from utils.predict import streams
from utils.predict.streams import close_streams, new_frames, open_streams

GREYS = (90, 160)  # of the two streams
PATIENCE_S = 30


class Camera(http.server.BaseHTTPRequestHandler):
    """Sends one picture as multipart JPEG until its server stops, if user and password are given."""

    def do_GET(self):
        if self.headers.get("Authorization") != "Basic dXNlcjpzZWNyZXQ=":  # user:secret
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        picture = cv2.imencode(".jpg", np.full((48, 64, 3), self.server.grey, np.uint8))[1].tobytes()
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n".encode()
        try:
            while not self.server.is_stopped.wait(0.02):
                self.wfile.write(head + picture + b"\r\n")
        except OSError:  # the reader has gone
            return

    def log_message(self, *arguments):
        del arguments


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, grey, port=0):
        super().__init__(("127.0.0.1", port), Camera)
        self.grey, self.is_stopped = grey, threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def address(self):
        return f"http://user:secret@127.0.0.1:{self.server_port}/live"

    def stop(self):
        self.is_stopped.set()
        self.shutdown()
        self.server_close()
        self.thread.join()


@contextmanager
def cameras():
    """A list of two servers, in which a stopped one may be replaced."""
    servers = [Server(grey) for grey in GREYS]
    try:
        yield servers
    finally:
        for server in servers:
            if not server.is_stopped.is_set():
                server.stop()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(streams, "LONGEST_PAUSE_S", 0.3)


def test_a_stream_comes_back_while_the_other_goes_on(quick, caplog):
    with cameras() as servers, caplog.at_level("DEBUG"):
        group = open_streams([server.address for server in servers])
        taken, at_stop, at_return = [0, 0], None, None
        deadline = time.monotonic() + PATIENCE_S
        try:
            for batch in new_frames(group):
                assert time.monotonic() < deadline, (taken, at_stop, at_return)
                for i, shot in batch:
                    taken[i] += 1
                    assert abs(shot.image.mean() - GREYS[i]) < 5, "another picture than the camera's, as a black one"
                    assert shot.image.shape == (48, 64, 3)
                if at_stop is None and min(taken) >= 3:
                    servers[1].stop()
                    at_stop = list(taken)
                elif at_stop and at_return is None and group[1].lost and taken[0] >= at_stop[0] + 5:
                    servers[1] = Server(GREYS[1], servers[1].server_port)
                    at_return = list(taken)
                elif at_return and taken[1] >= at_return[1] + 3 and taken[0] >= at_return[0] + 3:
                    break
        finally:
            close_streams(group)
    assert [stream.lost for stream in group] == [0, 1]
    assert "1 connection lost" in group[1].summary()
    assert "secret" not in caplog.text + "".join(stream.summary() for stream in group)


def test_no_file_and_no_log_line_tells_the_password(quick, small_weights, tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setattr(streams, "MAX_FAILURES", 2)  # so that the run ends once the cameras are off
    with cameras() as servers, caplog.at_level("DEBUG"):
        listed = tmp_path / "streams.txt"
        listed.write_text("\n".join(server.address for server in servers))
        seen = []

        def stop_after_some(frame, *others):
            seen.append(frame.name)
            if len(seen) == 8:
                for server in servers:
                    server.stop()
            return console_line(frame, *others)

        console_line = detect.console_line
        monkeypatch.setattr(detect, "console_line", stop_after_some)
        out = detect.run(
            small_weights, listed, imgsz=64, conf_thres=0.01, max_det=2, project=tmp_path, name="out",
            save_csv=True, save_json=True, save_txt=True, save_crop=True,
        )  # fmt: skip
    assert len(set(seen)) == 2
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"predictions.csv", "predictions.json"} < {path.name for path in files}
    assert any(path.parent.name == "labels" for path in files)
    assert not [path for path in files if b"secret" in path.read_bytes() or "secret" in str(path)]
    text = caplog.text + "".join(capfd.readouterr())
    assert "trying again" in text
    assert "secret" not in text


def test_a_wrong_password_is_not_told_either(quick, caplog, capfd):
    with cameras() as servers, caplog.at_level("DEBUG"):
        group = open_streams([servers[0].address.replace("secret", "wrong-secret")])
        with pytest.raises(ValueError, match=rf"no frame came from http://127.0.0.1:{servers[0].server_port}/live"):
            list(new_frames(group))
        close_streams(group)
    assert "secret" not in caplog.text + "".join(capfd.readouterr())
