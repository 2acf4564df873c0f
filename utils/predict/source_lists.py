"""Lists of sources: a .txt of streams or of images, and the names that come on standard input."""

import codecs
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from utils.files.addresses import is_url
from utils.files.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from utils.files.reading import read_plain
from utils.files.texts import decode_text, text_encoding
from utils.predict.remote import is_http, remote_kind
from utils.predict.streams import check_url, is_recording, suffix_of

READABLE = IMAGE_SUFFIXES | VIDEO_SUFFIXES
MOST_MISSING = 20_000  # files of a list that are not there, before it is given up
MOST_BYTES = 256 << 20  # of a list
CHUNK = 1 << 16  # bytes


def is_media_url(address: str) -> bool:
    """Whether it is the address of an image or a video file on a web server, by its suffix."""
    return is_http(address) and suffix_of(address) in READABLE


def read_source_list(path: Path) -> tuple[bool, list[str]]:
    """Whether a text file lists streams, not images; and what it lists, one a line; `#` begins a remark.

    It is a list of images, and perhaps videos, where one of its lines names an image by its suffix, or where all are
    addresses that send an image or a clip; else, as in v6.1, of streams: camera numbers, URLs and video files. A file's
    name may be relative to the list's folder. ValueError where it lists nothing, or a line is neither; lines are told
    by number, for an address may hold a password.
    """
    data = read_plain(path, MOST_BYTES, "list")
    lines = [line.strip() for line in decode_text(data, str(path)).splitlines()]
    listed = {number: line for number, line in enumerate(lines, 1) if line and not line.startswith("#")}
    if not listed:
        raise ValueError(f"{path}: names no stream and no image; one camera number, URL or file a line")
    if any(suffix_of(line) in IMAGE_SUFFIXES for line in listed.values()):
        return False, _images_of(path, listed)
    streams = {number: beside(path, line) for number, line in listed.items()}
    for number, stream in streams.items():
        if is_url(stream):
            check_url(stream)
        elif not (stream.isdecimal() or (is_recording(stream) and Path(stream).is_file())):
            raise ValueError(
                f"{path}, line {number}: neither a camera number nor a URL nor an image nor a video file that is there"
            )
    if any(is_http(stream) and not is_media_url(stream) for stream in streams.values()):
        kinds = [remote_kind(stream) if is_http(stream) else "live" for stream in streams.values()]
        if "image" in kinds and "live" not in kinds:
            return False, list(streams.values())
    return True, list(streams.values())


def _images_of(path: Path, listed: Mapping[int, str]) -> list[str]:
    """The files of a list of images; ValueError where a line is something else, or very many are not there."""
    files, missing = [], 0
    for number, line in listed.items():
        if line.isdecimal() or (is_url(line) and not is_http(line)):
            raise ValueError(f"{path}, line {number}: a camera or stream in a list of images; make two lists")
        files.append(beside(path, line))
        missing += files[-1] == line and not is_url(line) and not os.path.exists(line)
        if missing > MOST_MISSING:
            raise FileNotFoundError(
                f"{path}: more than {MOST_MISSING} of its files are not there, e.g. line {number}: {line}"
            )
    return files


def beside(path: Path, name: str) -> str:
    """The file of this name, seen from here or else from the list's folder; as it is where there is none."""
    if is_url(name) or name.isdecimal() or Path(name).exists():
        return name
    other = path.parent / name
    return str(other) if other.exists() else name


def standard_input(descriptor: int = 0) -> Iterator[str]:
    """The lines of standard input, without empty ones, each as soon as it has come.

    The descriptor is read itself: Python's `sys.stdin` has a lock, and a program that ends while a thread waits inside
    of it is aborted.
    """
    rest = b""
    decoder: codecs.IncrementalDecoder | None = None
    with io.FileIO(descriptor, closefd=False) as file:
        while chunk := file.read(CHUNK):
            if not rest and decoder is None and text_encoding(chunk) != "utf-8":  # as PowerShell redirects
                decoder = codecs.getincrementaldecoder(text_encoding(chunk))("replace")
            chunk = chunk if decoder is None else os.fsencode(decoder.decode(chunk))
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (os.fsdecode(line.rstrip(b"\r")) for line in lines if line.strip())
    if rest.strip():
        yield os.fsdecode(rest.rstrip(b"\r"))


def check_file_name(name: str) -> None:
    """ValueError where a line of a list cannot be an image or a video: a camera, a stream, or another suffix."""
    if is_url(name):
        check_url(name)
        if not is_http(name):
            raise ValueError("a stream in a list of files; name it with --source, or in a .txt of streams")
    elif suffix_of(name) not in READABLE:
        raise ValueError(f"{name}: neither an image nor a video by its suffix")
