"""Free cores: files of /proc and of control groups as Linux has them, and a process that is busy."""

import math
import os
import subprocess
import sys
import time

import pytest

from utils.processes import cores
from utils.processes.cores import CoreWatch, cgroup_quota


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        ("0::/job/one", {"job/one/cpu.max": "150000 100000", "job/cpu.max": "max 100000"}, 1.5),
        ("0::/job/one", {"job/one/cpu.max": "max 100000", "job/cpu.max": "50000 100000"}, 0.5),  # the outer one limits
        ("0::/", {"cpu.max": "max 100000"}, math.inf),
        ("0::/at/the/host", {"cpu.max": "200000 100000"}, 2.0),  # a container sees its own root only
        (
            "3:cpuset:/x\n2:cpu,cpuacct:/job",
            {"cpu/job/cpu.cfs_quota_us": "300000", "cpu/job/cpu.cfs_period_us": "100000"},
            3.0,
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ("1:cpu:/", {}, math.inf),
    ],
)
def test_quota(tmp_path, group, files, quota):
    write(tmp_path / "proc" / "self" / "cgroup", group + "\n")
    for name, text in files.items():
        write(tmp_path / "cgroups" / name, text + "\n")
    assert cgroup_quota(tmp_path / "proc", tmp_path / "cgroups") == quota


def test_no_quota_without_control_groups(tmp_path):
    assert cgroup_quota(tmp_path / "proc", tmp_path) == math.inf


@pytest.mark.parametrize(
    ("taken_s", "quota", "own_s", "count"),
    [
        (0, math.inf, 0, 4),
        (2, math.inf, 0, 4),
        (10, math.inf, 0, 3),
        (40, math.inf, 0, 1),
        (40, math.inf, 40, 4),
        (0, 2.5, 0, 2),
        (0, 0.5, 0, 1),
    ],
)
def test_free_cores(tmp_path, monkeypatch, taken_s, quota, own_s, count):
    """Ten seconds on cores 0 to 3, on which others were busy for `taken_s` less `own_s`; core 4 is not ours."""
    clock, own = iter([0.0, 10.0, 10.0]), iter([0.0, float(own_s)])
    monkeypatch.setattr(cores, "allowed_cores", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(cores, "cgroup_quota", lambda: quota)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "process_time", lambda: next(own))
    tick = os.sysconf("SC_CLK_TCK")

    def stat(busy_s):
        lines = [f"cpu{n} {busy_s * tick // 8} 0 {busy_s * tick // 8} 777 99 0 0 0 55 0" for n in range(4)]
        write(
            tmp_path / "stat",
            "\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *lines, f"cpu4 {busy_s * 999} 0 0 0 0 0 0 0 0 0"]),
        )

    stat(0)
    watch = CoreWatch(tmp_path)
    stat(taken_s)
    assert watch.free()[0] == count


@pytest.mark.skipif(not (cores.PROC / "stat").exists(), reason="no /proc/stat")
def test_a_busy_process_is_seen():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        watch = CoreWatch()
        end = time.monotonic() + 60
        while time.monotonic() < end and watch.taken() < 0.2:
            time.sleep(0.1)
        assert time.monotonic() < end
    finally:
        busy.kill()
        busy.wait()
