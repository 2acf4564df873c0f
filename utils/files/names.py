"""Names of files and folders: a run's own folder, names given once, texts made safe to be names."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.general import increment_path, remove_stale
from utils.processes.locks import Lock

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a spreadsheet takes for the start of one
LONGEST_NAME = 200  # bytes; file systems take 255


@contextmanager
def run_folder(path: Path, exist_ok: bool = False, is_shared: bool = False) -> Iterator[Path]:
    """The folder `increment_path` makes of the path, for this run alone; it goes if nothing is in it at the end.

    InUseError if another process is writing to it, unless it is shared.
    """
    is_old = exist_ok and path.exists()
    folder = increment_path(path, exist_ok=exist_ok, mkdir=True)
    try:
        with Lock() as lock:
            if not is_shared:
                lock.take_folder(folder)
                remove_stale(folder, is_ours=True)
            yield folder
    finally:
        if not is_old:
            with suppress(OSError):  # it holds what the run wrote
                folder.rmdir()


class UniqueNames:
    """Gives each name once: `bus`, then `bus2`, `bus3`; case makes no difference, as on some file systems."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.next_number: dict[str, int] = {}

    def claim(self, name: str) -> str:
        """The name, with a number if it was given before."""
        candidate, number = name, self.next_number.get(name.casefold(), 2)
        while candidate.casefold() in self.taken:
            candidate = f"{name}{number}"
            number += 1
        self.taken.add(candidate.casefold())
        self.next_number[name.casefold()] = number
        return candidate


def folder_names(names: Sequence[str]) -> list[str]:
    """A folder's name for each class: safe, and of its own; those that would share one get the class's number."""
    safe = [safe_name(name) for name in names]
    counts = Counter(name.casefold() for name in safe)
    folders = []
    for index, name in enumerate(safe):
        folder = f"{name}_{index}" if counts[name.casefold()] > 1 else name
        while folder != name and folder.casefold() in counts:  # a class of its own is called that
            folder += "_"
        folders.append(folder)
    return folders


def safe_name(text: str) -> str:
    """The text as a name of one file or folder: characters that mean something in paths become underscores.

    A long one is cut off, so that a number and a suffix may follow.
    """
    name = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*]+', "_", text)[:LONGEST_NAME]
    while len(name.encode(errors="surrogatepass")) > LONGEST_NAME:
        name = name[:-1]
    return name.strip(" .") or "_"


def plain_cell(value: object) -> object:
    """A cell of a csv file that a spreadsheet shows and does not run: the text `=cmd|...` becomes `'=cmd|...`.

    Numbers stay, as texts too.
    """
    if not isinstance(value, str) or not value.lstrip(" ").startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
