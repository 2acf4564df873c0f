"""The page in Chromium: with its server, and without one, where the network runs in the browser."""

import functools
import json
import re
import shutil
import subprocess
import threading
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

import export
from tests.tools.serve.test_cli import MULTIPART, form, running
from tools.serve import cli as serve
from utils.files.images import read_image
from utils.general import ROOT

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FETCH = "cd tools/serve/static && npm ci --ignore-scripts && npm run vendor"


@pytest.fixture
def use_page(tmp_path):
    """Uses the page at an address as tests/tools/serve/page.mjs does; what it showed, and the screenshot."""
    if BROWSER is None or shutil.which("node") is None:
        pytest.skip("needs chromium or google-chrome, and node, on the PATH")
    if not (ROOT / "tools" / "serve" / "static" / "node_modules" / "playwright-core").is_dir():
        pytest.skip(f"needs playwright-core: {FETCH}")

    def call(url, picture):
        shot = tmp_path / "shot.png"
        command = ["node", str(ROOT / "tests" / "tools" / "serve" / "page.mjs"), BROWSER, url, str(picture), str(shot)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), read_image(shot)

    return call


@pytest.fixture
def picture(shared):
    return sorted((shared / "datasets" / "bccd" / "images" / "val").glob("*.jpg"))[0]


def check(seen, shot, picture, url):
    """What the page does alike in both ways; the count of boxes at 0.25."""
    assert seen["problems"] == []
    assert all(request.startswith((url, "blob:", "data:")) for request in seen["requests"])
    h, w = read_image(picture).shape[:2]
    assert seen["size"] == [w, h]
    assert re.fullmatch(rf"{seen['boxes']} objects in \d+ ms", seen["status"])
    assert 0 < seen["sure"] < seen["boxes"]
    assert 0 <= seen["withoutFirst"] < seen["boxes"]
    assert seen["withoutAll"] == 0
    assert seen["refused"] == "evil.png is no picture or video that this browser can show"
    assert re.fullmatch(r"\d+ objects? in \d+ ms, [\d.]+ frames a second", seen["camera"])
    drawn = (shot.astype(int) - (0x47, 0x3B, 0xFF)).__abs__().sum(2) < 12  # pixels of the first class's colour
    assert drawn.sum() > 500


def test_the_page_with_its_server(use_page, shared, picture):
    with running(shared / "weights" / "yolov5n-bccd.pt", "--imgsz", 320) as server:
        url = f"http://127.0.0.1:{server.port}/"
        seen, shot = use_page(url, picture)
        check(seen, shot, picture, url)
        answer = server.ask("POST", "/detect", form((picture.name, picture.read_bytes())), MULTIPART)
        assert abs(seen["boxes"] - len(json.loads(answer[1])["images"][0]["detections"])) <= 1  # it sends another JPEG
        assert "yolov5n-bccd.pt, 3.7 MB" in seen["card"]


@contextmanager
def plain_host(folder):
    """A web host that knows nothing of the page: its address."""

    class Quiet(SimpleHTTPRequestHandler):
        extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

        def log_message(self, *_):
            """Nothing is said."""

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{host.server_port}/"
        host.shutdown()


@pytest.mark.parametrize("options", [{"dynamic": True}, {"nms": True, "topk_all": 300, "conf_thres": 0.01}])
def test_the_page_without_a_server(use_page, shared, picture, tmp_path, options):
    if not (ROOT / "tools" / "serve" / "static" / "vendor" / "ort.wasm.min.mjs").is_file():
        pytest.skip(f"needs onnxruntime-web: {FETCH}")
    weights = tmp_path / "best.pt"
    weights.write_bytes((shared / "weights" / "yolov5n-bccd.pt").read_bytes())
    export.run(weights, imgsz=320, include="onnx", **options)
    page = tmp_path / "page"
    serve.main(
        serve.parse_opt(["--weights", str(tmp_path / "best.onnx"), "--imgsz", "320", "--export-page", str(page)])
    )
    with plain_host(page) as url:
        seen, shot = use_page(url, picture)
        check(seen, shot, picture, url)
    with running(tmp_path / "best.onnx", "--imgsz", 320) as server:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", "/detect", form((picture.name, picture.read_bytes())), MULTIPART)
        found = json.loads(connection.getresponse().read())["images"][0]["detections"]
    assert seen["boxes"] == len(found)
    assert seen["sure"] == sum(row["confidence"] > 0.7 for row in found)


def test_export_page_refuses(small_weights, tmp_path, monkeypatch):
    flags = ["--imgsz", "64", "--export-page", str(tmp_path / "page")]
    with pytest.raises(ValueError, match=r"net\.pt does not run in browsers; make an ONNX file"):
        serve.main(serve.parse_opt(["--weights", str(small_weights), *flags]))
    (tmp_path / "net.pt").write_bytes(small_weights.read_bytes())
    export.run(tmp_path / "net.pt", imgsz=64, include="onnx")
    monkeypatch.setattr("tools.serve.page.VENDOR", tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"which npm fetches: cd .*static && npm ci"):
        serve.main(serve.parse_opt(["--weights", str(tmp_path / "net.onnx"), *flags]))
    assert not (tmp_path / "page").exists()
