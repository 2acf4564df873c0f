"""The options of detect.py: its flags, their defaults and meanings."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from utils.cli.arguments import add_device, add_run_folder
from utils.files.weights import DEFAULT_WEIGHTS
from utils.general import ROOT
from utils.predict.inference import add_runtime_flags, check_limits
from utils.predict.opencv import check_display

DEFAULT_SOURCE = ROOT / "data" / "images"


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
    """The flags of `parse_opt`, which holds their defaults and meanings."""

    weights: list[str]
    source: str | list[str]  # a list from Python only
    data: str
    imgsz: list[int]
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
    threads: int
    precision: str
    hint: str
    batch_size: int
    vid_stride: int
    save_csv: bool
    save_json: bool

    def check(self) -> None:
        """ValueError where a number is out of its range, or options do not go together."""
        counts = {"--max-det": self.max_det, "--line-thickness": self.line_thickness}
        counts |= {"--batch-size": self.batch_size, "--vid-stride": self.vid_stride}
        check_limits(self.conf_thres, self.iou_thres, counts)
        if len(self.imgsz) not in {1, 2} or min(self.imgsz) < 1:
            raise ValueError(f"--imgsz {' '.join(map(str, self.imgsz))}: one size, or height and width, in pixels")
        if self.threads < 0:
            raise ValueError(f"--threads {self.threads}: 0 or more")
        if self.view_img:
            check_display()
        if self.visualize and len(self.weights) > 1:
            raise ValueError(
                f"--visualize shows the layers of one network: name one checkpoint, not {len(self.weights)}"
            )


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    """Adds what tools.serve and detect.py ask of a network alike: which, for which images, and how it is run."""
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[str(DEFAULT_WEIGHTS)],
        help="checkpoint(s), several make an ensemble, or a file of export.py; detect.py: or a server's network, "
        "http://host:8000/model; where the default is absent, the newest best.pt of runs/train",
    )
    parser.add_argument(
        "--data",
        default=str(ROOT / "data" / "coco128.yaml"),
        help="class names for formats that carry none; a checkpoint carries its own",
    )
    parser.add_argument(
        "--imgsz", "--img", "--img-size", nargs="+", type=int, default=[640], help="inference size: one, or h w"
    )
    add_device(parser)
    add_runtime_flags(parser)


def parse_opt(arguments: Sequence[str] | None = None) -> DetectOptions:
    """The options of the command line, or of `arguments`."""
    parser = argparse.ArgumentParser(description="Find objects in images, videos, cameras and streams.")
    add_network_flags(parser)
    parser.add_argument(
        "--source",
        default=str(DEFAULT_SOURCE),
        help="file, folder, glob, camera number, URL, screen [N] [left top width height], .txt of streams or of "
        "images, or - for names on standard input",
        nargs="+",
        action=JoinedWords,
    )
    parser.add_argument("--conf-thres", type=float, default=0.25, help="least confidence of a detection")
    parser.add_argument(
        "--iou-thres", type=float, default=0.45, help="overlap (IoU) above which the less sure of two boxes is dropped"
    )
    parser.add_argument("--max-det", type=int, default=1000, help="most detections per image")
    parser.add_argument("--view-img", action="store_true", help="show results in a window; key q ends")
    parser.add_argument(
        "--save-txt", action="store_true", help="write labels/*.txt: class cx cy w h, in shares of the image"
    )
    parser.add_argument("--save-conf", action="store_true", help="with --save-txt, the confidence as sixth column")
    parser.add_argument("--save-crop", action="store_true", help="write what is in the boxes as crops/<class>/*.jpg")
    parser.add_argument("--nosave", action="store_true", help="write no annotated images and videos")
    parser.add_argument("--classes", nargs="+", type=int, help="only these class numbers, as --classes 0 2 3")
    parser.add_argument(
        "--agnostic-nms", action="store_true", help="let boxes of different classes suppress each other"
    )
    parser.add_argument(
        "--augment", action="store_true", help="test-time augmentation: three scales, one mirrored; slower, finds more"
    )
    parser.add_argument(
        "--visualize", action="store_true", help="write feature maps of all layers and NAM gates as .png and .npy"
    )
    parser.add_argument(
        "--update", action="store_true", help="afterwards strip optimizer and training state from the checkpoint(s)"
    )
    add_run_folder(parser, ROOT / "runs" / "detect")
    parser.add_argument(
        "--line-thickness", type=int, default=3, help="of the boxes, in pixels; the text's size goes along"
    )
    parser.add_argument("--hide-labels", action="store_true", help="draw boxes only")
    parser.add_argument("--hide-conf", action="store_true", help="draw class names without confidences")
    parser.add_argument(
        "--batch-size", type=int, default=1, help="images and video frames that go through the network at a time"
    )
    parser.add_argument("--vid-stride", type=int, default=1, help="take every how many-th frame of videos and streams")
    parser.add_argument("--save-csv", action="store_true", help="write predictions.csv, a row for each detection")
    parser.add_argument("--save-json", action="store_true", help="write predictions.json, as COCO has results")
    return DetectOptions(**vars(parser.parse_args(arguments)))
