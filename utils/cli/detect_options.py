"""The options of detect.py: their types and checks."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

from utils.base.constants import ROOT, TRACKERS
from utils.cli.arguments import check_limits, check_size, check_slices, check_threads
from utils.processes.display import check_display

DEFAULT_SOURCE = ROOT / "data" / "images"
SEVERAL = {"weights", "imgsz", "classes", "line"}  # options that take several values


class JoinedWords(argparse.Action):
    """Several words as one text: the shell's `--source screen 1` is what `--source "screen 1"` is."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        """Sets the option; an error where the words are several and not those of a screen."""
        words = [str(value) for value in values or ()]
        if len(words) > 1 and words[0].lower() != "screen":
            parser.error(
                f"argument {option_string}: {len(words)} words, {words[0]} and on; name one source, "
                "a glob in quotes, or - for a list on standard input"
            )
        setattr(namespace, self.dest, " ".join(words))


@dataclass(frozen=True)
class DetectOptions:
    """The flags of `parse_opt` in detect.py, which holds their defaults and meanings."""

    weights: list[str]
    source: str | list[str]  # a list from Python only
    data: str
    imgsz: list[int] | None
    conf_thres: float
    iou_thres: float
    max_det: int
    device: str
    view_img: bool
    save_txt: bool
    save_conf: bool
    save_crop: bool
    nosave: bool
    classes: list[int] | None
    agnostic_nms: bool
    augment: bool
    visualize: bool
    update: bool
    project: str
    name: str
    exist_ok: bool
    line_thickness: int
    hide_labels: bool
    hide_conf: bool
    half: bool
    dnn: bool
    threads: int | str
    precision: str
    hint: str
    compile: bool
    batch_size: int
    vid_stride: int
    save_csv: bool
    save_json: bool
    trust: bool
    verbose: bool
    track: str | None
    save_mot: bool
    line: list[float] | None
    zone: str | None
    slice: int | None
    overlap: float

    def check(self) -> None:
        """ValueError where a number is out of its range, or options do not go together."""
        counts = {
            "--max-det": self.max_det,
            "--line-thickness": self.line_thickness,
            "--batch-size": self.batch_size,
            "--vid-stride": self.vid_stride,
        }
        check_limits(self.conf_thres, self.iou_thres, counts)
        check_size(self.imgsz)
        check_threads(self.threads)
        if self.view_img:
            check_display()
        if self.visualize and self.compile:
            raise ValueError(
                "--visualize shows each layer, but --compile makes one program of all: leave one of them out"
            )
        if self.track is not None and self.track not in TRACKERS:
            raise ValueError(f"--track {self.track}: must be one of {', '.join(TRACKERS)}")
        if self.save_mot and self.track is None:
            raise ValueError("--save-mot writes the tracks of objects: add --track")
        if self.line is not None:
            check_line(self.line)
            if self.track is None:
                raise ValueError("--line counts tracked objects that cross it: add --track")
        check_slices(self.slice, self.overlap)
        if self.visualize and self.slice is not None:
            raise ValueError("--visualize shows the layers for one image, not for --slice; leave one of them out")
        if self.visualize and len(self.weights) > 1:
            raise ValueError(
                f"--visualize shows the layers of one network: name one checkpoint, not {len(self.weights)}"
            )


def check_line(line: Sequence[float]) -> None:
    """Raise ValueError unless a line is four finite coordinates of two different points."""
    if len(line) != 4 or not all(map(math.isfinite, line)) or tuple(line[:2]) == tuple(line[2:]):
        raise ValueError(f"--line {' '.join(map(str, line))}: x1 y1 x2 y2 of two points, in pixels")
