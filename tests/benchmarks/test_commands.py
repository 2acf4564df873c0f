"""benchmarks/commands.py: real processes are timed with their children, and one that fails ends it in one line."""

import sys

import pytest

from benchmarks import commands

BUSY = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"


def test_cpu_seconds_are_those_of_children_too(tmp_path):
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}], check=True)"
    assert commands.run([sys.executable, "-c", nested], tmp_path).cpu >= 0.3


def test_a_command_that_fails(tmp_path):
    with pytest.raises(ValueError, match="exit status 3: what went wrong"):
        commands.run([sys.executable, "-c", "print('what went wrong'); raise SystemExit(3)"], tmp_path)


def test_ratios_are_of_one_round():
    costs = {
        "ours": [commands.Cost(2, 4), commands.Cost(4, 8)],
        "ultralytics": [commands.Cost(6, 6), commands.Cost(8, 8)],
    }
    assert commands.report("val", costs) == [3, 2]
    assert commands.report("val", {"ours": costs["ours"]}) == []


def test_our_start(data):
    opt = commands.parse_opt(["--tasks", "start", "--rounds", "1", "--data", data])
    assert commands.main(opt) == {"start": []}
