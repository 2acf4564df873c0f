"""Zip archives of anyone's making, as torch writes them, opened only where all their readers see the same in them.

torch's own reader finds entries without regard to case, takes the first or the last of two that have one name, and on
some systems takes a backslash for a slash. What is looked at here could be another entry than what it loads; so an
archive that leaves any choice is refused.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_ENTRIES = 100_000  # yolov5x6 has some 800
# What zipfile raises for damaged archives; RuntimeError for encrypted ones.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, OverflowError)


@contextmanager
def open_archive(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, str]]]:
    """An archive, and its entries' names by what stands behind the one folder that all of them are in.

    ValueError, which names no file, where readers could differ on it. Others of DAMAGED and ValueError as zipfile has
    them, within the block too.
    """
    with zipfile.ZipFile(path) as archive:
        yield archive, _entries(archive.infolist())


def _entries(found: list[zipfile.ZipInfo]) -> dict[str, str]:
    if len(found) > MOST_ENTRIES:
        raise ValueError(f"an archive of {len(found)} entries; up to {MOST_ENTRIES} are possible")
    entries: dict[str, str] = {}
    taken: set[str] = set()
    roots: set[str] = set()
    for info in found:
        name = info.filename
        parts = name.split("/")
        if name != info.orig_filename or "\\" in info.orig_filename or "" in parts[:-1] or ".." in parts:
            raise ValueError(f"damaged or made to do harm: torch calls no entry {info.orig_filename!r:.80}")
        if name.casefold() in taken:
            raise ValueError(f"damaged or made to do harm: two entries are called {name!r:.80}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"damaged or made to do harm: torch does not pack its entries as {name!r:.80}")
        taken.add(name.casefold())
        root, _, rest = name.partition("/")
        roots.add(root)
        entries[rest] = name
    if len(roots) > 1:
        raise ValueError(
            f"damaged or made to do harm: its entries are in several folders, {', '.join(sorted(roots)[:3])!r:.80}"
        )
    return entries


def read_entry(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """An entry's content; ValueError where it unpacks to more than `most` bytes, of which no more are unpacked."""
    with archive.open(name) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{name.partition('/')[2]} in it is larger than {most >> 20} MiB")
    return content
