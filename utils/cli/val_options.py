"""The options of val.py."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from utils.cli.arguments import add_device, add_run_folder
from utils.data.config import SPLITS
from utils.evaluation.study import STUDY_SIZES
from utils.files.weights import DEFAULT_WEIGHTS
from utils.general import LOGGER, ROOT
from utils.predict.inference import add_runtime_flags, check_limits

LOW_CONFIDENCE = 0.001  # what an AP wants: the curve must go on to where nearly all is found
TASKS = (*SPLITS, "speed", "study")


@dataclass(frozen=True)
class ValOptions:
    """The flags of `parse_opt`, which holds their defaults and meanings."""

    data: str
    weights: list[str]
    batch_size: int
    imgsz: int
    conf_thres: float
    iou_thres: float
    max_det: int
    task: str
    sizes: list[int]
    device: str
    workers: int
    single_cls: bool
    augment: bool
    verbose: bool
    save_txt: bool
    save_hybrid: bool
    save_conf: bool
    save_json: bool
    project: str
    name: str
    exist_ok: bool
    half: bool
    dnn: bool
    trust: bool
    threads: int
    precision: str
    hint: str
    noplots: bool

    def check(self) -> None:
        """ValueError where a number is out of its range; what is allowed but hardly meant is said in the log."""
        counts = {"--batch-size": self.batch_size, "--imgsz": self.imgsz, "--max-det": self.max_det}
        check_limits(self.conf_thres, self.iou_thres, counts)
        for flag, value in (("--workers", self.workers), ("--threads", self.threads)):
            if value < 0:
                raise ValueError(f"{flag} {value}: 0 or more")
        if self.task not in TASKS:
            raise ValueError(f"--task {self.task}: must be one of {', '.join(TASKS)}")
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"--sizes {self.sizes}: one or more sizes of 1 or more pixels")
        files = ("save_txt", "save_hybrid", "save_json")
        left_out = [f"--{name.replace('_', '-')}" for name in files if getattr(self, name) and self.task not in SPLITS]
        if left_out:
            LOGGER.warning(f"{left_out[0]} is left out: --task {self.task} measures only")
        elif self.save_hybrid:
            LOGGER.warning(
                "--save-hybrid counts the labels as detections of confidence 1: mAP and all other numbers come out far "
                "too high. It is for automatic labelling, not for saying how good a model is"
            )
        if self.conf_thres > LOW_CONFIDENCE and self.task != "speed":
            LOGGER.warning(
                f"--conf-thres {self.conf_thres} cuts the curves: AP comes out lower than with {LOW_CONFIDENCE}"
            )


def parse_opt(arguments: Sequence[str] | None = None) -> ValOptions:
    """The options of the command line, or of `arguments`."""
    parser = argparse.ArgumentParser(description="Say how good a model is on a labelled data set.")
    parser.add_argument("--data", default=str(ROOT / "data" / "shapes.yaml"), help="the data set's yaml")
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[str(DEFAULT_WEIGHTS)],
        help="checkpoint(s), several make an ensemble, or a file of export.py, or a server's network, "
        "http://host:8000/model; where the default is absent, the newest best.pt of runs/train",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="images at a time")
    parser.add_argument("--imgsz", "--img", "--img-size", type=int, default=640, help="inference size in pixels")
    parser.add_argument("--conf-thres", type=float, default=LOW_CONFIDENCE, help="least confidence of a detection")
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
    add_device(parser)
    parser.add_argument("--workers", type=int, default=8, help="most processes that load images")
    parser.add_argument("--single-cls", action="store_true", help="take all classes as one")
    parser.add_argument(
        "--augment", action="store_true", help="test-time augmentation: three scales, one mirrored; slower, finds more"
    )
    parser.add_argument("--verbose", action="store_true", help="show each class even of a data set with many")
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
    add_run_folder(parser, ROOT / "runs" / "val")
    add_runtime_flags(parser)
    parser.add_argument("--noplots", action="store_true", help="draw no curves and no example pictures")
    return ValOptions(**vars(parser.parse_args(arguments)))
