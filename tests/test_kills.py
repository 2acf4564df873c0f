"""Runs of train.py that signals end at any moment: what they leave, and that --resume brings them to the same end.

KILLS=200 pytest tests/test_kills.py kills 200 times in place of 20.
"""

import csv
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from tests.training_server import training_server
from utils.files.checkpoint import load_checkpoint
from utils.processes.locks import Lock

KILLS = int(os.environ.get("KILLS", "20"))
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="forks and /proc"),
    pytest.mark.timeout(300 + 5 * KILLS),
]
EPOCHS = 3
NETWORK = {  # of 1,800 parameters, one level of stride 8
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "nc": 10,
    "anchors": [[10, 12, 20, 24]],
    "backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [[-1, 1, "NAMAttention", [8]], [[2], 1, "Detect", ["nc", "anchors"]]],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with training_server(tmp_path_factory.mktemp("server") / "log") as server:
        yield server


@pytest.fixture(scope="module")
def arguments(data, tmp_path_factory):
    """The flags of a tiny run without its name."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "net.yaml").write_text(yaml.safe_dump(NETWORK), encoding="utf-8")
    flags = f"--data {data} --cfg {folder / 'net.yaml'} --weights= --imgsz 64 --batch-size 2 --epochs {EPOCHS}"
    return [*flags.split(), *f"--device cpu --amp off --workers 0 --project {folder}".split()]


@pytest.fixture(scope="module")
def whole(server, arguments):
    """The folder of a run that nothing has ended, and its seconds: all, and those of its end."""
    folder = new_run(arguments, "whole")
    begin = time.monotonic()
    assert server.run(*arguments, "--name", folder.name) == 0, server.log
    seconds = time.monotonic() - begin
    ending = (folder / "weights" / "last.pt").stat().st_mtime - (folder / "results.csv").stat().st_mtime
    return folder, seconds, ending


def new_run(arguments, name):
    return Path(arguments[-1]) / name


def rows(folder):
    path = folder / "results.csv"
    return list(csv.reader(path.read_text().splitlines())) if path.exists() else []


def all_rows(folder):
    """Whether the last epoch's row is written, after which the run's end begins."""
    return lambda: len(rows(folder)) == EPOCHS + 1


def results(folder):
    content = json.loads((folder / "results.json").read_text())
    del content["speed_ms"]
    return content


def files(folder):
    """All of a folder, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def assert_same_run(folder, whole):
    """The same weights, numbers and files."""
    assert rows(folder) == rows(whole)
    for name in ("last.pt", "best.pt"):
        found, expected = (load_checkpoint(run / "weights" / name) for run in (folder, whole))
        assert found.training is None
        assert found.state.keys() == expected.state.keys()
        for key, value in found.state.items():
            torch.testing.assert_close(value, expected.state[key], rtol=0, atol=0)
    assert results(folder) == results(whole)
    assert files(folder) == files(whole)
    assert "report.html" in files(folder)


def continued(folder, arguments):
    """The command that goes on with a run, or begins it again where it had no checkpoint yet."""
    last = folder / "weights" / "last.pt"
    return ["--resume", last] if last.exists() else [*arguments, "--name", folder.name, "--exist-ok"]


# Kills ----------------------------------------------------------------------------------------------------------------


def test_killed_at_any_moment(server, arguments, whole):
    """Every second kill is in the end of the run, when all epochs are done."""
    expected, seconds, ending = whole
    rng, kills, in_the_end, runs = random.Random(0), 0, 0, 0
    while kills < KILLS:
        folder, status = new_run(arguments, f"cut{runs}"), None
        runs += 1
        while status != 0:
            command = continued(folder, arguments)
            if kills >= KILLS:
                status = server.run(*command)
            elif kills % 2:
                status = server.run_until(signal.SIGKILL, all_rows(folder), rng.uniform(0, ending), *command)
            else:
                status = server.run_until(signal.SIGKILL, lambda: True, rng.uniform(0, seconds), *command)
            if status == 1 and "finished with" in server.log:  # killed when all was done, before it could say so
                status = 0
            assert status in (0, -signal.SIGKILL), server.log
            kills += status != 0
            in_the_end += status != 0 and len(rows(folder)) == EPOCHS + 1
        assert_same_run(folder, expected)
    assert in_the_end >= KILLS // 4


def test_a_finished_run_is_refused(server, whole):
    assert server.run("--resume", whole[0]) == 1
    assert f"finished with {EPOCHS} epochs" in server.log
    assert "report.html" in files(whole[0])
    assert not [name for name in files(whole[0]) if name.startswith(".")]


@pytest.mark.parametrize("missing", [("results.json", "report.html"), ("report.html",)])
def test_a_stripped_run_without_results_is_finished(server, whole, tmp_path, missing):
    """As older versions left it, which stripped last.pt first."""
    folder = shutil.copytree(whole[0], tmp_path / "run")
    for name in missing:
        (folder / name).unlink()
    assert server.run("--resume", folder) == 0, server.log
    assert_same_run(folder, whole[0])


def test_an_extended_run_is_extended_after_a_kill(server, whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    command = ("--resume", folder, "--epochs", EPOCHS + 2)
    begun = lambda: "/4 " in server.log  # noqa: E731 - the bar of an epoch of five
    assert server.run_until(signal.SIGKILL, begun, 0, *command) == -signal.SIGKILL
    assert server.run("--resume", folder) == 0, server.log
    assert len(rows(folder)) == EPOCHS + 3


# Signals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status", "name"),
    [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 129, "SIGHUP"), (signal.SIGINT, 130, "Ctrl-C")],
)
def test_signals_end_a_run_with_its_workers(server, arguments, number, status, name):
    """The last epoch is kept, how to go on is logged, there is no traceback."""
    folder = new_run(arguments, f"by{number}")
    long = [*arguments, "--workers", 2, "--epochs", 100, "--noplots", "--name", folder.name]
    child = server.start(*long)
    last = folder / "weights" / "last.pt"
    wait_for(last.exists)
    workers = descendants(child)
    assert workers
    os.kill(child, number)
    os.kill(child, number)
    assert server.wait() == status, server.log
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    assert f"stopped by {name}" in server.log
    assert f"--resume {last}" in server.log
    assert "Traceback" not in server.log
    assert load_checkpoint(last).training["partial"] is None
    assert not [path for path in files(folder) if path.rpartition("/")[2].startswith(".")]


def test_workers_end_with_a_killed_run(server, arguments):
    folder = new_run(arguments, "orphans")
    child = server.start(*arguments, "--workers", 2, "--epochs", 100, "--noplots", "--name", folder.name)
    wait_for((folder / "weights" / "last.pt").exists)
    workers = descendants(child)
    assert workers
    os.kill(child, signal.SIGKILL)
    server.wait()
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), seconds=2)


@pytest.mark.parametrize("epoch", [0, 1])
def test_save_on_signal_goes_on_with_the_next_batch(server, arguments, whole, epoch):
    """To the weights of a run that nothing has ended, gradients that had not made a step yet included."""
    folder = new_run(arguments, f"saved{epoch}")
    last = folder / "weights" / "last.pt"
    command, partial = [*arguments, "--name", folder.name, "--save-on-signal"], None
    begun = lambda: f"{epoch}/{EPOCHS - 1} " in server.log  # noqa: E731 - the epoch's bar
    assert server.run_until(signal.SIGTERM, begun, 0, *command) == 143, server.log
    partial = load_checkpoint(last).training["partial"]
    assert partial["epoch"] == epoch
    assert 0 < partial["batches"] <= partial["batch_count"] == 6
    assert f"saved in epoch {epoch}, after {partial['batches']} of its 6 batches" in server.log
    assert len(rows(folder)) == epoch + 1
    assert server.run("--resume", folder) == 0, server.log
    assert_same_run(folder, whole[0])


def descendants(pid):
    """Process numbers of the children of a process."""
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)


# Two at once, and no room ---------------------------------------------------------------------------------------------


def test_a_second_run_in_the_folder_is_refused(server, whole, tmp_path):
    """By a lock that goes with its owner; another run changes nothing there."""
    folder = shutil.copytree(whole[0], tmp_path / "run")
    before = files(folder)
    with Lock() as lock:
        lock.take_folder(folder)
        for command in (
            ["--resume", folder, "--epochs", 9],
            ["--project", tmp_path, "--name", "run", "--exist-ok", "--weights="],
        ):
            data = load_checkpoint(folder / "weights" / "resume.pt").training["opt"]["data"]
            assert server.run(*command, "--data", data, "--device", "cpu") == 1
            assert f"{folder}: process {os.getpid()} on" in server.log
            assert server.log.count("ERROR") == 1
            assert "Traceback" not in server.log
    assert files(folder) == before
