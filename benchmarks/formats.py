"""Every format of export.py beside PyTorch on a data set: size, quality and speed, as a table and a picture.

    python -m benchmarks.formats --weights best.pt --data bccd.yaml --imgsz 320
    python -m benchmarks.formats --weights best.pt --data bccd.yaml --formats onnx openvino --int8 \\
        --precision fp32 bf16 --hint latency throughput

All take the val split's images letterboxed into one square, PyTorch too, so that mAP differs by the format alone.

The first row is v6.1's way: the fused network in eager PyTorch, FP32, contiguous, one image at a time; the others are
measured by it. The second is PyTorch as detect.py runs it, channels last. What is timed is the network alone, in
rounds: in each round every row computes the same images in turn, so that what disturbs the machine disturbs all, and a
ratio is that of one round. A format that cannot be written here, or does not know a setting, is named with the reason.
"""

import argparse
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice, product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import export
from benchmarks.format_table import BASE, FormatRow, Timing, summarize, write
from models.runtimes.load import load_backend
from utils.base.constants import HINTS, PRECISIONS, SIZE_DEFAULT
from utils.data.config import DataConfig
from utils.data.image_store import cpu_count
from utils.evaluation.rating import letterboxed_loader, rate
from utils.files.weights import DEFAULT_WEIGHTS, find_weights
from utils.general import LOGGER, ROOT, increment_path, one_line, run_script
from utils.predict.inference import choose_size, ready

PYTORCH = "pytorch"
CPU_FACTS = Path("/proc/cpuinfo")
PACKAGES = ("torch", "onnxruntime", "openvino", "ncnn", "MNN")
NUMBER_FORMATS = ("avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "asimddp", "bf16")


@dataclass(frozen=True)
class BenchmarkOptions:
    """The flags of `parse_opt`, which holds their meanings."""

    weights: str
    data: str
    imgsz: int | None
    formats: list[str]
    half: bool
    int8: bool
    max_drop: float
    precision: list[str]
    hint: list[str]
    images: int
    rounds: int
    threads: int
    project: str
    name: str

    def check(self) -> None:
        """ValueError where a number is out of its range."""
        for flag, value, least in (("--images", self.images, 1), ("--rounds", self.rounds, 1)):
            if value < least:
                raise ValueError(f"{flag} {value}: {least} or more")
        if self.threads < 0:
            raise ValueError(f"--threads {self.threads}: 0 or more")


@dataclass(frozen=True)
class Contender:
    """A row to be: what it is called and computes in, its file, and the network that was loaded from that."""

    name: str
    precision: str
    hint: str
    file: Path
    model: nn.Module

    @property
    def at_a_time(self) -> int:
        """Images that it computes at a time; more than one where it has a queue of requests."""
        queue = getattr(self.model, "queue", None)
        return 1 if queue is None else len(queue)


def parse_opt(arguments: Sequence[str] | None = None) -> BenchmarkOptions:
    """The options of the command line, or of `arguments`."""
    parser = argparse.ArgumentParser(description="Compare the formats of export.py on a data set.")
    parser.add_argument("--weights", default=str(DEFAULT_WEIGHTS), help="a checkpoint")
    parser.add_argument("--data", default=str(ROOT / "data" / "shapes.yaml"), help="the data set's yaml")
    parser.add_argument(
        "--imgsz", type=int, help=f"side of the square that images are put into, in pixels (default: {SIZE_DEFAULT})"
    )
    parser.add_argument("--formats", nargs="+", default=list(export.FORMATS), help="those to compare with PyTorch")
    parser.add_argument("--half", action="store_true", help="formats in FP16; PyTorch stays in FP32")
    parser.add_argument("--int8", action="store_true", help="OpenVINO in INT8 besides")
    parser.add_argument("--max-drop", type=float, default=0.02, help="--int8: mAP@.5:.95 that it may cost at most")
    parser.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, default=["fp32"], help="what OpenVINO, ncnn and MNN compute in"
    )
    parser.add_argument(
        "--hint", nargs="+", choices=HINTS, default=["latency"], help="OpenVINO; throughput: several images at a time"
    )
    parser.add_argument("--images", type=int, default=40, help="how many images are timed in a round, at most")
    parser.add_argument("--rounds", type=int, default=5, help="how many rounds")
    parser.add_argument("--threads", type=int, default=0, help="threads of a format; 0: as many as it likes")
    parser.add_argument("--project", default=str(ROOT / "runs" / "formats"), help="results go to project/name")
    parser.add_argument("--name", default="exp", help="a number is added where that exists")
    return BenchmarkOptions(**vars(parser.parse_args(arguments)))


def main(opt: BenchmarkOptions) -> list[FormatRow]:
    """Exports, rates and times; the rows of the table, v6.1's way first. Files go to project/name."""
    opt.check()
    weights, data = find_weights([opt.weights])[0], DataConfig.from_yaml(opt.data)
    facts = machine(opt.threads)
    folder = increment_path(Path(opt.project) / opt.name, mkdir=True)
    copy = Path(shutil.copy(weights, folder / weights.name))
    ways = pytorch_ways(opt, copy)
    side = max(choose_size(ways[0].model, opt.imgsz))
    loader = letterboxed_loader(data, (side, side), 1)
    contenders = ways + settings_of(opt, written_formats(opt, copy, side))
    maps = []
    for one in contenders:
        maps.append(rate(one.model, loader, data.names, torch.device("cpu")).map)
        LOGGER.info(f"{one.name} in {one.precision}: mAP@.5:.95 {maps[-1]:.4f}")
    images = [batch.images.float() / 255 for batch in islice(loader, opt.images)]
    timings = timed(contenders, images, opt.rounds)
    rows = [
        FormatRow(
            one.name,
            one.precision,
            one.hint,
            one.at_a_time,
            export.megabytes(one.file),
            found,
            found - maps[1],
            *summarize(timings[0], timing),
        )
        for one, found, timing in zip(contenders, maps, timings, strict=True)
    ]
    write(folder, rows, asdict(opt), facts | {"images": len(images), "side": side})
    return rows


def pytorch_ways(opt: BenchmarkOptions, weights: Path) -> list[Contender]:
    """v6.1's way, and PyTorch as detect.py runs it."""
    old, new = (load_backend(weights, "cpu", threads=opt.threads) for _ in range(2))
    old = old.float().to(memory_format=torch.contiguous_format)
    named = ((BASE, old), (PYTORCH, ready(new, half=False)))
    return [Contender(name, "fp32", "latency", weights, model) for name, model in named]


def settings_of(opt: BenchmarkOptions, files: Mapping[str, Path]) -> list[Contender]:
    """Each file in each of the settings that are asked for; why it cannot have one is logged."""
    found = []
    for (name, file), precision, hint in product(files.items(), opt.precision, opt.hint):
        try:
            model = load_backend(file, "cpu", threads=opt.threads, precision=precision, hint=hint)
        except (ValueError, ImportError, OSError) as error:
            LOGGER.warning(f"{name} has no row for {precision}, {hint}: {one_line(error)}")
            continue
        found.append(Contender(name, precision, hint, file, model))
    return found


def written_formats(opt: BenchmarkOptions, weights: Path, side: int) -> dict[str, Path]:
    """The file of each format that could be written, beside the weights; why others could not is logged."""
    files = {}
    jobs = [(name, {"half": opt.half, "include": name}) for name in opt.formats]
    int8 = {"int8": True, "include": "openvino", "data": opt.data, "max_drop": opt.max_drop}
    jobs += [("openvino INT8", int8)] if opt.int8 else []
    for name, options in jobs:
        try:
            files[name] = export.run(weights, imgsz=side, device="cpu", **options)[0]
        except (ValueError, ImportError, OSError) as error:
            LOGGER.warning(f"{name} is left out: {one_line(error)}")
    return files


@torch.inference_mode()
def timed(contenders: Sequence[Contender], images: Sequence[Tensor], rounds: int) -> list[Timing]:
    """How long each takes for the images (1, 3, H, W), all of them in every round; who begins differs by round.

    One image of each turn is not counted: it wakes the threads.
    """
    others = [image.contiguous(memory_format=torch.channels_last) for image in images]  # as detect.py makes them
    orders = {BASE: list(images), PYTORCH: others}
    times_ms: list[list[list[float]]] = [[] for _ in contenders]
    rates: list[list[float]] = [[] for _ in contenders]
    for i in range(rounds):
        for place in range(len(contenders)):
            row = (place + i) % len(contenders)
            one = contenders[row]
            own = orders.get(one.name, orders[BASE])
            one.model(own[0])
            start = time.perf_counter()
            times_ms[row].append(stream_ms(one, own))
            rates[row].append(len(own) / (time.perf_counter() - start))
    return [Timing(np.array(one), np.array(rate)) for one, rate in zip(times_ms, rates, strict=True)]


def stream_ms(contender: Contender, images: Sequence[Tensor]) -> list[float]:
    """Computes the images, one after another or as many at a time as it can; the milliseconds of each."""
    if contender.at_a_time > 1 and len(images) > 1:
        contender.model(torch.cat(list(images)))
        return [1000 * value for value in contender.model.seconds]
    taken = []
    for image in images:
        start = time.perf_counter()
        contender.model(image)
        taken.append(1000 * (time.perf_counter() - start))
    return taken


def machine(threads: int) -> dict[str, object]:
    """What the times depend on: the processor, its load before the start, threads, and the packages' versions."""
    name, flags = platform.processor() or platform.machine(), []
    if CPU_FACTS.exists():
        pairs = [line.partition(":") for line in CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines()]
        found = {key.strip(): value.strip() for key, _, value in reversed(pairs)}  # the first processor's stay
        name = found.get("model name", name)
        flags = [flag for flag in NUMBER_FORMATS if flag in found.get("flags", found.get("Features", "")).split()]
    facts: dict[str, object] = {"CPU": f"{name} ({', '.join(flags)})" if flags else name, "cores": cpu_count()}
    facts["threads"] = threads or "as each likes"
    facts["load before"] = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "absent"
    return facts


if __name__ == "__main__":
    run_script(main, parse_opt())
