"""Sources: what is found, in which order, under which names, and what happens to files that cannot be read."""

import contextlib
import functools
import http.server
import itertools
import logging
import threading
import time
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.files.images import write_image
from utils.predict import remote
from utils.predict.sources import FileSource, LiveSource, find_media, open_source
from utils.predict.video import VideoWriter


def picture(value=90, hw=(24, 32)):
    return np.full((*hw, 3), value, np.uint8)


def write_video(path, count=5, fps=25.0):
    with VideoWriter(path, fps) as writer:
        for i in range(count):
            writer.write(picture(20 + 20 * i, (48, 64)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """b.png A.JPG ünï.bmp [x].jpg clip.mp4 UPPER.AVI.MP4 notes.md .hidden.jpg and sub/b.jpg."""
    folder = tmp_path_factory.mktemp("media")
    (folder / "sub").mkdir()
    for name in ("b.png", "A.JPG", "ünï.bmp", "[x].jpg", ".hidden.jpg", "sub/b.jpg"):
        write_image(folder / name, picture())
    write_video(folder / "clip.mp4")
    (folder / "notes.md").write_text("no picture")
    return folder


@pytest.fixture
def server(folder):
    """The address of a web server for the folder; /live sends endless JPEGs, /large too many bytes."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/live":
                self.send_live()
            elif self.path == "/large.jpg":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(bytes(remote.MAX_IMAGE_BYTES + 2))
            else:
                super().do_GET()

        def send_live(self):
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the reader has left: the stream ends
                for i in itertools.count():
                    jpeg = cv2.imencode(".jpg", picture(50 + i % 100, (48, 64)))[1].tobytes()
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                    time.sleep(0.01)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def names(files, folder):
    return [file.removeprefix(f"{folder}/").replace("\\", "/") for file in files]


def read_all(source):
    with closing(open_source(str(source))) as frames:
        return [frame for batch in frames for frame in batch]


def test_folder_is_read_flat_images_first(folder):
    assert names(find_media(folder), folder) == ["A.JPG", "[x].jpg", "b.png", "ünï.bmp", "clip.mp4"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["b.png"]),
        ("b.*", ["b.png"]),
        ("**/b.*", ["b.png", "sub/b.jpg"]),
        ("**/*.jpg", ["[x].jpg", "sub/b.jpg"]),
        ("sub", ["sub/b.jpg"]),
        ("[x].jpg", ["[x].jpg"]),
        ("A.JPG", ["A.JPG"]),
        ("[Ab].*", ["A.JPG", "b.png"]),
    ],
)
def test_files_globs_and_folders(folder, pattern, expected):
    assert names(find_media(folder / pattern), folder) == expected


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("absent", FileNotFoundError, "no such file or folder"),
        ("notes.md", ValueError, "neither an image nor a video.*jpg"),
        ("*.gif", FileNotFoundError, "no image or video there"),
        ("sub/*.mp4", FileNotFoundError, "no image or video there"),
    ],
)
def test_nothing_there(folder, name, error, message):
    with pytest.raises(error, match=message):
        open_source(str(folder / name))


def test_image(folder):
    (frame,) = read_all(folder / "ünï.bmp")
    np.testing.assert_array_equal(frame.image, picture())
    assert frame.prefix == f"image 1/1 {folder / 'ünï.bmp'}: "
    assert (frame.stem, frame.suffix, frame.is_still, frame.fps) == ("ünï", ".bmp", True, None)


def test_video(folder):
    frames = read_all(folder / "clip.mp4")
    assert [frame.number for frame in frames] == [1, 2, 3, 4, 5]
    assert frames[2].prefix == f"video 1/1 (3/5) {folder / 'clip.mp4'}: "
    assert {(frame.stem, frame.suffix, frame.is_still, frame.fps) for frame in frames} == {
        ("clip", ".mp4", False, 25.0)
    }
    assert [frame.image.mean() for frame in frames] == pytest.approx([20, 40, 60, 80, 100], abs=8)


def test_same_stems_are_told_apart(tmp_path, caplog):
    caplog.set_level("INFO", "yolov5")
    for name in ("a.jpg", "a.png", "A.bmp", "sub/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, picture())
    write_video(tmp_path / "a.mp4", 1)
    frames = read_all(tmp_path / "**" / "*.*")
    assert [frame.stem for frame in frames] == ["A_bmp", f"{tmp_path.name}_a_jpg", "a_png", "sub_a", "a"]
    assert [frame.picture for frame in frames] == ["A", f"{tmp_path.name}_a", "a", "sub_a", "a"]
    assert "4 files cannot give the results the plain name" in caplog.text


@pytest.mark.parametrize(
    "content", [b"", b"no picture at all", b"\xff\xd8\xff\xe0 cut off"], ids=["empty", "text", "cut"]
)
@pytest.mark.parametrize("name", ["x.jpg", "x.MP4"])
def test_unreadable_file_is_named_and_skipped(tmp_path, name, content, caplog):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")) as error:
        read_all(tmp_path / name)
    assert "\n" not in str(error.value)
    write_image(tmp_path / "good.png", picture())
    with caplog.at_level(logging.WARNING, "yolov5"), closing(open_source(str(tmp_path))) as source:
        assert [frame.stem for (frame,) in source] == ["good"]
        assert source.skipped == 1
    assert str(tmp_path / name) in caplog.text


def test_no_readable_file(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"none of the 2 files could be read.*b\.jpg"):
        read_all(tmp_path)


def test_cut_off_video_is_told(tmp_path, caplog):
    cv2_writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for i in range(40):
        cv2_writer.write(picture(i, (48, 64)))
    cv2_writer.release()
    data = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(data[: len(data) // 2])
    with caplog.at_level(logging.WARNING, "yolov5"):
        assert 0 < len(read_all(tmp_path / "a.avi")) < 40
    assert "of the 40 it promises" in caplog.text


def test_three_pixels_wide(tmp_path):
    write_image(tmp_path / "a.png", picture(hw=(2000, 3)))
    assert read_all(tmp_path / "a.png")[0].image.shape == (2000, 3, 3)


def test_leaving_early_ends_the_thread(folder):
    with closing(open_source(str(folder))) as source:
        next(iter(source))
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}


def test_image_by_url(server):
    (frame,) = read_all(f"{server}/b.png?key=secret")
    np.testing.assert_array_equal(frame.image, picture())
    assert (frame.stem, frame.suffix) == ("b", ".png")
    assert "secret" not in frame.prefix


def test_uppercase_url_is_a_file(server):
    assert [frame.stem for frame in read_all(f"{server}/A.JPG")] == ["A"]


def test_video_by_url(server):
    assert [frame.number for frame in read_all(f"{server}/clip.mp4")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent.jpg?key=secret", "absent.jpg.*404"),
        ("large.jpg", "larger than 0 MiB"),
        ("absent.mp4?key=secret", "absent.mp4.*not a readable video"),
    ],
)
def test_url_errors_hold_no_secret(server, monkeypatch, path, message, capfd):
    monkeypatch.setattr(remote, "MAX_IMAGE_BYTES", 1000)
    with pytest.raises(ValueError, match=message) as error:
        read_all(f"{server}/{path}")
    assert "secret" not in str(error.value) + capfd.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1:9", "host.invalid"])
def test_unreachable_url(address):
    with pytest.raises(ValueError, match=f"http://{address}/a.jpg: ") as error:
        read_all(f"http://user:secret@{address}/a.jpg")
    assert "secret" not in str(error.value)


def test_credentials_of_an_image_url_are_sent_as_a_header(server, monkeypatch):
    host = server.removeprefix("http://")
    requests = []
    urlopen = remote.urllib.request.urlopen

    def keep(request, timeout):
        requests.append(request)
        return urlopen(request, timeout=timeout)

    monkeypatch.setattr(remote.urllib.request, "urlopen", keep)
    assert len(read_all(f"http://us%40er:secret@{host}/b.png")) == 1
    assert requests[0].full_url == f"http://{host}/b.png"
    assert requests[0].get_header("Authorization") == "Basic dXNAZXI6c2VjcmV0"


def test_an_image_url_with_spaces_and_letters_beyond_ascii():
    request = remote.image_request("http://host/a b/ü%20c.jpg?key=ä&x=[1]#part")
    assert request.full_url == "http://host/a%20b/%C3%BC%20c.jpg?key=%C3%A4&x=[1]"
    with pytest.raises(ValueError, match=r"http://\.\.\.@127\.0\.0\.1:9/b\.jpg: not an address") as error:
        read_all("http://user:x/secret@127.0.0.1:9/b.jpg")
    assert "secret" not in str(error.value)


def test_live_stream(server):
    with closing(open_source(f"{server}/live")) as source:
        assert isinstance(source, LiveSource)
        batches = list(itertools.islice(source, 3))
    numbers = [frame.number for batch in batches for frame in batch]
    assert numbers == sorted(set(numbers))
    frame = batches[-1][0]
    assert 45 < frame.image.mean() < 155
    assert (frame.prefix, frame.suffix, frame.is_still) == ("0: ", ".mp4", False)
    assert frame.stem == server.removeprefix("http://").replace(":", "_") + "_live"


def test_list_of_streams_with_a_dead_one(server, folder, tmp_path):
    path = tmp_path / "streams.txt"
    path.write_text(f"# cameras\n\nrtsp://user:secret@127.0.0.1:9/x\n{folder / 'clip.mp4'}\n{server}/live\n")
    seen = set()
    with closing(open_source(str(path))) as source:
        for batch in source:
            seen |= {frame.prefix for frame in batch}
            if len(seen) == 2:
                break
    assert seen == {"1: ", "2: "}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no stream"),
        ("# nothing\n", "names no stream"),
        ("0\ncam.mp4\n", "line 2: neither"),
        ("0\na.jpg\n", "line 1: a camera or stream in a list of images"),
        ("a.jpg\nrtsp://user:secret@host/x.jpg\n", "line 2: a camera or stream"),
        ("ftp://user:secret@host/x\n", "ftp://host/x: cannot read"),
    ],
)
def test_bad_list_of_streams(tmp_path, text, message):
    path = tmp_path / "streams.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        open_source(str(path))
    assert "secret" not in str(error.value)


def test_absent_camera():
    with pytest.raises(ValueError, match="no frame came from 97"):
        read_all("97")


@pytest.mark.parametrize("source", ["A.JPG", "clip.mp4", "*.png"])
def test_files_are_no_live_sources(folder, source):
    opened = open_source(str(folder / source))
    assert isinstance(opened, FileSource)
    assert not opened.is_live


@pytest.mark.parametrize("name", ["[set] 1", "what?", "50*50", "a[b"])
def test_folders_whose_names_are_globs(tmp_path, name):
    (tmp_path / name / "sub").mkdir(parents=True)
    for file in ("a.jpg", "sub/b.jpg"):
        write_image(tmp_path / name / file, picture())
    assert names(find_media(tmp_path / name), tmp_path) == [f"{name}/a.jpg"]
    assert names(find_media(tmp_path / name / "*.jpg"), tmp_path) == [f"{name}/a.jpg"]
    assert names(find_media(tmp_path / name / "**" / "*.jpg"), tmp_path) == [f"{name}/a.jpg", f"{name}/sub/b.jpg"]
    assert names(find_media(tmp_path / "*" / "sub" / "*.jpg"), tmp_path) == [f"{name}/sub/b.jpg"]


def test_brackets_behind_a_star(tmp_path):
    (tmp_path / "x/[set]").mkdir(parents=True)
    write_image(tmp_path / "x/[set]/a.jpg", picture())
    assert names(find_media(tmp_path / "*" / "[set]" / "*.jpg"), tmp_path) == ["x/[set]/a.jpg"]


def test_an_empty_source_is_said():
    with pytest.raises(ValueError, match="--source is empty"):
        open_source(" ")


def test_a_skipped_file_is_named_once(tmp_path, caplog):
    write_image(tmp_path / "a.jpg", picture())
    source = FileSource([str(tmp_path / "a.jpg"), str(tmp_path / "gone.jpg")])
    assert len(list(source)) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"skipped: {tmp_path / 'gone.jpg'}: no such file or directory"
    ]


def test_images_in_subfolders_only_are_said_with_the_glob_that_finds_them(tmp_path):
    (tmp_path / "[outer]/inner").mkdir(parents=True)
    write_image(tmp_path / "[outer]/inner/b.jpg", picture())
    with pytest.raises(FileNotFoundError, match=r"only its subfolders hold images or videos, e\.g\. .*b\.jpg") as error:
        find_media(tmp_path / "[outer]")
    pattern = str(error.value).rpartition(" name ")[2].strip('"')
    assert names(find_media(Path(pattern)), tmp_path) == ["[outer]/inner/b.jpg"]
