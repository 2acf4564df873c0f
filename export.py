"""Writes a trained network in the formats that others run, as ONNX or OpenVINO; each file is run and compared.

    python export.py --weights runs/train/exp/weights/best.pt --include torchscript onnx openvino
    python export.py --weights best.pt --include onnx --dynamic --opset 17 --simplify
    python export.py --weights best.pt --include onnx --nms          # detections come out, not boxes to choose from
    python export.py --weights best.pt --include engine --half --device 0    # TensorRT, for this GPU; --nms too
    python export.py --weights best.pt --include v61      # a pickled network, for converters that were made for v6.1

A file lies beside its weights, and only once it has given what PyTorch gives; val.py and detect.py take it as weights.
"""

import argparse
import errno
import glob
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from datetime import datetime
from pathlib import Path

from utils.base.constants import ROOT, SIZE_DEFAULT
from utils.cli.arguments import normalized, read_options
from utils.cli.export_options import DYNAMO_OPSET, ENGINE, FOLDERS, FORMATS, OPSETS, SEVERAL, ExportOptions


def parse_opt(arguments: Sequence[str] | None = None) -> ExportOptions:
    """The options of the command line, or of `arguments`."""
    parser = argparse.ArgumentParser(
        description="Write a trained network in the formats that others run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--data", default=str(ROOT / "data" / "coco128.yaml"), help="--int8: the data set with its images"
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[str(ROOT / "yolov5s.pt")],
        help="checkpoint(s), exported one after another; where the default is absent, the newest best.pt of runs/train",
    )
    parser.add_argument(
        "--imgsz",
        "--img",
        "--img-size",
        nargs="+",
        type=int,
        help=f"image size in pixels: one, or h w; None = {SIZE_DEFAULT}",
    )
    parser.add_argument("--batch-size", type=int, default=1, help="images that a file takes at a time")
    parser.add_argument("--device", default="cpu", help="0 or cpu; a TorchScript file runs where it was made")
    parser.add_argument("--half", action="store_true", help="FP16: half the size; boxes still come out in FP32")
    parser.add_argument(
        "--inplace", action="store_true", help="v6.1's; no effect, as this head writes nothing in place"
    )
    parser.add_argument("--train", action="store_true", help="raw maps of the levels come out, as in training")
    parser.add_argument("--optimize", action="store_true", help="TorchScript: for the mobile interpreter")
    parser.add_argument("--aoti", action="store_true", help="pt2: machine code by AOTInductor, which needs a compiler")
    parser.add_argument("--int8", action="store_true", help="OpenVINO: INT8, fitted to the train split of --data")
    parser.add_argument("--max-drop", type=float, default=0.02, help="--int8: mAP@.5:.95 that it may cost at most")
    parser.add_argument("--dynamic", action="store_true", help="ONNX, OpenVINO, engine: open batch, height and width")
    parser.add_argument("--simplify", action="store_true", help="ONNX, OpenVINO: fewer nodes, by onnxslim")
    parser.add_argument("--opset", type=int, default=12, help=f"ONNX's operators, {OPSETS[0]} to {OPSETS[-1]}")
    parser.add_argument(
        "--dynamo",
        action="store_true",
        help=f"ONNX, and what is made of it, by torch's newer exporter; of opset {DYNAMO_OPSET}, or more by --opset",
    )
    parser.add_argument("--verbose", action="store_true", help="log all options; engine: all that TensorRT says")
    parser.add_argument("--workspace", type=int, default=4, help="engine: GB that TensorRT may use for a layer")
    parser.add_argument(
        "--trtexec", action="store_true", help="engine: write its ONNX file and show the command that builds it"
    )
    parser.add_argument("--nms", action="store_true", help="ONNX, engine: NMS inside; detections come out")
    parser.add_argument("--agnostic-nms", action="store_true", help="with --nms, classes suppress each other")
    parser.add_argument("--topk-per-class", type=int, default=100, help="v6.1's; no effect, --topk-all limits")
    parser.add_argument("--topk-all", type=int, default=100, help="with --nms, most detections of an image")
    parser.add_argument("--iou-thres", type=float, default=0.45, help="with --nms, IoU above which a box is dropped")
    parser.add_argument("--conf-thres", type=float, default=0.25, help="with --nms, least confidence")
    parser.add_argument("--triton", default="", metavar="FOLDER", help="ONNX: also a model in this Triton repository")
    parser.add_argument("--include", nargs="+", default=["torchscript", "onnx"], help=f"formats: {', '.join(FORMATS)}")
    return read_options(ExportOptions, parser, arguments, several=SEVERAL)


if __name__ == "__main__":
    OPTIONS = parse_opt()  # before the imports below, which take seconds: --help and errors in flags need none of them

import torch

from models.experimental import attempt_load
from models.exporters.compare import INT8_LIMITS, SUMS_FP16_LIMITS, Comparison, check_images, compare, table
from models.exporters.coreml import compare_graph
from models.exporters.int8 import CALIBRATION_IMAGES, quantize_openvino
from models.exporters.onnx import ExportModel, NmsSettings, nam_layers, nam_variant
from models.exporters.tensorrt import trtexec_command
from models.exporters.triton import write_triton
from models.exporters.v61 import V61Runtime
from models.exporters.writers import WRITERS, Job, WriteSettings, engine_onnx, engine_settings
from models.runtimes.base import silence_telemetry
from models.runtimes.load import RUNTIMES, TorchScriptRuntime
from models.runtimes.metadata import AXES, PROGRAM, TRAINED_SIZE, Metadata
from models.runtimes.tensorrt import ONNX_SUFFIX
from utils.data.config import DataConfig
from utils.evaluation.evaluate import check_classes
from utils.evaluation.rating import letterboxed_loader, rate, training_images
from utils.files.addresses import log_options
from utils.files.exported import remember
from utils.files.weights import find_weights
from utils.general import (
    LOGGER,
    colorstr,
    one_line,
    remove_stale,
    run_script,
    scratch_folder,
    set_logging,
)
from utils.predict.inference import choose_size
from utils.processes.locks import Lock
from utils.torch_utils import largest_stride, select_device

LEAST_FREE_BYTES = 2**20  # less than that, and a failure is for lack of space
OLD = "old"  # beside a folder that is being written: the one that it replaces
ON_CPU = {"onnx", "mnn", "executorch", "tflite", "coreml"}  # whose files are compared there, wherever the network is


def main(opt: ExportOptions) -> list[Path]:
    """Writes what the options name and says how near to PyTorch it is; the files. ValueError if one failed."""
    opt.check()
    silence_telemetry()  # converters import packages by themselves
    if opt.verbose:
        log_options("export", asdict(opt))
    device = select_device(opt.device)
    written, failed, rows = [], [], []
    checkpoints = find_weights(opt.weights)
    places = [triton_place(opt, weights) if opt.triton else None for weights in checkpoints]  # before any work is done
    if opt.triton and len({*places}) < len(places):
        raise ValueError(
            "--triton: several --weights have one name, which their networks would be called by; rename one"
        )
    for weights, place in zip(checkpoints, places, strict=True):
        job = prepare(opt, weights, device)
        for name in opt.formats:
            write = for_trtexec if name == ENGINE and opt.trtexec else export
            try:
                file, comparison = write(opt, job, name)
                remember(file)
                if place is not None and name == "onnx":
                    to_triton(file, place)
            except (ValueError, ImportError, OSError) as error:
                LOGGER.error(f"{name}: {one_line(error)}")
                failed.append(f"{name} of {weights}")
                continue
            written.append(file)
            if comparison is not None:
                rows.append((name, str(file), megabytes(file), comparison))
    if rows:
        for line in table(rows):
            LOGGER.info(line)
    if failed:
        raise ValueError(f"not written, for the reason given above: {', '.join(failed)}")
    on_mac = sys.platform == "darwin"
    usable = [file for file in written if not file.name.endswith(ONNX_SUFFIX)]
    usable = [file for file in usable if file.suffix != FORMATS["coreml"] or on_mac]
    if usable:
        LOGGER.info(f"Use them as weights: python detect.py --weights {usable[-1]}")
    return written


def prepare(opt: ExportOptions, weights: Path, device: torch.device) -> Job:
    """The network of a checkpoint, as it is to be written, and what its files say of themselves."""
    network = attempt_load(weights, device)
    stride = largest_stride(network)
    height, width = choose_size(network, opt.imgsz)
    nms = NmsSettings(opt.conf_thres, opt.iou_thres, opt.agnostic_nms, opt.topk_all) if opt.nms else None
    reference = ExportModel(network, opt.train, nms)
    dtype = torch.float16 if opt.half else torch.float32
    model = ExportModel(network, opt.train, nms).to(dtype) if opt.half else reference
    settings = {key: value for key, value in asdict(opt).items() if key not in {"weights", "data"}}
    details = {
        "task": "detect",
        "precision": "fp16" if opt.half else "fp32",
        "nam": json.dumps({"variant": nam_variant(network), "layers": nam_layers(network)}),
        "weights": weights.name,
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "settings": json.dumps(settings),
        "program": PROGRAM,
        "date": datetime.now().isoformat(timespec="seconds"),
    }
    if network.imgsz is not None:
        details[TRAINED_SIZE] = str(network.imgsz)
    axes = ()
    if opt.dynamic:
        axes = AXES[1:] if opt.nms else AXES
    metadata = Metadata(tuple(network.names), stride, opt.batch_size, (height, width), axes, details)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(opt.batch_size, 3, height, width, generator=generator).to(device, dtype)
    return Job(weights, reference, model, images, metadata, write_settings(opt))


def write_settings(opt: ExportOptions) -> WriteSettings:
    """Collect the options that concern the writers."""
    return WriteSettings(
        opset=opt.onnx_opset,
        half=opt.half,
        dynamic=opt.dynamic,
        simplify=opt.simplify,
        dynamo=opt.dynamo,
        optimize=opt.optimize,
        aoti=opt.aoti,
        workspace=opt.workspace,
        verbose=opt.verbose,
    )


def export(opt: ExportOptions, job: Job, name: str) -> tuple[Path, Comparison | None]:
    """Writes one format, runs it, and puts it in its place if it gives what PyTorch gives; nothing is left if not."""
    target = job.weights.with_name(job.weights.stem + ("_int8" if opt.int8 else "") + FORMATS[name])
    LOGGER.info(f"{colorstr(f'{name}:')} writing {target}")
    with writing(target, is_folder=name in FOLDERS) as path:
        WRITERS[name](job, path)
        if opt.int8:
            return target, to_int8(opt, job, path)
        if name == "coreml" and sys.platform != "darwin":
            return target, compare_graph(path, job.reference, job.images.device, job.limits)
        device = torch.device("cpu") if name in ON_CPU else job.images.device
        if name == "torchscript":
            runtime = TorchScriptRuntime(path, device)
        elif name == "v61":
            runtime = V61Runtime(path, device, job.metadata)
        else:
            runtime = RUNTIMES[name](path, device, no_names)
        images = [batch.to(job.images.device) for batch in check_images(runtime.metadata, opt.nms)]
        limits = SUMS_FP16_LIMITS if opt.half and name == "executorch" else job.limits
        return target, compare(runtime, job.reference, images, limits)


def for_trtexec(opt: ExportOptions, job: Job, name: str) -> tuple[Path, Comparison | None]:
    """Writes the ONNX file that an engine is built of and shows the command that builds it.

    The file is run and compared but for one with NMS, whose plug-in only TensorRT has.
    """
    stem, onnx = job.weights.stem, job.weights.with_name(job.weights.stem + ONNX_SUFFIX)
    comparison = None
    with writing(onnx) as path:
        engine_onnx(job, path)
        if not opt.nms:
            runtime = RUNTIMES["onnx"](path, torch.device("cpu"), no_names)
            images = [batch.to(job.images.device) for batch in check_images(runtime.metadata)]
            comparison = compare(runtime, job.reference, images, job.limits)
    command = trtexec_command(onnx, job.weights.with_name(stem + FORMATS[name]), engine_settings(job))
    LOGGER.info(f"{colorstr(f'{name}:')} on the machine that is to use it, beside {onnx.name}: {command}")
    return onnx, comparison


def to_int8(opt: ExportOptions, job: Job, folder: Path) -> Comparison:
    """Makes the OpenVINO network in a folder one of INT8; ValueError where that costs more than --max-drop of mAP."""
    data, metadata, cpu = DataConfig.from_yaml(opt.data), job.metadata, torch.device("cpu")
    loader = letterboxed_loader(data, metadata.imgsz, metadata.batch)
    check_classes(metadata.nc, data.nc)
    quantize_openvino(folder, job.reference, metadata, training_images(data, metadata.imgsz, CALIBRATION_IMAGES))
    runtime = RUNTIMES["openvino"](folder, cpu, no_names)
    comparison = compare(runtime, job.reference, check_images(runtime.metadata), INT8_LIMITS)
    before, after = (rate(model, loader, data.names, cpu).map for model in (job.reference.network.cpu(), runtime))
    told = f"mAP@.5:.95 on {len(loader.dataset)} images of {data.file.name}: {before:.4f} before, {after:.4f} in INT8"
    if before - after > opt.max_drop:
        raise ValueError(f"{told}, which is {before - after:.4f} less; --max-drop allows {opt.max_drop}")
    LOGGER.info(told)
    return comparison


def triton_place(opt: ExportOptions, weights: Path) -> Path:
    """Where a checkpoint's network goes in the Triton model repository; ValueError where it has one of this name."""
    target = Path(opt.triton) / weights.stem
    if target.parent.exists() and not target.parent.is_dir():
        raise ValueError(f"--triton: {target.parent} is a file; name a folder")
    if target.exists():
        raise ValueError(f"--triton: {target} is there already; remove it, or name another folder")
    return target


def to_triton(file: Path, target: Path) -> None:
    """Makes an ONNX file a model of a Triton model repository."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target, is_folder=True) as folder:
        write_triton(file, folder)
    LOGGER.info(f"Written to {target}; where Triton serves {target.parent}: --weights http://host:8000/{target.name}")


def no_names() -> Sequence[str]:
    """For a file that was just written: it names its classes itself."""
    raise ValueError("the file does not name its classes")


@contextmanager
def writing(target: Path, is_folder: bool = False) -> Iterator[Path]:
    """A path to write to, which becomes `target` when the block ends well; else the target is left as it was.

    The path lies in a folder that is removed at the end, for further temporary files too: what a process that was
    killed has left of it goes when the next one writes the same target. InUseError where another process does so now.
    """
    with Lock() as lock:
        lock.take_file(target)
        restore_old(target)
        remove_stale(target.parent, target.name, is_ours=True)
        with scratch_folder(target) as scratch:
            path = scratch / target.name
            if is_folder:
                path.mkdir()
            try:
                yield path
                install(path, target, scratch / OLD)
            except (OSError, ValueError, RuntimeError) as error:
                if shutil.disk_usage(scratch).free < LEAST_FREE_BYTES:  # a converter may not say why it fails
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
                is_here = isinstance(error, OSError) and str(error.filename or scratch).startswith(str(scratch))
                if is_here and error.errno is not None:
                    error.filename, error.filename2 = str(target), None  # what the user has heard of
                raise


def install(path: Path, target: Path, old: Path) -> None:
    """Rename a file or folder to `target`; a folder that is there goes to `old` in the meantime."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("rb+") as written:
                os.fsync(written.fileno())
    if target.is_dir():
        target.replace(old)
    elif target.exists():
        path.chmod(target.stat().st_mode & 0o777)
    try:
        path.replace(target)
    except OSError:
        if old.exists():
            old.replace(target)
        raise


def restore_old(target: Path) -> None:
    """Put back the folder that a process was about to replace when it was killed."""
    if target.exists():
        return
    for old in target.parent.glob(f".{glob.escape(target.name[:32])}-*.tmp/{OLD}"):
        old.replace(target)
        return


def megabytes(path: Path) -> float:
    """The size of a file, or of a folder's files."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def run(weights: str | Path | Sequence[str | Path] | None = None, **options: object) -> list[Path]:
    """Export from Python: the flags as keywords with `_` for `-`, the command line's defaults for all others."""
    set_logging()
    if weights is not None:
        options["weights"] = weights
    options = normalized(options, several=SEVERAL, allowed=[item.name for item in fields(ExportOptions)])
    return main(replace(parse_opt([]), **options))


if __name__ == "__main__":
    run_script(main, OPTIONS)
