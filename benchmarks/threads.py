"""Compare `--threads auto` with fixed numbers of threads while other processes keep the cores busy.

    python -m benchmarks.threads --load 2          # two busy processes a core
    python -m benchmarks.threads --load 0          # an idle machine, on which auto should take all cores

Each setting in turn trains a yolov5n for an epoch of a few steps on random images; the rounds alternate. Prints the
median time of an epoch by setting, and that of auto as a multiple of the best fixed number's. The times are wall times,
as other processes' share of the cores is what matters: figures mean something only if nothing else runs beside this.

Found on two cores with --load 2 --steps 1 --rounds 2 --imgsz 128 --batch-size 2, while other work kept the load average
above 10: 1.46 s an epoch with one thread, 42.8 s with two, 1.03 s with auto, which took one.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from models.yolo import Model
from utils.base.constants import AUTO_THREADS, ROOT
from utils.data.config import Hyp
from utils.general import LOGGER, in_columns, run_script
from utils.loss import ComputeLoss
from utils.processes.cores import allowed_cores
from utils.torch_utils import ThreadLimit

BUSY = (sys.executable, "-c", "while True: pass")
TARGETS = 8  # labels of an image
SETTLE_S = 1.0  # until the busy processes run


@dataclass(frozen=True)
class Options:
    """The flags of `parse_opt`, which holds their meanings."""

    load: int
    steps: int
    rounds: int
    imgsz: int
    batch_size: int


def parse_opt(arguments: Sequence[str] | None = None) -> Options:
    """The options of the command line, or of `arguments`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.threads",
        description="Compare --threads auto with fixed numbers of threads on a busy machine.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--load", type=int, default=2, help="busy processes for each core")
    parser.add_argument("--steps", type=int, default=4, help="training steps of an epoch")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each setting")
    parser.add_argument("--imgsz", type=int, default=320, help="side of the images, in pixels")
    parser.add_argument("--batch-size", type=int, default=4, help="images of a step")
    return Options(**vars(parser.parse_args(arguments)))


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep cores busy by this number of processes."""
    processes = [subprocess.Popen(BUSY) for _ in range(count)]
    try:
        time.sleep(SETTLE_S if count else 0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def train_epoch(model: Model, criterion: ComputeLoss, images: torch.Tensor, targets: torch.Tensor, steps: int) -> None:
    """Train on the same batch for some steps."""
    for _ in range(steps):
        model.zero_grad()
        loss, _ = criterion(model(images), targets)
        loss.backward()


def main(opt: Options) -> float:
    """Measure all settings in alternating rounds; return auto's time as a multiple of the best fixed one's."""
    for name in ("steps", "rounds", "imgsz", "batch_size"):
        if getattr(opt, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(opt, name)}: 1 or more")
    if opt.load < 0:
        raise ValueError(f"--load {opt.load}: 0 or more")
    torch.manual_seed(0)
    model = Model(ROOT / "models" / "yolov5n.yaml").train()
    model.hyp = Hyp.from_yaml(ROOT / "data" / "hyps" / "hyp.scratch-low.yaml").to_dict()
    criterion = ComputeLoss(model)
    images = torch.rand(opt.batch_size, 3, opt.imgsz, opt.imgsz)
    targets = torch.rand(opt.batch_size * TARGETS, 6)
    targets[:, 0] = torch.arange(opt.batch_size).repeat_interleave(TARGETS)
    targets[:, 1] = 0
    cores = len(allowed_cores())
    torch.set_num_threads(cores)
    settings = {count: ThreadLimit(count) for count in range(1, cores + 1)} | {AUTO_THREADS: ThreadLimit(AUTO_THREADS)}
    seconds: dict[int | str, list[float]] = {name: [] for name in settings}
    train_epoch(model, criterion, images, targets, 1)  # warm-up
    with busy_processes(opt.load * cores):
        for _ in range(opt.rounds):
            for name, limit in settings.items():
                limit.apply()
                start = time.perf_counter()
                train_epoch(model, criterion, images, targets, opt.steps)
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    best = min(time for name, time in medians.items() if name != AUTO_THREADS)
    rows = [(str(name), f"{found:.2f}", f"{found / best:.2f}") for name, found in medians.items()]
    for line in in_columns([("threads", "s/epoch", "x best fixed"), *rows]):
        LOGGER.info(line)
    return medians[AUTO_THREADS] / best


if __name__ == "__main__":
    run_script(main, parse_opt())
