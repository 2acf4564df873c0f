"""Training speed beside that of the ultralytics package, same data, size, batch and device, the two in turn.

    python -m benchmarks.throughput --peer-python ../venv-peer/bin/python --imgsz 320 --workers 2

Both train a yolov5n from scratch with SGD, mosaics and no validation, each in a process of its own that is started as a
user would. An epoch is timed by the rows that appear in the run's results.csv, which both write; the first epoch, with
its start-up, and the last, with its final checks, are left out. Images per second are of the epochs between.

What differs stays as each has it: today's package gives its yolov5n.yaml a head without anchors, which makes the
network heavier (7.1 GFLOPs at 640 with three classes, ours has 4.1), and it trains in FP32 on a CPU, where ours may
take bf16 (`--amp auto`).

The package (AGPL-3.0) is a tool that is run, never imported: install it with its own Python into another environment.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
import yaml

import train
from utils.data.config import DataConfig, Hyp
from utils.data.labels import find_images, label_path, load_split
from utils.dist import SINGLE
from utils.general import LOGGER, ROOT, init_seeds, run_script
from utils.torch_utils import select_device

PEER = "import json, sys; from ultralytics import YOLO; YOLO('yolov5n.yaml').train(**json.loads(sys.argv[1]))"
CFG = "yolov5n.yaml"
POLL_S = 0.02
Item = TypeVar("Item")


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is measured."""

    data: str
    imgsz: int
    batch_size: int
    workers: int
    device: str
    amp: str
    epochs: int
    rounds: int
    peer_python: str


def parse_opt() -> BenchmarkOptions:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="Training throughput of this project and of the ultralytics package.")
    add = parser.add_argument
    add("--data", default="", help="data set yaml; empty takes bccd where it is there, else the drawn shapes")
    add("--imgsz", type=int, default=320, help="side of the network's image, in pixels")
    add("--batch-size", type=int, default=16, help="images of a step")
    add("--workers", type=int, default=2, help="processes that load images")
    add("--device", default="cpu", help="cpu or a GPU's number")
    add(
        "--amp",
        default="auto",
        help="ours, as train.py has it; auto and off are what the peer knows, as True and False",
    )
    add("--epochs", type=int, default=3, help="epochs timed in each run; one more is trained before and after")
    add("--rounds", type=int, default=3, help="runs of each, in turn")
    add("--peer-python", default=sys.executable, help="interpreter that has ultralytics; '' measures ours alone")
    return BenchmarkOptions(**vars(parser.parse_args()))


def main(opt: BenchmarkOptions) -> None:
    """Runs the two in turn and says what came out."""
    for flag, value in (("--epochs", opt.epochs), ("--rounds", opt.rounds)):
        if value < 1:
            raise ValueError(f"{flag} {value}: 1 or more")
    with tempfile.TemporaryDirectory(prefix="throughput-") as name:
        folder = Path(name)
        data, images = link_data(DataConfig.from_yaml(opt.data or default_data()), folder / "data")
        LOGGER.info(f"{images} images, {opt.imgsz} px, batch {opt.batch_size}, {opt.workers} workers, {opt.device}")
        peers: dict[str, Callable[[Path], list[str]]] = {"ours": lambda run: our_command(opt, data, run)}
        if opt.peer_python:
            peers["ultralytics"] = lambda run: peer_command(opt, data, run)
        speeds: dict[str, list[float]] = {peer: [] for peer in peers}
        for i in range(opt.rounds):
            for peer, command in peers.items():
                run = folder / f"{peer}{i}"
                seconds = epoch_times(command(run), run, opt.epochs + 2)[1:-1]
                speeds[peer].append(images * len(seconds) / sum(seconds))
                shown = ", ".join(f"{value:.2f}" for value in seconds)
                LOGGER.info(f"round {i + 1}, {peer}: {speeds[peer][-1]:.1f} images/s (epochs of {shown} s)")
        bounds = bound(opt, data, folder / "bound")
        for peer, values in speeds.items():
            LOGGER.info(
                f"{peer}: median {statistics.median(values):.1f} images/s, {min(values):.1f} to {max(values):.1f}"
            )
        if opt.peer_python:
            ratios = [one / other for one, other in zip(speeds["ours"], speeds["ultralytics"], strict=True)]
            median = statistics.median(ratios)
            LOGGER.info(f"ours / ultralytics: {median:.2f}, by round {min(ratios):.2f} to {max(ratios):.2f}")
        LOGGER.info(bounds)


# Data -----------------------------------------------------------------------------------------------------------------


def default_data() -> str:
    """The photographs where they are there, else the drawn set."""
    is_there = DataConfig.from_yaml("bccd.yaml").root.is_dir()
    return "bccd.yaml" if is_there else "shapes.yaml"


def link_data(data: DataConfig, folder: Path) -> tuple[Path, int]:
    """A data yaml that both understand, with links to the images and labels, and how many images there are to train on.

    So each finds the same files, and neither finds or leaves a cache beside the originals.
    """
    data.prepare()
    counts = {}
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        paths = find_images(data.split(split))
        for i, image in enumerate(paths):
            name, label = f"{i:06}", Path(label_path(image)).resolve()
            (folder / "images" / split / f"{name}{Path(image).suffix}").symlink_to(Path(image).resolve())
            if label.exists():
                (folder / "labels" / split / f"{name}.txt").symlink_to(label)
        counts[split] = len(paths)
    file = folder / "data.yaml"
    content = {"path": str(folder), "train": "images/train", "val": "images/val", "names": dict(enumerate(data.names))}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file, counts["train"]


# Runs -----------------------------------------------------------------------------------------------------------------


def our_arguments(opt: BenchmarkOptions, data: Path, run: Path) -> list[str]:
    """train.py's arguments."""
    values = {
        "--weights": "",
        "--cfg": CFG,
        "--data": data,
        "--imgsz": opt.imgsz,
        "--batch-size": opt.batch_size,
        "--epochs": opt.epochs + 2,
        "--workers": opt.workers,
        "--device": opt.device,
        "--amp": opt.amp,
        "--project": run.parent,
        "--name": run.name,
    }
    return [str(part) for pair in values.items() for part in pair] + ["--noval", "--nosave"]


def our_command(opt: BenchmarkOptions, data: Path, run: Path) -> list[str]:
    """The command that trains our model."""
    return [sys.executable, str(ROOT / "train.py"), *our_arguments(opt, data, run)]


def peer_command(opt: BenchmarkOptions, data: Path, run: Path) -> list[str]:
    """The command that trains the package's model, with what it does beside training switched off."""
    options = {
        "data": str(data),
        "imgsz": opt.imgsz,
        "batch": opt.batch_size,
        "epochs": opt.epochs + 2,
        "workers": opt.workers,
        "device": opt.device,
        "amp": opt.amp != "off",
        "optimizer": "SGD",
        "project": str(run.parent),
        "name": run.name,
        "pretrained": False,
        "close_mosaic": 0,
        "plots": False,
        "val": False,
        "save": False,
        "verbose": False,
    }
    return [opt.peer_python, "-c", PEER, json.dumps(options)]


def epoch_times(command: list[str], run: Path, epochs: int) -> list[float]:
    """How long each epoch took, in seconds; the first from the start of the process. ValueError where it fails."""
    log = run.parent / f"{run.name}.log"
    environment = {**os.environ, "YOLO_CONFIG_DIR": str(run.parent), "YOLO_AUTOINSTALL": "false"}
    ends = [time.perf_counter()]
    with (
        log.open("w", encoding="utf-8") as output,
        subprocess.Popen(command, stdout=output, stderr=output, cwd=run.parent, env=environment) as process,
    ):
        try:
            while True:
                has_ended = process.poll() is not None
                new = row_count(run / "results.csv") - (len(ends) - 1)
                ends += [time.perf_counter()] * new
                if has_ended:
                    break
                time.sleep(POLL_S)
        finally:
            process.terminate()
    if process.returncode or len(ends) != epochs + 1:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing was said"]
        done = f"{len(ends) - 1} of {epochs} epochs"
        raise ValueError(f"{' '.join(command[:2])}: exit status {process.returncode} after {done}: {said[-1]}")
    return [end - begin for begin, end in pairwise(ends)]


def row_count(file: Path) -> int:
    """The whole rows below the header of a results.csv that may not be there yet."""
    return max(file.read_bytes().count(b"\n") - 1, 0) if file.exists() else 0


# What bounds us -------------------------------------------------------------------------------------------------------


class Waiting(Iterable[Item]):
    """The items, and in `seconds` how long was waited for them."""

    def __init__(self, items: Iterable[Item]) -> None:
        self.items, self.seconds = items, 0.0

    def __iter__(self) -> Iterator[Item]:
        """The items."""
        iterator = iter(self.items)
        while True:
            began = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - began
            yield item


def bound(opt: BenchmarkOptions, data_file: Path, run: Path) -> str:
    """Trains the same epochs here and says which share of the time the trainer waited for images."""
    options = train.parse_opt(our_arguments(opt, data_file, run))
    device = select_device(options.device)
    init_seeds(options.seed)
    data, hyp = DataConfig.from_yaml(options.data), Hyp.from_yaml(options.hyp)
    splits = {name: load_split(data, name, options.workers) for name in ("train", "val")}
    model = train.build_model(options, data, hyp, None)
    imgsz = train.fit_model(options, hyp, model, splits["train"])
    model = model.to(device, memory_format=torch.channels_last)
    batches, _ = train.build_loaders(options, hyp, splits, imgsz, model, (0, 0), SINGLE, weights=None)
    trainer = train.build_trainer(options, hyp, model, len(batches), imgsz)
    waited, passed = 0.0, 0.0
    try:
        for epoch in range(opt.epochs + 1):
            items, began = Waiting(batches.epoch(epoch)), time.perf_counter()
            trainer.run_epoch(items, epoch, len(batches))
            if epoch:
                waited, passed = waited + items.seconds, passed + time.perf_counter() - began
    finally:
        batches.close()
    step = (passed - waited) / opt.epochs / len(batches)
    return (
        f"ours: {waited / passed:.0%} of an epoch is waiting for images, the rest is steps of {1000 * step:.0f} ms in "
        f"{trainer.amp_dtype or torch.float32}; bound by {'loading' if waited > passed / 2 else 'forward and backward'}"
    )


if __name__ == "__main__":
    run_script(main, parse_opt())
