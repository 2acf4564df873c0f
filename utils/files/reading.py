"""Files that may be of anyone's making, read with limits: ordinary files only, so many bytes, JSON of any depth."""

import json
import os
import stat
from pathlib import Path
from typing import IO

MOST_JSON = 16 << 20  # bytes of metadata; more are damage, or made to do harm
MOST_ANNOTATIONS = 8 << 30  # bytes of a data set's annotations; those of Objects365 have 3 GB


def open_plain(path: str | Path) -> IO[bytes]:
    """The file, open for reading; ValueError where it is a pipe or a device, which might never end. OSError."""
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError(f"{path}: a pipe or a device, where an ordinary file is wanted")
    return file


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file; of a pipe too, nobody is waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_plain(path: str | Path, most: int, what: str = "") -> bytes:
    """The content of an ordinary file; ValueError that begins with its name where it has more than `most` bytes.

    what: which kind of file has no more, for the error. OSError.
    """
    with open_plain(path) as file:
        is_larger = os.fstat(file.fileno()).st_size > most
        data = b"" if is_larger else file.read(most + 1)
    if is_larger or len(data) > most:
        raise ValueError(f"{path}: larger than {most >> 20} MB{', which is no ' if what else ''}{what}")
    return data


def parse_json(text: str | bytes, most: int = MOST_JSON) -> object:
    """What a JSON text of anyone's making means; ValueError, in one line and without a file's name, where it is none.

    Of at most so many bytes; one that is nested deeper than Python's stack is an error as any other is.
    """
    if len(text) > most:
        raise ValueError(f"damaged: larger than {most >> 20} MiB")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("damaged: nested too deeply") from None
    except ValueError as error:  # no UTF-8, a number of too many digits
        raise ValueError(f"damaged: {' '.join(str(error).split())}") from None


def read_json(path: str | Path, most: int = MOST_JSON) -> object:
    """What a JSON file holds; ValueError that begins with its name where it holds none. OSError."""
    data = read_plain(path, most)
    try:
        return parse_json(data, most)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
