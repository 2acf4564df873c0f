"""Programs that were written for v6.1, in its words: detect loops, trackers, streams, trainings, ratings, converters.

Each is what such a program does with v6.1's names, shortened; what it finds is what detect.py finds.
"""

import argparse
import struct
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn, optim

import detect
import export
import hubconf
import val
from models.common import AutoShape, Detections, DetectMultiBackend
from models.experimental import attempt_load
from models.yolo import Model
from tests.conftest import save_small
from tests.utils.predict.test_streams_live import Server
from utils import dataloaders
from utils.augmentations import letterbox
from utils.autoanchor import check_anchors, kmean_anchors
from utils.callbacks import Callbacks
from utils.datasets import IMG_FORMATS, VID_FORMATS, LoadImages, LoadStreams, create_dataloader
from utils.downloads import attempt_download
from utils.files.checkpoint import load_checkpoint, save_checkpoint
from utils.files.images import read_image, write_image
from utils.general import (
    LOGGER,
    Profile,
    check_dataset,
    check_file,
    check_img_size,
    check_imshow,
    check_requirements,
    check_suffix,
    check_yaml,
    colorstr,
    get_latest_run,
    increment_path,
    init_seeds,
    intersect_dicts,
    labels_to_class_weights,
    labels_to_image_weights,
    methods,
    non_max_suppression,
    one_cycle,
    print_args,
    scale_boxes,
    scale_coords,
    strip_optimizer,
    xywh2xyxy,
    xyxy2xywh,
)
from utils.loggers import Loggers
from utils.loss import ComputeLoss
from utils.metrics import ConfusionMatrix, ap_per_class, box_iou, fitness
from utils.plots import Annotator, colors, output_to_target, plot_images, plot_labels, plot_one_box, save_one_box
from utils.predict.video import VideoWriter
from utils.torch_utils import (
    EarlyStopping,
    ModelEMA,
    de_parallel,
    select_device,
    smart_inference_mode,
    time_sync,
    torch_distributed_zero_first,
)

CONF, IOU, SIZE = 0.1, 0.45, 64


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory) -> Path:
    """A checkpoint of a small network that finds ants, bees and cats, each with a confidence of its own."""
    path = save_small(tmp_path_factory.mktemp("weights") / "net.pt", [-1, 1, "NAMAttention", [16]])
    checkpoint = load_checkpoint(path)
    generator = torch.Generator().manual_seed(0)
    for name, value in checkpoint.state.items():
        if name.startswith("model.11.m.") and name.endswith("weight"):
            value.copy_(3 * torch.randn(value.shape, generator=generator))
        elif name.startswith("model.11.m."):
            value.view(2, 8)[:, 5:] += 2
    save_checkpoint(path, checkpoint)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder with three pictures of two shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, hw in (("a.jpg", (48, 64)), ("b.jpg", (90, 70)), ("c.png", (48, 64))):
        write_image(folder / name, rng.integers(0, 256, (*hw, 3)).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def found(pictures, weights_file, tmp_path_factory) -> dict[str, np.ndarray]:
    """What detect.py finds in the pictures, by file name: (n, 6) xyxy in pixels, confidence, class, in some order."""
    folder = detect.run(
        weights_file,
        pictures,
        imgsz=SIZE,
        conf_thres=CONF,
        save_txt=True,
        save_conf=True,
        nosave=True,
        project=tmp_path_factory.mktemp("runs"),
    )
    rows = {}
    for path in pictures.iterdir():
        h, w = read_image(path).shape[:2]
        table = np.loadtxt(folder / "labels" / f"{path.stem}.txt", ndmin=2)  # class cx cy w h confidence
        boxes = xywh2xyxy(table[:, 1:5]) * (w, h, w, h)
        rows[path.name] = np.concatenate((boxes.round(), table[:, 5:], table[:, :1]), 1)
    assert all(len(table) > 2 for table in rows.values())
    return rows


def same(detections, expected):
    """Whether rows (n, 6) are the same in whole pixels, whatever their order."""
    detections, expected = np.asarray(detections, np.float64), np.asarray(expected, np.float64)
    if not len(detections):
        return not len(expected)
    ours, theirs = (rows[np.lexsort(rows.T[[0, 1, 4]])] for rows in (detections, expected))
    return ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=0, atol=1e-4)


def rounded(rows):
    """Rows (n, 6) with their boxes in whole pixels."""
    return torch.cat((rows[:, :4].round(), rows[:, 4:]), 1)


# Detection ------------------------------------------------------------------------------------------------------------


def v61_detect(weights, source, save_dir, imgsz=(SIZE, SIZE), half=False, view_img=False):
    """detect.py as v6.1's users have it, with its calls in their order."""
    source = str(source)
    is_file = Path(source).suffix[1:] in (IMG_FORMATS + VID_FORMATS)
    is_url = source.lower().startswith(("rtsp://", "rtmp://", "http://", "https://"))
    webcam = source.isnumeric() or source.endswith(".txt") or (is_url and not is_file)
    device = select_device("cpu")
    model = DetectMultiBackend(weights, device=device, dnn=False, data=None)
    stride, names, pt = model.stride, model.names, model.pt
    imgsz = check_img_size(list(imgsz), s=stride)
    half &= (pt or model.jit or model.onnx or model.engine) and device.type != "cpu"
    if pt or model.jit:
        model.model.half() if half else model.model.float()
    if webcam:
        view_img = view_img and check_imshow()
        dataset = LoadStreams(source, img_size=imgsz, stride=stride, auto=pt)
        bs = len(dataset)
    else:
        dataset = LoadImages(source, img_size=imgsz, stride=stride, auto=pt)
        bs = 1
    model.warmup(imgsz=(1 if pt else bs, 3, *imgsz), half=half)
    dt, seen, results = [0.0, 0.0, 0.0], 0, []
    with torch.no_grad():
        for path, im, im0s, vid_cap, s in dataset:
            t1 = time_sync()
            im = torch.from_numpy(im).to(device)
            im = im.half() if half else im.float()
            im /= 255
            if len(im.shape) == 3:
                im = im[None]
            t2 = time_sync()
            dt[0] += t2 - t1
            pred = model(im, augment=False, visualize=False)
            pred = non_max_suppression(pred, CONF, IOU, None, False, max_det=1000)
            for i, det in enumerate(pred):
                seen += 1
                if webcam:
                    p, im0, frame = path[i], im0s[i].copy(), dataset.count
                    s += f"{i}: "
                else:
                    p, im0, frame = path, im0s.copy(), getattr(dataset, "frame", 0)
                p = Path(p)
                s += f"{im.shape[2]:g}x{im.shape[3]:g} "
                gn = torch.tensor(im0.shape)[[1, 0, 1, 0]]
                imc = im0.copy()
                annotator = Annotator(im0, line_width=3, example=str(names))
                if len(det):
                    det[:, :4] = scale_coords(im.shape[2:], det[:, :4], im0.shape).round()
                    for c in det[:, -1].unique():
                        n = (det[:, -1] == c).sum()
                        s += f"{n} {names[int(c)]}{'s' * (n > 1)}, "
                    for *xyxy, conf, cls in reversed(det):
                        xywh = (xyxy2xywh(torch.tensor(xyxy).view(1, 4)) / gn).view(-1).tolist()
                        assert len(xywh) == 4
                        c = int(cls)
                        annotator.box_label(xyxy, f"{names[c]} {conf:.2f}", color=colors(c, True))
                        save_one_box(xyxy, imc, file=save_dir / "crops" / names[c] / f"{p.stem}.jpg", BGR=True)
                im0 = annotator.result()
                assert not np.array_equal(im0, imc)
                if dataset.mode == "image":
                    cv2.imwrite(str(save_dir / p.name), im0)
                elif isinstance(vid_cap, cv2.VideoCapture):
                    assert vid_cap.get(cv2.CAP_PROP_FPS) > 0
                results.append((p.name, frame, s, det, imc))
            LOGGER.info(f"{s}Done. ({time_sync() - t2:.3f}s)")
            if webcam and dataset.count == 3:
                break
    t = tuple(x / seen * 1e3 for x in dt)
    LOGGER.info(f"Speed: {t[0]:.1f}ms pre-process per image at shape {(1, 3, *imgsz)}")
    return results


def test_detect_loop_on_pictures(weights_file, pictures, found, tmp_path):
    results = v61_detect(weights_file, pictures, tmp_path)
    assert [name for name, *_ in results] == ["a.jpg", "b.jpg", "c.png"]
    for name, _, text, det, _ in results:
        assert same(det, found[name])
        assert text.startswith(f"image {'abc'.index(name[0]) + 1}/3 {pictures / name}: ")
    assert "64x64" in results[1][2]
    assert (tmp_path / "a.jpg").is_file()
    assert len(list((tmp_path / "crops").rglob("*.jpg"))) == sum(len(det) for *_, det, _ in results)
    assert (tmp_path / "crops" / "bee").is_dir() or (tmp_path / "crops" / "ant").is_dir()


def test_detect_loop_on_an_exported_file(weights_file, pictures, found, tmp_path):
    pytest.importorskip("onnxruntime")
    weights = tmp_path / "net.pt"
    weights.write_bytes(weights_file.read_bytes())
    (file,) = export.run(weights, include=["onnx"], imgsz=SIZE, dynamic=True)
    model = DetectMultiBackend(str(file), device="cpu")
    assert (model.pt, model.onnx, model.jit, model.engine, model.fp16) == (False, True, False, False, False)
    assert (model.stride, model.names) == (32, ["ant", "bee", "cat"])
    (_, im, im0, _, _), *_ = LoadImages(pictures / "b.jpg", img_size=SIZE, stride=model.stride, auto=True)
    y, raw = model(torch.from_numpy(im)[None] / 255, val=True)
    det = non_max_suppression(y, CONF, IOU)[0]
    det[:, :4] = scale_coords(im.shape[1:], det[:, :4], im0.shape).round()
    assert same(det, found["b.jpg"])
    assert raw == []


def test_feature_maps_of_a_backend(weights_file, tmp_path):
    model = DetectMultiBackend(str(weights_file))
    images = torch.rand(1, 3, SIZE, SIZE)
    plain = model(images)
    assert torch.equal(model(images, False, tmp_path), plain)
    assert (tmp_path / "stage0_Conv_features.png").is_file()
    y, raw = model(images, augment=True, val=True)
    assert (y.shape[1] > plain.shape[1], raw) == (True, None)


def test_an_onnx_file_of_v61s_own(weights_file, tmp_path):
    """It has neither class names nor a stride: they come from data=, or are class0, class1, ..."""
    onnx = pytest.importorskip("onnx")
    weights = tmp_path / "net.pt"
    weights.write_bytes(weights_file.read_bytes())
    (file,) = export.run(weights, include=["onnx"], imgsz=SIZE)
    content = onnx.load(file)
    del content.metadata_props[:]
    onnx.save(content, file)
    bare = DetectMultiBackend(file)
    assert (bare.names, bare.stride, bare.nc) == (["class0", "class1", "class2"], 64, 3)
    assert bare(torch.zeros(1, 3, SIZE, SIZE)).shape[2] == 8
    for names in (["x", "y", "z"], {0: "x", 1: "y", 2: "z"}):
        (tmp_path / "data.yaml").write_text(yaml.safe_dump({"names": names}))
        assert DetectMultiBackend(file, data=tmp_path / "data.yaml").names == ["x", "y", "z"]
    (tmp_path / "data.yaml").write_text("nc: 3\n")
    assert DetectMultiBackend(file, data=tmp_path / "data.yaml").names == bare.names
    (tmp_path / "data.yaml").write_text("train: images\n")
    with pytest.raises(ValueError, match=r"data\.yaml: names"):
        DetectMultiBackend(file, data=tmp_path / "data.yaml")


@pytest.fixture(scope="module")
def video(tmp_path_factory, pictures) -> Path:
    """Five frames of a.jpg."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    writer = VideoWriter(path, 30)
    for _ in range(5):
        writer.write(read_image(pictures / "a.jpg"))
    writer.close()
    return path


def test_detect_loop_on_a_video(weights_file, video, tmp_path):
    results = v61_detect(weights_file, video, tmp_path)
    assert [frame for _, frame, *_ in results] == [1, 2, 3, 4, 5]
    assert f"video 1/1 (3/5) {video}: 64x64 " in results[2][2] or f"video 1/1 (3/5) {video}: 48x64 " in results[2][2]


def test_load_images(pictures, video):
    dataset = LoadImages([str(pictures), str(video)], img_size=64, stride=32, auto=True)
    assert (len(dataset), dataset.nf, dataset.video_flag) == (4, 4, [False, False, False, True])
    modes = []
    for path, img, img0, cap, text in dataset:
        modes.append(dataset.mode)
        assert (img.dtype, img.ndim, img.shape[0], img.flags.c_contiguous) == (np.uint8, 3, 3, True)
        assert (cap is dataset.cap, (cap is None) == (dataset.mode == "image")) == (True, True)
        assert path in text
        np.testing.assert_array_equal(img, letterbox(img0, 64, stride=32)[0][..., ::-1].transpose(2, 0, 1))
    assert modes == ["image"] * 3 + ["video"] * 5
    assert (dataset.frames, dataset.frame) == (5, 5)
    assert len([*dataset]) == 8  # once more
    assert len([*LoadImages(str(video), vid_stride=2)]) == 3
    fixed = next(iter(LoadImages(str(pictures / "a.jpg"), img_size=[96, 64], auto=False)))
    assert fixed[1].shape == (3, 96, 64)
    with pytest.raises(FileNotFoundError, match="absent"):
        LoadImages(str(pictures / "absent"))


def test_streams_loop(weights_file, pictures, tmp_path):
    """Two cameras on this machine."""
    servers = [Server(read_image(pictures / name)) for name in ("a.jpg", "c.png")]
    listed = tmp_path / "streams.txt"
    listed.write_text("\n".join(server.address for server in servers))
    try:
        results = v61_detect(weights_file, listed, tmp_path)
    finally:
        for server in servers:
            server.stop()
    assert ["1: " in text for _, _, text, _, _ in results] == [False, True] * 4
    assert "secret" not in str(results)
    model = hubconf.custom(weights_file, verbose=False, device="cpu")
    model.conf, model.iou = CONF, IOU
    for _, _, _, det, image in results[:2]:
        assert same(det, rounded(model(image[..., ::-1], size=SIZE).xyxy[0]))


def test_a_stream_that_sends_nothing_is_told(video, tmp_path):
    """The other stream goes on meanwhile."""
    server = Server(90)
    listed = tmp_path / "streams.txt"
    listed.write_text(f"{server.address}\nhttp://127.0.0.1:9/live\n")
    try:
        with pytest.raises(ValueError, match=r"^http://127\.0\.0\.1:9/live: no frame"):
            LoadStreams(listed, img_size=64)
    finally:
        server.stop()


def test_load_streams(pictures):
    server = Server(90)
    dataset = LoadStreams(server.address, img_size=64, stride=32, auto=True)
    try:
        assert (dataset.mode, len(dataset), dataset.rect, len(dataset.fps)) == ("stream", 1, True, 1)
        for n, (sources, img, img0, cap, text) in enumerate(dataset):
            assert (cap, text, dataset.count) == (None, "", n)
            assert (img.shape, img.flags.c_contiguous, len(img0), img0[0].shape) == (
                (1, 3, 64, 64),
                True,
                1,
                (48, 64, 3),
            )
            assert abs(float(img[0, :, 20].mean()) - 90) < 5
            assert sources == dataset.sources
            assert dataset.imgs[0] is img0[0]
            if n == 2:
                break
        assert "secret" not in str(dataset.sources)
    finally:
        server.stop()
        dataset.close()


def test_streams_of_a_video_end(video, tmp_path):
    (tmp_path / "list.streams").write_text(f"{video}\n")
    taken = [img.shape for _, img, *_ in LoadStreams(str(tmp_path / "list.streams"), img_size=64)]
    assert 1 <= len(taken) <= 5
    with pytest.raises(ValueError, match="no frame"):
        LoadStreams("http://127.0.0.1:9/absent.mp4", img_size=64)


@smart_inference_mode()
def v7_detect(weights, source):
    """detect.py as v6.2 to v7.0 have it."""
    device = select_device("cpu")
    model = DetectMultiBackend(weights, device=device, dnn=False, data=None, fp16=False)
    stride, names, pt = model.stride, model.names, model.pt
    imgsz = check_img_size((SIZE, SIZE), s=stride)
    dataset = dataloaders.LoadImages(source, img_size=imgsz, stride=stride, auto=pt, vid_stride=1)
    model.warmup(imgsz=(1 if pt or model.triton else 2, 3, *imgsz))
    seen, dt, results = 0, (Profile(), Profile(device=device), Profile()), {}
    for path, im, im0s, _, s in dataset:
        with dt[0]:
            im = torch.from_numpy(im).to(model.device)
            im = im.half() if model.fp16 else im.float()
            im = im[None] / 255
        with dt[1]:
            pred = model(im, augment=False, visualize=False)
        with dt[2]:
            pred = non_max_suppression(pred, CONF, IOU, None, False, max_det=1000)
        for det in pred:
            seen += 1
            annotator = Annotator(im0s.copy(), line_width=3, example=str(names))
            if len(det):
                det[:, :4] = scale_boxes(im.shape[2:], det[:, :4], im0s.shape).round()
                for *xyxy, conf, cls in reversed(det):
                    annotator.box_label(xyxy, f"{names[int(cls)]} {conf:.2f}", color=colors(int(cls), True))
            results[Path(path).name] = det
        LOGGER.info(f"{s}{'' if len(det) else '(no detections), '}{dt[1].dt * 1e3:.1f}ms")
    assert all(x.t / seen > 0 for x in dt)
    return results


def test_a_later_detect_loop(weights_file, pictures, found):
    results = v7_detect(weights_file, pictures)
    assert all(same(det, found[name]) for name, det in results.items())
    assert results.keys() == found.keys()


# Trackers and windows -------------------------------------------------------------------------------------------------


def test_attempt_load_and_letterbox_loop(weights_file, pictures, found):
    """The detector of a tracker or a window: one array in, rows in its pixels out."""
    device = select_device("")
    half = device.type != "cpu"
    model = attempt_load([str(weights_file)], map_location=device)
    stride = int(model.stride.max())
    imgsz = check_img_size(SIZE, s=stride)
    names = model.module.names if hasattr(model, "module") else model.names
    if half:
        model.half()
    model(torch.zeros(1, 3, imgsz, imgsz).to(device).type_as(next(model.parameters())))
    for path in pictures.iterdir():
        im0 = cv2.imread(str(path))
        img = letterbox(im0, imgsz, stride=stride)[0]
        img = np.ascontiguousarray(img[:, :, ::-1].transpose(2, 0, 1))
        img = torch.from_numpy(img).to(device)
        img = (img.half() if half else img.float()) / 255.0
        if img.ndimension() == 3:
            img = img.unsqueeze(0)
        with torch.no_grad():
            pred = model(img, augment=False)[0]
        (det,) = non_max_suppression(pred, CONF, IOU, classes=None, agnostic=False)
        det[:, :4] = scale_coords(img.shape[2:], det[:, :4], im0.shape).round()
        assert same(det, found[path.name])
        before = im0.copy()
        for *xyxy, conf, cls in reversed(det):
            plot_one_box(
                xyxy, im0, label=f"{names[int(cls)]} {conf:.2f}", color=colors(int(cls), True), line_thickness=3
            )
        assert not np.array_equal(before, im0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), {}),
        ((torch.device("cpu"),), {}),
        (("cpu",), {"inplace": True, "fuse": True}),
        ((None,), {"map_location": "cpu"}),
        ((), {"map_location": torch.device("cpu"), "inplace": False}),
        ((), {"device": "cpu"}),
        (("cpu", True, False), {}),
    ],
)
def test_attempt_loads_words(weights_file, arguments, words):
    model = attempt_load(str(weights_file), *arguments, **words)
    assert next(model.parameters()).device.type == "cpu"
    is_fused = not any(isinstance(module, nn.BatchNorm2d) for module in model.model[0].modules())
    assert is_fused == (len(arguments) < 3)


def test_start_of_a_program(weights_file, tmp_path, monkeypatch, caplog):
    """What programs call before they begin; none of it installs, fetches or fails."""
    caplog.set_level("INFO", "yolov5")
    monkeypatch.chdir(tmp_path)
    assert check_requirements(exclude=("tensorboard", "thop"))
    assert not check_requirements(("torch>=999", "no-such-package>=1.0"))
    assert "no-such-package" in caplog.text
    print_args("detect", argparse.Namespace(weights="yolov5s.pt", imgsz=[640]))
    print_args({"conf_thres": 0.25})
    assert "weights=yolov5s.pt, imgsz=[640]" in caplog.text
    assert "conf_thres=0.25" in caplog.text
    assert check_imshow() in (True, False)
    check_suffix("best.pt", (".pt", ".onnx"))
    with pytest.raises(AssertionError, match=r"best\.h5"):
        check_suffix("best.h5", (".pt",))
    assert attempt_download(str(weights_file)) == str(weights_file)
    with pytest.raises(FileNotFoundError, match=r"yolov5s\.pt.*https://github\.com/ultralytics/yolov5/releases"):
        attempt_download("yolov5s.pt")
    assert check_file(str(weights_file)) == str(weights_file)
    (tmp_path / "person.jpg").touch()
    assert increment_path("person.jpg") == Path("person2.jpg")


# Training and evaluation that a user owns -----------------------------------------------------------------------------


@pytest.fixture
def hyp():
    return yaml.safe_load(Path(check_yaml("hyp.scratch-low.yaml")).read_text())


def test_training_loop(data, tiny, hyp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    init_seeds(1)
    epochs, batch_size, imgsz, device = 2, 4, 64, select_device("cpu", batch_size=4)
    with torch_distributed_zero_first(-1):
        data_dict = check_dataset(data)
    nc, names = int(data_dict["nc"]), data_dict["names"]
    assert len(names) == nc
    model = Model(tiny(nc=nc), ch=3, nc=nc, anchors=hyp.get("anchors")).to(device)
    csd = intersect_dicts(model.state_dict(), model.state_dict(), exclude=["anchor"])
    model.load_state_dict(csd, strict=False)
    gs = max(int(model.stride.max()), 32)
    g0, g1, g2 = [], [], []
    for v in model.modules():
        if hasattr(v, "bias") and isinstance(v.bias, nn.Parameter):
            g2.append(v.bias)
        if isinstance(v, nn.BatchNorm2d):
            g0.append(v.weight)
        elif hasattr(v, "weight") and isinstance(v.weight, nn.Parameter):
            g1.append(v.weight)
    optimizer = optim.SGD(g0, lr=hyp["lr0"], momentum=hyp["momentum"], nesterov=True)
    optimizer.add_param_group({"params": g1, "weight_decay": hyp["weight_decay"]})
    optimizer.add_param_group({"params": g2})
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, lr_lambda=one_cycle(1, hyp["lrf"], epochs))
    ema = ModelEMA(model)
    loggers, callbacks = Loggers(tmp_path, None, argparse.Namespace(evolve=None), hyp, LOGGER), Callbacks()
    for k in methods(loggers):
        if k.startswith("on_"):
            callbacks.register_action(k, callback=getattr(loggers, k))
    train_loader, dataset = create_dataloader(
        data_dict["train"], imgsz, batch_size, gs, False, hyp=hyp, augment=True, cache=None, rect=False, rank=-1,
        workers=0, image_weights=False, quad=False, prefix=colorstr("train: "), shuffle=True,
    )  # fmt: skip
    mlc, nb = int(np.concatenate(dataset.labels, 0)[:, 0].max()), len(train_loader)
    assert (mlc < nc, nb) == (True, 3)
    plot_labels(np.concatenate(dataset.labels, 0), names, tmp_path)
    check_anchors(dataset, model=model, thr=hyp["anchor_t"], imgsz=imgsz)
    nl = de_parallel(model).model[-1].nl
    hyp["box"] *= 3 / nl
    hyp["cls"] *= nc / 80 * 3 / nl
    hyp["obj"] *= (imgsz / 640) ** 2 * 3 / nl
    hyp["label_smoothing"] = 0.1
    model.nc, model.hyp, model.names = nc, hyp, names
    model.class_weights = labels_to_class_weights(dataset.labels, nc).to(device) * nc
    val_loader = create_dataloader(data_dict["val"], imgsz, 4, gs, pad=0.5, rect=True, workers=0)[0]
    stopper, compute_loss, losses, seen = EarlyStopping(patience=10), ComputeLoss(model), [], []
    for epoch in range(epochs):
        model.train()
        mloss = torch.zeros(3)
        optimizer.zero_grad()
        for i, (imgs, targets, paths, shapes) in enumerate(train_loader):
            assert (imgs.dtype, imgs.shape[1:], targets.shape[1], len(paths)) == (
                torch.uint8,
                (3, 64, 64),
                6,
                len(shapes),
            )
            seen.append(imgs.float().mean().item())
            imgs = imgs.to(device, non_blocking=True).float() / 255
            loss, loss_items = compute_loss(model(imgs), targets.to(device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            ema.update(model)
            mloss = (mloss * i + loss_items) / (i + 1)
            callbacks.run("on_train_batch_end", i + nb * epoch, model, imgs, targets, paths, True, False)
        losses.append(float(loss.detach()))
        lr = [x["lr"] for x in optimizer.param_groups]
        scheduler.step()
        ema.update_attr(model, include=["yaml", "nc", "hyp", "names", "stride", "class_weights"])
        results = val_loop(ema.ema, data_dict, ComputeLoss(model))
        fi = fitness(np.array(results).reshape(1, -1))
        again, maps, _ = val.run(
            data_dict, batch_size=4, imgsz=imgsz, model=ema.ema, single_cls=False, dataloader=val_loader,
            save_dir=tmp_path, plots=False, callbacks=callbacks, compute_loss=ComputeLoss(model),
        )  # fmt: skip
        assert (len(again), maps.shape) == (7, (nc,))
        assert again[4:] == pytest.approx(results[4:], rel=1e-4)
        callbacks.run("on_fit_epoch_end", [*mloss, *results, *lr], epoch, 0.0, fi)
        ckpt = {
            "epoch": epoch, "best_fitness": 0.0, "model": deepcopy(de_parallel(model)).half(),
            "ema": deepcopy(ema.ema).half(), "updates": ema.updates, "optimizer": optimizer.state_dict(),
            "wandb_id": None, "date": "today",
        }  # fmt: skip
        torch.save(ckpt, tmp_path / "last.pt")
        assert not stopper(epoch=epoch, fitness=float(fi[0]))
        assert not stopper.possible_stop
    callbacks.run("on_train_end", tmp_path / "last.pt", tmp_path / "last.pt", True, epoch, results)
    assert np.isfinite(losses).all()
    assert len(set(seen)) == len(seen)
    assert ema.ema.names == names
    assert (tmp_path / "results.csv").read_text().count("\n") == 1 + epochs
    assert {"results.png", "labels.jpg", "train_batch0.jpg"} <= {path.name for path in tmp_path.iterdir()}
    assert get_latest_run(tmp_path) == str(tmp_path / "last.pt")
    loaded = load_checkpoint(tmp_path / "last.pt")  # what the loop has pickled, read without any of its classes
    assert (loaded.names, loaded.yaml["nc"]) == (tuple(names), nc)
    strip_optimizer(tmp_path / "last.pt")
    assert attempt_load(tmp_path / "last.pt", map_location="cpu").names == names


def val_loop(model, data_dict, compute_loss):
    """val.py's middle as v6.1's users have it: P, R, mAP@.5, mAP@.5:.95 and three losses."""
    device, niou = next(model.parameters()).device, 10
    iouv = torch.linspace(0.5, 0.95, niou).to(device)
    loader = create_dataloader(data_dict["val"], 64, 4, 32, False, pad=0.5, rect=True, workers=0, prefix="val: ")[0]
    model.eval()
    names = dict(enumerate(model.names))
    confusion_matrix = ConfusionMatrix(nc=model.nc)
    stats, loss, p, r, map50, mean_ap = [], torch.zeros(3, device=device), 0.0, 0.0, 0.0, 0.0
    for im, targets, paths, shapes in loader:
        im = im.to(device).float() / 255
        height, width = im.shape[2:]
        with torch.no_grad():
            out, train_out = model(im)
        loss += compute_loss([x.float() for x in train_out], targets)[1]
        targets[:, 2:] *= torch.Tensor([width, height, width, height]).to(device)
        out = non_max_suppression(out, 0.001, 0.6, labels=[], multi_label=True, agnostic=False)
        for si, pred in enumerate(out):
            labels = targets[targets[:, 0] == si, 1:]
            tcls = labels[:, 0].tolist() if len(labels) else []
            path, shape = Path(paths[si]), shapes[si][0]
            assert path.is_file()
            predn = pred.clone()
            scale_coords(im[si].shape[1:], predn[:, :4], shape, shapes[si][1])
            if len(labels):
                tbox = xywh2xyxy(labels[:, 1:5])
                scale_coords(im[si].shape[1:], tbox, shape, shapes[si][1])
                labelsn = torch.cat((labels[:, 0:1], tbox), 1)
                correct = process_batch(predn, labelsn, iouv)
                confusion_matrix.process_batch(predn, labelsn)
            else:
                correct = torch.zeros(pred.shape[0], niou, dtype=torch.bool)
            stats.append((correct.cpu(), pred[:, 4].cpu(), pred[:, 5].cpu(), tcls))
    plot_images(im, targets, paths, "val_labels.jpg", names)
    plot_images(im, output_to_target(out), paths, "val_pred.jpg", names)
    assert {"val_labels.jpg", "val_pred.jpg"} <= {path.name for path in Path().iterdir()}
    confusion_matrix.plot(save_dir=".", names=list(names.values()))
    assert Path("confusion_matrix.png").exists()
    stats = [np.concatenate(x, 0) for x in zip(*stats, strict=True)]
    if len(stats) and stats[0].any():
        _, _, p, r, _, ap, ap_class = ap_per_class(*stats, plot=True, save_dir=".", names=names)
        assert ap.shape == (len(ap_class), niou)
        map50, mean_ap, p, r = ap[:, 0].mean(), ap.mean(), p.mean(), r.mean()
    return p, r, map50, mean_ap, *(loss.cpu() / len(loader)).tolist()


def test_val_run_of_an_evaluation_script(weights_file, data, tmp_path):
    results, maps, times = val.run(
        data=data, weights=str(weights_file), batch_size=4, imgsz=SIZE, half=False, workers=0, plots=False,
        project=tmp_path, single_cls=True,
    )  # fmt: skip
    assert (len(results), len(maps), len(times)) == (7, 1, 3)
    assert not list(tmp_path.rglob("*.png"))


def process_batch(detections, labels, iouv):
    """v6.1's own way to match, which programs copy."""
    correct = torch.zeros(detections.shape[0], iouv.shape[0], dtype=torch.bool, device=iouv.device)
    iou = box_iou(labels[:, 1:], detections[:, :4])
    x = torch.where((iou >= iouv[0]) & (labels[:, 0:1] == detections[:, 5]))
    if x[0].shape[0]:
        matches = torch.cat((torch.stack(x, 1), iou[x[0], x[1]][:, None]), 1).cpu().numpy()
        matches = matches[matches[:, 2].argsort()[::-1]]
        matches = matches[np.unique(matches[:, 1], return_index=True)[1]]
        matches = matches[np.unique(matches[:, 0], return_index=True)[1]]
        matches = torch.Tensor(matches).to(iouv.device)
        correct[matches[:, 1].long()] = matches[:, 2:3] >= iouv
    return correct


def test_val_loop_of_a_perfect_network(data, tmp_path, monkeypatch):
    """A network that finds the labels: the loop's figures are 1."""
    monkeypatch.chdir(tmp_path)
    data_dict = check_dataset(data)
    dataset = create_dataloader(data_dict["val"], 64, 4, 32, rect=True, pad=0.5, workers=0)[1]

    class Perfect(nn.Module):
        nc, names, at = data_dict["nc"], data_dict["names"], 0

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, im):
            items = [dataset[self.at + i] for i in range(len(im))]
            self.at += len(im)
            most = max(len(item.targets) for item in items)
            y = torch.zeros(len(im), most, 5 + self.nc)
            for row, item in zip(y, items, strict=True):
                row[: len(item.targets), :4] = item.targets[:, 2:] * torch.tensor(im.shape[2:]).flip(0).repeat(2)
                row[: len(item.targets), 4] = 1
                row[range(len(item.targets)), 5 + item.targets[:, 1].long()] = 1
            return y, []

    p, r, map50, mean_ap, *_ = val_loop(Perfect(), data_dict, lambda raw, targets: (None, torch.zeros(3)))
    assert (r, map50) == (pytest.approx(1, abs=0.01), pytest.approx(0.995, abs=0.01))
    assert p > 0.99
    assert mean_ap > 0.9


def test_data_sets_of_a_user(data, hyp):
    data_dict = check_dataset(data)
    dataset = create_dataloader(data_dict["train"], 64, 4, 32, hyp=hyp, augment=True, image_weights=True, workers=0)
    loader, dataset = dataset
    assert (len(dataset), dataset.n, len(dataset.labels), dataset.shapes.shape) == (12, 12, 12, (12, 2))
    weights = labels_to_image_weights(dataset.labels, data_dict["nc"], np.ones(data_dict["nc"]))
    assert weights.tolist() == [len(rows) for rows in dataset.labels]
    dataset.indices = [3] * 12
    assert {path for _, _, paths, _ in loader for path in paths} == {dataset.img_files[3]}
    assert dataset.mosaic
    dataset.mosaic = False
    assert not dataset.mosaic
    quads = create_dataloader(data_dict["train"], 64, 8, 32, hyp=hyp, augment=True, quad=True, workers=0)[0]
    assert [batch[0].shape for batch in quads] == [(2, 3, 128, 128), (1, 3, 128, 128)]
    one = create_dataloader(data_dict["train"], 64, 4, 32, single_cls=True, workers=0)[1]
    assert not np.concatenate(one.labels)[:, 0].any()
    anchors = kmean_anchors(dataset, n=6, img_size=64, thr=4.0, gen=20, verbose=False)
    assert anchors.shape == (6, 2)
    assert (np.diff(anchors.prod(1)) >= 0).all()
    assert kmean_anchors(data, 6, 64, 4.0, 20, True).shape == (6, 2)


# Hub ------------------------------------------------------------------------------------------------------------------


def test_hubs_self_test(weights_file, pictures, found, tmp_path, monkeypatch, capsys):
    """All kinds of input that v6.1's own test gives, but for the address, which others serve."""
    monkeypatch.chdir(tmp_path)
    model = hubconf.custom(str(weights_file), autoshape=True, verbose=False, device=torch.device("cpu"))
    model.conf, model.iou = CONF, IOU
    imgs = [
        str(pictures / "a.jpg"),
        pictures / "a.jpg",
        cv2.imread(str(pictures / "a.jpg"))[:, :, ::-1],
        Image.open(pictures / "a.jpg"),
        np.zeros((32, 64, 3)),
    ]
    results = model(imgs, size=SIZE)
    results.print()
    results.save()
    assert "image 5/5: 32x64" in capsys.readouterr().out
    assert len(list((tmp_path / "runs/detect/exp").iterdir())) == 5
    single = model(imgs[2], size=SIZE).xyxy[0]
    assert torch.equal(single, model(imgs[0], size=SIZE).xyxy[0])
    assert same(rounded(single), found["a.jpg"])
    assert results.display(render=True) is None
    assert not np.array_equal(results.imgs[0], imgs[2])
    assert results.render()[0] is results.imgs[0]
    crops = results.display(pprint=True, save=True, crop=True, save_dir=tmp_path / "shown")
    assert {"box", "conf", "cls", "label", "im"} <= crops[0].keys()
    assert isinstance(results, Detections)
    assert len(results.tolist()) == results.n == len(results.files) == 5


def test_what_programs_read_of_a_hub_model(weights_file):
    model = hubconf.custom(str(weights_file), verbose=False, device="cpu")
    assert isinstance(model, AutoShape)
    assert type(model).__module__ == "models.common"
    assert (model.pt, model.dmb, model.model.pt) == (True, True, True)
    assert model.model.device == torch.device("cpu")
    model.model.warmup(imgsz=(1, 3, SIZE, SIZE))
    head = model.model.model.model[-1]
    assert (type(head).__name__, head.nc) == ("Detect", 3)
    assert model.yaml["nc"] == model.nc == 3
    assert model.names == ["ant", "bee", "cat"]
    assert int(max(model.stride if isinstance(model.stride, torch.Tensor) else [model.stride])) == 32
    y = model(torch.rand(2, 3, SIZE, SIZE))
    assert (y.shape[0], y.shape[2]) == (2, 8)
    model.names = ["x", "y", "z"]
    assert model(np.zeros((8, 8, 3), np.uint8), size=SIZE).names == ["x", "y", "z"]
    model.names = {0: "x", 1: "y", 2: "z"}
    assert model(np.zeros((8, 8, 3), np.uint8), size=SIZE).names == ["x", "y", "z"]


def test_a_hub_model_that_is_trained(weights_file, hyp):
    model = hubconf.custom(str(weights_file), autoshape=False, verbose=False, device="cpu")
    model.model.hyp = hyp
    raw = model.train()(torch.rand(1, 3, SIZE, SIZE))
    targets = torch.tensor([[0.0, 1, 0.5, 0.5, 0.2, 0.2]])
    ComputeLoss(model)(raw, targets)[0].backward()
    assert all(p.grad is not None for p in model.parameters())
    decoded = model.eval()(torch.rand(1, 3, SIZE, SIZE))
    assert decoded.shape[2] == 8


# Converters -----------------------------------------------------------------------------------------------------------


def test_weights_converter(weights_file, tmp_path):
    """gen_wts.py of tensorrtx, shortened: a file of v6.1's form becomes text, and our loader reads that file too."""
    weights = tmp_path / "net.pt"
    weights.write_bytes(weights_file.read_bytes())
    (file,) = export.run(weights, include=["v61"], imgsz=SIZE)
    assert file == tmp_path / "net_v61.pt"
    content = torch.load(file, map_location="cpu", weights_only=False)
    assert {"epoch", "best_fitness", "model", "ema", "updates", "optimizer", "date"} <= content.keys()
    model = content["ema" if content.get("ema") else "model"].float()
    assert (type(model).__module__, type(model).__name__) == ("models.yolo", "Model")
    assert isinstance(model, Model)
    head = model.model[-1]
    anchor_grid = head.anchors * head.stride[..., None, None]
    delattr(head, "anchor_grid")
    head.register_buffer("anchor_grid", anchor_grid)
    head.register_buffer("strides", head.stride)
    model.eval()
    written = tmp_path / "net.wts"
    with written.open("w") as f:
        f.write(f"{len(model.state_dict().keys())}\n")
        for k, v in model.state_dict().items():
            vr = v.reshape(-1).cpu().numpy()
            f.write(f"{k} {len(vr)} " + "".join(f" {struct.pack('>f', float(vv)).hex()}" for vv in vr) + "\n")
    lines = written.read_text().splitlines()
    assert int(lines[0]) == len(lines) - 1
    assert {"model.11.anchor_grid", "model.11.strides", "model.0.bn.running_var"} <= {line.split()[0] for line in lines}
    plain = load_checkpoint(file)
    expected = load_checkpoint(weights_file)
    assert (plain.names, plain.yaml["anchors"]) == (expected.names, expected.yaml["anchors"])
    assert plain.state.keys() == expected.state.keys()
    assert all(torch.equal(value, expected.state[name]) for name, value in plain.state.items())
    images = torch.rand(1, 3, SIZE, SIZE)
    ours = attempt_load(weights_file, fuse=False)(images)[0]
    assert torch.equal(model(images)[0], ours)
    assert torch.equal(attempt_load(file, fuse=False)(images)[0], ours)


def test_a_v61_file_in_half_precision(weights_file, tmp_path):
    weights = tmp_path / "net.pt"
    weights.write_bytes(weights_file.read_bytes())
    (file,) = export.run(weights, include=["v61"], imgsz=SIZE, half=True)
    model = torch.load(file, weights_only=False)["model"]
    assert next(model.parameters()).dtype == torch.float16
