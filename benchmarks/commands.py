"""Whole commands beside those of the ultralytics package, in turn: CPU seconds and wall time, and their ratios.

    python -m benchmarks.commands --weights best.pt --data bccd.yaml --peer-python ../venv-peer/bin/python

`start` is `--help`, `train` an epoch without validation, `val` and `detect` are of the val split. Who begins differs by
round. A ratio is theirs by ours in one round, so above 1 ours is quicker. CPU seconds are those of the process and of
all that it started; on a machine with other work they are steadier than wall time.

The package (AGPL-3.0) is run in an environment of its own, never imported. It does not read YOLOv5's checkpoints:
without --peer-weights its network is an untrained yolov5n.yaml, which finds nothing, so its NMS, plots and drawing have
less to do than ours.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.throughput import CFG, default_data, link_data
from utils.data.config import DataConfig
from utils.files.weights import DEFAULT_WEIGHTS
from utils.general import LOGGER, ROOT, run_script

TASKS = ("start", "train", "val", "detect")
PEER = (
    "import json, sys; from ultralytics import YOLO; getattr(YOLO(sys.argv[1]), sys.argv[2])(**json.loads(sys.argv[3]))"
)
PEER_HELP = "import sys; sys.argv = ['yolo', 'help']; import ultralytics.cfg as cfg; cfg.entrypoint()"


@dataclass(frozen=True)
class BenchmarkOptions:
    """The flags of `parse_opt`, which holds their meanings."""

    tasks: list[str]
    weights: str
    data: str
    imgsz: int
    batch_size: int
    workers: int
    rounds: int
    ours: str
    peer_python: str
    peer_weights: str


@dataclass(frozen=True)
class Cost:
    """What a process took, in seconds."""

    cpu: float
    wall: float


def parse_opt(arguments: Sequence[str] | None = None) -> BenchmarkOptions:
    """Return the options of the command line, or of `arguments`."""
    parser = argparse.ArgumentParser(description="CPU seconds and wall time of whole commands beside ultralytics'.")
    add = parser.add_argument
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="commands to compare")
    add("--weights", default=str(DEFAULT_WEIGHTS), help="our checkpoint for val and detect")
    add("--data", default="", help="data set yaml; default: bccd if it is present, else the generated shapes")
    add("--imgsz", type=int, default=640, help="image size in pixels")
    add("--batch-size", type=int, default=16, help="images of a batch in train and val")
    add("--workers", type=int, default=2, help="processes that load images")
    add("--rounds", type=int, default=3, help="runs of each command")
    add("--ours", default="", help='further flags of our train, val and detect, in quotes: "--compile"')
    add("--peer-python", default="", help="interpreter that has ultralytics; default: measure ours alone")
    add("--peer-weights", default=CFG, help="the package's network for val and detect")
    return BenchmarkOptions(**vars(parser.parse_args(arguments)))


def main(opt: BenchmarkOptions) -> dict[str, list[float]]:
    """Run the commands in turn; return the ratios of CPU seconds by task, one for each round."""
    if opt.rounds < 1:
        raise ValueError(f"--rounds {opt.rounds}: 1 or more")
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="commands-") as name:
        folder = Path(name)
        data, _ = link_data(DataConfig.from_yaml(opt.data or default_data()), folder / "data")
        for task in opt.tasks:
            costs: dict[str, list[Cost]] = {"ours": []}
            if opt.peer_python:
                costs["ultralytics"] = []
            for i in range(opt.rounds):
                order = list(costs) if i % 2 == 0 else list(reversed(costs))
                for side in order:
                    command = our_command if side == "ours" else peer_command
                    costs[side].append(run(command(opt, task, data, folder / f"{task}-{side}-{i}"), folder))
            ratios[task] = report(task, costs)
    return ratios


def our_command(opt: BenchmarkOptions, task: str, data: Path, out: Path) -> list[str]:
    """Return our command line for a task."""
    if task == "start":
        return [sys.executable, str(ROOT / "detect.py"), "--help"]
    flags: dict[str, object] = {"--imgsz": opt.imgsz, "--device": "cpu", "--project": out.parent, "--name": out.name}
    if task != "detect":
        flags |= {"--data": data, "--batch-size": opt.batch_size, "--workers": opt.workers}
    if task == "train":
        flags |= {"--weights": "", "--cfg": CFG, "--epochs": 1}
    else:
        flags["--weights"] = Path(opt.weights).resolve()
    if task == "detect":
        flags["--source"] = data.parent / "images" / "val"
    switches = ["--noval", "--noplots"] if task == "train" else []
    values = [str(part) for pair in flags.items() for part in pair]
    return [sys.executable, str(ROOT / f"{task}.py"), *values, *switches, *opt.ours.split()]


def peer_command(opt: BenchmarkOptions, task: str, data: Path, out: Path) -> list[str]:
    """Return the package's command line for a task."""
    if task == "start":
        return [
            opt.peer_python,
            "-c",
            "import sys; sys.argv = ['yolo', 'help']; import ultralytics.cfg as c; c.entrypoint()",
        ]
    values: dict[str, object] = {"imgsz": opt.imgsz, "device": "cpu", "project": str(out.parent), "name": out.name}
    if task != "detect":
        values |= {"data": str(data), "batch": opt.batch_size, "workers": opt.workers}
    if task == "train":
        values |= {"epochs": 1, "optimizer": "SGD", "pretrained": False, "plots": False, "val": False}
    if task == "detect":
        values |= {"source": str(data.parent / "images" / "val"), "save": True}
    method = {"detect": "predict"}.get(task, task)
    network = CFG if task == "train" else opt.peer_weights
    return [opt.peer_python, "-c", PEER, network, method, json.dumps(values)]


def run(command: Sequence[str], folder: Path) -> Cost:
    """Run a command to its end; ValueError with its last line if it fails."""
    environment = {**os.environ, "YOLO_CONFIG_DIR": str(folder), "YOLO_AUTOINSTALL": "false"}
    with (folder / "log.txt").open("w+", encoding="utf-8") as log:
        began, before = time.perf_counter(), os.times()
        process = subprocess.run(command, stdout=log, stderr=log, cwd=folder, env=environment, check=False)
        after = os.times()
        cost = Cost(
            after.children_user + after.children_system - before.children_user - before.children_system,
            time.perf_counter() - began,
        )
        if process.returncode:
            log.seek(0)
            lines = log.read().strip().splitlines() or ["no output"]
            raise ValueError(f"{' '.join(command[:2])}: exit status {process.returncode}: {lines[-1]}")
    return cost


def report(task: str, costs: dict[str, list[Cost]]) -> list[float]:
    """Log what a task took; return the ratios of CPU seconds, theirs by ours."""
    for side, values in costs.items():
        cpu, wall = [cost.cpu for cost in values], [cost.wall for cost in values]
        LOGGER.info(
            f"{task}, {side}: {statistics.median(cpu):.1f} CPU s ({min(cpu):.1f} to {max(cpu):.1f}), "
            f"{statistics.median(wall):.1f} s ({min(wall):.1f} to {max(wall):.1f})"
        )
    ratios: dict[str, list[float]] = {}
    for kind in ("cpu", "wall"):
        pairs = zip(costs["ours"], costs.get("ultralytics", ()), strict=False)
        ratios[kind] = [getattr(theirs, kind) / getattr(ours, kind) for ours, theirs in pairs]
        if ratios[kind]:
            found = ratios[kind]
            median = statistics.median(found)
            LOGGER.info(f"{task}: ultralytics / ours, {kind}: {median:.2f} ({min(found):.2f} to {max(found):.2f})")
    return ratios["cpu"]


if __name__ == "__main__":
    run_script(main, parse_opt())
