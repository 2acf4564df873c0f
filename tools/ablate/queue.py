"""A queue of runs in a folder, from which any number of processes and machines that share the folder may draw.

A run is claimed by making the file claim-<number>.json, which only one process can do; its owner touches it while it
works. Where the owner is dead (on this machine) or has not touched it for long (on any), the next number may be made,
so that of several who want to take over just one does. The highest number is the owner. A run ends with done.json or
failed.json. There is no lock to be left behind, and no file that two processes write.
"""

import json
import os
import platform
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from utils.files.reading import read_json
from utils.general import LOGGER, atomic_write, is_running

LOST_AFTER_S = 180.0  # without a touch
ENDS = ("done", "failed")
CLAIM = re.compile(r"claim-\d{4,9}\.json")
MOST_PID = 2**31 - 1


@dataclass(frozen=True)
class Claim:
    """A process's right to do a run; `number` counts the processes that have had it."""

    folder: Path
    number: int

    @property
    def path(self) -> Path:
        """The file that stands for it."""
        return self.folder / f"claim-{self.number:04d}.json"

    def beat(self) -> bool:
        """Says that the owner is alive; False where another process has taken over, so that this one must stop."""
        if self.path.with_name(f"claim-{self.number + 1:04d}.json").exists():
            return False
        with suppress(FileNotFoundError):  # somebody removed the queue: then nobody else has taken over either
            os.utime(self.path)
        return True

    def end(self, state: str, record: Mapping[str, object]) -> None:
        """Writes how the run ended, `done` or `failed`."""
        assert state in ENDS
        with atomic_write(self.folder / f"{state}.json") as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def release(self) -> None:
        """Gives the run back unfinished, for anyone to take up at once."""
        with suppress(FileNotFoundError):
            os.utime(self.path, (0, 0))


class RunQueue:
    """The runs' states in a folder, by their keys, which must be fit for folder names."""

    def __init__(self, folder: Path, lost_after_s: float = LOST_AFTER_S) -> None:
        self.folder, self.lost_after_s = folder, lost_after_s
        folder.mkdir(parents=True, exist_ok=True)

    def place(self, key: str) -> Path:
        """The folder of a run's state."""
        return self.folder / key

    def claim(self, key: str) -> Claim | None:
        """The run, for this process alone; None where it has ended or another process is at it."""
        place = self.place(key)
        place.mkdir(exist_ok=True)
        number, is_alive = self._latest(place)
        if is_alive or self._ended(place):
            return None
        claim = Claim(place, number + 1)
        try:
            with claim.path.open("x", encoding="utf-8") as file:
                json.dump({"place": this_place(), "pid": os.getpid()}, file)
        except FileExistsError:
            return None
        if self._ended(place):  # its owner came to the end while it was looked at
            claim.release()
            return None
        return claim

    def state(self, key: str) -> str:
        """`open`, `running`, `done` or `failed`."""
        place = self.place(key)
        return self._ended(place) or ("running" if self._latest(place)[1] else "open")

    def record(self, key: str) -> dict[str, object]:
        """What was written at the end of a run; ValueError where the file is damaged."""
        paths = [self.place(key) / f"{state}.json" for state in ENDS]
        path = next((path for path in paths if path.exists()), paths[0])
        found = _content(path)
        if not isinstance(found, dict):
            raise ValueError(f"{path}: damaged; remove it, and the run is done again")
        return found

    def retry(self, key: str) -> None:
        """Lets a run that failed be claimed again."""
        (self.place(key) / "failed.json").unlink(missing_ok=True)

    def _ended(self, place: Path) -> str:
        """How a run ended, "" where it has not; a damaged record is set aside, and the run is open again."""
        for state in ENDS:
            path = place / f"{state}.json"
            if not path.exists():
                continue
            if isinstance(_content(path), dict):
                return state
            aside = path.with_name(f"{path.name}.damaged")
            with suppress(FileNotFoundError):  # another process was quicker
                path.replace(aside)
                LOGGER.warning(f"{path}: damaged; it is now {aside.name}, and the run is done again")
        return ""

    def _latest(self, place: Path) -> tuple[int, bool]:
        """The highest claim's number, -1 without any, and whether its owner is alive."""
        claims = sorted(path for path in place.glob("claim-*.json") if CLAIM.fullmatch(path.name))
        if not claims:
            return -1, False
        return int(claims[-1].stem.partition("-")[2]), self._is_alive(claims[-1])

    def _is_alive(self, path: Path) -> bool:
        if self._now() - path.stat().st_mtime > self.lost_after_s:
            return False
        owner = _content(path)
        if not isinstance(owner, dict) or not isinstance(owner.get("pid"), int):  # being written, or damaged
            return True
        return owner.get("place") != this_place() or (0 < owner["pid"] <= MOST_PID and is_running(owner["pid"]))

    def _now(self) -> float:
        """The time by the clock that the claims' times are of, which may be a file server's."""
        clock = self.folder / "clock"
        try:
            clock.touch()
            return clock.stat().st_mtime
        except PermissionError:  # another user's: the own clock must do
            return time.time()


def _content(path: Path) -> object:
    """What a JSON file holds; None where it is gone or damaged."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def this_place() -> str:
    """The name of what process numbers count within: a machine, or a container on it."""
    parts = [platform.node()]
    with suppress(OSError):  # no Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)
