"""Finds objects in images, videos, cameras and streams, draws them and writes what was found.

    python detect.py --weights runs/train/exp/weights/best.pt --source image.jpg        # or
                                                              --source video.mp4
                                                              --source folder
                                                              --source "folder/**/*.jpg"
                                                              --source 0                # camera
                                                              --source rtsp://host/path # stream
                                                              --source streams.txt      # one stream a line
                                                              --source images.txt       # one image a line
                                                              --source screen           # or: screen 1 0 0 640 480
    find . -name "*.png" | python detect.py                   --source -
    torchrun --nproc_per_node 2 detect.py                     --source folder           # files are shared out

One thread reads ahead and one draws and writes, while this one computes.

Legend: B frames of a batch, H and W of the network's image, N candidates, n detections of a frame.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from utils.base.constants import HINTS, PRECISIONS, ROOT, SIZE_DEFAULT, TRACKERS
from utils.cli.arguments import normalized, read_options, thread_count
from utils.cli.detect_options import DEFAULT_SOURCE, SEVERAL, DetectOptions, JoinedWords


def parse_opt(arguments: Sequence[str] | None = None) -> DetectOptions:
    """The options of the command line, or of `arguments`."""
    parser = argparse.ArgumentParser(
        description="Find objects in images, videos, cameras and streams.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[str(ROOT / "yolov5s.pt")],
        help="checkpoint(s), several make an ensemble, or a file of export.py, or a server's network, "
        "http://host:8000/model; where the default is absent, the newest best.pt of runs/train",
    )
    parser.add_argument(
        "--data",
        default=str(ROOT / "data" / "coco128.yaml"),
        help="class names for formats that carry none; a checkpoint carries its own",
    )
    parser.add_argument(
        "--imgsz",
        "--img",
        "--img-size",
        nargs="+",
        type=int,
        help=f"inference size in pixels: one, or h w; None = {SIZE_DEFAULT}",
    )
    parser.add_argument("--device", default="", help="0, 0,1 or cpu; empty takes the first GPU if there is one")
    parser.add_argument("--half", action="store_true", help="compute in FP16, on a GPU only")
    parser.add_argument("--dnn", action="store_true", help="run an .onnx file by OpenCV in place of ONNX Runtime")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="load a program that was not exported here (.torchscript, .pt2, .engine), which may do all that you may",
    )
    parser.add_argument(
        "--threads",
        type=thread_count,
        default=0,
        metavar="N|auto",
        help="threads that the network may use; 0: as it likes; auto: as many as cores are free now",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="what a checkpoint (fp16: on a GPU), an OpenVINO, ncnn (no fp16) or MNN file (fp32, auto) computes in; "
        "auto: what is quickest here",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile a checkpoint's network by torch.compile, which takes a minute or more at first",
    )
    parser.add_argument(
        "--hint",
        choices=HINTS,
        default="latency",
        help="OpenVINO: throughput computes several images of a batch at a time, and takes --batch-size apart for that",
    )
    parser.add_argument(
        "--source",
        default=str(ROOT / "data" / "images"),
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
    parser.add_argument(
        "--batch-size", type=int, default=1, help="images and video frames that go through the network at a time"
    )
    parser.add_argument("--vid-stride", type=int, default=1, help="take every how many-th frame of videos and streams")
    parser.add_argument("--save-csv", action="store_true", help="write predictions.csv, a row for each detection")
    parser.add_argument("--save-json", action="store_true", help="write predictions.json, as COCO has results")
    parser.add_argument("--verbose", action="store_true", help="log all options at the start")
    parser.add_argument(
        "--track",
        nargs="?",
        const=TRACKERS[0],
        choices=TRACKERS,
        help=f"give objects in videos and streams ids that last; alone: {TRACKERS[0]}",
    )
    parser.add_argument(
        "--save-mot", action="store_true", help="with --track, write mot/*.txt in MOT Challenge's format"
    )
    parser.add_argument(
        "--line",
        nargs=4,
        type=float,
        metavar=("X1", "Y1", "X2", "Y2"),
        help="with --track, count the objects that cross this line, in pixels of the image",
    )
    parser.add_argument(
        "--slice",
        type=int,
        metavar="SIZE",
        help="detect in slices of this size in pixels too, for small objects in large images; slower",
    )
    parser.add_argument("--overlap", type=float, default=0.2, help="with --slice, what neighbours share of a slice")
    parser.add_argument("--zone", help="count the objects in the polygons of this .json file: {name: [[x, y], ...]}")
    return read_options(DetectOptions, parser, arguments, several=SEVERAL)


if __name__ == "__main__":
    OPTIONS = parse_opt()  # before the imports below, which take seconds: --help and errors in flags need none of them

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from models.runtimes.load import Weights, load_backend
from utils.augmentations import letterbox, letterbox_placement
from utils.data.config import names_of
from utils.dist import DistEnv, process_group
from utils.files.addresses import log_options
from utils.files.checkpoint import strip_optimizer
from utils.files.feature_maps import save_features
from utils.files.names import run_folder
from utils.files.weights import find_weights
from utils.general import LOGGER, non_max_suppression, plural, run_script, set_logging
from utils.plots import Annotator, colors
from utils.predict.counting import CounterSet, FrameCounts, Regions, read_zones, report_counts
from utils.predict.features import FeatureRecorder
from utils.predict.inference import (
    choose_size,
    fixed_size,
    input_size,
    ready,
    to_native,
    to_tensor,
    warm_up,
)
from utils.predict.outputs import ResultWriter, output_stem
from utils.predict.report import DetectStats, enumerate_counts, joined_results, report
from utils.predict.slicing import Slicing, merge_slices
from utils.predict.sources import READABLE, FileSource, Frame, LiveSource, Reading, check_any_was_read, open_source
from utils.predict.threads import Background
from utils.predict.tracking import FAINT, NO_ID, TrackerSet, mot_rows, tracking_package
from utils.processes.signals import StopSignals, exit_status, stop_signals
from utils.torch_utils import ThreadLimit, compile_network, largest_stride, select_device, time_sync

GENERATED_IMAGES = ROOT / "datasets" / "shapes" / "images" / "test"
NO_ZONES: Mapping[str, np.ndarray] = {}
NONE_FOUND = torch.zeros(0, 6)
WINDOW = 2  # batches of files are looked at together, so that those of one shape find each other


class Found(NamedTuple):
    """What was found in a frame.

    det: (n, 6) xyxy in pixels of the frame, confidence, class, surest first. net_hw: height and width of the network's
    image. maps: of its layers, by name. faint: (m, 6), less sure than --conf-thres, which may continue a track.
    ids: (n,) of the tracks.
    """

    det: Tensor
    net_hw: tuple[int, int]
    seconds: float
    maps: Mapping[str, np.ndarray]
    faint: Tensor = NONE_FOUND
    ids: np.ndarray | None = None
    counts: FrameCounts | None = None


def main(opt: DetectOptions) -> Path:
    """Runs the detection that the options describe; the folder of its results.

    ValueError at the end, when all else is written, where a file of a list could not be read.
    """
    opt.check()
    if opt.track is not None:
        tracking_package("trackers")  # before the network is loaded
    zones = {} if opt.zone is None else read_zones(opt.zone)
    with process_group() as ranks:
        if opt.verbose:
            log_options("detect", asdict(opt))
        weights = find_weights(opt.weights, takes_addresses=not opt.update)
        is_at_once = opt.batch_size == 1 or opt.source == "-"
        window = opt.batch_size if is_at_once else WINDOW * opt.batch_size
        reading = Reading(opt.vid_stride, window, ranks)
        with closing(open_source(find_source(opt.source), reading)) as source:
            model = load_model(opt, weights, ranks)
            with shared_folder(opt, ranks) as folder:
                tables = []
                if opt.save_csv:
                    tables.append("csv")
                if opt.save_json:
                    tables.append("json")
                further = []
                if opt.track is not None:
                    further.append("track_id")
                if opt.line is not None or zones:
                    further += ["crossed", "zones"]
                with ResultWriter(folder, model.names, tables, ranks.rank, further) as writer:
                    stats = detect(opt, model, source, writer, zones)
                    total = joined_results(ranks, stats, source, writer)
        if ranks.is_main:
            report_counts(total.counts, folder, tables if opt.line or opt.zone else ())
            report(total, writer)
            if opt.update:
                for path in weights:
                    strip_optimizer(path)
    if ranks.is_main:
        check_any_was_read(total.tried, total.skipped, total.last_error)
        if source.is_list and total.skipped:
            raise ValueError(f"{plural(total.skipped, 'file')} of the list could not be read, see the warnings above")
    if total.exit_status and not source.is_live:  # a stream has no other end than a signal
        raise SystemExit(total.exit_status)
    return folder


def load_model(opt: DetectOptions, weights: Sequence[Weights], ranks: DistEnv) -> nn.Module:
    """The network on its device, ready to run."""
    device = select_device(opt.device, local_rank=ranks.local_rank, processes=ranks.size)
    backend = load_backend(
        weights,
        device,
        names=names_of(opt.data),
        dnn=opt.dnn,
        trust=opt.trust,
        threads=ThreadLimit(opt.threads).apply(),
        precision=opt.precision,
        hint=opt.hint,
    )
    model = ready(backend, opt.half, opt.precision)
    if opt.compile:
        compile_network(model, is_dynamic=True)
    if opt.visualize and not hasattr(model, "model"):
        raise ValueError(f"--visualize shows the layers of a checkpoint (.pt); {weights[0]} does not tell its own")
    unknown = [index for index in opt.classes or () if not 0 <= index < len(model.names)]
    if unknown:
        raise ValueError(f"--classes {unknown[0]}: the model's classes are 0 to {len(model.names) - 1}")
    return model


@contextmanager
def shared_folder(opt: DetectOptions, ranks: DistEnv) -> Iterator[Path]:
    """The run's folder, which rank 0 makes and all write into."""
    if not ranks.is_main:
        yield Path(str(ranks.broadcast(None)))
        return
    with run_folder(Path(opt.project) / opt.name, opt.exist_ok) as folder:
        ranks.broadcast(str(folder.resolve()))
        yield folder


@torch.inference_mode()
def detect(
    opt: DetectOptions,
    model: nn.Module,
    source: FileSource | LiveSource,
    writer: ResultWriter,
    zones: Mapping[str, np.ndarray] = NO_ZONES,
) -> DetectStats:
    """Finds, prints, draws and writes the objects of all frames; Ctrl-C or key q ends it with what is done by then."""
    imgsz = choose_size(model, opt.imgsz)
    opt = replace(opt, imgsz=list(imgsz))
    warm_up(model, imgsz, opt.batch_size)
    recorder = FeatureRecorder(model.model) if opt.visualize else None
    trackers = None if opt.track is None else TrackerSet(opt.track, opt.conf_thres, source.is_live)
    regions = Regions(None if opt.line is None else tuple(opt.line), zones)
    counters = CounterSet(regions, model.names) if opt.line is not None or zones else None
    stats = DetectStats()
    # Signals are deferred: raised while a lock is held that the threads share, they would leave it locked.
    with stop_signals(is_deferred=True) as signals, Background() as background:
        try:
            for frames in interruptible(source, signals):
                items = find(opt, model, frames, stats, recorder, source.is_live)
                if opt.slice is not None:
                    items = [find_in_slices(opt, model, *pair, stats) for pair in zip(frames, items, strict=True)]
                for frame, item in zip(frames, items, strict=True):
                    names, det = model.names, item.det
                    im0 = np.require(frame.image, requirements=["C", "W"])
                    annotator = Annotator(im0, line_width=opt.line_thickness)
                    annotator.labels_last = True

                    # Every image passes here. det is (n, 6): xyxy in pixels of im0, confidence and class, surest first;
                    # im0 is (h, w, 3) BGR; frame.name is its path. Count, filter, draw or return boxes here, as with
                    # v6.1's `for *xyxy, conf, cls in reversed(det):`. What det and im0 are below is what is saved.

                    if trackers is not None:
                        det, ids = track(trackers, frame, det, item.faint)
                        item = item._replace(ids=ids)
                    if counters is not None:
                        item = item._replace(counts=counters.update(frame, det.numpy(), item.ids))
                    counts = Counter(names[int(index)] for index in det[:, 5].sort().values)
                    stats.objects += counts
                    LOGGER.info(console_line(frame, item.net_hw, counts, item.seconds))
                    frame, item = frame._replace(image=im0), item._replace(det=det)
                    if opt.view_img:
                        frame = frame._replace(image=im0.copy())  # crops are cut from what has no boxes
                        draw(opt, annotator, item, names, regions)
                    background.submit(partial(save, opt, frame, item, writer, source, annotator, regions))
                    if opt.view_img and not show(frame.name, annotator.result()):
                        return stats
                signals.check()
        except KeyboardInterrupt as error:
            LOGGER.warning(f"stopped by {error or 'Ctrl-C'}; what is written so far stays")
            stats.exit_status = exit_status(error)
        finally:
            if counters is not None:
                stats.counts = counters.rows()
            if recorder is not None:
                recorder.close()
    return stats


def track(trackers: TrackerSet, frame: Frame, det: Tensor, faint: Tensor) -> tuple[Tensor, np.ndarray]:
    """Return a frame's detections (n, 6) and ids (n,): all of det, and of the faint ones those with a track."""
    rows = torch.cat((det, faint))
    ids = trackers.update(frame, rows.numpy())
    kept = (np.arange(len(rows)) < len(det)) | (ids != NO_ID)
    return rows[torch.from_numpy(kept)], ids[kept]


def interruptible(source: FileSource | LiveSource, signals: StopSignals) -> Iterator[Sequence[Frame]]:
    """Yield what a source gives; a signal ends the wait for it at once."""
    frames = iter(source)
    while True:
        with signals.at_once():
            batch = next(frames, None)
        if batch is None:
            return
        yield batch


def find(
    opt: DetectOptions,
    model: nn.Module,
    frames: Sequence[Frame],
    stats: DetectStats,
    recorder: FeatureRecorder | None,
    is_live: bool,
) -> list[Found]:
    """What is found in each of the frames: those of one shape in the network go through it together.

    So a frame is padded as it is alone, and its result does not depend on its neighbours. The streams' frames of one
    shape and moment are one batch, others are of `opt.batch_size` at most.
    """
    parameter = next(model.parameters())
    device, dtype = parameter.device, parameter.dtype
    imgsz, stride = input_size(model, opt.imgsz), largest_stride(model)
    is_fixed = fixed_size(model) is not None
    found: dict[int, Found] = {}
    for indices in batches(frames, imgsz, stride, len(frames) if is_live else opt.batch_size):
        times = [time_sync(device)]
        images = to_batch([frames[i] for i in indices], imgsz, stride, device, dtype, is_fixed)  # (B, 3, H, W)
        times.append(time_sync(device))
        prediction = model(images, augment=opt.augment)[0]  # (B, N, 5 + nc)
        times.append(time_sync(device))
        boxes = non_max_suppression(
            prediction.float(),
            opt.conf_thres if opt.track is None else min(opt.conf_thres, FAINT),
            opt.iou_thres,
            opt.classes,
            opt.agnostic_nms,
            max_det=opt.max_det,
        )  # B of (n, 6)
        times.append(time_sync(device))
        stats.add(images.shape, np.diff(times))
        maps = recorder.take() if recorder is not None else [{}] * len(indices)
        net_hw, seconds = (images.shape[2], images.shape[3]), (times[2] - times[1]) / len(indices)
        for i, rows, layers in zip(indices, boxes, maps, strict=True):
            det = to_native(rows, net_hw, frames[i].image.shape[:2])  # (n, 6)
            sure = len(det) if opt.track is None else int((det[:, 4] > opt.conf_thres).sum())
            found[i] = Found(det[:sure], net_hw, seconds, layers, det[sure:])
    return [found[i] for i in range(len(frames))]


def find_in_slices(opt: DetectOptions, model: nn.Module, frame: Frame, item: Found, stats: DetectStats) -> Found:
    """Add to what was found in a frame what is found in its slices."""
    assert opt.slice is not None
    own = DetectStats()

    def detect_slices(slices: Sequence[np.ndarray]) -> list[Tensor]:
        parts = find(opt, model, [frame._replace(image=part) for part in slices], own, None, False)
        return [torch.cat((part.det, part.faint)) for part in parts]

    rows = merge_slices(
        frame.image,
        torch.cat((item.det, item.faint)),
        detect_slices,
        Slicing(opt.slice, opt.overlap),
        iou_thres=opt.iou_thres,
        agnostic=opt.agnostic_nms,
        max_det=opt.max_det,
    )
    stats.seconds += own.seconds
    sure = len(rows) if opt.track is None else int((rows[:, 4] > opt.conf_thres).sum())
    return item._replace(det=rows[:sure], faint=rows[sure:], seconds=item.seconds + float(own.seconds[1]))


def batches(frames: Sequence[Frame], imgsz: tuple[int, int], stride: int, most: int) -> list[list[int]]:
    """The frames' indices in groups of one shape in the network, at most so many in each."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, frame in enumerate(frames):
        groups.setdefault(padded_hw(frame.image.shape[:2], imgsz, stride), []).append(i)
    return [group[start : start + most] for group in groups.values() for start in range(0, len(group), most)]


def padded_hw(image_hw: Sequence[int], imgsz: tuple[int, int], stride: int) -> tuple[int, int]:
    """The shape that an image has in the network, padded to whole strides only."""
    (h, w), _, (pad_w, pad_h) = letterbox_placement((image_hw[0], image_hw[1]), imgsz, stride=stride)
    return h + round(2 * pad_h), w + round(2 * pad_w)


def find_source(source: str | list[str]) -> str | list[str]:
    """The source that was named; where the default folder is meant and has no images, the generated set's."""
    if source != str(DEFAULT_SOURCE) or has_images(DEFAULT_SOURCE):
        return source
    if has_images(GENERATED_IMAGES):
        LOGGER.info(f"no images in {DEFAULT_SOURCE}: taking those in {GENERATED_IMAGES}")
        return str(GENERATED_IMAGES)
    raise FileNotFoundError(
        f"--source: there are no images in {DEFAULT_SOURCE} or {GENERATED_IMAGES}; "
        "name a file or folder, or draw a data set with python -m tools.shapes"
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
    """(B, 3, H, W) RGB in 0..1, letterboxed to imgsz; unless it is fixed, frames of one shape to whole strides only."""
    auto = not is_fixed and len({padded_hw(frame.image.shape[:2], imgsz, stride) for frame in frames}) == 1
    fitted = [letterbox(frame.image, imgsz, auto=auto, stride=stride)[0] for frame in frames]
    return to_tensor(fitted, device, dtype)


def console_line(frame: Frame, net_hw: Sequence[int], counts: Counter[str], seconds: float) -> str:
    """`image 1/2 bus.jpg: 640x480 4 persons, 1 bus, Done. (0.012s)`."""
    objects = f"{enumerate_counts(counts)}, " if counts else ""
    return f"{frame.prefix}{net_hw[0]}x{net_hw[1]} {objects}Done. ({seconds:.3f}s)"


def save(
    opt: DetectOptions,
    frame: Frame,
    found: Found,
    writer: ResultWriter,
    source: FileSource | LiveSource,
    annotator: Annotator,
    regions: Regions,
) -> None:
    """Write what the options ask for; runs in the writing thread. annotator: of the frame; with --view-img it is drawn.

    Files have the detections as v6.1's have, the surest last.
    """
    rows = found.det.flip(0)
    ids = None if found.ids is None else found.ids[::-1]
    if opt.save_txt:
        writer.save_labels(frame, rows, opt.save_conf, ids)
    if opt.save_mot and ids is not None:
        writer.save_mot(frame, mot_rows(frame, rows.numpy(), ids))
    if opt.save_crop:
        writer.save_crops(frame, rows)
    columns: dict[str, Sequence[object]] = {}
    if ids is not None:
        columns["track_id"] = ids.tolist()
    if found.counts is not None:
        columns |= {"crossed": found.counts.crossed[::-1], "zones": found.counts.zones[::-1]}
    writer.save_rows(frame, rows, columns)
    if found.maps:
        save_features(writer.folder / output_stem(frame), found.maps)
    if not opt.nosave and source.saves_pictures:
        if not opt.view_img:
            draw(opt, annotator, found, writer.names, regions)
        writer.save_picture(frame, annotator.result(), source.is_live)


def draw(opt: DetectOptions, annotator: Annotator, found: Found, names: Sequence[str], regions: Regions) -> None:
    """Draw the boxes of a frame's detections and their labels, the surest on top, and what is counted."""
    ids = [NO_ID] * len(found.det) if found.ids is None else found.ids.tolist()
    for (*xyxy, conf, cls), track_id in zip(reversed(found.det.tolist()), reversed(ids), strict=True):
        label = names[int(cls)] if opt.hide_conf else f"{names[int(cls)]} {conf:.2f}"
        if track_id != NO_ID:
            label = f"#{track_id} {label}"
        annotator.box_label(xyxy, "" if opt.hide_labels else label, colors(cls, True))
    if found.counts is not None:
        regions.draw(annotator.im, opt.line_thickness)
        regions.label(annotator, found.counts)
    annotator.result()


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


def run(
    weights: str | Path | Sequence[str | Path] | None = None,
    source: str | Path | int | Sequence[str | Path | int] | None = None,
    **options: object,
) -> Path:
    """Detection from Python: the flags as keywords with `_` for `-`, the command line's defaults for all others.

    source: also several files, folders, globs or addresses of files, or several cameras and streams.
    """
    set_logging()
    if weights is not None:
        options["weights"] = weights
    if isinstance(source, list | tuple):
        options["source"] = [str(item) for item in source]
    elif source is not None:
        options["source"] = str(source).strip()  # of a camera its number
    options = normalized(options, several=SEVERAL, allowed=[item.name for item in fields(DetectOptions)])
    return main(replace(parse_opt([]), **options))


if __name__ == "__main__":
    run_script(main, OPTIONS)
