"""train.py and val.py under torchrun: two gloo processes do what one does with the same global batch."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train
from utils.general import ROOT

EPOCHS = 6
TINY = {"imgsz": 64, "batch_size": 12, "workers": 0, "device": "cpu", "weights": "", "cfg": "yolov5n-NAM.yaml"}
TINY |= {"epochs": EPOCHS, "amp": "off", "noplots": True}  # a step an epoch, so that each row is one step's losses
LOSSES = slice(1, 4)


def torchrun(script, *arguments):
    """The command line of two processes."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return [*start, script, *map(str, arguments)]


def flags(options):
    """Options as the command line has them."""
    given = [(f"--{name.replace('_', '-')}", value) for name, value in options.items()]
    return [part for flag, value in given for part in ((flag,) if value is True else (flag, str(value)))]


def run(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)


def rows(folder):
    with (folder / "results.csv").open(newline="") as file:
        return [[float(cell) for cell in row] for row in list(csv.reader(file))[1:]]


@pytest.fixture(scope="module")
def single(data, tmp_path_factory):
    """The folder of a run of one process."""
    return train.run(**TINY, data=data, project=str(tmp_path_factory.mktemp("single")))


@pytest.fixture(scope="module")
def double(data, tmp_path_factory):
    """The folder of the same run of two processes."""
    project = tmp_path_factory.mktemp("double")
    options = TINY | {"data": data, "project": project, "sync_bn": True, "verbose": True}
    done = run(*torchrun("train.py", *flags(options)))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("train: weights=") == 1, "rank 0 alone tells what it does"
    assert "FutureWarning" not in done.stderr
    return project / "exp"


def test_losses_are_those_of_one_process(single, double):
    """Of the first steps; later ones part slowly, as those of one process do when sums are made in another order."""
    for one, two in list(zip(rows(single), rows(double), strict=True))[:3]:
        assert two[LOSSES] == pytest.approx(one[LOSSES], abs=1e-4)
        assert two[-3:] == one[-3:], "learning rates"
    assert rows(double)[0][LOSSES] == pytest.approx(rows(single)[0][LOSSES], rel=2e-5)
    assert rows(double)[0][LOSSES] != rows(double)[2][LOSSES]


def test_a_killed_process_ends_the_other_and_the_run_goes_on(data, double, tmp_path):
    command = torchrun("train.py", *flags(TINY | {"data": data, "project": tmp_path, "sync_bn": True}))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        folder = tmp_path / "exp"
        wait_for(lambda: (folder / "weights" / "last.pt").exists() and len(rows(folder)) >= 2)
        os.kill(max(children(process.pid)), signal.SIGKILL)
        assert process.wait(timeout=20) != 0
    assert "SIGKILL" in (tmp_path / "log").read_text()
    assert len(rows(folder)) < EPOCHS
    done = run(*torchrun("train.py", "--resume", folder / "weights" / "last.pt"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert rows(folder) == rows(double)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.05)


def children(pid):
    """Process numbers of the running children of a process."""
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_validation_is_that_of_one_process(data, double, tmp_path):
    """Labels, curves and COCO results too; six images in batches of two are a batch and two batches."""
    how = {"data": data, "weights": double / "weights" / "best.pt", "imgsz": 96, "batch_size": 2, "device": "cpu"}
    how |= {"conf_thres": 1e-6, "save_txt": True, "save_conf": True, "save_json": True, "workers": 0}
    for name, command in (("one", [sys.executable, "val.py"]), ("two", torchrun("val.py"))):
        done = run(*command, *flags(how | {"project": tmp_path, "name": name}))
        assert done.returncode == 0, done.stderr[-3000:]
    files = [{p.relative_to(tmp_path / n): p for p in (tmp_path / n).rglob("*") if p.is_file()} for n in ("one", "two")]
    assert files[0].keys() == files[1].keys()
    assert {"results.json", "PR_curve.png", "val_batch2_pred.jpg", "best_predictions.json"} <= {
        path.name for path in files[0]
    }
    for path, file in files[0].items():
        if path.name == "results.json":
            one, two = (json.loads(found[path].read_text()) for found in files)
            assert one.pop("speed_ms").keys() == two.pop("speed_ms").keys()
            assert one == two
        elif path.suffix in (".txt", ".json", ".jpg", ".png") and path.name != "report.json":  # it has the run's name
            assert file.read_bytes() == files[1][path].read_bytes(), path


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("train.py", ["--batch-size", "5"], "--batch-size 5 is shared out to 2 processes: a multiple of 2"),
        ("val.py", ["--task", "speed"], "--task speed measures one process; start it without torchrun"),
    ],
)
def test_errors_are_one_line(data, single, script, arguments, message):
    weights = ["--weights", single / "weights" / "best.pt"]
    done = run(*torchrun(script, "--data", data, "--device", "cpu", *weights, *arguments))
    assert done.returncode == 1
    assert f"ERROR: {message}" in done.stderr
    assert "general.py" not in done.stderr, "a traceback of ours"
