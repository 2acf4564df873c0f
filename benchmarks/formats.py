"""Every format of export.py beside PyTorch on a data set: size, quality and speed, as a table and a picture.

    python -m benchmarks.formats --weights best.pt --data bccd.yaml --imgsz 320
    python -m benchmarks.formats --weights best.pt --data bccd.yaml --formats onnx openvino ncnn --int8

All take the val split's images letterboxed into one square, PyTorch too, so that mAP differs by the format alone. The
times are of single images, in turns: of each image all formats have theirs before the next image comes. PyTorch is the
fused network in FP32, as val.py runs it. A format that cannot be written here is named with the reason.
"""

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import export
from models.backend import load_backend
from utils.config import DataConfig
from utils.curves import hex_color, new_figure, tidy
from utils.general import LOGGER, ROOT, atomic_write, check_img_size, increment_path, one_line, run_script
from utils.rating import letterboxed_loader, rate
from utils.runs import DEFAULT_WEIGHTS, find_weights

PYTORCH = "pytorch"
WARM_UP = 3  # images before the clock runs


@dataclass(frozen=True)
class BenchmarkOptions:
    """The flags of `parse_opt`, which holds their meanings."""

    weights: str
    data: str
    imgsz: int
    formats: list[str]
    half: bool
    int8: bool
    images: int
    threads: int
    project: str
    name: str


@dataclass(frozen=True)
class FormatRow:
    """What is known of a format: megabytes, mAP and how far it is above PyTorch's, milliseconds of one image."""

    name: str
    megabytes: float
    map50_95: float
    difference: float
    p50_ms: float
    p95_ms: float
    images_per_s: float


def parse_opt(arguments: Sequence[str] | None = None) -> BenchmarkOptions:
    """The options of the command line, or of `arguments`."""
    parser = argparse.ArgumentParser(description="Compare the formats of export.py on a data set.")
    parser.add_argument("--weights", default=str(DEFAULT_WEIGHTS), help="a checkpoint")
    parser.add_argument("--data", default=str(ROOT / "data" / "shapes.yaml"), help="the data set's yaml")
    parser.add_argument("--imgsz", type=int, default=640, help="side of the square that images are put into, in pixels")
    parser.add_argument("--formats", nargs="+", default=list(export.FORMATS), help="those to compare with PyTorch")
    parser.add_argument("--half", action="store_true", help="formats in FP16; PyTorch stays in FP32")
    parser.add_argument("--int8", action="store_true", help="OpenVINO in INT8 besides")
    parser.add_argument("--images", type=int, default=100, help="how many images are timed, at most")
    parser.add_argument("--threads", type=int, default=0, help="threads of a format; 0: as many as it likes")
    parser.add_argument("--project", default=str(ROOT / "runs" / "formats"), help="results go to project/name")
    parser.add_argument("--name", default="exp", help="a number is added where that exists")
    return BenchmarkOptions(**vars(parser.parse_args(arguments)))


def main(opt: BenchmarkOptions) -> list[FormatRow]:
    """Exports, rates and times; the rows of the table, PyTorch's first. Files go to project/name."""
    if opt.images < 1:
        raise ValueError(f"--images {opt.images}: 1 or more")
    weights, data = find_weights([opt.weights])[0], DataConfig.from_yaml(opt.data)
    side = check_img_size(opt.imgsz, 32)
    loader = letterboxed_loader(data, (side, side), 1)
    folder = increment_path(Path(opt.project) / opt.name, mkdir=True)
    copy = Path(shutil.copy(weights, folder / weights.name))
    files = {PYTORCH: copy} | written_formats(opt, copy, side)
    models = {name: load_backend(file, "cpu", threads=opt.threads) for name, file in files.items()}
    maps = {}
    for name, model in models.items():
        maps[name] = rate(model, loader, data.names, torch.device("cpu")).map
        LOGGER.info(f"{name}: mAP@.5:.95 {maps[name]:.4f}")
    times_ms = timed(models, loader, opt.images)
    rows = []
    for name, file in files.items():
        taken = times_ms[name]
        p50, p95 = (float(np.percentile(taken, share)) for share in (50, 95))
        difference = maps[name] - maps[PYTORCH]
        rows.append(
            FormatRow(name, export.megabytes(file), maps[name], difference, p50, p95, 1000 / float(taken.mean()))
        )
    write(folder, rows, opt)
    return rows


def written_formats(opt: BenchmarkOptions, weights: Path, side: int) -> dict[str, Path]:
    """The file of each format that could be written, beside the weights; why others could not is logged."""
    files = {}
    jobs = [(name, {"half": opt.half, "include": name}) for name in opt.formats]
    jobs += [("openvino INT8", {"int8": True, "include": "openvino", "data": opt.data})] if opt.int8 else []
    for name, options in jobs:
        try:
            files[name] = export.run(weights, imgsz=side, device="cpu", **options)[0]
        except (ValueError, ImportError, OSError) as error:
            LOGGER.warning(f"{name} is left out: {one_line(error)}")
    return files


@torch.no_grad()
def timed(models: dict[str, nn.Module], loader: DataLoader, count: int) -> dict[str, np.ndarray]:
    """Milliseconds (n,) that each model takes for each of the first images, one at a time and all models in turns."""
    images: list[Tensor] = [batch.images.float() / 255 for batch in islice(loader, count)]
    for model in models.values():
        for image in images[:WARM_UP]:
            model(image)
    times_ms: dict[str, list[float]] = {name: [] for name in models}
    for image in images:
        for name, model in models.items():
            start = time.perf_counter()
            model(image)
            times_ms[name].append(1000 * (time.perf_counter() - start))
    return {name: np.array(values) for name, values in times_ms.items()}


def write(folder: Path, rows: Sequence[FormatRow], opt: BenchmarkOptions) -> None:
    """formats.md, formats.json and formats.png in the folder; the table goes to the log too."""
    lines = table(rows)
    for line in lines:
        LOGGER.info(line)
    with atomic_write(folder / "formats.md") as file:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = {"options": asdict(opt), "rows": [asdict(row) for row in rows]}
    with atomic_write(folder / "formats.json") as file:
        file.write_text(json.dumps(content, indent=2), encoding="utf-8")
    plot(rows, folder / "formats.png")
    LOGGER.info(f"files in {folder}")


def table(rows: Sequence[FormatRow]) -> list[str]:
    """Lines of the table, in Markdown."""
    lines = ["| Format | MB | mAP@.5:.95 | to PyTorch | p50 ms | p95 ms | images/s |", "|---" + "|---:" * 6 + "|"]
    for row in rows:
        cells = (f"{row.megabytes:.1f}", f"{row.map50_95:.4f}", f"{row.difference:+.4f}")
        times = (f"{row.p50_ms:.1f}", f"{row.p95_ms:.1f}", f"{row.images_per_s:.1f}")
        lines.append(f"| {row.name} | {' | '.join((*cells, *times))} |")
    return lines


def plot(rows: Sequence[FormatRow], path: Path) -> None:
    """Images per second, difference in mAP, and megabytes, a bar for each format."""
    figure = new_figure(13, 1.2 + 0.45 * len(rows))
    panels = (("images per second", "images_per_s"), ("mAP@.5:.95 less PyTorch's", "difference"), ("MB", "megabytes"))
    names = [row.name for row in rows]
    for i, (title, field) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        values = [getattr(row, field) for row in rows]
        bars = axes.barh(range(len(rows)), values, color=[hex_color(n) for n in range(len(rows))])
        axes.bar_label(bars, [f"{value:+.4f}" if field == "difference" else f"{value:.1f}" for value in values])
        axes.set(title=title, yticks=range(len(rows)), yticklabels=names if i == 0 else [])
        axes.margins(x=0.25)
        axes.invert_yaxis()
        tidy(axes)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    run_script(main, parse_opt())
