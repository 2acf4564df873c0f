"""Locks of the operating system: they end with the process that holds them, however it ends."""

import errno
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

LOCKED_BYTE = 2**30  # beyond the content, which Windows keeps others from reading where it is locked
CONTENDED = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
OWNER_BYTES = 200
FOLDER_LOCK = ".lock"
TRIES, RETRY_S = 50, 0.02


class InUseError(OSError):
    """Another process holds the lock."""


class Lock:
    """A lock on a file or folder, held from `take` until `release` or the end of the process.

    Child processes do not inherit it. It keeps out other processes, not other threads of this one. On a file system
    without locks it does nothing.
    """

    def __init__(self) -> None:
        self._held: dict[Path, int] = {}  # lock files and their descriptors

    def __enter__(self) -> Self:
        """The lock, not taken yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release it."""
        self.release()

    def take_folder(self, folder: Path) -> None:
        """Lock a folder; does nothing if this lock holds it. InUseError if another process does."""
        self._take(folder.resolve() / FOLDER_LOCK, folder, "name another folder by --name")

    def take_file(self, path: Path) -> None:
        """Lock a file, or a folder as a whole, that is to be written; InUseError if another process does so."""
        place = path.resolve()
        self._take(place.with_name(f".{place.name[:200]}.lock"), path, "start again when it has ended")

    def release(self) -> None:
        """Let others take it."""
        for path, descriptor in self._held.items():
            if fcntl is None:  # Windows removes no file that is open
                os.close(descriptor)
            with suppress(OSError):  # another process has it open, or the folder has gone
                path.unlink()
            if fcntl is not None:
                os.close(descriptor)
        self._held.clear()

    def _take(self, file: Path, target: Path, advice: str) -> None:
        if file in self._held:
            return
        for _ in range(TRIES):
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            if not _lock(descriptor):
                owner = os.read(descriptor, OWNER_BYTES).decode(errors="replace").strip()
                os.close(descriptor)
                raise InUseError(f"{target}: {owner or 'another process'} is writing to it; {advice}")
            if _is_file(descriptor, file):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode()[:OWNER_BYTES])
                self._held[file] = descriptor
                return
            os.close(descriptor)  # its owner has removed it since it was opened
            time.sleep(RETRY_S)
        raise InUseError(f"{target}: other processes are taking it in turns; {advice}")


def _lock(descriptor: int) -> bool:
    """Lock an open file for this process; return False if another one holds it."""
    try:
        if fcntl is None:
            os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, LOCKED_BYTE)  # not inherited by forks
    except OSError as error:
        return error.errno not in CONTENDED  # else the file system has no locks
    return True


def _is_file(descriptor: int, path: Path) -> bool:
    """Return whether the open file is the one of this path."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    own = os.fstat(descriptor)
    return (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino)


# Temporary files ------------------------------------------------------------------------------------------------------


@contextmanager
def sign_of_life(path: Path) -> Iterator[None]:
    """Hold a file or folder so that `is_abandoned` is False for it while the block runs."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # the file system has no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def is_abandoned(path: Path) -> bool | None:
    """Return whether no process has a `sign_of_life` for the file or folder; None if the system cannot tell."""
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return True
