"""The command lines of v6.1, flag by flag: what each takes, its default, its short forms, and that a test uses it."""

import argparse
import ast
import re
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

from utils.general import ROOT

WEIGHTS, COCO128 = str(ROOT / "yolov5s.pt"), str(ROOT / "data" / "coco128.yaml")
SWITCH = bool  # the kind of a flag without value, off by default
SAMPLES = {int: "7", float: "0.125", str: "word"}


class Flag(NamedTuple):
    """A row: all spellings, the type of a value, the default; nargs as argparse has it; what it is without a value."""

    names: str
    kind: type
    default: object = False
    nargs: str = ""
    bare: object = None
    sample: str = ""  # a value, where not any will do

    @property
    def dest(self):
        return self.names.split()[0].lstrip("-").replace("-", "_")


# Written down from v6.1's behaviour, not from our parsers: change a row only where v6.1 was read wrongly.
V61 = {
    "train": [
        Flag("--weights", str, WEIGHTS),
        Flag("--cfg", str, ""),
        Flag("--data", str, COCO128),
        Flag("--hyp", str, str(ROOT / "data" / "hyps" / "hyp.scratch-low.yaml")),
        Flag("--epochs", int, 300),
        Flag("--batch-size", int, 16),
        Flag("--imgsz --img --img-size", int, 640),
        Flag("--rect", SWITCH),
        Flag("--resume", str, False, "?", True),
        Flag("--nosave", SWITCH),
        Flag("--noval", SWITCH),
        Flag("--noautoanchor", SWITCH),
        Flag("--evolve", int, None, "?", 300),
        Flag("--bucket", str, ""),
        Flag("--cache", str, None, "?", "ram"),
        Flag("--image-weights", SWITCH),
        Flag("--device", str, ""),
        Flag("--multi-scale", SWITCH),
        Flag("--single-cls", SWITCH),
        Flag("--optimizer", str, "SGD", sample="AdamW"),
        Flag("--sync-bn", SWITCH),
        Flag("--workers", int, 8),
        Flag("--project", str, str(ROOT / "runs" / "train")),
        Flag("--name", str, "exp"),
        Flag("--exist-ok", SWITCH),
        Flag("--quad", SWITCH),
        Flag("--cos-lr", SWITCH),
        Flag("--label-smoothing", float, 0.0),
        Flag("--patience", int, 100),
        Flag("--freeze", int, [0], "+"),
        Flag("--save-period", int, -1),
        Flag("--local_rank", int, -1),
        Flag("--entity", str, None),
        Flag("--upload_dataset", str, False, "?", True),
        Flag("--bbox_interval", int, -1),
        Flag("--artifact_alias", str, "latest"),
    ],
    "val": [
        Flag("--data", str, COCO128),
        Flag("--weights", str, [WEIGHTS], "+"),
        Flag("--batch-size", int, 32),
        Flag("--imgsz --img --img-size", int, 640),
        Flag("--conf-thres", float, 0.001),
        Flag("--iou-thres", float, 0.6),
        Flag("--task", str, "val", sample="study"),
        Flag("--device", str, ""),
        Flag("--workers", int, 8),
        Flag("--single-cls", SWITCH),
        Flag("--augment", SWITCH),
        Flag("--verbose", SWITCH),
        Flag("--save-txt", SWITCH),
        Flag("--save-hybrid", SWITCH),
        Flag("--save-conf", SWITCH),
        Flag("--save-json", SWITCH),
        Flag("--project", str, str(ROOT / "runs" / "val")),
        Flag("--name", str, "exp"),
        Flag("--exist-ok", SWITCH),
        Flag("--half", SWITCH),
        Flag("--dnn", SWITCH),
    ],
    "detect": [
        Flag("--weights", str, [WEIGHTS], "+"),
        Flag("--source", str, str(ROOT / "data" / "images")),
        Flag("--data", str, COCO128),
        Flag("--imgsz --img --img-size", int, [640], "+"),
        Flag("--conf-thres", float, 0.25),
        Flag("--iou-thres", float, 0.45),
        Flag("--max-det", int, 1000),
        Flag("--device", str, ""),
        Flag("--view-img", SWITCH),
        Flag("--save-txt", SWITCH),
        Flag("--save-conf", SWITCH),
        Flag("--save-crop", SWITCH),
        Flag("--nosave", SWITCH),
        Flag("--classes", int, None, "+"),
        Flag("--agnostic-nms", SWITCH),
        Flag("--augment", SWITCH),
        Flag("--visualize", SWITCH),
        Flag("--update", SWITCH),
        Flag("--project", str, str(ROOT / "runs" / "detect")),
        Flag("--name", str, "exp"),
        Flag("--exist-ok", SWITCH),
        Flag("--line-thickness", int, 3),
        Flag("--hide-labels", SWITCH),
        Flag("--hide-conf", SWITCH),
        Flag("--half", SWITCH),
        Flag("--dnn", SWITCH),
    ],
    "export": [
        Flag("--data", str, COCO128),
        Flag("--weights", str, [WEIGHTS], "+"),
        Flag("--imgsz --img --img-size", int, [640, 640], "+"),
        Flag("--batch-size", int, 1),
        Flag("--device", str, "cpu"),
        Flag("--half", SWITCH),
        Flag("--inplace", SWITCH),
        Flag("--train", SWITCH),
        Flag("--optimize", SWITCH),
        Flag("--int8", SWITCH),
        Flag("--dynamic", SWITCH),
        Flag("--simplify", SWITCH),
        Flag("--opset", int, 12),
        Flag("--verbose", SWITCH),
        Flag("--workspace", int, 4),
        Flag("--nms", SWITCH),
        Flag("--agnostic-nms", SWITCH),
        Flag("--topk-per-class", int, 100),
        Flag("--topk-all", int, 100),
        Flag("--iou-thres", float, 0.45),
        Flag("--conf-thres", float, 0.25),
        Flag("--include", str, ["torchscript", "onnx"], "+"),
    ],
}

SHAPES = str(ROOT / "data" / "shapes.yaml")
OTHER_DEFAULTS = {  # (script, flag): our default; v6.1's would have to be downloaded, ours is drawn on first use
    ("train", "data"): SHAPES,
    ("val", "data"): SHAPES,
}
WITHOUT_EFFECT = {
    ("train", "local_rank"),
    ("export", "topk_per_class"),
    ("export", "inplace"),
}
