"""Downloads from a server of this machine: whole, gone on with, checked, refused; archives that would do harm."""

import functools
import json
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tools import convert
from tools.datasets.fetch import CHECKSUMS, fetch, fetch_all, unpack, unpacked

CONTENT = bytes(range(256)) * 5000


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT or what `files` holds, in parts where asked; `cut` ends an answer after so many bytes."""

    def __init__(self, state, *args):
        self.state = state
        super().__init__(*args)

    def do_GET(self):
        data = self.state["files"].get(self.path)
        if data is None:
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        self.state["asked"].append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.state["ranges"] else 0
        if start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        cut = self.state.pop("cut", None)
        self.wfile.write(data[start:cut])

    def log_message(self, *args):
        """Says nothing."""


@pytest.fixture
def server():
    """What the server serves and was asked for, with its address."""
    state = {"files": {"/set/a%20b.zip": CONTENT}, "asked": [], "ranges": True}
    served = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, state))
    threading.Thread(target=served.serve_forever, daemon=True).start()
    state["url"] = f"http://127.0.0.1:{served.server_port}/set/a%20b.zip"
    yield state
    served.shutdown()
    served.server_close()


def test_a_file_comes_once(server, tmp_path):
    (file,) = fetch_all([server["url"]], tmp_path / "new")
    assert file == tmp_path / "new" / "a b.zip"
    assert file.read_bytes() == CONTENT
    assert list(json.loads((tmp_path / "new" / CHECKSUMS).read_text())) == ["a b.zip"]
    fetch(server["url"], tmp_path / "new")
    assert server["asked"] == [None]
    assert fetch(f"{server['url']}#other.zip", tmp_path).name == "other.zip"


@pytest.mark.parametrize("ranges", [True, False], ids=["in parts", "whole only"])
def test_a_cut_connection_is_gone_on_with(server, tmp_path, ranges):
    server |= {"cut": 1000, "ranges": ranges}
    with pytest.raises(ValueError, match=r"of 1280000 bytes|IncompleteRead|go"):
        fetch(server["url"], tmp_path)
    assert not (tmp_path / "a b.zip").exists()
    assert (tmp_path / "a b.zip.part").stat().st_size == 1000
    assert fetch(server["url"], tmp_path).read_bytes() == CONTENT
    assert server["asked"] == [None, "bytes=1000-"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b.zip", CHECKSUMS]


def test_a_whole_part_is_taken(server, tmp_path):
    (tmp_path / "a b.zip.part").write_bytes(CONTENT)
    assert fetch(server["url"], tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_too_long(server, tmp_path):
    (tmp_path / "a b.zip.part").write_bytes(CONTENT + b"x")
    with pytest.raises(ValueError, match="was longer than the file; it is removed, try again"):
        fetch(server["url"], tmp_path)
    assert fetch(server["url"], tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("content", ["[]", "{"])
def test_a_damaged_record(server, tmp_path, content):
    (tmp_path / CHECKSUMS).write_text(content)
    with pytest.raises(ValueError, match=rf"{CHECKSUMS}: .*remove it"):
        fetch(server["url"], tmp_path)


def test_another_content_is_refused(server, tmp_path):
    fetch(server["url"], tmp_path).unlink()
    server["files"]["/set/a%20b.zip"] = b"other"
    with pytest.raises(ValueError, match=r"its SHA-256 is .* at the first fetch .*: refused"):
        fetch(server["url"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKSUMS]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.org/a.zip", "only https"),
        ("file:///etc/passwd", "only https"),
        ("http://127.0.0.1:9/a.zip", "efused"),
    ],
)
def test_addresses_that_are_not_fetched(tmp_path, url, message):
    with pytest.raises(ValueError, match=message):
        fetch(url, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_not_there(server, tmp_path):
    with pytest.raises(ValueError, match="404"):
        fetch(server["url"] + "x", tmp_path)


def test_download_and_convert(server, tmp_path, monkeypatch):
    """As a user does it: nothing is fetched without --download."""
    archive = tmp_path / "made.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for split in ("train", "val", "test"):
            file.writestr(f"labels/{split}.txt", "")
    server["files"]["/set/a%20b.zip"] = archive.read_bytes()
    monkeypatch.setitem(convert.PUBLISHED, "visdrone", replace(convert.PUBLISHED["visdrone"], urls=(server["url"],)))
    command = ["visdrone", "--source", str(tmp_path / "source"), "--out", str(tmp_path / "out")]
    with pytest.raises(FileNotFoundError, match="no such folder"):
        convert.main(convert.parse_opt(command))
    assert not server["asked"]
    with pytest.raises(FileNotFoundError, match="no VisDrone2019-DET-"):
        convert.main(convert.parse_opt([*command, "--download"]))
    assert (tmp_path / "source" / "a b.zip").is_file()


# Archives -------------------------------------------------------------------------------------------------------------


def test_archives_that_would_write_elsewhere(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("../out.txt", "x")
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as file:
        file.add(tmp_path / "a.zip", "../../out.txt")
    (tmp_path / "c.zip").write_bytes(b"PK no zip")
    for name, message in (("a.zip", "lies outside of it"), ("b.tar.gz", "outside"), ("c.zip", "cannot be unpacked")):
        with pytest.raises(ValueError, match=message):
            unpack(tmp_path / name, tmp_path / "folder" / "sub")
    assert not list(tmp_path.rglob("out.txt"))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_STORED])
def test_archives_that_are_damaged_or_encrypted(tmp_path, method):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a", bytes(range(256)) * 8)
    data = bytearray(path.read_bytes())
    if method == zipfile.ZIP_STORED:
        for start, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            data[data.index(start) + flags] |= 1  # encrypted
    else:
        data[45:60] = b"\xff" * 15
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.zip: cannot be unpacked"):
        unpack(path, tmp_path / "folder")


def test_unpacked_content_goes_again(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    with unpacked(source, tmp_path / "out") as roots:
        assert roots == [source]
    for name in ("a", "b"):
        with zipfile.ZipFile(source / f"{name}.zip", "w") as file:
            file.writestr(f"{name}.txt", "x")
    (source / "a").mkdir()  # was unpacked by hand
    with unpacked(source, tmp_path / "new" / "out") as (first, second):
        assert first == source
        assert [path.name for path in second.iterdir()] == ["b.txt"]
    assert not second.exists()
