"""detect.py as a user runs it: flags, console lines, files, errors, and v6.1's detections on two known photographs."""

import itertools
import json
import logging
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import detect
from utils.files.images import read_image, write_image
from utils.general import ROOT
from utils.predict.video import VideoWriter

NAMES = ["person", "tie", "bus"]


class TwoBoxes(nn.Module):
    """Finds a person in the left and a tie in the right half of any image, both at known places."""

    names = NAMES
    stride = torch.tensor([8.0, 16, 32])

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1))
        self.seen = []

    def forward(self, x, augment=False):
        self.seen.append((tuple(x.shape), x.dtype, float(x.amin()), float(x.amax()), augment))
        self.model(x)
        h, w = x.shape[2:]
        scale = torch.tensor([w, h, w, h, 1, 1, 1, 1])
        left, right = [0.25, 0.5, 0.25, 0.5, 0.9, 1, 0, 0], [0.75, 0.5, 0.2, 0.3, 0.8, 0, 0.5, 0]
        return (torch.tensor([left, right]) * scale).expand(len(x), 2, 8), []


@pytest.fixture
def model(monkeypatch):
    fake = TwoBoxes().eval()
    monkeypatch.setattr(detect, "load_backend", lambda weights, device, **options: fake)
    return fake


@pytest.fixture
def run(model, tmp_path, caplog):
    """`detect.run` with the model above, results in tmp_path/runs; gives the folder and the console's lines."""
    caplog.set_level(logging.INFO, "yolov5")
    (tmp_path / "best.pt").touch()

    def call(**options):
        caplog.clear()
        folder = detect.run(weights=tmp_path / "best.pt", project=str(tmp_path / "runs"), **options)
        return folder, [record.getMessage() for record in caplog.records]

    return call


@pytest.fixture
def pictures(tmp_path):
    """A folder with a.jpg and b.png, 64 x 128."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, value in (("a.jpg", 60), ("b.png", 120)):
        write_image(folder / name, np.full((64, 128, 3), value, np.uint8))
    return folder


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("agnostic_nms", "expected"), [(False, "1 person, 1 tie"), (True, "1 person")])
def test_agnostic_nms(run, model, pictures, monkeypatch, agnostic_nms, expected):
    """Two boxes of different classes in one place."""
    rows = torch.tensor([[40.0, 40, 40, 40, 0.9, 1, 0, 0], [40.0, 40, 40, 39, 0.8, 0, 1, 0]])
    monkeypatch.setattr(model, "forward", lambda x, augment=False: (rows.expand(len(x), 2, 8), []))
    _, lines = run(source=str(pictures / "a.jpg"), agnostic_nms=agnostic_nms, nosave=True)
    assert any(f" {expected}, Done." in line for line in lines)


@pytest.mark.parametrize("flag", ["--img", "--imgsz", "--img-size"])
def test_size_has_three_names_and_others_can_be_shortened(flag):
    opt = detect.parse_opt([flag, "320", "640", "--conf", "0.4", "--iou", "0.5", "--save-t", "--classes", "0", "2"])
    assert (opt.imgsz, opt.conf_thres, opt.iou_thres, opt.save_txt, opt.classes) == ([320, 640], 0.4, 0.5, True, [0, 2])


@pytest.mark.parametrize("verbose", [False, True])
def test_options_are_logged_with_verbose_only(run, pictures, verbose):
    _, lines = run(source=pictures, verbose=verbose)
    assert sum("conf_thres=0.25" in line for line in lines) == verbose


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"conf_thres": 1.5}, "--conf-thres 1.5"),
        ({"iou_thres": -1.0}, "--iou-thres -1.0"),
        ({"max_det": 0}, "--max-det 0"),
        ({"threads": -1}, "--threads -1"),
        ({"line_thickness": 0}, "--line-thickness 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"vid_stride": 0}, "--vid-stride 0"),
        ({"imgsz": [1, 2, 3]}, "--imgsz 1 2 3"),
        ({"imgsz": 0}, "--imgsz 0"),
        ({"classes": [3]}, "--classes 3: the model's classes are 0 to 2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_out_of_range(run, pictures, option, message):
    with pytest.raises(ValueError, match=message):
        run(source=pictures, **option)


def test_console_and_files(run, pictures):
    folder, lines = run(source=pictures, save_txt=True, save_conf=True, save_crop=True)
    assert [line.rsplit("(", 1)[0] for line in lines if line.startswith("image ")] == [
        f"image 1/2 {pictures / 'a.jpg'}: 320x640 1 person, 1 tie, Done. ",
        f"image 2/2 {pictures / 'b.png'}: 320x640 1 person, 1 tie, Done. ",
    ]
    assert any("pre-process" in line and "(1, 3, 320, 640)" in line for line in lines)
    assert "2 images: 2 persons, 2 ties" in lines
    assert files(folder) == [
        "a.jpg",
        "b.png",
        "crops/person/a.jpg",
        "crops/person/b.jpg",
        "crops/tie/a.jpg",
        "crops/tie/b.jpg",
        "labels/a.txt",
        "labels/b.txt",
    ]
    # The surest box is drawn and written last; boxes are in whole pixels of the picture: 0.3 x 64 = 19.2 -> 22.4..41.6
    assert (folder / "labels" / "a.txt").read_text() == "1 0.75 0.5 0.203125 0.3125 0.4\n0 0.25 0.5 0.25 0.5 0.9\n"
    drawn = read_image(folder / "b.png")
    assert (drawn != 120).any()
    assert (read_image(pictures / "b.png") == 120).all()


def test_network_gets_rgb_shares_of_one(run, pictures, model):
    run(source=pictures / "b.png", imgsz=(128, 256), augment=True)
    assert model.seen == [((1, 3, 128, 256), torch.float32, pytest.approx(120 / 255), pytest.approx(120 / 255), True)]


def test_channel_order_and_layout():
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 0] = 255  # blue
    frame = detect.Frame(image, "", "", "", "")
    batch = detect.to_batch([frame, frame], (32, 32), 32, torch.device("cpu"), torch.float32)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch[1, :, 5, 5].tolist() == [0, 0, 1]


def test_batch_of_different_sizes_is_square():
    frames = [detect.Frame(np.zeros((h, 64, 3), np.uint8), "", "", "", "") for h in (32, 64)]
    assert detect.to_batch(frames, (64, 64), 32, torch.device("cpu"), torch.float32).shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"nosave": True}, []),
        ({"nosave": True, "save_txt": True, "classes": [1]}, ["labels/a.txt", "labels/b.txt"]),
        ({"conf_thres": 0.95, "save_txt": True, "save_crop": True}, ["a.jpg", "b.png"]),
        ({"max_det": 1, "nosave": True, "save_crop": True}, ["crops/person/a.jpg", "crops/person/b.jpg"]),
        (
            {"nosave": True, "visualize": True},
            [f"{stem}/stage0_Conv2d_features.{suffix}" for stem in "ab" for suffix in ("npy", "png")],
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_written(run, pictures, options, expected):
    folder, _ = run(source=pictures, **options)
    assert files(folder) == expected


def test_hidden_labels_draw_less(run, pictures):
    shown, without_confidence, hidden = (
        (read_image(run(source=pictures / "b.png", **options)[0] / "b.png") != 120).sum()
        for options in ({}, {"hide_conf": True}, {"hide_labels": True})
    )
    assert shown > without_confidence > hidden > 0


def test_runs_are_numbered_or_replaced(run, pictures):
    folders = [run(source=pictures, save_txt=True)[0].name for _ in range(2)]
    assert folders == ["exp", "exp2"]
    folder, _ = run(source=pictures, save_txt=True, exist_ok=True)
    assert folder.name == "exp"
    assert len((folder / "labels" / "a.txt").read_text().splitlines()) == 2


def test_two_runs_at_a_time_share_no_folder(run, pictures, model, monkeypatch):
    forward, inner = model.forward, []

    def with_another_run(x, augment=False):
        monkeypatch.setattr(model, "forward", forward)
        inner.append(run(source=pictures, nosave=True, save_txt=True)[0].name)  # before the outer one has written
        return forward(x, augment)

    monkeypatch.setattr(model, "forward", with_another_run)
    assert (run(source=pictures)[0].name, inner) == ("exp", ["exp2"])


def test_layers_of_a_compiled_network_are_not_shown(pictures, tmp_path):
    with pytest.raises(ValueError, match=r"--visualize .* --compile"):
        detect.run(weights="a.pt", source=pictures, project=tmp_path / "runs", visualize=True, compile=True)


def test_layers_of_several_networks_are_not_shown(pictures, tmp_path):
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).touch()
    weights = [tmp_path / "a.pt", tmp_path / "b.pt"]
    with pytest.raises(ValueError, match="--visualize shows the layers of one network"):
        detect.run(weights=weights, source=pictures, project=tmp_path / "runs", visualize=True)
    assert not (tmp_path / "runs").exists()


def test_one_value_will_do_from_python(run, pictures, tmp_path):
    folder, _ = run(source=pictures, nosave=True, save_txt=True, classes=1, imgsz=128)
    assert files(folder) == ["labels/a.txt", "labels/b.txt"]


def test_several_sources_from_python(run, pictures, tmp_path):
    (tmp_path / "[more] 1").mkdir()
    write_image(tmp_path / "[more] 1" / "c.png", np.zeros((64, 128, 3), np.uint8))
    folder, _ = run(source=[pictures, str(tmp_path / "[more] 1" / "*.png")])
    assert files(folder) == ["a.jpg", "b.png", "c.png"]
    folder, _ = run(source=(pictures / "b.png", pictures / "a.jpg"))
    assert files(folder) == ["a.jpg", "b.png"]


@pytest.mark.parametrize("sources", [[], ["a.jpg", 0], ["a.jpg", "rtsp://host/x"]])
def test_several_sources_that_do_not_go_together(run, sources):
    with pytest.raises(ValueError, match="--source"):
        run(source=sources)


def test_a_number_is_a_device(run, pictures):
    with pytest.raises(ValueError, match=r"--device 97|no GPU"):
        run(source=pictures, device=97)


def test_same_stems_overwrite_nothing(run, pictures):
    write_image(pictures / "a.png", np.zeros((64, 128, 3), np.uint8))
    folder, _ = run(source=pictures, save_txt=True)
    assert files(folder) == ["a.jpg", "a.png", "b.png", "labels/a_jpg.txt", "labels/a_png.txt", "labels/b.txt"]


def test_unreadable_picture_among_others(run, pictures):
    (pictures / "aa.jpg").write_bytes(b"broken")
    folder, lines = run(source=pictures)
    assert files(folder) == ["a.jpg", "b.png"]
    assert any("aa.jpg" in line for line in lines)
    assert "2 images: 2 persons, 2 ties, 1 unreadable file skipped" in lines


@pytest.mark.parametrize("name", ["x.jpg", "x.mp4"])
@pytest.mark.parametrize("content", [b"", b"broken"], ids=["empty", "broken"])
def test_one_unreadable_file_leaves_nothing(run, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        run(source=tmp_path / name)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("hw", [(1000, 3), (3, 1000), (1, 1)], ids=str)
def test_odd_shapes(run, tmp_path, hw):
    write_image(tmp_path / "thin.png", np.full((*hw, 3), 100, np.uint8))
    folder, _ = run(source=tmp_path / "thin.png", save_txt=True, save_crop=True)
    assert read_image(folder / "thin.png").shape == (*hw, 3)


def test_video(run, tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 29.97) as writer:
        for _ in range(4):
            writer.write(np.full((48, 64, 3), 90, np.uint8))
    folder, lines = run(source=tmp_path / "clip.mp4", save_txt=True)
    assert files(folder) == ["clip.mp4", *(f"labels/clip_{i}.txt" for i in (1, 2, 3, 4))]
    assert (
        sum(
            line.startswith(f"video 1/1 (3/4) {tmp_path / 'clip.mp4'}: 480x640 1 person, 1 tie, Done. (")
            for line in lines
        )
        == 1
    )
    capture = cv2.VideoCapture(str(folder / "clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(29.97, abs=0.01)
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == 4


def test_ctrl_c_keeps_what_is_done(run, tmp_path, model, monkeypatch, caplog):
    with VideoWriter(tmp_path / "clip.mp4") as writer:
        for _ in range(9):
            writer.write(np.full((48, 64, 3), 90, np.uint8))
    passes, forward = itertools.count(), model.forward

    def interrupted(x, augment=False):
        if next(passes) == 3:
            raise KeyboardInterrupt
        return forward(x, augment)

    monkeypatch.setattr(model, "forward", interrupted)
    with pytest.raises(SystemExit) as stop:
        run(source=tmp_path / "clip.mp4")
    assert stop.value.code == 130
    assert "3 images: 3 persons, 3 ties" in caplog.text
    capture = cv2.VideoCapture(str(tmp_path / "runs" / "exp" / "clip.mp4"))
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == 3


def test_list_of_streams_saves_no_pictures(run, tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 100) as writer:
        for _ in range(5):
            writer.write(np.full((48, 64, 3), 90, np.uint8))
    (tmp_path / "streams.txt").write_text(f"{tmp_path / 'clip.mp4'}\n" * 2)
    folder, lines = run(source=tmp_path / "streams.txt", save_txt=True)
    assert files(folder)
    assert all(name.startswith("labels/") for name in files(folder))
    assert {line.split(" ")[0] for line in lines if "Done." in line} == {"0:", "1:"}


def test_default_source_falls_back_to_the_generated_set(run, pictures, monkeypatch, tmp_path):
    monkeypatch.setattr(detect, "GENERATED_IMAGES", pictures)
    monkeypatch.setattr(detect, "DEFAULT_SOURCE", tmp_path / "absent")
    _, lines = run(source=tmp_path / "absent")
    assert f"no images in {tmp_path / 'absent'}: taking those in {pictures}" in lines
    monkeypatch.setattr(detect, "GENERATED_IMAGES", tmp_path / "absent2")
    with pytest.raises(FileNotFoundError, match=r"name a file or folder"):
        run(source=tmp_path / "absent")
    monkeypatch.setattr(detect, "DEFAULT_SOURCE", pictures)
    _, lines = run(source=pictures)
    assert "2 images: 2 persons, 2 ties" in lines
    assert not any("taking" in line for line in lines)


def test_half_on_the_cpu_computes_in_full_and_says_so(run, pictures, model):
    _, lines = run(source=pictures / "a.jpg", half=True, device="cpu")
    assert model.seen[0][1] == torch.float32
    assert any("FP32 is used" in line for line in lines)


def test_no_window_is_a_clear_error(run, pictures, monkeypatch):
    def no_window(*_):
        raise cv2.error("not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "imshow", no_window)
    with pytest.raises(ValueError, match="opencv-python"):
        run(source=pictures, view_img=True)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have a display")
def test_no_display_is_said_before_anything_starts(tmp_path):
    names = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    without = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, str(ROOT / "detect.py"), "--view-img", "--project", str(tmp_path / "runs")]
    done = subprocess.run(command, env=without, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR: --view-img: there is no display here")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("model")
def test_v61s_positions_and_unknown_options(pictures, tmp_path):
    (tmp_path / "best.pt").touch()
    folder = detect.run(tmp_path / "best.pt", pictures, project=tmp_path / "runs")
    assert "a.jpg" in files(folder)
    with pytest.raises(ValueError, match="no option is called wieghts; did you mean weights"):
        detect.run(wieghts="best.pt")


def test_key_q_ends(run, pictures, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "imshow", lambda *_: None)
    monkeypatch.setattr(cv2, "waitKey", lambda *_: ord("q"))
    folder, _ = run(source=pictures, view_img=True)
    assert files(folder) == ["a.jpg"]


def test_update_strips_each_checkpoint(run, pictures, monkeypatch, tmp_path):
    stripped = []
    monkeypatch.setattr(detect, "strip_optimizer", stripped.append)
    run(source=pictures, update=True)
    assert stripped == [tmp_path / "best.pt"]


def test_console_hides_credentials(run, caplog):
    with pytest.raises(ValueError, match="no frame came"):
        run(source="rtsp://user:secret@127.0.0.1:9/cam?key=secret")
    assert "secret" not in caplog.text


def test_command_line_error_is_one_line():
    command = [sys.executable, "detect.py", "--weights", "absent.pt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "--weights absent.pt: no such file" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_no_plotting_package_is_loaded():
    code = (
        "import sys, detect\n"
        "loaded = {name for name in ('matplotlib', 'pandas', 'scipy', 'seaborn', 'av') if name in sys.modules}\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("name", ["bus", "zidane"])
def test_detections_of_the_released_model(shared, tmp_path, name):
    golden = json.loads((shared / "golden" / "detections_yolov5n.json").read_text())[name]
    folder = detect.run(
        weights=shared / "weights" / "yolov5n.pt",
        source=shared / "images" / f"{name}.jpg",
        project=str(tmp_path),
        device="cpu",
        save_txt=True,
        save_conf=True,
    )
    rows = np.loadtxt(folder / "labels" / f"{name}.txt", ndmin=2)[::-1]  # the surest first
    h, w = golden["image_hw"]
    centre, size = rows[:, 1:3] * (w, h), rows[:, 3:5] * (w, h)
    found = np.concatenate((centre - size / 2, centre + size / 2, rows[:, 5:], rows[:, :1]), 1)
    expected = np.array(golden["detections_xyxy_conf_cls"])
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=1.01)  # %g and the way back cost a hundredth
    np.testing.assert_allclose(found[:, 4], expected[:, 4], atol=0.002)
    np.testing.assert_array_equal(found[:, 5], expected[:, 5])
