"""Which exported files this user's export.py wrote: their SHA-256, kept in the user's own folder.

A file cannot say of itself who made it: whatever stands in it can be copied. What is listed here was written on this
machine, by this user, and has not changed by a byte since.
"""

import hashlib
import os
from itertools import islice
from pathlib import Path

from utils.general import LOGGER, one_line

STATE_HOME = "~/.local/state"  # where XDG_STATE_HOME names no other place
REGISTER = Path("yolov5-nam", "exported.sha256")  # in it
MOST_FILES = 32  # of an exported folder; a larger one is none of ours
WRITABLE_BY_OTHERS = 0o022


def find_register() -> Path:
    """The list's place; RuntimeError where the user has no home."""
    return Path(os.environ.get("XDG_STATE_HOME") or STATE_HOME).expanduser() / REGISTER


def remember(path: Path) -> None:
    """Adds an exported file or folder to the list; where that cannot be written, --trust will be asked for."""
    try:
        register = find_register()
        register.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(register, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "a", encoding="ascii") as file:  # a short line, which is appended whole
            file.write(f"{fingerprint(path)}\n")
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        LOGGER.info(f"{path}: not remembered as this machine's own ({one_line(error)}); --trust loads it all the same")


def is_remembered(path: Path) -> bool:
    """Whether the file or folder is listed, byte for byte."""
    try:
        register = find_register()
        if not register.is_file() or not _is_own(register):
            return False
        listed = set(register.read_text(encoding="ascii").split())
        return fingerprint(path) in listed
    except (OSError, RuntimeError, ValueError):
        return False


def _is_own(register: Path) -> bool:
    """Whether nobody but this user can have written the list; always true where that is not told as on POSIX."""
    if os.name != "posix":
        return True
    facts = register.stat()
    return facts.st_uid == os.getuid() and not facts.st_mode & WRITABLE_BY_OTHERS


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's content, or of the names and contents of all files in a folder.

    ValueError where a part of it is no ordinary file, as a pipe.
    """
    if path.is_file():
        return _digest(path)
    whole = hashlib.sha256()
    parts = list(islice((part for part in path.rglob("*") if not part.is_dir()), MOST_FILES + 1))
    if len(parts) > MOST_FILES:
        raise ValueError(f"{path}: a folder of more than {MOST_FILES} files")
    for part in sorted(parts):
        if not part.is_file():
            raise ValueError(f"{part}: no ordinary file")
        name = part.relative_to(path).as_posix().encode(errors="surrogateescape")
        whole.update(len(name).to_bytes(8, "little") + name + _digest(part).encode())
    return whole.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
