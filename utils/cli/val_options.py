"""The options of val.py: their types and checks."""

from dataclasses import dataclass

from utils.base.constants import SPLITS
from utils.base.log import LOGGER
from utils.cli.arguments import check_limits, check_size, check_slices, check_threads

LOW_CONFIDENCE = 0.001  # what an AP wants: the curve must go on to where nearly all is found
TASKS = (*SPLITS, "speed", "study")
SEVERAL = {"weights", "sizes"}  # options that take several values


@dataclass(frozen=True)
class ValOptions:
    """The flags of `parse_opt` in val.py, which holds their defaults and meanings."""

    data: str
    weights: list[str]
    batch_size: int
    imgsz: int | None
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
    threads: int | str
    precision: str
    hint: str
    compile: bool
    noplots: bool
    trust: bool
    slice: int | None
    overlap: float

    def check(self) -> None:
        """ValueError where a number is out of its range; what is allowed but hardly meant is said in the log."""
        check_limits(self.conf_thres, self.iou_thres, {"--batch-size": self.batch_size, "--max-det": self.max_det})
        check_size(self.imgsz)
        check_threads(self.threads)
        check_slices(self.slice, self.overlap)
        if self.workers < 0:
            raise ValueError(f"--workers {self.workers}: 0 or more")
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
                f"--conf-thres {self.conf_thres} cuts the curves: what only less sure detections would find counts "
                f"as missed, so AP comes out lower than with {LOW_CONFIDENCE}"
            )
