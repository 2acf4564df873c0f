"""Files that the user asks for are fetched and archives unpacked; nothing here runs unless `--download` is named.

Each file comes whole or not at all: what a cut connection leaves is gone on with the next time. Its SHA-256 is compared
with that of the first fetch, which CHECKSUMS beside it records; publishers of data sets name none themselves.
"""

import hashlib
import json
import lzma
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from utils.files.reading import parse_json
from utils.general import LOGGER, atomic_write, plural, progress, remove_stale, scratch_folder, size_text

CHECKSUMS = "sha256.json"  # file name: hash, in the folder of the fetched files
CHUNK = 1 << 20  # bytes
TIMEOUT_S = 60
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
# What zipfile and tarfile raise for damaged archives; RuntimeError for encrypted and unknown ones.
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError)
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


# Fetching -------------------------------------------------------------------------------------------------------------


def fetch_all(urls: Sequence[str], folder: Path) -> list[Path]:
    """The files at these addresses in the folder, those that are there already left as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    return [fetch(url, folder) for url in urls]


def fetch(url: str, folder: Path) -> Path:
    """The file at an https address, fetched into the folder; ValueError where it is not to be had or not as before.

    It gets the name that the address ends with, or the one behind its `#`.
    """
    _check_address(url)
    parts = urlsplit(url)
    target = folder / (parts.fragment or PurePosixPath(unquote(parts.path)).name)
    if target.exists():
        LOGGER.info(f"{target} is there already")
        return target
    part = target.with_name(target.name + ".part")
    _receive(url, part)
    digest = _sha256(part)
    lock = folder / CHECKSUMS
    known = _read_checksums(lock)
    if known.setdefault(target.name, digest) != digest:
        part.unlink()
        raise ValueError(
            f"{url}: its SHA-256 is {digest}, but {known[target.name]} at the first fetch ({lock}): refused; where the "
            "new one is meant, take its row out of that file"
        )
    with atomic_write(lock) as temporary:
        temporary.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
    part.replace(target)
    LOGGER.info(f"{target}: {size_text(target.stat().st_size)}, SHA-256 {digest}")
    return target


def _receive(url: str, part: Path) -> None:
    """Writes what is at the address to `part`, going on behind what is there of it."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "yolov5-nam"} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(url.partition("#")[0], headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            _check_address(answer.url)  # where it was led to
            is_rest = answer.status == 206
            size = answer.headers.get("Content-Length")
            total = None if size is None else int(size) + (start if is_rest else 0)
            shown = "of unknown size" if total is None else size_text(total)
            LOGGER.info(f"fetching {url}: {shown}" + (f", {size_text(start)} are there" if is_rest else ""))
            with part.open("ab" if is_rest else "wb") as file:
                chunks = iter(lambda: answer.read(CHUNK), b"")
                for chunk in progress(chunks, None if total is None else -(-total // CHUNK), part.stem, delay=1.0):
                    file.write(chunk)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing is behind what is there
            if (error.headers.get("Content-Range") or "").rpartition("/")[2] in ("", "*", str(start)):
                return
            part.unlink()
            raise ValueError(f"{url}: {part} was longer than the file; it is removed, try again") from None
        raise ValueError(f"{url}: {error}") from None
    except (OSError, HTTPException) as error:
        raise ValueError(f"{url}: {getattr(error, 'reason', error)}; the same command goes on with it") from None
    if total is not None and part.stat().st_size != total:
        raise ValueError(f"{url}: {part.stat().st_size} of {total} bytes came; the same command goes on with it")


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise ValueError(f"{url}: only https addresses are fetched")


def _read_checksums(lock: Path) -> dict[str, str]:
    """The recorded hashes by file name; ValueError where the file is not such a record."""
    try:
        known = parse_json(lock.read_bytes()) if lock.exists() else {}
    except ValueError as error:
        raise ValueError(f"{lock}: {error}; correct or remove it") from None
    if not isinstance(known, dict):
        raise ValueError(f"{lock}: is no record of file names and hashes; remove it")
    return known


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Archives -------------------------------------------------------------------------------------------------------------


@contextmanager
def unpacked(source: Path, near: Path) -> Iterator[list[Path]]:
    """The folder, and one with the content of the archives that lie in it, which goes when the block ends.

    It is made beside `near`, so that files can be linked from it. An archive whose content lies beside it, in a folder
    of its name, is passed over.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder; --source holds the published archives or their content")
    archives = [path for path in sorted(source.iterdir()) if path.name.endswith(ARCHIVES) and path.is_file()]
    archives = [path for path in archives if not (source / path.name.partition(".")[0]).is_dir()]
    if not archives:
        yield [source]
        return
    near.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(near.parent, near.name)
    with scratch_folder(near) as folder:
        LOGGER.info(f"unpacking {plural(len(archives), 'archive')} of {source}")
        for path in progress(archives, desc="Unpacking", delay=1.0):
            unpack(path, folder)
        yield [source, folder]


def unpack(path: Path, folder: Path) -> None:
    """Writes an archive's files below the folder; ValueError for a damaged one, or one that would write elsewhere."""
    try:
        if path.name.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name.replace("\\", "/")).parts:
                        raise ValueError(f"{path}: holds {name!r}, which lies outside of it: refused")
                archive.extractall(folder)
        else:
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")
    except DAMAGED as error:
        raise ValueError(f"{path}: cannot be unpacked: {error}") from None
