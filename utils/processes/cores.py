"""CPU cores that this process may use, and those that other processes keep busy."""

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
IDLE_FIELDS = (3, 4)  # of a cpu line in /proc/stat after its name: idle, iowait
GUEST_FIELDS = 8  # from here on guest time, which the fields before have already
NOISE = 0.3  # of a core, which background processes take on any machine
FIRST_LOOK_S = 0.2


def allowed_cores() -> set[int]:
    """Return the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def cgroup_quota(proc: Path = PROC, cgroups: Path = CGROUPS) -> float:
    """Return the cores' worth of time that the control groups (v1 or v2) allow this process; inf without a limit."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return math.inf
    quotas = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            for root in (cgroups, cgroups / "unified"):
                quotas += [_quota(folder / "cpu.max") for folder in _upwards(root, path)]
        elif "cpu" in controllers.split(","):
            for root in (cgroups / "cpu", cgroups / controllers):
                folders = list(_upwards(root, path))
                quotas += [_quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us") for folder in folders]
    return min(quotas)


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a group and of each group that it is in; in a container the path may begin at the host's."""
    folder = root / path.lstrip("/")
    yield folder
    while folder != root:
        folder = folder.parent
        yield folder


def _quota(*files: Path) -> float:
    """Return quota / period from cpu.max, or from version 1's two files; inf without a limit."""
    try:
        words = " ".join(file.read_text(encoding="utf-8") for file in files).split()
        quota, period = float(words[0]), float(words[1])
    except (OSError, ValueError, IndexError):  # no such group, or `max`
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


class CoreWatch:
    """Measures how many of the allowed cores other processes keep busy, from one look to the next."""

    def __init__(self, proc: Path = PROC) -> None:
        self.proc = proc
        self.last = self._times()

    def _times(self) -> tuple[float, float, float] | None:
        """Return seconds: of the clock, busy of all allowed cores, used by this process; None without /proc/stat."""
        cores = {f"cpu{number}" for number in allowed_cores()}
        try:
            lines = (self.proc / "stat").read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        ticks = 0
        for name, *fields in (line.split() for line in lines if line.startswith("cpu")):
            if name in cores:
                numbers = [int(field) for field in fields[:GUEST_FIELDS]]
                ticks += sum(number for i, number in enumerate(numbers) if i not in IDLE_FIELDS)
        return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time()

    def taken(self) -> float:
        """Return the cores, on average since the last look, that others kept busy; waits if that was just now.

        Loading processes of this one count as others. The load average stands in where there is no /proc/stat.
        """
        if self.last is None:
            return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        wait = FIRST_LOOK_S - (time.monotonic() - self.last[0])
        if wait > 0:
            time.sleep(wait)
        now = self._times()
        if now is None:
            return 0.0
        seconds, busy, own = (new - old for new, old in zip(now, self.last, strict=True))
        self.last = now
        return max(0.0, busy - own) / seconds

    def free(self) -> tuple[int, str]:
        """Return how many threads have a core to themselves, at least 1, and how that was found, for the log."""
        cores, quota, taken = len(allowed_cores()), cgroup_quota(), self.taken()
        count = max(1, int(min(cores, quota, cores - taken + NOISE)))
        limit = f", a quota of {quota:.1f}" if quota < cores else ""
        return count, f"{cores} allowed cores{limit}, {taken:.1f} taken by other processes"
