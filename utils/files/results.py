"""Writing results of which there are thousands: whole or not at all, and an error names the file."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Let an OSError of the block name this file, as that of a full disk does not by itself."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def whole_or_none(path: str | Path) -> Iterator[Path]:
    """The path to write to in the block. If that fails the file is removed, and the OSError names it.

    Cheaper than utils.general's `atomic_write`: nothing waits for the disk.
    """
    path = Path(path)
    try:
        with naming(path):
            yield path
    except OSError:
        with suppress(OSError):
            if path.is_file():
                path.unlink()
        raise
