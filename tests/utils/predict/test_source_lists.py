"""Lists: of streams or of images by what they hold, and names on standard input as they come."""

import os
import threading

import numpy as np
import pytest

from utils.files.images import write_image
from utils.predict.source_lists import check_file_name, is_media_url, read_source_list, standard_input


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0\n", (True, ["0"])),
        ("rtsp://u:p@h/x\n# rtsp://h/y\n\n1\n", (True, ["rtsp://u:p@h/x", "1"])),
        ("http://h/live\nhttp://h/a.mp4\n", (True, ["http://h/live", "http://h/a.mp4"])),
        ("absent.jpg\nhttp://h/a.PNG?x=1\nb.mp4\n", (False, ["absent.jpg", "http://h/a.PNG?x=1", "b.mp4"])),
        ("\ufeffhttps://h/a.jpg\n", (False, ["https://h/a.jpg"])),
    ],
)
def test_what_a_text_file_lists(tmp_path, text, expected):
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    assert read_source_list(tmp_path / "list.txt") == expected


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig"])
def test_lists_that_windows_writes(tmp_path, encoding):
    path = tmp_path / "list.txt"
    path.write_bytes("größe.jpg\r\nb.png\r\n".encode(encoding))
    assert read_source_list(path) == (False, ["größe.jpg", "b.png"])


def test_a_list_of_another_encoding_is_named(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a.jpg\ngr\xf6\xdfe.jpg\n")
    with pytest.raises(ValueError, match=r"list\.txt, line 2: .*UTF-8"):
        read_source_list(tmp_path / "list.txt")


def test_names_beside_the_list(tmp_path):
    (tmp_path / "sub").mkdir()
    write_image(tmp_path / "sub" / "a.jpg", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "list.txt").write_text("./sub/a.jpg\nsub/b.jpg\n")
    assert read_source_list(tmp_path / "list.txt") == (False, [str(tmp_path / "sub" / "a.jpg"), "sub/b.jpg"])


@pytest.mark.parametrize(
    ("address", "expected"),
    [("http://h/a.jpg?k=1", True), ("rtsp://h/a.jpg", False), ("http://h/a", False), ("a.jpg", False)],
)
def test_is_media_url(address, expected):
    assert is_media_url(address) == expected


@pytest.mark.parametrize("name", ["rtsp://u:secret@h/x", "ftp://u:secret@h/x.jpg", "notes.md", "0"])
def test_lines_that_are_no_files(name):
    with pytest.raises(ValueError, match=r"a stream|cannot read|neither") as error:
        check_file_name(name)
    assert "secret" not in str(error.value)


def test_standard_input_line_by_line():
    reader, writer = os.pipe()
    lines = standard_input(reader)
    os.write(writer, "a ü.jpg\r\n\nb.j".encode())
    assert next(lines) == "a ü.jpg"
    threading.Timer(0.05, lambda: (os.write(writer, b"pg\n\xff.png"), os.close(writer))).start()
    assert list(lines) == ["b.jpg", os.fsdecode(b"\xff.png")]
    os.close(reader)
