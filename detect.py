"""Finds objects in images, videos, cameras and streams, draws them and writes what was found.

    python detect.py --weights runs/train/exp/weights/best.pt --source image.jpg        # or
                                                              --source video.mp4
                                                              --source folder
                                                              --source "folder/**/*.jpg"
                                                              --source 0                # camera
                                                              --source rtsp://host/path # stream
                                                              --source streams.txt      # one stream a line

Legend: B frames of a batch, H and W of the network's image, N candidates, n detections of a frame.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from models.backend import load_backend
from utils.augmentations import letterbox
from utils.boxes import scale_coords
from utils.checkpoint import strip_optimizer
from utils.features import FeatureRecorder
from utils.general import LOGGER, ROOT, colorstr, plural, run_script
from utils.inference import check_limits, fixed_size, input_size, ready, warm_up
from utils.nms import non_max_suppression
from utils.opencv import check_display
from utils.outputs import ResultWriter, output_stem
from utils.plots import Annotator, colors
from utils.runs import DEFAULT_WEIGHTS, find_weights, normalized, run_folder
from utils.sources import READABLE, FileSource, Frame, LiveSource, open_source
from utils.streams import without_credentials
from utils.torch_utils import largest_stride, select_device, time_sync

DEFAULT_SOURCE = ROOT / "data" / "images"
GENERATED_IMAGES = ROOT / "datasets" / "shapes" / "images" / "test"


@dataclass(frozen=True)
class DetectOptions:
    """The flags of `parse_opt`, which holds their defaults and meanings."""

    weights: list[str]
    source: str
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

    def check(self) -> None:
        """ValueError where a number is out of its range, or options do not go together."""
        counts = {"--max-det": self.max_det, "--line-thickness": self.line_thickness}
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


def parse_opt(arguments: Sequence[str] | None = None) -> DetectOptions:
    """The options of the command line, or of `arguments`."""
    parser = argparse.ArgumentParser(description="Find objects in images, videos, cameras and streams.")
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[str(DEFAULT_WEIGHTS)],
        help="checkpoint(s), several make an ensemble, or a file of export.py; where the default is absent, the "
        "newest best.pt of runs/train",
    )
    parser.add_argument(
        "--source", default=str(DEFAULT_SOURCE), help="file, folder, glob, camera number, URL, or .txt of streams"
    )
    parser.add_argument(
        "--data",
        default=str(ROOT / "data" / "coco128.yaml"),
        help="class names for formats that carry none; a checkpoint carries its own",
    )
    parser.add_argument(
        "--imgsz", "--img", "--img-size", nargs="+", type=int, default=[640], help="inference size: one, or h w"
    )
    parser.add_argument("--conf-thres", type=float, default=0.25, help="least confidence of a detection")
    parser.add_argument(
        "--iou-thres", type=float, default=0.45, help="overlap (IoU) above which the less sure of two boxes is dropped"
    )
    parser.add_argument("--max-det", type=int, default=1000, help="most detections per image")
    parser.add_argument("--device", default="", help="0, 0,1 or cpu; empty takes the first GPU if there is one")
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
    parser.add_argument("--visualize", action="store_true", help="write feature maps of all layers as .png and .npy")
    parser.add_argument(
        "--update", action="store_true", help="afterwards strip optimizer and training state from the checkpoint(s)"
    )
    parser.add_argument("--project", default=str(ROOT / "runs" / "detect"), help="results go to project/name")
    parser.add_argument("--name", default="exp", help="results go to project/name; a number is added where that exists")
    parser.add_argument(
        "--exist-ok", action="store_true", help="write into an existing project/name, replacing files of the same names"
    )
    parser.add_argument(
        "--line-thickness", type=int, default=3, help="of the boxes, in pixels; the text's size goes along"
    )
    parser.add_argument("--hide-labels", action="store_true", help="draw boxes only")
    parser.add_argument("--hide-conf", action="store_true", help="draw class names without confidences")
    parser.add_argument("--half", action="store_true", help="compute in FP16, on a GPU only")
    parser.add_argument("--dnn", action="store_true", help="run an .onnx file by OpenCV in place of ONNX Runtime")
    parser.add_argument("--threads", type=int, default=0, help="threads that the network may use; 0: as it likes")
    return DetectOptions(**vars(parser.parse_args(arguments)))


@dataclass
class Tally:
    """What was done: frames, seconds for pre-processing, inference and NMS, objects by class, last batch's shape."""

    frames: int = 0
    seconds: np.ndarray = field(default_factory=lambda: np.zeros(3))
    objects: Counter[str] = field(default_factory=Counter)
    shape: tuple[int, ...] = ()
    is_interrupted: bool = False

    def add(self, shape: tuple[int, ...], seconds: np.ndarray) -> None:
        """Counts a batch (B, 3, H, W) and its three durations."""
        self.frames += shape[0]
        self.seconds += seconds
        self.shape = tuple(shape)


def main(opt: DetectOptions) -> Path:
    """Runs the detection that the options describe; the folder of its results."""
    opt.check()
    shown = asdict(opt) | {"source": without_credentials(opt.source)}
    LOGGER.info(colorstr("detect: ") + ", ".join(f"{key}={value}" for key, value in shown.items()))
    weights = find_weights(opt.weights)
    with closing(open_source(find_source(opt.source))) as source:
        device = select_device(opt.device)
        model = ready(load_backend(weights, device, dnn=opt.dnn, data=opt.data, threads=opt.threads), opt.half)
        if opt.visualize and not hasattr(model, "model"):
            raise ValueError(f"--visualize shows the layers of a checkpoint (.pt); {weights[0]} does not tell its own")
        unknown = [index for index in opt.classes or () if not 0 <= index < len(model.names)]
        if unknown:
            raise ValueError(f"--classes {unknown[0]}: the model's classes are 0 to {len(model.names) - 1}")
        with (
            run_folder(Path(opt.project) / opt.name, opt.exist_ok) as folder,
            ResultWriter(folder, model.names) as writer,
        ):
            tally = detect(opt, model, source, writer)
        report(tally, writer, source.skipped)
    if opt.update:
        for path in weights:
            strip_optimizer(path)
    if tally.is_interrupted and not source.is_live:
        raise SystemExit(130)  # as shells have it; a stream has no other end than Ctrl-C
    return folder


@torch.inference_mode()
def detect(opt: DetectOptions, model: nn.Module, source: FileSource | LiveSource, writer: ResultWriter) -> Tally:
    """Finds, prints, draws and writes the objects of all frames; Ctrl-C or key q ends it with what is done by then."""
    parameter = next(model.parameters())
    device, dtype = parameter.device, parameter.dtype
    stride = largest_stride(model)
    height, width = input_size(model, opt.imgsz)
    is_fixed = fixed_size(model) is not None
    warm_up(model, (height, width))
    recorder = FeatureRecorder(model.model) if opt.visualize else None
    tally = Tally()
    try:
        for frames in source:
            times = [time_sync(device)]
            images = to_batch(frames, (height, width), stride, device, dtype, is_fixed)  # (B, 3, H, W)
            times.append(time_sync(device))
            prediction = model(images, augment=opt.augment)[0]  # (B, N, 5 + nc)
            times.append(time_sync(device))
            limits = (opt.conf_thres, opt.iou_thres, opt.classes, opt.agnostic_nms)
            found = non_max_suppression(prediction.float(), *limits, max_det=opt.max_det)  # B of (n, 6)
            times.append(time_sync(device))
            tally.add(images.shape, np.diff(times))
            if recorder is not None:
                recorder.save(writer.folder / output_stem(frames[0]))
            for frame, boxes in zip(frames, found, strict=True):
                detections = to_native(boxes, images.shape[2:], frame.image.shape[:2])
                counts = Counter(model.names[int(index)] for index in detections[:, 5].sort().values)
                tally.objects += counts
                LOGGER.info(console_line(frame, images.shape[2:], counts, times[2] - times[1]))
                if not save_and_show(opt, frame, detections, writer, source.is_live):
                    return tally
    except KeyboardInterrupt:
        LOGGER.warning("stopped by Ctrl-C; what is written so far stays")
        tally.is_interrupted = True
    finally:
        if recorder is not None:
            recorder.close()
    return tally


def find_source(source: str) -> str:
    """The source that was named; where the default folder is meant and has no images, the generated set's."""
    if source != str(DEFAULT_SOURCE) or has_images(DEFAULT_SOURCE):
        return source
    if has_images(GENERATED_IMAGES):
        LOGGER.info(f"no images in {DEFAULT_SOURCE}: taking those in {GENERATED_IMAGES}")
        return str(GENERATED_IMAGES)
    raise FileNotFoundError(
        f"--source: there are no images in {DEFAULT_SOURCE} or {GENERATED_IMAGES}; "
        "name a file or folder, or draw a data set with python -m utils.shapes"
    )


def has_images(folder: Path) -> bool:
    """Whether an image or video lies in the folder itself."""
    return folder.is_dir() and any(file.suffix.lower() in READABLE for file in folder.iterdir())


def to_batch(
    frames: Sequence[Frame],
    imgsz: tuple[int, int],
    stride: int,
    device: torch.device,
    dtype: torch.dtype,
    is_fixed: bool = False,
) -> Tensor:
    """(B, 3, H, W) RGB in 0..1, letterboxed to imgsz; unless it is fixed, frames of one size to whole strides only."""
    auto = not is_fixed and len({frame.image.shape for frame in frames}) == 1
    fitted = [letterbox(frame.image, imgsz, auto=auto, stride=stride)[0] for frame in frames]
    images = torch.from_numpy(np.stack(fitted)).to(device)  # (B, H, W, 3) BGR, uint8 until here: a quarter of the bytes
    return images.flip(3).permute(0, 3, 1, 2).to(dtype).div_(255)  # (B, 3, H, W), in channels-last order


def to_native(detections: Tensor, net_hw: Sequence[int], image_hw: tuple[int, int]) -> Tensor:
    """The detections (n, 6) in whole pixels of the frame, on the CPU, least sure first so that they are drawn below."""
    detections = detections.cpu().flip(0)
    boxes_xyxy = scale_coords(tuple(net_hw), detections[:, :4], image_hw).round()
    return torch.cat((boxes_xyxy, detections[:, 4:]), 1)


def console_line(frame: Frame, net_hw: Sequence[int], counts: Counter[str], seconds: float) -> str:
    """`image 1/2 bus.jpg: 640x480 4 persons, 1 bus, Done. (0.012s)`."""
    objects = f"{enumerate_counts(counts)}, " if counts else ""
    return f"{frame.prefix}{net_hw[0]}x{net_hw[1]} {objects}Done. ({seconds:.3f}s)"


def enumerate_counts(counts: Counter[str]) -> str:
    """`4 persons, 1 bus`."""
    return ", ".join(plural(count, name) for name, count in counts.items())


def save_and_show(opt: DetectOptions, frame: Frame, detections: Tensor, writer: ResultWriter, is_live: bool) -> bool:
    """Writes and shows what the options ask for; whether to go on, that is, key q was not pressed."""
    if opt.save_txt:
        writer.save_labels(frame, detections, opt.save_conf)
    if opt.save_crop:
        writer.save_crops(frame, detections)
    saves_picture = not opt.nosave and not opt.source.endswith(".txt")
    if not saves_picture and not opt.view_img:
        return True
    annotator = Annotator(frame.image, line_width=opt.line_thickness)
    for *box_xyxy, confidence, index in detections.tolist():
        name = writer.names[int(index)]
        label = "" if opt.hide_labels else name if opt.hide_conf else f"{name} {confidence:.2f}"
        annotator.box_label(box_xyxy, label, colors(int(index), bgr=True))
    if saves_picture:
        writer.save_picture(frame, annotator.result(), is_live)
    return not opt.view_img or show(frame.name, annotator.result())


def show(title: str, image: np.ndarray) -> bool:
    """Shows the image in a window; whether key q was not pressed there."""
    try:
        cv2.imshow(title, image)
        return cv2.waitKey(1) != ord("q")
    except cv2.error:
        raise ValueError(
            "--view-img: this OpenCV opens no windows; install opencv-python instead of opencv-python-headless, "
            "or leave --view-img out and look at the saved results"
        ) from None


def report(tally: Tally, writer: ResultWriter, skipped: int) -> None:
    """Prints the speed, what was found and where it is."""
    if tally.frames:
        pre, inference, nms = tally.seconds / tally.frames * 1000
        speeds = f"{pre:.1f}ms pre-process, {inference:.1f}ms inference, {nms:.1f}ms NMS"
        LOGGER.info(f"Speed: {speeds} per image at shape {tally.shape}")
    found = enumerate_counts(Counter(dict(tally.objects.most_common()))) or "no objects"
    unread = f", {plural(skipped, 'unreadable file')} skipped" if skipped else ""
    LOGGER.info(f"{plural(tally.frames, 'image')}: {found}{unread}")
    if writer.written:
        LOGGER.info(f"Results saved to {colorstr('bold', str(writer.folder))}: {enumerate_counts(writer.written)}")


def run(
    weights: str | Path | Sequence[str | Path] | None = None, source: str | Path | int | None = None, **options: object
) -> Path:
    """Detection from Python: the flags as keywords with `_` for `-`, the command line's defaults for all others."""
    options |= {} if weights is None else {"weights": weights}
    options |= {} if source is None else {"source": str(source)}  # a camera's number
    allowed = [item.name for item in fields(DetectOptions)]
    options = normalized(options, several={"weights", "imgsz", "classes"}, allowed=allowed)
    return main(replace(parse_opt([]), **options))


if __name__ == "__main__":
    run_script(main, parse_opt())
