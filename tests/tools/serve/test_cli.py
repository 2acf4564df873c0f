"""tools.serve as a user runs it: a process of its own, asked by good, many and hostile clients."""

import gzip
import io
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import detect
from tools.serve import cli as serve
from utils.data.shapes import ShapesSettings, generate
from utils.general import ROOT

pytest.importorskip("fastapi", reason="needs requirements-serve.txt")
pytest.importorskip("uvicorn", reason="needs requirements-serve.txt")
BOUNDARY = "----of-these-tests"
ANY_302 = "http://localhost:PORT/moved: HTTP Error 302: Found"
MULTIPART = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def jpeg(h=48, w=64, seed=0):
    image = np.random.default_rng(seed).integers(0, 255, (h, w, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.GaussianBlur(image, (0, 0), 5))[1].tobytes()


def form(*files, fields=()):
    """The body of a form with these (name, bytes) as files of the field `image`."""
    parts = [f'name="image"; filename="{name}"'.encode() + b"\r\n\r\n" + data for name, data in files]
    parts += [f'name="{key}"\r\n\r\n{value}'.encode() for key, value in fields]
    lines = [f"--{BOUNDARY}\r\ncontent-disposition: form-data; ".encode() + part + b"\r\n" for part in parts]
    return b"".join(lines) + f"--{BOUNDARY}--\r\n".encode()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks):
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + chunk(b"IEND", b"")


@contextmanager
def running(weights, *flags):
    """A server of its own process at a free port: `ask(method, path, body, headers)` gives (status, body)."""
    command = [sys.executable, "-m", "tools.serve", "--weights", str(weights), "--port", "0", "--threads", "1"]
    command += ["--device", "cpu", "--imgsz", "64", *map(str, flags)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            pytest.fail("".join(lines))
        threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True).start()
        port = int(found[1])

        def ask(method, path, body=None, headers=None):
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                connection.request(method, path, body, headers or {})
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()

        yield SimpleNamespace(ask=ask, port=port, process=process, lines=lines)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(small_weights):
    flags = ["--max-mb", 1, "--max-megapixels", 1, "--max-images", 3, "--body-timeout", 2, "--queue", 256]
    with running(small_weights, *flags) as parts:
        yield parts


def find(server, *files, query="?conf=0.02"):
    status, body = server.ask("POST", f"/detect{query}", form(*files), MULTIPART)
    assert status == 200, body
    return json.loads(body)["images"]


def refusal(server, body, headers=MULTIPART, path="/detect"):
    """Status and reason; the server must answer the next one well."""
    status, answer = server.ask("POST", path, body, headers)
    assert find(server, ("a.jpg", jpeg()))[0]["width"] == 64
    return status, json.loads(answer)["detail"]


# What is found --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags", [{"conf_thres": 0.02}, {"conf_thres": 0.05, "iou_thres": 0.2, "classes": [1, 2], "agnostic_nms": True}]
)
def test_what_is_found_is_what_detect_finds(server, small_weights, tmp_path, flags):
    generate(tmp_path / "shapes", ShapesSettings(train=1, val=1, test=3))
    folder = tmp_path / "shapes" / "images" / "test"
    cv2.imwrite(str(folder / "wide.png"), np.random.default_rng(0).integers(0, 255, (30, 200, 3), np.uint8))
    run = {"imgsz": 64, "nosave": True, "save_json": True, "device": "cpu", "project": tmp_path / "runs"}
    results = json.loads((detect.run(small_weights, folder, **run, **flags) / "predictions.json").read_text())
    names = {"conf_thres": "conf", "iou_thres": "iou", "agnostic_nms": "agnostic", "classes": "classes"}
    words = [
        f"{names[key]}={v}" for key, value in flags.items() for v in (value if isinstance(value, list) else [value])
    ]
    count = 0
    for file in sorted(folder.iterdir()):
        (image,) = find(server, (file.name, file.read_bytes()), query=f"?{'&'.join(words)}")
        wanted = sorted(
            (row["category_id"], *map(int, row["bbox"]), round(row["score"], 3))
            for row in results
            if str(row["image_id"]).rjust(len(file.stem), "0") == file.stem
        )
        found = sorted(
            (
                row["class"],
                row["xmin"],
                row["ymin"],
                row["xmax"] - row["xmin"],
                row["ymax"] - row["ymin"],
                round(row["confidence"], 3),
            )
            for row in image["detections"]
        )
        assert len(found) == len(wanted)
        assert [row[:5] for row in found] == [row[:5] for row in wanted]
        count += len(found)
        assert image["detections"] == sorted(image["detections"], key=lambda row: -row["confidence"])
    assert count > 3


def test_several_images_of_a_request(server):
    files = [("a.jpg", jpeg(48, 64)), ("ü\u202e.jpg", jpeg(100, 20, 1)), ("c.jpg", jpeg(48, 64, 2))]
    together = find(server, *files)
    assert [image["name"] for image in together] == ["a.jpg", "ü?.jpg", "c.jpg"]
    assert [(image["width"], image["height"]) for image in together] == [(64, 48), (20, 100), (64, 48)]
    alone = [find(server, file)[0] for file in files]
    for a, b in zip(together, alone, strict=True):
        assert len(a["detections"]) == len(b["detections"]) > 0
        for row, other in zip(a["detections"], b["detections"], strict=True):
            assert row["confidence"] == pytest.approx(other["confidence"], abs=1e-4)


def test_64_clients_lose_nothing(server):
    pictures = [jpeg(48, 64, seed) for seed in range(5)]
    wanted = [find(server, ("a.jpg", picture))[0]["detections"] for picture in pictures]

    def client(index):
        connection, answers = HTTPConnection("127.0.0.1", server.port, timeout=100), []
        for i in range(5):
            which = (index + i) % len(pictures)
            connection.request("POST", "/detect?conf=0.02", form((f"{index}-{i}.jpg", pictures[which])), MULTIPART)
            answer = connection.getresponse()
            answers.append((which, answer.status, json.loads(answer.read())))
        connection.close()
        return answers

    with ThreadPoolExecutor(64) as pool:
        answers = [answer for found in pool.map(client, range(64)) for answer in found]
    assert len(answers) == 320
    assert {status for _, status, _ in answers} == {200}
    assert len({answer["images"][0]["name"] for _, _, answer in answers}) == 320
    for which, _, answer in answers:
        found = answer["images"][0]["detections"]
        assert len(found) == len(wanted[which])
        for a, b in zip(found, wanted[which], strict=True):
            assert a["confidence"] == pytest.approx(b["confidence"], abs=1e-3)
    batches = re.search(r'batch_images_bucket\{le="1"\} (\d+)', server.ask("GET", "/metrics")[1].decode())
    assert int(batches[1]) < 320  # many went together


# The other answers ----------------------------------------------------------------------------------------------------


def test_health_card_page_and_description(server, small_weights):
    assert server.ask("GET", "/health") == (200, b'{"status":"ok"}')
    card = json.loads(server.ask("GET", "/model.json")[1])
    assert (card["names"], card["runs"], card["imgsz"]) == (["ant", "bee", "cat"], "server", [64, 64])
    assert card["files"][0]["bytes"] == small_weights.stat().st_size
    assert [(row["layer"], row["channels"]) for row in card["nam"]] == [("model.7", 16)]
    gate = card["nam"][0]
    assert 0 < gate["min"] <= gate["mean"] <= gate["max"] < 1
    status, page = server.ask("GET", "/")
    assert (status, page[:15]) == (200, b"<!DOCTYPE html>")
    api = json.loads(server.ask("GET", "/openapi.json")[1])
    assert {"/detect", "/health", "/metrics", "/model.json"} == api["paths"].keys()
    assert [item["name"] for item in api["paths"]["/detect"]["post"]["parameters"]] == [
        "conf",
        "iou",
        "classes",
        "agnostic",
        "max_det",
    ]
    for path in ("/nothing", "/../serve.py", "/%2e%2e/serve.py", "/docs", "/..%2f..%2fetc/passwd"):
        assert server.ask("GET", path)[0] == 404
    assert server.ask("GET", "/health", headers={"host": "evil.example"})[0] == 400  # of a page that guesses addresses


def test_metrics_are_prometheus_text(server):
    find(server, ("a.jpg", jpeg()))
    server.ask("GET", '/"\n'.replace("\n", "%0A"))
    text = server.ask("GET", "/metrics")[1].decode()
    line = re.compile(r'[a-z0-9_]+(\{[a-z]+="[^"\\]*"(,[a-z]+="[^"\\]*")*\})? [0-9.e+-]+')
    samples = [row for row in text.splitlines() if not row.startswith("#")]
    assert samples
    assert all(line.fullmatch(row) for row in samples)
    assert re.search(r'yolov5_requests_total\{path="/detect",status="200"\} \d+', text)
    assert re.search(r'yolov5_requests_total\{path="other",status="404"\} \d+', text)
    assert "yolov5_waiting_images 0" in text


# Bad and hostile requests ---------------------------------------------------------------------------------------------


def text_bomb():
    info = PngImagePlugin.PngInfo()
    info.add_itxt("x", "a" * 80_000_000, zip=True)
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG", pnginfo=info)
    return data.getvalue()


@pytest.mark.parametrize(
    ("make", "status", "reason"),
    [
        (lambda: b"", 400, "a.png: the file is empty"),
        (lambda: b"no image at all", 415, "a.png: no readable image; wanted is one of JPEG"),
        (lambda: jpeg()[:200], 415, "a.png: "),
        (lambda: gzip.compress(jpeg()), 415, "a.png: no readable image"),
        (lambda: b"%PDF-1.4\n", 415, "a.png: no readable image"),
        (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "a.png: no readable image"),
        (lambda: png(50_000, 50_000), 413, "a.png: .*exceeds limit"),
        (
            lambda: png(1001, 1000, chunk(b"IDAT", zlib.compress(b""))),
            413,
            "a.png: 1001 x 1000 pixels; allowed are 1",
        ),
        (lambda: png(40_000, 1), 413, "a.png: 40000 x 1 pixels; .* and 32000 a side"),
        (lambda: png(0, 10), 415, "a.png: "),
        (lambda: png(900, 900, chunk(b"IDAT", b"no zlib stream")), 415, "a.png: not a readable image"),
        (text_bomb, 415, "a.png: no"),
        (lambda: jpeg(1100, 1000), 413, "a.png: 1000 x 1100"),
    ],
)
def test_files_that_are_refused(server, make, status, reason):
    found, detail = refusal(server, form(("a.png", make())))
    assert (found, bool(re.match(reason, detail))) == (status, True), detail


def test_a_zip_bomb_within_the_pixels_is_only_an_image(server):
    """The stream unpacks to far more than the header says: what is too much is not read."""
    status, _ = server.ask(
        "POST", "/detect", form(("a.png", png(8, 8, chunk(b"IDAT", zlib.compress(bytes(2**28)))))), MULTIPART
    )
    assert status in {200, 415}
    find(server, ("a.jpg", jpeg()))


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason"),
    [
        (b"", {}, 415, "a request of type none"),
        (b"x", {"content-type": "text/plain"}, 415, "a request of type text/plain"),
        (b"x", {"content-type": "application/x-www-form-urlencoded"}, 415, "a request of type application/x-www"),
        (
            b'{"urls": ["http://a/"]}',
            {"content-type": "application/json"},
            415,
            "this server fetches no images",
        ),
        (b"", {"content-type": "multipart/form-data"}, 400, "Missing boundary"),
        (b"nothing of the kind", MULTIPART, 400, ""),
        (b"", MULTIPART, 400, "no image came"),
        (form(fields=[("image", "text")]), MULTIPART, 400, "no image came"),
        (form(fields=[(f"f{i}", "x") for i in range(5000)]), MULTIPART, 400, "Too many fields"),
        (form(fields=[("f", "x" * 100_000)]), MULTIPART, 400, "Part exceeded"),
        (form(*[("a.jpg", b"x")] * 4), MULTIPART, 400, "Too many files"),
        (form(("a.jpg", bytes(2**20))), MULTIPART, 413, "a request of more than the 1048576 bytes that are"),
        (form(("a.jpg", jpeg()))[:-30], MULTIPART, 400, ""),
    ],
)
def test_requests_that_are_refused(server, body, headers, status, reason):
    found, detail = refusal(server, body, headers)
    assert (found, bool(re.match(reason, detail))) == (status, True), detail


@pytest.mark.parametrize("query", ["conf=0", "conf=2", "conf=nan", "iou=-1", "classes=3", "classes=x", "max_det=0"])
def test_parameters_that_are_refused(server, query):
    status, answer = server.ask("POST", f"/detect?{query}", form(("a.jpg", jpeg())), MULTIPART)
    assert status == 422
    assert query.partition("=")[0] in answer.decode()


def send_raw(port, data, answer_within_s):
    """What comes back until the server closes; at most so many seconds."""
    with socket.create_connection(("127.0.0.1", port), timeout=answer_within_s) as connection:
        connection.sendall(data)
        parts = []
        with suppress(ConnectionResetError):  # which may come in place of an answer to who still sends
            while part := connection.recv(65536):
                parts.append(part)
    return b"".join(parts)


def refused_for_size(server):
    count = re.search(r'requests_total\{path="/detect",status="413"\} (\d+)', server.ask("GET", "/metrics")[1].decode())
    return int(count[1]) if count else 0


def test_a_body_without_a_length_ends_at_the_limit(server):
    head = f"POST /detect HTTP/1.1\r\nhost: localhost\r\ncontent-type: {MULTIPART['content-type']}\r\n"
    start = form(("a.jpg", b"")).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    piece = b"100000\r\n" + bytes(2**20) + b"\r\n"
    chunked = f"{head}transfer-encoding: chunked\r\n\r\n{len(start):x}\r\n".encode() + start + b"\r\n" + piece * 6
    before = refused_for_size(server)
    assert send_raw(server.port, chunked, 10).partition(b" ")[2][:3] in {b"413", b""}
    assert refused_for_size(server) == before + 1
    find(server, ("a.jpg", jpeg()))


def test_slow_requests_are_ended(server):
    """None of a hundred that stop in the midst of the head, or before it, or in the body, is waited for."""
    head = b"POST /detect HTTP/1.1\r\nhost: localhost\r\n"
    body = head + f"content-type: {MULTIPART['content-type']}\r\ncontent-length: 9999\r\n\r\n--".encode()
    second = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /hea"
    starts = [b"", head, body, second] * 25
    with ThreadPoolExecutor(len(starts)) as pool:
        waiting = pool.map(lambda data: send_raw(server.port, data, 10), starts)
        find(server, ("a.jpg", jpeg()))  # meanwhile
        answers = [answer.split(b"\r\n")[0] for answer in waiting]
    assert answers[:3] == [b"HTTP/1.1 408 Request Timeout"] * 3
    assert answers[3] == b"HTTP/1.1 200 OK"
    assert answers == answers[:4] * 25


def test_what_is_no_http(server):
    assert send_raw(server.port, b"\x16\x03\x01 nonsense\r\n\r\n", 10).startswith(b"HTTP/1.1 400 ")
    assert send_raw(server.port, b"GET / HTTP/1.1\r\nx: " + b"y" * 300_000, 10).partition(b" ")[2][:3] in {b"400", b""}
    find(server, ("a.jpg", jpeg()))


# Stops, queue, addresses, options -------------------------------------------------------------------------------------


def test_sigterm_lets_what_began_be_finished(small_weights):
    with running(small_weights, "--max-wait", 2000, "--batch-size", 64) as server, ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(find, server, ("a.jpg", jpeg())) for _ in range(4)]
        deadline = time.monotonic() + 20
        while b"yolov5_waiting_images 4" not in server.ask("GET", "/metrics")[1]:
            assert time.monotonic() < deadline
        server.process.send_signal(signal.SIGTERM)
        assert all(answer.result()[0]["detections"] for answer in answers)
        assert server.process.wait(20) == 0
        assert not any("Traceback" in line for line in server.lines)


def test_a_full_queue_and_a_long_wait_are_503(small_weights):
    flags = ["--queue", 2, "--max-images", 2, "--max-wait", 3000, "--batch-size", 64, "--timeout", 1]
    with running(small_weights, *flags) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.ask, "POST", "/detect", form(("a.jpg", jpeg())), MULTIPART)
        while b"yolov5_waiting_images 1" not in server.ask("GET", "/metrics")[1]:
            assert not first.done()
        status, answer = server.ask("POST", "/detect", form(("a.jpg", jpeg()), ("b.jpg", jpeg())), MULTIPART)
        assert (status, json.loads(answer)["detail"]) == (503, "1 of 2 places in the queue are taken; try again")
        status, answer = first.result()
        assert (status, json.loads(answer)["detail"]) == (503, "no answer within 1 seconds; try again later")


class Elsewhere(BaseHTTPRequestHandler):
    """A host with a picture, which also sends clients on to it."""

    def do_GET(self):
        data = jpeg() if self.path == "/a.jpg" else b""
        self.send_response(302 if self.path == "/moved" else 200)
        self.send_header("location", "/a.jpg")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Nothing is said."""


def test_addresses_of_allowed_hosts(small_weights):
    with running(small_weights, "--allow-urls", "localhost") as server, HTTPServer(("127.0.0.1", 0), Elsewhere) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()

        def ask(body):
            status, answer = server.ask("POST", "/detect?conf=0.02", body, {"content-type": "application/json"})
            return status, json.loads(answer)

        def fetch(name, path):
            return ask(json.dumps({"urls": [f"http://{name}:{host.server_port}{path}"]}))

        status, answer = fetch("localhost", "/a.jpg")
        assert (status, len(answer["images"][0]["detections"]) > 0) == (200, True)
        assert fetch("localhost", "/moved") == (400, {"detail": ANY_302.replace("PORT", str(host.server_port))})
        assert fetch("localhost", "/empty")[0] == 400
        for name in ("127.0.0.1", "localhost.evil.example", "user@localhost"):
            status, answer = fetch(name, "/a.jpg")
            assert (status, answer["detail"].endswith("images are fetched from localhost only")) == (403, True)
        assert ask('{"urls": ["file:///etc/passwd"]}')[0] == 403
        for body in (
            "",
            "[" * 100_000,
            "[]",
            '{"urls": "a"}',
            '{"urls": [1]}',
            '{"urls": ["http://["]}',
            '{"urls": []}',
        ):
            assert ask(body)[0] == 400
        host.shutdown()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "0"], "--batch-size 0: 1 or more"),
        (["--port", "70000"], "--port 70000"),
        (["--max-mb", "0"], "--max-mb 0.0: more than 0"),
        (["--queue", "4"], "--queue 4 has no room for a request of --max-images 16"),
        (["--imgsz", "1", "2", "3"], "--imgsz 1 2 3"),
        (["--host", ""], "--host is empty"),
        (["--max-wait", "-1"], "--max-wait -1.0"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        serve.main(serve.parse_opt(options))


def test_a_port_that_is_taken(server, small_weights):
    command = [sys.executable, "-m", "tools.serve", "--weights", str(small_weights), "--port", str(server.port)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_packages(small_weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ImportError, match=r"pip install -r requirements-serve\.txt"):
        serve.main(serve.parse_opt(["--weights", str(small_weights), "--device", "cpu", "--imgsz", "64"]))
