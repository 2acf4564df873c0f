"""Says how good a model is on a labelled data set: precision, recall, AP by class, speed, curves, example pictures.

    python val.py --weights runs/train/exp/weights/best.pt --data shapes.yaml
    python val.py --weights a.pt b.pt --data shapes.yaml --task study --sizes 320 640

Each IoU level has its own pairs of detections and labels; precision and recall are those at the confidence where the
smoothed mean F1 is highest, which is printed.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path

from utils.base.constants import HINTS, PRECISIONS, ROOT, SIZE_DEFAULT, SPLITS, STUDY_SIZES
from utils.cli.arguments import normalized, read_options, thread_count
from utils.cli.val_options import SEVERAL, TASKS, ValOptions


def parse_opt(arguments: Sequence[str] | None = None) -> ValOptions:
    """The options of the command line, or of `arguments`."""
    parser = argparse.ArgumentParser(
        description="Evaluate a model on a labelled data set.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", default=str(ROOT / "data" / "shapes.yaml"), help="the data set's yaml")
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[str(ROOT / "yolov5s.pt")],
        help="checkpoint(s), several make an ensemble, or a file of export.py, or a server's network, "
        "http://host:8000/model; where the default is absent, the newest best.pt of runs/train",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="images at a time")
    parser.add_argument(
        "--imgsz", "--img", "--img-size", type=int, help=f"inference size in pixels; None = {SIZE_DEFAULT}"
    )
    parser.add_argument("--conf-thres", type=float, default=0.001, help="least confidence of a detection")
    parser.add_argument(
        "--iou-thres", type=float, default=0.6, help="overlap (IoU) above which the less sure of two boxes is dropped"
    )
    parser.add_argument("--max-det", type=int, default=300, help="most detections per image")
    parser.add_argument(
        "--task",
        choices=TASKS,
        default="val",
        help="the split of the data set; speed: how fast each of the weights is, as detect.py runs it; study: quality "
        "and speed of each of the weights at each of --sizes, as a table and a figure",
    )
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=list(STUDY_SIZES), help="inference sizes in pixels of --task study"
    )
    parser.add_argument("--device", default="", help="0, 0,1 or cpu; empty takes the first GPU if there is one")
    parser.add_argument("--workers", type=int, default=8, help="most processes that load images")
    parser.add_argument("--single-cls", action="store_true", help="take all classes as one")
    parser.add_argument(
        "--augment", action="store_true", help="test-time augmentation: three scales, one mirrored; slower, finds more"
    )
    parser.add_argument("--verbose", action="store_true", help="log all options, and each class of any data set")
    parser.add_argument(
        "--save-txt", action="store_true", help="write labels/*.txt: class cx cy w h, in shares of the image"
    )
    parser.add_argument(
        "--save-hybrid",
        action="store_true",
        help="--save-txt of labels and detections together, for automatic labelling; inflates mAP",
    )
    parser.add_argument("--save-conf", action="store_true", help="with --save-txt, the confidence as sixth column")
    parser.add_argument(
        "--save-json",
        action="store_true",
        help="write a COCO result file, rated by pycocotools where <root>/annotations/instances_<split>.json is there",
    )
    parser.add_argument("--project", default=str(ROOT / "runs" / "val"), help="results go to project/name")
    parser.add_argument("--name", default="exp", help="results go to project/name; a number is added where that exists")
    parser.add_argument(
        "--exist-ok", action="store_true", help="write into an existing project/name, replacing files of the same names"
    )
    parser.add_argument("--half", action="store_true", help="compute in FP16, on a GPU only")
    parser.add_argument("--dnn", action="store_true", help="run an .onnx file by OpenCV in place of ONNX Runtime")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="load a program that was not exported here (.torchscript, .pt2, .engine), which may do all that you may",
    )
    parser.add_argument(
        "--threads",
        type=thread_count,
        default=0,
        metavar="N|auto",
        help="threads that the network may use; 0: as it likes; auto: as many as cores are free now",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="what a checkpoint (fp16: on a GPU), an OpenVINO, ncnn (no fp16) or MNN file (fp32, auto) computes in; "
        "auto: what is quickest here",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile a checkpoint's network by torch.compile, which takes a minute or more at first",
    )
    parser.add_argument(
        "--hint",
        choices=HINTS,
        default="latency",
        help="OpenVINO: throughput computes several images of a batch at a time, and takes --batch-size apart for that",
    )
    parser.add_argument("--noplots", action="store_true", help="draw no curves and no example pictures")
    parser.add_argument(
        "--slice",
        type=int,
        metavar="SIZE",
        help="detect in slices of this size in pixels too, for small objects in large images; slower",
    )
    parser.add_argument("--overlap", type=float, default=0.2, help="with --slice, what neighbours share of a slice")
    return read_options(ValOptions, parser, arguments, several=SEVERAL)


if __name__ == "__main__":
    OPTIONS = parse_opt()  # before the imports below, which take seconds: --help and errors in flags need none of them

import numpy as np
import torch
from torch import Tensor, nn

from models.runtimes.load import Weights, load_backend
from utils.augmentations import letterbox
from utils.data.config import DataConfig, names_of
from utils.data.labels import LabelRecord, load_split
from utils.datasets import Batch, ImageShape, val_loader
from utils.dist import SINGLE, DistEnv, process_group
from utils.evaluation.coco import CocoRating, find_annotations
from utils.evaluation.evaluate import (
    Criterion,
    EvalSettings,
    EvaluatedBatch,
    Observer,
    check_names,
    evaluate,
    log_sizes,
    log_speed,
    log_table,
)
from utils.evaluation.files import EvalPlots, LabelFiles, write_results, write_thresholds
from utils.evaluation.study import Study
from utils.files.addresses import log_options, shown
from utils.files.images import read_image
from utils.files.weights import find_weights
from utils.general import (
    LOGGER,
    colorstr,
    increment_path,
    non_max_suppression,
    plural,
    remove_stale,
    run_script,
    set_logging,
)
from utils.metrics import EvalResult
from utils.ops.boxes import scaled_coords
from utils.predict.inference import (
    choose_size,
    fixed_size,
    input_size,
    ready,
    to_tensor,
    warm_up,
)
from utils.predict.slicing import Slicing, merge_slices
from utils.predict.threads import Background
from utils.processes.locks import Lock
from utils.report.page import write_report
from utils.torch_utils import ThreadLimit, compile_network, largest_stride, select_device

WAITING_BATCHES = 2  # that wait to be drawn and written, each with its images
MAX_TABLE_CLASSES = 49  # with more, --verbose asks for the table by class
OR_AS_ONE = ", or all classes as one (--single-cls)"
SPEED_CONF, SPEED_IOU = 0.25, 0.45  # thresholds of --task speed, those of detect.py
SPEED_REMARK = ", as detect.py has them: its mAP is of what is left then, not the one of --task val"


def main(opt: ValOptions) -> EvalResult | list[EvalResult]:
    """Evaluates as the options say; what came out, for speed and study of each weights and size in turn."""
    opt.check()
    if opt.verbose:
        log_options("val", asdict(opt))
    data = DataConfig.from_yaml(opt.data)
    weights = find_weights(opt.weights, takes_addresses=True)
    with process_group() as ranks, Lock() as lock:
        device = select_device(opt.device, local_rank=ranks.local_rank, processes=ranks.size)
        if opt.task in SPLITS:
            return rate(opt, data, weights, device, ranks, lock)
        if ranks.size > 1:
            raise ValueError(f"--task {opt.task} measures one process; start it without torchrun")
        return compare(opt, data, weights, device, lock)


def rate(
    opt: ValOptions, data: DataConfig, weights: Sequence[Weights], device: torch.device, ranks: DistEnv, lock: Lock
) -> EvalResult:
    """Evaluates the weights together on a split, of which several ranks do a part each.

    Rank 0 writes project/name, which the lock then holds.
    """
    model = load_model(opt, weights, device)
    hw = choose_size(model, opt.imgsz)
    if not opt.single_cls:
        check_names(model.names, data, OR_AS_ONE)
    with ranks.main_first():
        data.prepare()
        sources = data.split(opt.task)
        records = load_split(data, opt.task, opt.workers, opt.single_cls, needs_labels=False)
    if not ranks.is_main:
        return run_model(opt, model, device, records, data.names, [], hw, ranks)
    folder = own_folder(opt, lock)
    names = ("item",) if opt.single_cls and data.nc > 1 else data.names
    crowded = max((len(record.boxes) for record in records), default=0)
    if opt.max_det < crowded:
        LOGGER.warning(f"--max-det {opt.max_det}: an image has {plural(crowded, 'label')}, so AP comes out lower")

    plots = None if opt.noplots else EvalPlots(folder, names)
    observers: list[Observer] = [plots] if plots else []
    if opt.save_txt or opt.save_hybrid:
        observers.append(LabelFiles(folder / "labels", [record.image for record in records], opt.save_conf))
    rating = None
    with ExitStack() as stack:
        if opt.save_json:
            rating = CocoRating(folder / f"{weights[0].stem}_predictions.json", names, find_annotations(data, sources))
            observers.append(stack.enter_context(rating.writer()))
        result = run_model(opt, model, device, records, data.names, observers, hw, ranks)

    # A further figure of the evaluation is logged here. result is an EvalResult (utils/metrics.py): its stats hold the
    # curves and values of each class, as in LOGGER.info(f"F1 {result.stats.f1.mean():.3f}").
    log_table(result, per_class=opt.verbose or 1 < len(names) <= MAX_TABLE_CLASSES)
    if opt.verbose:
        log_sizes(result)
    log_speed(result)
    write_results(result, folder / "results.json")
    if not opt.save_hybrid:
        write_thresholds(result, folder / "thresholds.yaml")
    if plots:
        plots.finish(result)
        write_report(plots, result, model, {"options": shown(asdict(opt))}, {"options": asdict(parse_opt([]))})
    if rating:
        rating.log_scores([record.image for record in records])
    summary = (
        f"mAP@.5 {result.map50:.3f}, mAP@.5:.95 {result.map:.3f} on {plural(result.images, 'image')} of {opt.task}"
    )
    where = f"P and R at confidence {result.threshold:.3f}, where the smoothed mean F1 is highest"
    LOGGER.info(f"{summary}, {where}; files in {colorstr('bold', str(folder))}")
    return result


def own_folder(opt: ValOptions, lock: Lock) -> Path:
    """Make project/name, in which no other process may write."""
    folder = increment_path(Path(opt.project) / opt.name, exist_ok=opt.exist_ok, mkdir=True)
    lock.take_folder(folder)
    remove_stale(folder, is_ours=True)
    return folder


def compare(
    opt: ValOptions, data: DataConfig, weights: Sequence[Weights], device: torch.device, lock: Lock
) -> list[EvalResult]:
    """Measures each of the weights for itself on the val split, at --imgsz for speed and at --sizes for a study.

    FP16 is used on a GPU. A study's files go to project/name; speed is told in the log alone.
    """
    is_study = opt.task == "study"
    opt = replace(opt, half=device.type == "cuda" and opt.precision == "fp32")
    if not is_study:
        opt = replace(opt, conf_thres=SPEED_CONF, iou_thres=SPEED_IOU)
    data.prepare()
    records = load_split(data, "val", opt.workers, opt.single_cls, needs_labels=False)
    study = None
    if is_study:
        study = Study(own_folder(opt, lock), data.file.stem)
    results = []
    for file in weights:
        model = load_model(opt, [file], device)
        if not opt.single_cls:
            check_names(model.names, data, OR_AS_ONE)
        name = study.begin(file.stem) if study else file.stem
        shapes = [input_size(model, size) for size in opt.sizes] if study else [choose_size(model, opt.imgsz)]
        for hw in shapes:
            limits = (
                f"confidence {opt.conf_thres}, IoU {opt.iou_thres}, {'FP16' if opt.half else opt.precision.upper()}"
            )
            LOGGER.info(f"{colorstr('bold', str(file))} at {max(hw)} pixels, {limits}{'' if study else SPEED_REMARK}")
            result = run_model(opt, model, device, records, data.names, [], hw)
            log_table(result, per_class=opt.verbose)
            log_speed(result)
            results.append(result)
            if study:
                study.add(name, max(hw), result)
    if study:
        study.finish()
        LOGGER.info(f"files in {colorstr('bold', str(study.folder))}")
    return results


def run_given(
    model: nn.Module, dataloader: Iterable[Sequence], compute_loss: Criterion | None, options: Mapping[str, object]
) -> EvalResult:
    """Evaluate a network on batches of images, targets, paths and shapes, as v6.1's training does between epochs."""
    names = [*model.names.values()] if isinstance(model.names, Mapping) else list(model.names)
    settings = EvalSettings(
        conf_thres=float(options.get("conf_thres", 0.001)),
        iou_thres=float(options.get("iou_thres", 0.6)),
        single_cls=bool(options.get("single_cls")),
        augment=bool(options.get("augment")),
    )
    batches = (
        Batch(images, targets, tuple(paths), tuple(ImageShape(*shape) for shape in shapes))
        for images, targets, paths, shapes in dataloader
    )
    device = next(model.parameters()).device
    result = evaluate(
        getattr(model, "module", model), batches, names, device=device, settings=settings, compute_loss=compute_loss
    )
    log_table(result, per_class=bool(options.get("verbose")))
    return result


def load_model(opt: ValOptions, weights: Sequence[Path], device: torch.device) -> nn.Module:
    """The weights as one network on the device, ready to run."""
    model = load_backend(
        weights,
        device,
        names=names_of(opt.data),
        dnn=opt.dnn,
        trust=opt.trust,
        threads=ThreadLimit(opt.threads).apply(),
        precision=opt.precision,
        hint=opt.hint,
    )
    model = ready(model, opt.half, opt.precision)
    if opt.compile:
        compile_network(model, is_dynamic=True)
    return model


def run_model(
    opt: ValOptions,
    model: nn.Module,
    device: torch.device,
    records: Sequence[LabelRecord],
    names: Sequence[str],
    observers: Sequence[Observer],
    hw: tuple[int, int],
    ranks: DistEnv = SINGLE,
) -> EvalResult:
    """The evaluation itself, on rectangular batches, padded by half a stride but for speed, as v6.1 has them.

    hw: height and width of the network's images, of which the longer one counts unless a file takes no others.
    """
    stride = largest_stride(model)
    if fixed_size(model):
        LOGGER.warning(
            f"the file takes {hw[0]} x {hw[1]} pixels only, so each image is letterboxed into that; a checkpoint, or a "
            "file exported with --dynamic, is evaluated on rectangular batches, which gives other figures"
        )
    warm_up(model, hw, opt.batch_size)
    pin_memory = device.type == "cuda"
    pad = 0.0 if opt.task == "speed" else 0.5
    loader = val_loader(
        records,
        max(hw),
        opt.batch_size,
        workers=opt.workers,
        stride=stride,
        pad=pad,
        hw=fixed_size(model),
        pin_memory=pin_memory,
        ranks=ranks,
    )

    def observe(evaluated: EvaluatedBatch) -> None:
        for observer in observers:
            observer(evaluated)

    refine = None
    if opt.slice is not None:
        refine = partial(add_slices, opt, model, hw)
    settings = EvalSettings(
        conf_thres=opt.conf_thres,
        iou_thres=opt.iou_thres,
        max_det=opt.max_det,
        single_cls=opt.single_cls,
        augment=opt.augment,
        hybrid=opt.save_hybrid and opt.task in SPLITS,
        by_size=opt.task in SPLITS,
        half=next(model.parameters()).dtype == torch.float16,
    )
    with Background(depth=WAITING_BATCHES) as background:  # files and pictures are made while the network computes
        return evaluate(
            model,
            loader,
            names,
            device=device,
            settings=settings,
            refine=refine,
            on_batch=lambda evaluated: background.submit(partial(observe, evaluated)),
            ranks=ranks,
        )


def add_slices(
    opt: ValOptions, model: nn.Module, hw: tuple[int, int], batch: Batch, found: Sequence[Tensor]
) -> list[Tensor]:
    """Add what slices of the image files have to a batch's detections, B of (n, 6) in the network's pixels."""
    assert opt.slice is not None
    slicing = Slicing(opt.slice, opt.overlap)
    merged = []
    for rows, path, shape in zip(found, batch.paths, batch.shapes, strict=True):
        if slicing.covers(shape.image_hw):
            merged.append(rows)
            continue
        image = read_image(path)
        (ratio_h, ratio_w), (pad_w, pad_h) = shape.ratio_pad
        scale, shift = torch.tensor([ratio_w, ratio_h] * 2), torch.tensor([pad_w, pad_h] * 2)
        boxes_xyxy = scaled_coords(batch.images.shape[2:], rows[:, :4].cpu(), image.shape[:2], shape.ratio_pad)
        native = merge_slices(
            image,
            torch.cat((boxes_xyxy, rows[:, 4:].cpu()), 1),
            partial(detect_slices, opt, model, hw),
            slicing,
            iou_thres=opt.iou_thres,
            agnostic=opt.single_cls,
            max_det=opt.max_det,
        )
        native[:, :4] = native[:, :4] * scale + shift
        merged.append(native.to(rows.device))
    return merged


def detect_slices(opt: ValOptions, model: nn.Module, hw: tuple[int, int], slices: Sequence[np.ndarray]) -> list[Tensor]:
    """Return the detections (n, 6) of each slice, xyxy in its pixels, confidence, class."""
    parameter = next(model.parameters())
    stride = largest_stride(model)
    results = []
    for start in range(0, len(slices), opt.batch_size):
        parts = slices[start : start + opt.batch_size]
        fitted = [letterbox(part, hw, auto=fixed_size(model) is None, stride=stride)[0] for part in parts]
        images = to_tensor(fitted, parameter.device, parameter.dtype)  # (B, 3, H, W): slices have one shape
        decoded = model(images, augment=opt.augment)[0] if opt.augment else model(images)[0]
        found = non_max_suppression(
            decoded.float(),
            opt.conf_thres,
            opt.iou_thres,
            agnostic=opt.single_cls,
            multi_label=True,
            max_det=opt.max_det,
        )
        for rows, part in zip(found, parts, strict=True):
            boxes = scaled_coords(images.shape[2:], rows[:, :4].cpu(), part.shape[:2])
            results.append(torch.cat((boxes, rows[:, 4:].cpu()), 1))
    return results


def run(
    data: str | Path | dict | None = None,
    weights: str | Path | Sequence[str | Path] | None = None,
    *,
    model: nn.Module | None = None,
    dataloader: Iterable[Sequence] | None = None,
    compute_loss: Criterion | None = None,
    plots: bool = True,
    **options: object,
) -> EvalResult | list[EvalResult]:
    """Evaluation from Python: the flags as keywords with `_` for `-`, the command line's defaults for all others.

    plots is v6.1's name for the opposite of noplots. As in v6.1 a training may give its network and the batches of
    `create_dataloader` instead of weights, and its loss; of the options then conf_thres, iou_thres, single_cls, augment
    and verbose count, and nothing is written. What is returned can be taken apart as v6.1's:
    `results, maps, times = val.run(...)`.
    """
    set_logging()
    if model is not None:
        if dataloader is None:
            raise ValueError("val.run: a model without a dataloader; give both, or weights and data")
        return run_given(model, dataloader, compute_loss, options)
    if not plots:
        options["noplots"] = True
    if data is not None:
        options["data"] = data
    if weights is not None:
        options["weights"] = weights
    options = normalized(options, several=SEVERAL, allowed=[field.name for field in fields(ValOptions)])
    return main(replace(parse_opt([]), **options))


if __name__ == "__main__":
    run_script(main, OPTIONS)
