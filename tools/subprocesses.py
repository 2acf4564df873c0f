"""Run train.py and other commands as child processes that end with this one, their output in a log file."""

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from utils.general import ROOT

BEAT_S = 5.0  # between two touches of the claim
POLL_S = 0.1
DIE_WITH_PARENT = 1  # Linux: prctl's PR_SET_PDEATHSIG
TRAINER = (sys.executable, str(ROOT / "train.py"))
TAIL = 5  # lines of a failed training's log that are shown


@dataclass(frozen=True)
class Ended:
    """How a process ended: its status, its seconds, and the most memory it had, in MB, None where that is unknown."""

    status: int
    seconds: float
    peak_mb: float | None


def run_logged(command: Sequence[str], log_file: Path, beat: Callable[[], bool] = lambda: True) -> Ended | None:
    """Runs a command, its output put behind what a log has; beat() is called every few seconds, and False ends it.

    None where it was ended so; a command that is left in any other way is killed too.
    """
    start = beaten = time.monotonic()
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, preexec_fn=_preparation()
        )
        with closing(_Child(process)) as child:
            while not child.has_ended():
                time.sleep(POLL_S)
                if time.monotonic() - beaten >= BEAT_S:
                    beaten = time.monotonic()
                    if not beat():
                        return None
            return Ended(process.returncode, time.monotonic() - start, child.peak_mb)


class _Child:
    """A process that is killed when it is closed, and whose memory is known once it has ended, where the system has it.

    Linux and macOS say so to the one that waits for the process, which therefore is this class and not subprocess.
    """

    def __init__(self, process: subprocess.Popen) -> None:
        self.process, self.peak_mb = process, None

    def has_ended(self) -> bool:
        if not hasattr(os, "wait4"):
            return self.process.poll() is not None
        if self.process.returncode is None:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.process.returncode = os.waitstatus_to_exitcode(status)
                self.peak_mb = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        return self.process.returncode is not None

    def close(self) -> None:
        if not self.has_ended():
            self.process.kill()
            self.process.wait()


def _preparation() -> Callable[[], None] | None:
    """What a child does before it becomes the command: asks to be killed when this process dies (Linux alone)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(DIE_WITH_PARENT, 9)
