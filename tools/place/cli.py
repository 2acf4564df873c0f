"""Find the position in a network where a block helps, or report that none does.

    python -m tools.place --module NAMAttention --cfg yolov5n.yaml --weights yolov5n.pt --data bccd.yaml --budget 2h
    python -m tools.place --module SE --cfg yolov5n.yaml --data shapes.yaml --imgsz 160 --dry-run   # signals alone

First, cheap signals of every place: how far the block's start moves the network's outputs, its share of the gradient,
and how much its gate moves after one epoch. Then the most promising places are trained in full with paired seeds, the
better half goes on, and the last one is tested against the network without the block with fresh seeds. The same command
goes on after a kill. Results go to <project>/<name>: places.csv, verdict.json and the trainings.
"""

import csv
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from torch import nn

from models.edit.insertion import Block, parse_block
from models.experimental import attempt_load
from tools.ablate.cli import final_weights, measure, options_of
from tools.ablate.plan import Run, make_run
from tools.ablate.queue import RunQueue
from tools.ablate.runs import work
from tools.gates.gates import GateTally, counting, gated_blocks, hooked
from tools.place.search import PLAIN, Schedule, Verdict, min_runs, plan_schedule, search
from tools.place.signals import Signals, first_signals, ordered, places_of
from utils.cli.arguments import tool_parser
from utils.data.config import DataConfig, Hyp
from utils.data.labels import load_split
from utils.datasets import val_loader
from utils.evaluation.evaluate import evaluate
from utils.files.checkpoint import Checkpoint, load_checkpoint
from utils.files.names import safe_name
from utils.files.weights import find_weights
from utils.general import LOGGER, ROOT, atomic_write, check_img_size, colorstr, plural, progress
from utils.torch_utils import largest_stride, select_device

UNITS = {"h": 3600, "m": 60, "s": 1}
SIGNAL_IMAGES = 16
FIRST_EPOCHS = 1  # of the trainings that signals are taken from


@dataclass(frozen=True)
class PlaceOptions:
    """Flags of `parse_opt`."""

    module: str
    cfg: str
    weights: str
    data: str
    hyp: str
    optimizer: str
    imgsz: int
    epochs: int
    batch_size: int
    budget: str
    alpha: float
    device: str
    project: str
    name: str
    dry_run: bool


def parse_opt(arguments: Sequence[str] | None = None) -> PlaceOptions:
    """Parse the command line, or `arguments`."""
    parser = tool_parser(
        "place",
        "Find where a block helps, if anywhere.",
        "--module NAMAttention --cfg yolov5n.yaml --weights yolov5n.pt --data bccd.yaml --imgsz 320 --budget 2h",
    )
    parser.add_argument("--module", required=True, help="the block: NAMAttention, or with arguments SE[c, 16]")
    parser.add_argument("--cfg", default="yolov5n.yaml", help="model yaml to insert it into (default: %(default)s)")
    parser.add_argument("--weights", default="", help="checkpoint that all trainings start from (default: none)")
    parser.add_argument("--data", default=str(ROOT / "data" / "shapes.yaml"), help="data yaml (default: %(default)s)")
    parser.add_argument("--hyp", default="hyp.scratch-low.yaml", help="hyper-parameters (default: %(default)s)")
    parser.add_argument("--optimizer", default="SGD", help="of train.py (default: %(default)s)")
    parser.add_argument("--imgsz", type=int, default=320, help="image size in pixels (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=30, help="of each training (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="of each training (default: %(default)s)")
    parser.add_argument("--budget", default="2h", help="time for all of it, as 2h, 90m or 1h30m (default: %(default)s)")
    parser.add_argument("--alpha", type=float, default=0.05, help="of the final test (default: %(default)s)")
    parser.add_argument("--device", default="", help="0 or cpu; empty takes the first GPU if there is one")
    parser.add_argument("--project", default=str(ROOT / "runs" / "place"), help="results go to project/name")
    parser.add_argument("--name", default="", help="results go to project/name, which may exist (default: the module)")
    parser.add_argument("--dry-run", action="store_true", help="take the signals that need no training, and stop")
    return PlaceOptions(**vars(parser.parse_args(arguments)))


def read_budget(text: str) -> float:
    """Return the seconds of `2h`, `90m` or `1h30m`; raise ValueError for other text."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"--budget {text}: not a time; give one such as 2h, 90m or 1h30m")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def main(opt: PlaceOptions) -> Path:
    """Search positions, log and write the verdict, and return the results folder."""
    end = time.monotonic() + read_budget(opt.budget)
    for flag, value in (("--epochs", opt.epochs), ("--imgsz", opt.imgsz), ("--batch-size", opt.batch_size)):
        if value < 1:
            raise ValueError(f"{flag} {value}: must be 1 or more")
    block = parse_block(opt.module)
    data = DataConfig.from_yaml(opt.data)
    data.prepare()
    weights = str(find_weights([opt.weights])[0]) if opt.weights else ""
    opt = replace(opt, weights=weights)
    folder = (Path(opt.project) / safe_name(opt.name or block.module)).resolve()
    folder.mkdir(parents=True, exist_ok=True)

    signals = take_first_signals(opt, block, data, load_checkpoint(weights) if weights else None)
    if opt.dry_run:
        log_signals(ordered(signals))
        return folder
    trainer = Trainer(opt, data, folder)
    signals, epoch_seconds = take_spreads(signals, trainer)
    signals = ordered(signals)
    log_signals(signals)
    write_signals(signals, folder / "places.csv")

    seconds = epoch_seconds * opt.epochs / FIRST_EPOCHS
    schedule = schedule_within(len(signals), end - time.monotonic(), seconds)
    LOGGER.info(describe(schedule, seconds))
    confirm_split = "test" if data.test else "val"
    verdict = search(
        [signal.place for signal in signals],
        schedule,
        partial(trainer.rate, split="val"),
        partial(trainer.rate, split=confirm_split),
        opt.alpha,
    )
    for line in verdict_lines(verdict, signals, opt, confirm_split):
        LOGGER.info(line)
    content = asdict(verdict) | {"module": opt.module, "confirmed on": confirm_split, "schedule": asdict(schedule)}
    with atomic_write(folder / "verdict.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    LOGGER.info(f"Files in {colorstr('bold', str(folder))}")
    return folder


# Signals --------------------------------------------------------------------------------------------------------------


def take_first_signals(
    opt: PlaceOptions, block: Block, data: DataConfig, checkpoint: Checkpoint | None
) -> list[Signals]:
    """Return the signals of each position that need no training, from one batch of training images."""
    places = places_of(opt.cfg, block)
    records = load_split(data, "train", workers=0)
    if not records:
        raise ValueError(f"{opt.data}: no training image")
    batch = next(iter(val_loader(records[:SIGNAL_IMAGES], check_img_size(opt.imgsz, 32), SIGNAL_IMAGES, workers=0)))
    hyp = Hyp.from_yaml(opt.hyp)
    found = []
    for place, row in progress(list(places.items()), desc="Looking at places", delay=2):
        drift, gradient = first_signals(opt.cfg, block, place, batch, data.nc, checkpoint, hyp)
        found.append(Signals(place, row, drift, gradient, math.nan))
    return found


def take_spreads(signals: Sequence[Signals], trainer: "Trainer") -> tuple[list[Signals], float]:
    """Add the spread of each gate after an epoch; return the signals and the mean seconds of the trainings."""
    found, seconds = [], []
    for signal in signals:
        run = trainer.run(signal.place, 0, FIRST_EPOCHS)
        record = trainer.train(run, "val")
        spread = spread_of(attempt_load(final_weights(run), trainer.device, fuse=False), trainer.data, run)
        found.append(replace(signal, spread=spread))
        if record.get("train_seconds"):
            seconds.append(float(record["train_seconds"]))
    if not seconds:
        raise ValueError(
            f"{trainer.folder}: all runs were resumed, so the time of a training is unknown; remove the folder"
        )
    return found, sum(seconds) / len(seconds)


def spread_of(model: nn.Module, data: DataConfig, run: Run) -> float:
    """Return the largest sd of the gates of a network's blocks on the val images; nan without a gate."""
    blocks = gated_blocks(model)
    if not blocks:
        return math.nan
    opt = options_of(run)
    stride = largest_stride(model)
    records = load_split(data, "val", workers=0)
    loader = val_loader(records, check_img_size(opt.imgsz, stride), opt.batch_size, workers=0, stride=stride)
    tallies = {name: GateTally(name, block) for name, block in blocks.items()}
    with hooked(blocks, lambda name: counting(tallies[name])):
        evaluate(model, loader, data.names, device=next(model.parameters()).device, show_progress=False)
    return max(tally.stats().sd_all for tally in tallies.values())


def log_signals(signals: Sequence[Signals]) -> None:
    """Log the positions and their signals in order."""
    LOGGER.info(f"{'place':>6}{'drift':>10}{'gradient':>10}{'spread':>10}  row")
    for s in signals:
        LOGGER.info(f"{s.place:>6}{s.drift:>10.4f}{s.gradient:>10.4f}{s.spread:>10.4f}  {s.row}")


def write_signals(signals: Sequence[Signals], path: Path) -> None:
    """Write a row for each position in order."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("place", "row", "drift", "gradient", "spread"))
        writer.writerows((s.place, s.row, s.drift, s.gradient, s.spread) for s in signals)


# Trainings ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trainer:
    """Trains a position with a seed, unless its record is in the queue."""

    opt: PlaceOptions
    data: DataConfig
    folder: Path

    @property
    def device(self) -> object:
        """Device of the evaluation."""
        return select_device(self.opt.device)

    @cached_property
    def queues(self) -> dict[str, RunQueue]:
        """The queue of each split that runs are rated on."""
        return {split: RunQueue(self.folder / "queue", name=split) for split in ("val", "test")}

    def run(self, place: str, seed: int, epochs: int) -> Run:
        """Return the run of a position, or of the plain network."""
        opt = self.opt
        options: dict[str, object] = {
            "weights": opt.weights,
            "cfg": opt.cfg,
            "data": opt.data,
            "hyp": opt.hyp,
            "optimizer": opt.optimizer,
            "imgsz": opt.imgsz,
            "epochs": epochs,
            "batch_size": opt.batch_size,
            "device": opt.device,
            "seed": seed,
            "noplots": True,
            "workers": 0,
        }
        name = "plain"
        if place != PLAIN:
            options["insert"] = [f"{opt.module}@{place}"]
            name = f"row{place}"
        return make_run(name, seed, self.folder / "runs" / f"{name}-e{epochs}-s{seed}", options)

    def rate(self, place: str, seed: int, split: str) -> float:
        """Return the mAP@.5:.95 of a full training on a split."""
        return float(self.train(self.run(place, seed, self.opt.epochs), split)["map"])

    def train(self, run: Run, split: str) -> Mapping[str, object]:
        """Return the record of a training, after doing it if it is open; raise ValueError if it failed."""
        queue = self.queues[split]
        work(queue, [run], lambda done: measure(done, split, self.data))
        state = queue.state(run.key)
        if state != "done":
            raise ValueError(f"{run.key}: the training is {state}, see {queue.log(run.key)}")
        return queue.record(run.key)


def schedule_within(places: int, seconds_left: float, seconds_a_run: float) -> Schedule:
    """Return the schedule for the time left; the ValueError names the missing hours."""
    runs = int(seconds_left / seconds_a_run)
    try:
        return plan_schedule(places, runs)
    except ValueError as error:
        needed = (min_runs() - runs) * seconds_a_run / 3600
        raise ValueError(
            f"--budget: {error}; a training takes about {seconds_a_run / 60:.1f} minutes, so add {needed:.1f} hours or "
            f"take fewer --epochs. Signals of the places are in places.csv"
        ) from None


def describe(schedule: Schedule, seconds_a_run: float) -> str:
    """Describe a schedule in a sentence."""
    rungs = ", then ".join(plural(places, "place") for places in schedule.rungs) or "no rung"
    return (
        f"{rungs}, each with {plural(schedule.seeds, 'paired seed')}; {schedule.confirmations} fresh pairs confirm the "
        f"winner: {schedule.runs} trainings, about {schedule.runs * seconds_a_run / 3600:.1f} hours"
    )


def verdict_lines(verdict: Verdict, signals: Sequence[Signals], opt: PlaceOptions, split: str) -> list[str]:
    """Return the verdict as lines, with the command that uses it."""
    row = next(signal.row for signal in signals if signal.place == verdict.winner)
    pair = verdict.confirmed
    numbers = (
        f"{pair.mean:+.4f} mAP@.5:.95 on {split} over {plural(pair.n, 'fresh pair')} "
        f"({1 - opt.alpha:.0%} CI {pair.low:+.4f} to {pair.high:+.4f}, p {pair.p_t:.3f})"
    )
    if not verdict.is_better:
        return [
            f"none better than none: the best place, behind row {verdict.winner} {row}, makes {numbers}; "
            "that is not significantly better than the network without the block"
        ]
    return [
        f"{opt.module} behind row {verdict.winner} {row} helps: {numbers}",
        f"train with it: python train.py --cfg {opt.cfg} --insert {opt.module}@{verdict.winner} --data {opt.data}",
    ]
