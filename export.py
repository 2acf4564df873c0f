"""Writes a trained network in the formats that others run: TorchScript, ONNX, OpenVINO; each is run and compared.

    python export.py --weights runs/train/exp/weights/best.pt --include torchscript onnx openvino --imgsz 640
    python export.py --weights best.pt --include onnx --dynamic --opset 17 --simplify
    python export.py --weights best.pt --include onnx --nms          # detections come out, not boxes to choose from

A file lies beside its weights, and only once it has given what PyTorch gives; val.py and detect.py take it as weights.
"""

import argparse
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from models.backend import RUNTIMES, Runtime, TorchScriptRuntime
from models.experimental import attempt_load
from models.export_check import FP16_LIMITS, FP32_LIMITS, INT8_LIMITS, Comparison, Limits, check_images, compare, table
from models.export_formats import (
    OPSETS,
    ExportModel,
    NmsSettings,
    OnnxSettings,
    nam_layers,
    nam_variant,
    write_onnx,
    write_openvino,
    write_torchscript,
)
from models.export_int8 import quantize_openvino
from models.export_mobile import write_mnn, write_ncnn
from models.export_torch import write_pt2, write_safetensors
from models.metadata import AXES, PROGRAM, Metadata
from utils.config import DataConfig
from utils.evaluate import check_classes
from utils.general import LOGGER, ROOT, atomic_write, check_img_size, colorstr, one_line, run_script
from utils.inference import check_limits
from utils.rating import letterboxed_loader, rate
from utils.runs import DEFAULT_WEIGHTS, find_weights, normalized
from utils.torch_utils import largest_stride, select_device

FORMATS = {
    **{"torchscript": ".torchscript", "pt2": ".pt2", "safetensors": ".safetensors", "onnx": ".onnx"},
    **{"openvino": "_openvino_model", "ncnn": "_ncnn_model", "mnn": ".mnn"},
}  # what a file's name ends on after that of its weights; a folder's has no dot
WITH_RAW = {"torchscript", "onnx", "openvino"}  # those that --train is for
INSTEAD = {  # v6.1's other formats: what serves in their place
    "saved_model": "TensorFlow's formats are not written; onnx runs wherever Python, C++ or a browser does",
    "pb": "TensorFlow's formats are not written; onnx runs wherever Python, C++ or a browser does",
    "edgetpu": "there is no compiler for Edge TPUs any more that can be installed; openvino serves small CPUs",
    "tfjs": "TensorFlow.js is not written; onnxruntime-web runs the .onnx file in a browser",
    "coreml": "it is not written yet; export onnx, and convert that on a Mac",
    "tflite": "it is not written yet; onnx is what ONNX Runtime runs on mobiles",
}
ENGINE = "engine"
NMS_SIDE = "--nms puts NMS into ONNX files"


@dataclass(frozen=True)
class ExportOptions:
    """The flags of `parse_opt`, which holds their defaults and meanings."""

    data: str
    weights: list[str]
    imgsz: list[int]
    batch_size: int
    device: str
    half: bool
    inplace: bool
    train: bool
    optimize: bool
    aoti: bool
    int8: bool
    max_drop: float
    dynamic: bool
    simplify: bool
    opset: int
    verbose: bool
    workspace: int
    nms: bool
    agnostic_nms: bool
    topk_per_class: int
    topk_all: int
    iou_thres: float
    conf_thres: float
    include: list[str]

    def check(self) -> None:
        """ValueError where a number is out of its range, a format is unknown, or options do not go together."""
        counts = {"--batch-size": self.batch_size, "--topk-all": self.topk_all, "--workspace": self.workspace}
        check_limits(self.conf_thres, self.iou_thres, counts)
        if len(self.imgsz) not in {1, 2} or min(self.imgsz) < 1:
            raise ValueError(f"--imgsz {' '.join(map(str, self.imgsz))}: one size, or height and width, in pixels")
        if self.opset not in OPSETS:
            raise ValueError(f"--opset {self.opset}: from {OPSETS[0]} to {OPSETS[-1]}")
        for name in self.formats:
            if name in INSTEAD:
                raise ValueError(f"--include {name}: {INSTEAD[name]}")
            if name not in FORMATS and name != ENGINE:
                raise ValueError(f"--include {name}: must be one of {', '.join((*FORMATS, ENGINE))}")
        if self.int8 and (self.formats != ["openvino"] or self.half or self.train):
            raise ValueError("--int8 is for openvino: --include openvino alone with it, without --half and --train")
        if not 0 <= self.max_drop <= 1:
            raise ValueError(f"--max-drop {self.max_drop}: mAP@.5:.95 that INT8 may cost, 0..1")
        if self.nms and set(self.formats) != {"onnx"}:
            raise ValueError(f"{NMS_SIDE} only: give --include onnx alone with it")
        if self.nms and self.train:
            raise ValueError("--nms and --train exclude each other: NMS needs decoded boxes")
        if self.train and not set(self.formats) <= {*WITH_RAW, ENGINE}:
            raise ValueError(f"--train: raw maps are written as {', '.join(sorted(WITH_RAW))} only")
        if self.aoti and self.formats != ["pt2"]:
            raise ValueError("--aoti compiles pt2 files: give --include pt2 alone with it")
        if self.optimize and (self.half or "torchscript" not in self.formats):
            raise ValueError(
                "--optimize is for FP32 TorchScript files for mobiles: --include torchscript, without --half"
            )

    @property
    def formats(self) -> list[str]:
        """What is to be written, each once, in lower case, in the order of FORMATS."""
        named = [name.lower() for name in self.include]
        order = [*FORMATS, ENGINE]
        return sorted(dict.fromkeys(named), key=lambda name: order.index(name) if name in order else -1)

    @property
    def open_axes(self) -> tuple[str, ...]:
        """The axes of an ONNX or OpenVINO file that stay open; with --nms the batch does not."""
        return () if not self.dynamic else AXES[1:] if self.nms else AXES


def parse_opt(arguments: Sequence[str] | None = None) -> ExportOptions:
    """The options of the command line, or of `arguments`."""
    parser = argparse.ArgumentParser(description="Write a trained network in the formats that others run.")
    parser.add_argument(
        "--data", default=str(ROOT / "data" / "coco128.yaml"), help="--int8: the data set with its images"
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[str(DEFAULT_WEIGHTS)],
        help="checkpoint(s), exported one after another; where the default is absent, the newest best.pt of runs/train",
    )
    parser.add_argument(
        "--imgsz", "--img", "--img-size", nargs="+", type=int, default=[640, 640], help="image size: one, or h w"
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
    parser.add_argument("--int8", action="store_true", help="OpenVINO: INT8, fitted to the val split of --data")
    parser.add_argument("--max-drop", type=float, default=0.02, help="--int8: mAP@.5:.95 that it may cost at most")
    parser.add_argument(
        "--dynamic", action="store_true", help="ONNX, OpenVINO: any batch, height and width; TorchScript always has it"
    )
    parser.add_argument("--simplify", action="store_true", help="ONNX, OpenVINO: fewer nodes, by onnxslim")
    parser.add_argument("--opset", type=int, default=12, help=f"ONNX's operators, {OPSETS[0]} to {OPSETS[-1]}")
    parser.add_argument("--verbose", action="store_true", help="TensorRT: the command that is shown logs in full")
    parser.add_argument("--workspace", type=int, default=4, help="TensorRT: GB, in the command that is shown")
    parser.add_argument("--nms", action="store_true", help="ONNX: NMS inside; num, boxes, scores and classes come out")
    parser.add_argument("--agnostic-nms", action="store_true", help="with --nms, classes suppress each other")
    parser.add_argument("--topk-per-class", type=int, default=100, help="v6.1's; no effect, --topk-all limits")
    parser.add_argument("--topk-all", type=int, default=100, help="with --nms, most detections of an image")
    parser.add_argument("--iou-thres", type=float, default=0.45, help="with --nms, IoU above which a box is dropped")
    parser.add_argument("--conf-thres", type=float, default=0.25, help="with --nms, least confidence")
    parser.add_argument(
        "--include", nargs="+", default=["torchscript", "onnx"], help=f"formats: {', '.join((*FORMATS, ENGINE))}"
    )
    return ExportOptions(**vars(parser.parse_args(arguments)))


@dataclass(frozen=True)
class Job:
    """One checkpoint to export: its file, the network as files have it in FP32 and as it is written, test images."""

    weights: Path
    reference: ExportModel
    model: ExportModel
    images: Tensor  # (B, 3, H, W), in the type of `model`
    metadata: Metadata

    @property
    def limits(self) -> Limits:
        """How far its files may be from PyTorch."""
        return FP16_LIMITS if self.metadata.details["precision"] == "fp16" else FP32_LIMITS


def main(opt: ExportOptions) -> list[Path]:
    """Writes what the options name and says how near to PyTorch it is; the files. ValueError if one failed."""
    opt.check()
    LOGGER.info(colorstr("export: ") + ", ".join(f"{key}={value}" for key, value in asdict(opt).items()))
    device = select_device(opt.device)
    formats = [name for name in opt.formats if name != ENGINE]
    formats += ["onnx"] if ENGINE in opt.formats and "onnx" not in formats else []
    written, failed, rows = [], [], []
    for weights in find_weights(opt.weights):
        job = prepare(opt, weights, device)
        for name in formats:
            try:
                file, comparison = export(opt, job, name)
            except (ValueError, ImportError, OSError) as error:
                LOGGER.error(f"{name}: {one_line(error)}")
                failed.append(f"{name} of {weights}")
                continue
            written.append(file)
            rows.append((name, str(file), megabytes(file), comparison))
    for line in table(rows) if rows else ():
        LOGGER.info(line)
    if failed:
        raise ValueError(f"not written, for the reason given above: {', '.join(failed)}")
    if ENGINE in opt.formats:
        files = [file for file in written if file.suffix == ".onnx"]
        raise ValueError(
            f"{ENGINE}: no TensorRT file is written yet; the ONNX file is there, and NVIDIA's own program (not run "
            f"here) makes one of it on the machine that is to use it: {trtexec(opt, files[0])}"
        )
    LOGGER.info(f"Use them as weights: python detect.py --weights {written[-1]}")
    return written


def prepare(opt: ExportOptions, weights: Path, device: torch.device) -> Job:
    """The network of a checkpoint, as it is to be written, and what its files say of themselves."""
    network = attempt_load(weights, device)
    stride = largest_stride(network)
    height, width = check_img_size((opt.imgsz * 2)[:2], stride)
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
    metadata = Metadata(tuple(network.names), stride, opt.batch_size, (height, width), opt.open_axes, details)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(opt.batch_size, 3, height, width, generator=generator).to(device, dtype)
    return Job(weights, reference, model, images, metadata)


def export(opt: ExportOptions, job: Job, name: str) -> tuple[Path, Comparison]:
    """Writes one format, runs it, and puts it in its place if it gives what PyTorch gives; nothing is left if not."""
    target = job.weights.with_name(job.weights.stem + ("_int8" if opt.int8 else "") + FORMATS[name])
    device, metadata = job.images.device, job.metadata
    settings = OnnxSettings(opt.opset, opt.simplify, opt.open_axes)
    LOGGER.info(f"{colorstr(f'{name}:')} writing {target}")

    def checked(runtime: Runtime) -> Comparison:
        images = [batch.to(device) for batch in check_images(runtime.metadata, opt.nms)]
        return compare(runtime, job.reference, images, job.limits)

    if name in ("openvino", "ncnn"):
        with whole_folder(target) as folder:
            if name == "openvino":
                write_openvino(job.model, job.images, metadata, folder, settings)
                if opt.int8:
                    return target, to_int8(opt, job, folder)
            else:  # it computes one image after another, of one size
                alone = replace(metadata, batch=1, dynamic=AXES[:1])
                write_ncnn(job.reference, job.images.float(), alone, folder)
            return target, checked(RUNTIMES[name](folder, device, no_names))
    with atomic_write(target) as file:
        if name == "torchscript":  # its sizes are open in any case: what is traced follows them
            metadata = replace(metadata, dynamic=AXES, details=metadata.details | {"device": device.type})
            write_torchscript(job.model, job.images, metadata, file, opt.optimize)
            return target, checked(TorchScriptRuntime(file, device))
        if name == "pt2":
            metadata = replace(metadata, details=metadata.details | {"device": device.type})
            write_pt2(job.model, job.images, metadata, file, opt.aoti)
        elif name == "safetensors":
            whole = attempt_load(job.weights, "cpu", fuse=False)
            write_safetensors(whole, replace(metadata, dynamic=AXES), file)
        elif name == "mnn":
            write_mnn(job.reference, job.images.float(), metadata, file, settings)
        else:
            write_onnx(job.model, job.images, metadata, file, settings)
        on_cpu = name in ("onnx", "mnn")
        return target, checked(RUNTIMES[name](file, torch.device("cpu") if on_cpu else device, no_names))


def to_int8(opt: ExportOptions, job: Job, folder: Path) -> Comparison:
    """Makes the OpenVINO network in a folder one of INT8; ValueError where that costs more than --max-drop of mAP."""
    data, metadata, cpu = DataConfig.from_yaml(opt.data), job.metadata, torch.device("cpu")
    loader = letterboxed_loader(data, metadata.imgsz, metadata.batch)
    check_classes(metadata.nc, data.nc)
    quantize_openvino(folder, job.reference, metadata, (batch.images for batch in loader))
    runtime = RUNTIMES["openvino"](folder, cpu, no_names)
    comparison = compare(runtime, job.reference, check_images(runtime.metadata), INT8_LIMITS)
    before, after = (rate(model, loader, data.names, cpu).map for model in (job.reference.network.cpu(), runtime))
    told = f"mAP@.5:.95 on {len(loader.dataset)} images of {data.file.name}: {before:.4f} before, {after:.4f} in INT8"
    if before - after > opt.max_drop:
        raise ValueError(f"{told}, which is {before - after:.4f} less; --max-drop allows {opt.max_drop}")
    LOGGER.info(told)
    return comparison


def no_names() -> Sequence[str]:
    """For a file that was just written: it names its classes itself."""
    raise ValueError("the file does not name its classes")


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `target` when the block ends well; else nothing is left of it."""
    scratch = target.with_name(f".{secrets.token_hex(6)}.tmp")
    folder = scratch / target.name
    folder.mkdir(parents=True)
    try:
        yield folder
        old = scratch / "old"
        if target.exists():
            target.replace(old)
        try:
            folder.replace(target)
        except OSError:
            if old.exists():
                old.replace(target)
            raise
    finally:
        shutil.rmtree(scratch)


def megabytes(path: Path) -> float:
    """The size of a file, or of a folder's files."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def trtexec(opt: ExportOptions, onnx: Path) -> str:
    """The command that makes a TensorRT file of an ONNX file: FP16 is in the file, open axes get a range."""
    parts = ["trtexec", f"--onnx={onnx}", f"--saveEngine={onnx.with_suffix('.engine')}"]
    parts += [f"--memPoolSize=workspace:{opt.workspace * 1024}"]
    parts += ["--stronglyTyped"] if opt.half else []
    parts += ["--verbose"] if opt.verbose else []
    if opt.dynamic:
        height, width = (opt.imgsz * 2)[:2]
        shapes = {"min": (1, height // 2, width // 2), "opt": (opt.batch_size, height, width)}
        shapes["max"] = (max(opt.batch_size, 8), height, width)
        parts += [f"--{name}Shapes=images:{b}x3x{h}x{w}" for name, (b, h, w) in shapes.items()]
    return " ".join(parts)


def run(weights: str | Path | Sequence[str | Path] | None = None, **options: object) -> list[Path]:
    """Export from Python: the flags as keywords with `_` for `-`, the command line's defaults for all others."""
    options |= {} if weights is None else {"weights": weights}
    allowed = [item.name for item in fields(ExportOptions)]
    options = normalized(options, several={"weights", "imgsz", "include"}, allowed=allowed)
    return main(replace(parse_opt([]), **options))


if __name__ == "__main__":
    run_script(main, parse_opt())
