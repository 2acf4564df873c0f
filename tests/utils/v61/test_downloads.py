"""Nothing is downloaded: a local file, or an error with the address."""

import pytest

from models.experimental import attempt_download as same_at_experimental
from utils.downloads import attempt_download, download, gsutil_getsize, safe_download, url2file

URL = "https://github.com/ultralytics/yolov5/releases/download/v6.1/yolov5s.pt"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_local_file_is_taken(folder):
    (folder / "yolov5s.pt").write_bytes(b"12")
    assert attempt_download("yolov5s.pt") == "yolov5s.pt"
    assert attempt_download(folder / "yolov5s.pt") == str(folder / "yolov5s.pt")
    assert attempt_download(URL) == "yolov5s.pt"
    assert same_at_experimental is attempt_download
    safe_download("yolov5s.pt", URL)
    download(URL, dir=folder)
    with pytest.raises(ValueError, match=r"yolov5s\.pt: 2 bytes"):
        safe_download(file="yolov5s.pt", url=URL, min_bytes=1e5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: attempt_download("yolov5s.pt"),
        lambda: attempt_download(URL),
        lambda: safe_download("yolov5s.pt", URL),
        lambda: download([URL]),
    ],
)
def test_an_absent_file_is_told_with_its_address(call):
    with pytest.raises(FileNotFoundError, match=rf"yolov5s\.pt: no such file.*{URL}"):
        call()


def test_addresses():
    assert url2file("https://host/a%20b.txt?token=1") == "a b.txt"
    with pytest.raises(ValueError, match=r"gs://bucket/evolve\.csv"):
        gsutil_getsize("gs://bucket/evolve.csv")
