"""The options of export.py, and the names of the formats."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from utils.files.weights import DEFAULT_WEIGHTS
from utils.general import ROOT
from utils.predict.inference import SIZE_DEFAULT, check_limits, check_size

FORMATS = {
    **{"torchscript": ".torchscript", "pt2": ".pt2", "safetensors": ".safetensors", "onnx": ".onnx"},
    **{"openvino": "_openvino_model", "ncnn": "_ncnn_model", "mnn": ".mnn", "engine": ".engine"},
    **{"executorch": ".pte", "tflite": ".tflite", "coreml": ".mlpackage"},
}  # what a file's name ends on after that of its weights
FOLDERS = {"openvino", "ncnn", "coreml"}  # those that are a folder
WITH_RAW = {"torchscript", "onnx", "openvino", "engine"}  # those that --train is for
OF_ONE_SIZE = {"ncnn", "executorch", "tflite", "coreml"}  # those that --dynamic is not for
INSTEAD = {  # v6.1's other formats: what serves in their place
    "saved_model": "TensorFlow's formats are not written; onnx runs wherever Python, C++ or a browser does",
    "pb": "TensorFlow's formats are not written; onnx runs wherever Python, C++ or a browser does",
    "edgetpu": "there is no compiler for Edge TPUs any more that can be installed; openvino serves small CPUs",
    "tfjs": "TensorFlow.js is not written; onnxruntime-web runs the .onnx file in a browser",
}
ENGINE = "engine"
OPSETS = range(12, 21)  # what the exporter writes; below 12 the head has no operators
WITH_NMS = {"onnx", "engine"}  # those that --nms is for
DYNAMO_OPSET = 18  # the least of torch's newer exporter
BY_ONNX = {"onnx", "openvino", "mnn", ENGINE}  # what is made of an ONNX file


@dataclass(frozen=True)
class ExportOptions:
    """The flags of `parse_opt`, which holds their defaults and meanings."""

    data: str
    weights: list[str]
    imgsz: list[int] | None
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
    dynamo: bool
    verbose: bool
    workspace: int
    trtexec: bool
    nms: bool
    agnostic_nms: bool
    topk_per_class: int
    topk_all: int
    iou_thres: float
    conf_thres: float
    triton: str
    include: list[str]

    def check(self) -> None:
        """ValueError where a number is out of its range, a format is unknown, or options do not go together."""
        counts = {"--batch-size": self.batch_size, "--topk-all": self.topk_all, "--workspace": self.workspace}
        check_limits(self.conf_thres, self.iou_thres, counts)
        check_size(self.imgsz)
        if self.opset not in OPSETS:
            raise ValueError(f"--opset {self.opset}: from {OPSETS[0]} to {OPSETS[-1]}")
        if self.dynamo and OPSETS[0] < self.opset < DYNAMO_OPSET:
            raise ValueError(f"--opset {self.opset}: with --dynamo from {DYNAMO_OPSET} to {OPSETS[-1]}")
        for name in self.formats:
            if name in INSTEAD:
                raise ValueError(f"--include {name}: {INSTEAD[name]}")
            if name not in FORMATS:
                raise ValueError(f"--include {name}: must be one of {', '.join(FORMATS)}")
        if self.int8 and (self.formats != ["openvino"] or self.half or self.train):
            raise ValueError("--int8 is for openvino: --include openvino alone with it, without --half and --train")
        if not 0 <= self.max_drop <= 1:
            raise ValueError(f"--max-drop {self.max_drop}: mAP@.5:.95 that INT8 may cost, 0..1")
        if self.nms and not set(self.formats) <= WITH_NMS:
            raise ValueError("--nms puts NMS into ONNX files and engines only: give --include onnx or engine with it")
        if self.nms and self.train:
            raise ValueError("--nms and --train exclude each other: NMS needs decoded boxes")
        if self.trtexec and ENGINE not in self.formats:
            raise ValueError("--trtexec shows how an engine is built: give --include engine with it")
        if self.dynamo and not set(self.formats) & BY_ONNX:
            raise ValueError(f"--dynamo is for what is made of ONNX: --include one of {', '.join(sorted(BY_ONNX))}")
        if self.train and not set(self.formats) <= WITH_RAW:
            raise ValueError(f"--train: raw maps are written as {', '.join(sorted(WITH_RAW))} only")
        if self.triton and (self.train or "onnx" not in self.formats):
            raise ValueError("--triton is for ONNX files of boxes: --include onnx with it, without --train")
        if self.dynamic and OF_ONE_SIZE & {*self.formats}:
            raise ValueError(f"--dynamic: {', '.join(sorted(OF_ONE_SIZE))} files take one size; leave it out for them")
        if self.aoti and self.formats != ["pt2"]:
            raise ValueError("--aoti compiles pt2 files: give --include pt2 alone with it")
        if self.optimize and (self.half or "torchscript" not in self.formats):
            raise ValueError(
                "--optimize is for FP32 TorchScript files for mobiles: --include torchscript, without --half"
            )

    @property
    def onnx_opset(self) -> int:
        """ONNX's version of operators that is written: --opset, with --dynamo not below its least."""
        return max(self.opset, DYNAMO_OPSET) if self.dynamo else self.opset

    @property
    def formats(self) -> list[str]:
        """What is to be written, each once, in lower case, in the order of FORMATS."""
        named = [name.lower() for name in self.include]
        order = [*FORMATS]
        return sorted(dict.fromkeys(named), key=lambda name: order.index(name) if name in order else -1)


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
        "--imgsz",
        "--img",
        "--img-size",
        nargs="+",
        type=int,
        help=f"image size in pixels: one, or h w (default: {SIZE_DEFAULT})",
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
    parser.add_argument("--verbose", action="store_true", help="engine: all that TensorRT says")
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
    return ExportOptions(**vars(parser.parse_args(arguments)))
