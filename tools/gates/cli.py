"""Shows what the attention of a trained network does: how far its gates open on a data set, and what AP they carry.

    python -m tools.gates --weights best.pt --data bccd.yaml
    python -m tools.gates --weights best.pt --data bccd.yaml --counterfactual
    python -m tools.gates --weights best.pt --data bccd.yaml --cam 8   # heat maps of 8; any network's
    python -m tools.gates --fork yolov5s-NAM.yaml best.pt       # is a fork wired as meant, and which NAM has it

A gate is what a block multiplies its input by. One that stays where it rests on every picture only scales; one that
differs between channels but not between pictures could be a constant of the next convolution. --counterfactual
evaluates the network again with each block taken out (identity) and with each channel's gate held at its mean, without
training anew: what AP is lost then is what the block carries in this network. --cam shows for some images what the
network looks at in these three states, see tools/gates/layer_cam.py.

Legend: C channels of a block.
"""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from models.experimental import attempt_load
from models.yolo import Model
from tools.gates.fork import inspect_fork, sentences
from tools.gates.gates import (
    BINS,
    Counterfactual,
    GateStats,
    GateTally,
    as_constant,
    as_identity,
    attention_blocks,
    counting,
    gated_blocks,
    hooked,
)
from tools.gates.layer_cam import log_means, write_cams
from tools.gates.page import PAGE, verdict, write_page
from utils.base.constants import SIZE_DEFAULT
from utils.cli.arguments import add_run_folder, add_weights, check_size, read_weights, tool_parser
from utils.data.config import DataConfig
from utils.data.labels import LabelRecord, load_split
from utils.datasets import val_loader
from utils.draw.curves import ACCENT, FAINT, INK, PALE, new_figure, tidy
from utils.evaluation.evaluate import check_names, evaluate
from utils.files.names import run_folder
from utils.files.weights import DEFAULT_WEIGHTS, find_weights
from utils.general import LOGGER, ROOT, atomic_write, colorstr
from utils.metrics import EvalResult
from utils.predict.inference import choose_size, input_size
from utils.torch_utils import largest_stride, select_device

ALL = "all"
CAM_IMAGES = 8  # of --cam without a number
DEFAULT_DATA = str(ROOT / "data" / "shapes.yaml")


# Looking --------------------------------------------------------------------------------------------------------------


def watch_gates(model: nn.Module, rate: Callable[[], EvalResult]) -> tuple[list[GateStats], EvalResult]:
    """The gates of all blocks while `rate` evaluates the network, and what it says."""
    tallies = {name: GateTally(name, block) for name, block in attention_blocks(model).items()}
    with hooked(attention_blocks(model), lambda name: counting(tallies[name])):
        result = rate()
    if not result.images:
        raise ValueError("the data set's split has no image")
    return [tally.stats() for tally in tallies.values()], result


def counterfactuals(
    model: nn.Module, stats: Sequence[GateStats], trained: EvalResult, rate: Callable[[], EvalResult]
) -> list[Counterfactual]:
    """What `rate` says with each block as identity and with its mean gates, and with all blocks where there are more.

    The network is as it was in the end.
    """
    blocks = attention_blocks(model)
    means = {stat.name: torch.from_numpy(stat.mean) for stat in stats}
    cases = {name: [name] for name in blocks} | ({ALL: list(blocks)} if len(blocks) > 1 else {})
    found = []
    for case, names in cases.items():
        for gate, make in (("identity", lambda _: as_identity), ("mean", lambda name: as_constant(means[name]))):
            LOGGER.info(f"{case}: {gate} gate")
            with hooked({name: blocks[name] for name in names}, make):
                result = rate()
            lost = (trained.map50 - result.map50, trained.map - result.map)
            found.append(Counterfactual(case, gate, result.map50, result.map, *lost))
    return found


# Telling --------------------------------------------------------------------------------------------------------------


def log_gates(stats: Sequence[GateStats]) -> None:
    """Says in the log what each block's gate did, and warns of those that are constant."""
    width = max(len(stat.name) for stat in stats) + 2
    titles = ("rests at", "mean", "least", "most", "sd", "sd within", "left rest")
    LOGGER.info(f"{'block':<{width}}{'module':<16}{'C':>6}{''.join(f'{title:>11}' for title in titles)}")
    for stat in stats:
        numbers = (stat.rest, stat.mean.mean(), stat.low.min(), stat.high.max(), stat.sd_all, stat.sd_within)
        cells = "".join(f"{number:>11.4f}" for number in numbers)
        LOGGER.info(f"{stat.name:<{width}}{stat.module:<16}{len(stat.mean):>6}{cells}{stat.left.mean():>10.1%}")
    for stat in stats:
        if stat.alarm:
            LOGGER.warning(f"{stat.name}: {stat.alarm}")


def log_counterfactuals(trained: EvalResult, found: Sequence[Counterfactual]) -> None:
    """Says in the log what AP each block carries."""
    width = max(len(case.block) for case in found) + 2
    LOGGER.info(f"{'block':<{width}}{'gate':<12}{'mAP@.5':>9}{'carries':>10}{'mAP@.5:.95':>12}{'carries':>10}")
    LOGGER.info(f"{'-':<{width}}{'as trained':<12}{trained.map50:>9.4f}{'':>10}{trained.map:>12.4f}")
    for case in found:
        numbers = f"{case.map50:>9.4f}{case.carried50:>+10.4f}{case.map:>12.4f}{case.carried:>+10.4f}"
        LOGGER.info(f"{case.block:<{width}}{case.gate:<12}{numbers}")


def write_files(folder: Path, stats: Sequence[GateStats], trained: EvalResult, found: Sequence[Counterfactual]) -> None:
    """Writes gates.csv, a row for each channel, gates.png, and inspect.json with what the log says."""
    with atomic_write(folder / "gates.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("block", "module", "rest", "channel", "mean", "sd", "low", "high", "left"))
        for stat in stats:
            for i, row in enumerate(zip(stat.mean, stat.sd, stat.low, stat.high, stat.left, strict=True)):
                writer.writerow((stat.name, stat.module, stat.rest, i, *(f"{value:.6g}" for value in row)))
    content = {
        "images": trained.images,
        "mAP@.5": trained.map50,
        "mAP@.5:.95": trained.map,
        "gates": [
            {
                "block": stat.name,
                "module": stat.module,
                "channels": len(stat.mean),
                "rest": stat.rest,
                "mean": float(stat.mean.mean()),
                "low": float(stat.low.min()),
                "high": float(stat.high.max()),
                "sd": stat.sd_all,
                "sd_within": stat.sd_within,
                "left": float(stat.left.mean()),
                "alarm": stat.alarm,
            }
            for stat in stats
        ],
        "counterfactuals": [asdict(case) for case in found],
    }
    with atomic_write(folder / "inspect.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    with atomic_write(folder / "gates.png") as temporary:
        plot_gates(stats, temporary)


def plot_gates(stats: Sequence[GateStats], path: Path) -> None:
    """For each block the gates of its channels, sorted by their mean, and how often each value occurs."""
    figure = new_figure(12, 2.6 * len(stats))
    panels = figure.subplots(len(stats), 2, squeeze=False, width_ratios=(2, 1))
    for stat, (channels, counts) in zip(stats, panels, strict=True):
        order, place = np.argsort(stat.mean), np.arange(len(stat.mean))
        mean, sd = stat.mean[order], stat.sd[order]
        channels.fill_between(place, stat.low[order], stat.high[order], color=PALE, step="mid", label="least to most")
        channels.fill_between(place, mean - sd, mean + sd, color=ACCENT, alpha=0.4, step="mid", label="mean +/- sd")
        channels.plot(place, mean, color=INK, linewidth=1.2, label="mean")
        channels.axhline(stat.rest, color=FAINT, linestyle="--", linewidth=1, label="at rest")
        channels.set(xlabel="channel, by mean", ylabel="gate", ylim=(0, stat.top))
        numbers = f"mean {stat.mean.mean():.4f}, sd {stat.sd_all:.4f}"
        constant = "  - constant" if stat.alarm else ""
        channels.set_title(f"{stat.name}  {stat.module}  {numbers}{constant}", loc="left", color=INK)
        edges = np.linspace(0, stat.top, BINS + 1)
        counts.stairs(stat.histogram / max(stat.histogram.sum(), 1), edges, fill=True, color=ACCENT)
        counts.axvline(stat.rest, color=FAINT, linestyle="--", linewidth=1)
        counts.set(xlabel="gate", ylabel="share", title=f"{stat.left.mean():.1%} left their rest", xlim=(0, stat.top))
        for axes in (channels, counts):
            tidy(axes)
    panels[0, 0].legend(fontsize=8, frameon=False, ncols=4)
    figure.suptitle("Gates by channel, over all images and positions", color=INK)
    figure.savefig(path, dpi=110, format="png")


# Script ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """The flags of `parse_opt`, which holds their defaults and meanings."""

    weights: str
    data: str
    split: str
    imgsz: int | None
    batch_size: int
    counterfactual: bool
    cam: int | None
    device: str
    workers: int
    fork: str
    project: str
    name: str
    exist_ok: bool


def parse_opt(arguments: Sequence[str] | None = None) -> Options:
    """The options of the command line, or of `arguments`."""
    parser = tool_parser(
        "gates",
        "Show what the attention of a trained network does.",
        "runs/train/exp/weights/best.pt --data bccd.yaml --counterfactual",
    )
    add_weights(parser, f"checkpoint with attention blocks, for --cam any; {DEFAULT_WEIGHTS.name} where none is named")
    parser.add_argument("--data", default="", help=f"the data set's yaml (default: {DEFAULT_DATA})")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"), help="the part to look at")
    parser.add_argument("--imgsz", type=int, help=f"inference size in pixels (default: {SIZE_DEFAULT})")
    parser.add_argument("--batch-size", type=int, default=16, help="images at a time")
    parser.add_argument(
        "--counterfactual", action="store_true", help="evaluate with each block as identity and at its mean gate too"
    )
    parser.add_argument(
        "--cam",
        nargs="?",
        type=int,
        const=CAM_IMAGES,
        metavar="IMAGES",
        help=f"draw LayerCAM heat maps of so many images ({CAM_IMAGES} without a number): at each attention block "
        "as trained, at its mean gate and as identity; of a network without attention at Detect's inputs",
    )
    parser.add_argument("--device", default="", help="0 or cpu; empty takes the first GPU if there is one")
    parser.add_argument("--workers", type=int, default=8, help="most processes that load images")
    parser.add_argument(
        "--fork",
        default="",
        metavar="YAML",
        help="look over the model yaml of a YOLOv5 fork and, where one is named, its checkpoint: wiring, kind of NAM; "
        "the checkpoint is rated too where --data is given",
    )
    add_run_folder(parser, ROOT / "runs" / "inspect")
    options = read_weights(parser, arguments, str(DEFAULT_WEIGHTS))
    if options["fork"] and options["weights"] == str(DEFAULT_WEIGHTS):
        options["weights"] = ""
    if not options["data"] and not options["fork"]:
        options["data"] = DEFAULT_DATA
    return Options(**options)


def load_records(opt: Options, data: DataConfig) -> list[LabelRecord]:
    """The split's images; ValueError where a number of the options is out of its range."""
    numbers = (("--batch-size", opt.batch_size), ("--cam", 1 if opt.cam is None else opt.cam))
    for flag, value in numbers:
        if value < 1:
            raise ValueError(f"{flag} {value}: 1 or more")
    check_size(opt.imgsz)
    data.prepare()
    return load_split(data, opt.split, opt.workers)


def load_images(opt: Options, records: Sequence[LabelRecord], model: nn.Module, batch_size: int) -> DataLoader:
    """The records in batches, as val.py has them."""
    hw = input_size(model, opt.imgsz)
    return val_loader(records, max(hw), batch_size, workers=opt.workers, stride=largest_stride(model))


def evenly(records: Sequence[LabelRecord], count: int) -> list[LabelRecord]:
    """So many of the records, or all, from the first to the last at even distances."""
    places = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    return [records[i] for i in places]


def draw_cam(opt: Options, folder: Path, model: Model, records: Sequence[LabelRecord], stats: list[GateStats]) -> None:
    """What --cam asks for, in the folder and in the log."""
    images = evenly(records, opt.cam or 0)
    gates = {stat.name: torch.from_numpy(stat.mean) for stat in stats}
    log_means(write_cams(folder, model, load_images(opt, images, model, 1), gated_blocks(model), gates), len(images))


def main(opt: Options) -> Path:
    """Look as the options say; the folder with gates.csv, gates.png, gates.html, inspect.json and, of --cam, cam.

    Of --fork without a data set there is no folder, and the yaml is returned.
    """
    if opt.fork:
        for line in sentences(inspect_fork(opt.fork, opt.weights or None)):
            LOGGER.info(line)
        if not (opt.weights and opt.data):
            return Path(opt.fork)
    device = select_device(opt.device)
    (weights,) = find_weights([opt.weights])
    model = attempt_load(weights, device, fuse=opt.cam is None).to(memory_format=torch.channels_last)
    is_plain = opt.cam is not None and not opt.counterfactual and not gated_blocks(model)
    blocks = {} if is_plain else attention_blocks(model)
    LOGGER.info(f"{colorstr('inspect:')} {weights}: {', '.join(blocks) or 'no attention, LayerCAM alone'}")
    data = DataConfig.from_yaml(opt.data)
    check_names(model.names, data)
    records, stats = load_records(opt, data), []
    opt = replace(opt, imgsz=max(choose_size(model, opt.imgsz)))
    with run_folder(Path(opt.project) / opt.name, opt.exist_ok) as folder:
        if blocks:
            loader = load_images(opt, records, model, opt.batch_size)
            rate = partial(evaluate, model, loader, data.names, device=device)
            stats, trained = watch_gates(model, rate)
            log_gates(stats)
            found = counterfactuals(model, stats, trained, rate) if opt.counterfactual else []
            if found:
                log_counterfactuals(trained, found)
            write_files(folder, stats, trained, found)
        if opt.cam is not None:
            draw_cam(opt, folder / "cam", model, records, stats)
        if blocks:
            write_page(folder, weights.name, stats, trained, found)
    LOGGER.info(f"files in {colorstr('bold', str(folder))}")
    if blocks:
        LOGGER.info(f"Page: {folder / PAGE}")
        LOGGER.info(verdict(stats, found))
    return folder
