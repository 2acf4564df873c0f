"""Compare the precisions that a checkpoint computes in with FP32: mAP, moved boxes and CPU time.

    python -m benchmarks.precisions --weights best.pt --data data/bccd.yaml --split val --precision bf16

Boxes are those of confidence 0.25 and more; each is paired with the FP32 box of its class that it overlaps most. The
time is the process's CPU time without start-up.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from models.runtimes.load import load_backend
from utils.base.constants import PRECISIONS
from utils.data.config import DataConfig
from utils.data.labels import load_split
from utils.datasets import val_loader
from utils.evaluation.evaluate import evaluate, on_device
from utils.files.weights import find_weights
from utils.general import LOGGER, in_columns, non_max_suppression, run_script
from utils.metrics import EvalResult, box_iou
from utils.predict.inference import choose_size, ready
from utils.torch_utils import largest_stride, select_device

FULL = "fp32"
LEAST_IOU = 0.5  # of boxes that are taken for the same


@dataclass(frozen=True)
class Options:
    """The flags of `parse_opt`, which holds their meanings."""

    weights: str
    data: str
    split: str
    precision: list[str]
    imgsz: int | None
    batch_size: int
    device: str


def parse_opt(arguments: Sequence[str] | None = None) -> Options:
    """The options of the command line, or of `arguments`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precisions",
        description="Compare the precisions of a checkpoint with FP32.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--weights", required=True, help="checkpoint")
    parser.add_argument("--data", required=True, help="data set yaml")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val", help="images to measure on")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["bf16"], help="beside fp32")
    parser.add_argument("--imgsz", type=int, help="inference size in pixels; None = that of the training")
    parser.add_argument("--batch-size", type=int, default=16, help="images at a time")
    parser.add_argument("--device", default="", help="0 or cpu; empty takes the first GPU if there is one")
    return Options(**vars(parser.parse_args(arguments)))


def measure(opt: Options, precision: str) -> tuple[EvalResult, float, list[torch.Tensor]]:
    """Evaluate in a precision; return the result, CPU seconds, and of each image the boxes (n, 6) xyxy, conf, class."""
    device = select_device(opt.device)
    model = ready(load_backend(find_weights([opt.weights]), device, precision=precision), False, precision)
    data = DataConfig.from_yaml(opt.data)
    data.prepare()
    size = max(choose_size(model, opt.imgsz))
    loader = val_loader(load_split(data, opt.split, 0), size, opt.batch_size, workers=0, stride=largest_stride(model))
    start = time.process_time()
    result = evaluate(model, loader, data.names, device=device, show_progress=False)
    seconds = time.process_time() - start
    boxes = []
    with torch.no_grad():
        for batch in loader:
            prediction = model(on_device(batch.images, device, torch.float32))[0]
            boxes += [rows.cpu() for rows in non_max_suppression(prediction.float())]
    return result, seconds, boxes


def moved(full: Sequence[torch.Tensor], less: Sequence[torch.Tensor]) -> tuple[float, int]:
    """Return the median over paired boxes of the largest moved coordinate in pixels, and how many have no pair."""
    shifts, alone = [], 0
    for rows, others in zip(full, less, strict=True):
        overlaps = box_iou(others[:, :4], rows[:, :4]) * (others[:, 5:] == rows[None, :, 5])
        for i, row in enumerate(overlaps):
            if len(row) == 0 or float(row.max()) < LEAST_IOU:
                alone += 1
                continue
            shifts.append((others[i, :4] - rows[row.argmax(), :4]).abs().max())
    return float(torch.stack(shifts).median()) if shifts else float("nan"), alone


def main(opt: Options) -> None:
    """Log a table of the precisions."""
    base, seconds, full = measure(opt, FULL)
    rows = [(FULL, f"{base.map50:.4f}", f"{base.map:.4f}", "", "", "", f"{seconds:.1f}")]
    for precision in opt.precision:
        result, seconds, boxes = measure(opt, precision)
        shift, alone = moved(full, boxes)
        change = f"{result.map - base.map:+.4f}"
        rows.append(
            (
                precision,
                f"{result.map50:.4f}",
                f"{result.map:.4f}",
                change,
                f"{shift:.2f}",
                str(alone),
                f"{seconds:.1f}",
            )
        )
    heads = ("precision", "mAP@.5", "mAP@.5:.95", "change", "median px", "unpaired", "CPU s")
    for line in in_columns([heads, *rows]):
        LOGGER.info(line)


if __name__ == "__main__":
    run_script(main, parse_opt())
