"""The options of export.py, their types and checks, and the names of the formats."""

from dataclasses import dataclass

from utils.cli.arguments import check_limits, check_size

FORMATS = {
    "torchscript": ".torchscript",
    "pt2": ".pt2",
    "safetensors": ".safetensors",
    "onnx": ".onnx",
    "openvino": "_openvino_model",
    "ncnn": "_ncnn_model",
    "mnn": ".mnn",
    "engine": ".engine",
    "executorch": ".pte",
    "tflite": ".tflite",
    "coreml": ".mlpackage",
    "v61": "_v61.pt",
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
SEVERAL = {"weights", "imgsz", "include"}  # options that take several values


@dataclass(frozen=True)
class ExportOptions:
    """The flags of `parse_opt` in export.py, which holds their defaults and meanings."""

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
