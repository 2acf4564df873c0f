"""Makes a trained network narrower: takes out the channels that count least, fine-tunes, says what it costs and brings.

    python -m tools.prune --weights runs/train/exp/weights/best.pt --ratio 0.3 --data bccd.yaml
    python -m tools.prune --weights best.pt --ratio 0.2 0.4 0.6 --criterion nam --data bccd.yaml --epochs 50
    python -m tools.prune --weights best.pt --ratio 0.5 --per-layer --round 8 --criterion gamma

A ratio is a share of the channels that can go; tied ones, as those that a residual adds up, go together and count once.
The pruned networks are checkpoints like any other: val.py, detect.py, export.py and train.py --weights take them.
Results go to <project>/<name>: weights/, finetune/, pareto.csv and pareto.png. The original file stays as it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from models.experimental import attempt_load, network_of
from models.pruning.channels import map_channels
from models.pruning.prune import (
    CRITERIA,
    MIN_CHANNELS,
    Pruned,
    Rule,
    choose,
    cut,
    kept_whole,
    norm_names,
    rank,
    recalibrate,
)
from models.yolo import Model
from tools.costs import measure_costs
from tools.prune.report import PrunedRow, plot, table, with_front, write_csv
from tools.subprocesses import TAIL, TRAINER, run_logged
from utils.base.constants import SIZE_DEFAULT
from utils.cli.arguments import add_weights, check_size, read_weights, tool_parser
from utils.data.config import DataConfig, Hyp
from utils.data.labels import load_split
from utils.datasets import val_loader
from utils.evaluation.evaluate import check_names, evaluate
from utils.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, strip_optimizer
from utils.general import LOGGER, ROOT, check_img_size, colorstr, increment_path, plural
from utils.metrics import EvalResult
from utils.predict.inference import choose_size
from utils.torch_utils import largest_stride, select_device
from utils.training.optim import Schedule

CALIBRATED = 256  # images
HYP = str(ROOT / "data" / "hyps" / "hyp.scratch-low.yaml")


@dataclass(frozen=True)
class PruneOptions:
    """The flags of `parse_opt`, which holds their defaults and meanings."""

    weights: str
    ratio: list[float]
    criterion: str
    per_layer: bool
    min_channels: int
    round: int
    keep: list[int]
    data: str
    calibrate: int
    imgsz: int | None
    batch_size: int
    epochs: int
    hyp: str
    device: str
    workers: int
    seed: int
    rounds: int
    noplots: bool
    project: str
    name: str

    @property
    def rule(self) -> Rule:
        """How channels are chosen."""
        return Rule(self.criterion, self.per_layer, self.min_channels, self.round, tuple(self.keep), self.seed)

    def check(self) -> None:
        """ValueError where a number is out of its range."""
        self.rule.check()
        if len({f"{ratio:g}" for ratio in self.ratio}) < len(self.ratio):  # files are named so
            raise ValueError(f"--ratio {' '.join(f'{ratio:g}' for ratio in self.ratio)}: name each once")
        check_size(self.imgsz)
        least = {"calibrate": 0, "batch_size": 1, "epochs": 0, "workers": 0, "seed": 0, "rounds": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: {value} or more")


def parse_opt(arguments: Sequence[str] | None = None) -> PruneOptions:
    """The options of the command line, or of `arguments`."""
    parser = tool_parser(
        "prune",
        "Take channels out of a trained network and say what it costs and brings. Layers that cannot be cut safely are "
        "kept whole, and the log says which and why.",
        "--weights runs/train/exp/weights/best.pt --ratio 0.3 --data bccd.yaml",
    )
    add_weights(parser, "checkpoint to prune, e.g. runs/train/exp/weights/best.pt")
    add = parser.add_argument
    add(
        "--ratio",
        nargs="+",
        type=float,
        default=[0.3],
        help="shares of the channels to remove, a network for each; 0: only fine-tuned, as a control",
    )
    add(
        "--criterion",
        choices=CRITERIA,
        default="nam",
        help="what a channel counts by: nam = |gamma| of the NAM behind it, of its batch norm where there is none, "
        "relative to its layer's mean; gamma = |gamma| of its batch norms as they are (network slimming); l1 = mean "
        "|weight| of its filters relative to the layer's; random = by chance, as a control",
    )
    add("--per-layer", action="store_true", help="remove the same share of each layer; without it the lowest of all")
    add("--min-channels", type=int, default=MIN_CHANNELS, help="channels that every layer keeps")
    add("--round", type=int, default=1, help="leave layers a multiple of this, e.g. 8, the nearest one")
    add(
        "--keep", nargs="+", type=int, default=[], metavar="ROW", help="rows of the yaml not to touch, e.g. 24 = Detect"
    )
    add("--data", default=str(ROOT / "data" / "shapes.yaml"), help="data set to rate on (val) and to fine-tune on")
    add(
        "--calibrate",
        type=int,
        default=CALIBRATED,
        metavar="IMAGES",
        help="training images to measure the norms' statistics anew on, as what removed channels gave is missing; "
        "0 = leave them",
    )
    add(
        "--imgsz",
        "--img",
        "--img-size",
        type=int,
        help=f"side of the network's image, in pixels (default: {SIZE_DEFAULT})",
    )
    add("--batch-size", type=int, default=16, help="images of a training step; twice as many are rated at a time")
    add("--epochs", type=int, default=0, help="epochs of fine-tuning by train.py; 0 = none")
    add("--hyp", default=HYP, help="hyper-parameters of the fine-tune")
    add("--device", default="", help="0 or cpu; empty takes the first GPU if there is one")
    add("--workers", type=int, default=8, help="most processes that load images; 0 loads them in this one")
    add("--seed", type=int, default=0, help="of --criterion random and of the fine-tune")
    add("--rounds", type=int, default=50, help="how often the latency is measured")
    add("--noplots", action="store_true", help="draw no pictures, neither here nor in the fine-tune")
    add("--project", default=str(ROOT / "runs" / "prune"), help="results go to project/name")
    add("--name", default="exp", help="results go to project/name; a number is added where that exists")
    return PruneOptions(**read_weights(parser, arguments))


def main(opt: PruneOptions) -> Path:
    """Prunes at each ratio, fine-tunes and measures; the folder of what came out."""
    opt.check()
    device = select_device(opt.device)
    source = load_checkpoint(opt.weights)
    model = network_of(opt.weights, source, "cpu", fuse=False)
    opt = replace(opt, imgsz=max(choose_size(model, opt.imgsz)))
    cuts = plan(opt, model)  # a ratio that cannot be reached is refused before any work
    data = DataConfig.from_yaml(opt.data)
    check_names(model.names, data)
    data.prepare()
    if not opt.epochs and opt.hyp != HYP:
        LOGGER.warning(f"--hyp {opt.hyp} is for fine-tuning, of which --epochs 0 does none")
    if opt.epochs:
        check_warmup(opt, len(load_split(data, "train", opt.workers)))
    loader = split_loader(opt, data, model, "val")
    calibration = split_loader(opt, data, model, "train", opt.calibrate) if opt.calibrate else None
    folder = increment_path(Path(opt.project) / opt.name, mkdir=True)

    result = rate(opt.weights, loader, data, device)
    rows = [PrunedRow("original", 0.0, 0.0, opt.criterion, opt.weights, result.map, result.map50)]
    failed = []
    for ratio, pruned in cuts:
        if calibration is not None and pruned.removed:
            calibrate(pruned.model, calibration, device)
        row = prune_one(ratio, pruned, source, folder, opt)
        result = rate(row.weights, loader, data, device)
        row = replace(row, map_before=result.map, map50_before=result.map50)
        if opt.epochs:
            tuned, log = fine_tune(row, folder, opt)
            if tuned is None:
                failed.append(log)
            else:
                result = rate(tuned, loader, data, device)
                row = replace(row, weights=str(tuned), map_after=result.map, map50_after=result.map50)
        rows.append(row)
        write_csv(rows, folder / "pareto.csv")  # what is cut off keeps what is done; the costs follow
    finish(rows, folder, opt, device)
    if failed:
        raise ValueError(f"{plural(len(failed), 'fine-tune')} failed, see {failed[0]}; the pruned networks are there")
    return folder


# Pruning --------------------------------------------------------------------------------------------------------------


def plan(opt: PruneOptions, model: Model) -> list[tuple[float, Pruned]]:
    """The network at each ratio; what is kept whole is logged."""
    channels = map_channels(model)
    ranked = rank(model, channels, opt.rule)
    families = [family for family, _ in ranked.families]
    LOGGER.info(
        f"{colorstr('prune: ')}{opt.weights}: {plural(ranked.channels, 'channel')} in {plural(len(families), 'group')} "
        f"can go, ranked by {opt.criterion} {'in each group' if opt.per_layer else 'over all'}"
    )
    if opt.criterion == "nam" and not any(norm_names(model).values()):
        LOGGER.warning(f"{opt.weights} has no NAM to rank channels by: gamma of the batch norms stands in for it")
    for line in kept_whole(model, ranked):
        LOGGER.info(f"kept whole: {line}")
    masks = [choose(ranked, ratio, opt.rule) for ratio in opt.ratio]
    cuts = [(ratio, cut(model, channels, families, mask)) for ratio, mask in zip(opt.ratio, masks, strict=True)]
    for ratio, pruned in cuts:
        if ratio and not pruned.removed:
            raise ValueError(
                f"--ratio {ratio:g} takes out none of {plural(pruned.channels, 'channel')} that can go: choose a "
                "larger one, a smaller --round, or fewer rows to --keep"
            )
    return cuts


def prune_one(ratio: float, pruned: Pruned, source: Checkpoint, folder: Path, opt: PruneOptions) -> PrunedRow:
    """Writes the checkpoint of a pruned network, stripped as best.pt is."""
    name = f"{opt.criterion}-{ratio:g}"
    file = folder / "weights" / f"{Path(opt.weights).stem}-{name}.pt"
    file.parent.mkdir(exist_ok=True)
    date = datetime.now().isoformat(timespec="seconds")
    state = pruned.model.state_dict()
    save_checkpoint(file, Checkpoint(pruned.model.yaml, source.names, state, date=date, imgsz=source.imgsz))
    strip_optimizer(file)
    LOGGER.info(f"{name}: {pruned.removed} of {pruned.channels} channels removed ({pruned.ratio:.1%}), saved as {file}")
    return PrunedRow(name, ratio, pruned.ratio, opt.criterion, str(file), math.nan, math.nan)


# Rating and fine-tuning -----------------------------------------------------------------------------------------------


def split_loader(opt: PruneOptions, data: DataConfig, model: Model, split: str, most: int | None = None) -> DataLoader:
    """Batches of a split, of at most so many images of it drawn by --seed, as train.py rates val."""
    stride = largest_stride(model)
    imgsz = check_img_size(opt.imgsz, stride, floor=2 * stride)
    records = load_split(data, split, opt.workers)
    if most is not None and len(records) > most:
        chosen = np.random.default_rng(opt.seed).permutation(len(records))[:most]
        records = [records[i] for i in sorted(chosen.tolist())]
    return val_loader(records, imgsz, opt.batch_size * 2, workers=opt.workers, stride=stride)


def calibrate(model: Model, loader: DataLoader, device: torch.device) -> None:
    """Measures the norms of a pruned network anew on the loader's training images, in place."""
    LOGGER.info(f"norms are measured on {plural(len(loader.dataset), 'training image')}")
    recalibrate(model.to(device), (batch.images.to(device).float() / 255 for batch in loader))
    model.cpu()


def rate(weights: str | Path, loader: DataLoader, data: DataConfig, device: torch.device) -> EvalResult:
    """How good a checkpoint is."""
    result = evaluate(attempt_load(weights, device), loader, data.names, device=device, show_progress=False)
    LOGGER.info(f"mAP@.5 {result.map50:.4f}, mAP@.5:.95 {result.map:.4f} with {weights}")
    return result


def check_warmup(opt: PruneOptions, images: int) -> None:
    """Warns where the fine-tune is hardly longer than the warm-up that its hyper-parameters ask for."""
    hyp, batches = Hyp.from_yaml(opt.hyp), math.ceil(images / opt.batch_size)
    steps, wanted = batches * opt.epochs, round(hyp.warmup_epochs * batches)
    if steps <= wanted:
        taken = Schedule(hyp, opt.epochs, batches, opt.batch_size).warmup_steps
        LOGGER.warning(
            f"--epochs {opt.epochs}: {plural(steps, 'step')}, and warm-up alone is meant to take {wanted} "
            f"(warmup_epochs {hyp.warmup_epochs:g} in {opt.hyp}); it is cut to {taken}, and the result says nothing "
            f"of what fine-tuning can do. Take more than {math.ceil(hyp.warmup_epochs)} epochs, many more if you can"
        )


def fine_tune(row: PrunedRow, folder: Path, opt: PruneOptions) -> tuple[Path | None, Path]:
    """Trains a pruned network in a process of its own; its best checkpoint, None where it failed, and the log."""
    place = folder / "finetune"
    place.mkdir(exist_ok=True)
    log = place / f"{row.name}.log"
    values = {
        "weights": row.weights,
        "data": opt.data,
        "imgsz": opt.imgsz,
        "epochs": opt.epochs,
        "hyp": opt.hyp,
        "batch-size": opt.batch_size,
        "workers": opt.workers,
        "seed": opt.seed,
        "project": place.resolve(),
        "name": row.name,
    }
    switches: list[str] = []
    if opt.device:
        switches += ["--device", opt.device]
    if opt.noplots:
        switches.append("--noplots")
    LOGGER.info(f"{row.name}: fine-tuning for {plural(opt.epochs, 'epoch')}; log in {log}")
    flags = [part for key, value in values.items() for part in (f"--{key}", str(value))]
    ended = run_logged([*TRAINER, *flags, *switches, "--exist-ok"], log)
    if ended is None or ended.status:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
        LOGGER.error(f"{row.name}: the fine-tune failed: {' / '.join(lines[-1:])}")
        return None, log
    best = place / row.name / "weights" / "best.pt"
    return (best if best.is_file() else best.with_name("last.pt")), log


# Costs ----------------------------------------------------------------------------------------------------------------


def finish(rows: Sequence[PrunedRow], folder: Path, opt: PruneOptions, device: torch.device) -> None:
    """Measures the networks side by side and writes table and picture."""
    models = {row.name: attempt_load(row.weights, device, fuse=False) for row in rows}
    imgsz = check_img_size(opt.imgsz, max(largest_stride(model) for model in models.values()))
    costs = measure_costs(models, imgsz, device, opt.rounds)
    done = []
    for row in rows:
        cost, size = costs[row.name], Path(row.weights).stat().st_size / 1e6
        found = {"parameters": cost.parameters, "gmacs": cost.gmacs, "p50_ms": cost.p50_ms, "p95_ms": cost.p95_ms}
        done.append(replace(row, **found, megabytes=size))
    done = with_front(done)
    write_csv(done, folder / "pareto.csv")
    if not opt.noplots:
        plot(done, folder / "pareto.png")
    for line in table(done):
        LOGGER.info(line)
    LOGGER.info(f"Files in {colorstr('bold', str(folder))}")
