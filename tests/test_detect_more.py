"""detect.py beyond v6.1: batches, tables, lists, the frames that are left out, several processes, errors on the way."""

import csv
import json
import logging
import os
import shutil
import socket
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import detect
from utils.dist import SINGLE
from utils.files.images import read_image, write_image
from utils.general import ROOT
from utils.predict import outputs
from utils.predict.sources import LiveSource
from utils.predict.video import VideoWriter

LIMIT_S = 240


class Brightest(nn.Module):
    """Finds one box in the middle, of class 0 or 1, whose width grows with the image's brightness."""

    names = ("dark, bright", 'a "thing"')
    stride = torch.tensor([8.0, 16, 32])

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1))
        self.shapes = []

    def forward(self, x, augment=False):
        self.shapes.append(tuple(x.shape))
        self.model(x)
        h, w = x.shape[2:]
        light = x[:, :, h // 2, w // 2].mean(1)  # (B,)
        rows = torch.tensor([0.5 * w, 0.5 * h, 0, 0.5 * h, 0.9, 0, 0]).repeat(len(x), 1)
        rows[:, 2] = light * w
        rows[:, 5], rows[:, 6] = (light < 0.5).float(), (light >= 0.5).float()
        return rows[:, None], []


@pytest.fixture
def model(monkeypatch):
    fake = Brightest().eval()
    monkeypatch.setattr(detect, "load_backend", lambda weights, device, **how: fake)
    return fake


@pytest.fixture
def run(model, tmp_path, caplog):
    """`detect.run` with the model above, results in tmp_path/runs."""
    caplog.set_level(logging.INFO, "yolov5")
    (tmp_path / "best.pt").touch()

    def call(**options):
        return detect.run(weights=tmp_path / "best.pt", project=str(tmp_path / "runs"), **options)

    return call


@pytest.fixture
def pictures(tmp_path):
    """Nine pictures of three shapes in the network, and a video of five frames; each has a brightness of its own."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(9):
        hw = ((64, 128), (128, 64), (96, 96), (32, 64))[i % 4]
        write_image(folder / f"p{i}.png", np.full((*hw, 3), 20 + 25 * i, np.uint8))
    write_clip(folder / "clip.mp4", 5)
    return folder


def write_clip(path, count, fps=20.0):
    with VideoWriter(path, fps) as writer:
        for i in range(count):
            writer.write(np.full((48, 64, 3), 40 + 20 * i, np.uint8))


def contents(folder):
    """Each file below the folder and its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(folder):
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def frames_of(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (answer := capture.read())[0]:
        frames.append(answer[1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


def console(caplog):
    """The lines of images and frames, without times."""
    lines = [record.getMessage() for record in caplog.records]
    return [line.rsplit("(", 1)[0] for line in lines if "Done." in line]


# Batches --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [2, 3, 64])
def test_batches_change_neither_files_nor_lines(run, pictures, model, caplog, batch_size):
    options = {"source": pictures, "imgsz": 128, "save_txt": True, "save_crop": True, "save_csv": True}
    single, lines = run(**options), console(caplog)
    assert {shape[0] for shape in model.shapes} == {1}
    caplog.clear()
    model.shapes.clear()
    several = run(**options, batch_size=batch_size)
    assert console(caplog) == lines
    assert len(lines) == 14
    assert contents(several) == contents(single)
    assert max(shape[0] for shape in model.shapes) == min(batch_size, 5)
    assert {shape[2:] for shape in model.shapes} == {(64, 128), (128, 64), (128, 128), (96, 128)}


def test_batches_of_the_released_model_find_the_same(shared, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("bus", "zidane"):
        image = read_image(shared / "images" / f"{name}.jpg")
        for i in range(2):
            write_image(folder / f"{name}{i}.png", image[:, ::-1] if i else image)
    found = []
    for batch_size in (1, 4):
        out = detect.run(
            shared / "weights" / "yolov5n.pt", folder, project=tmp_path / "runs", device="cpu", imgsz=320,
            batch_size=batch_size, save_csv=True, nosave=True,
        )  # fmt: skip
        found.append(rows_of(out))
    assert len(found[0]) > 8
    for one, other in zip(*found, strict=True):
        assert [one[key] for key in ("image", "class")] == [other[key] for key in ("image", "class")]
        for key, tolerance in {"confidence": 1e-4, "x1": 1, "y1": 1, "x2": 1, "y2": 1}.items():
            assert float(one[key]) == pytest.approx(float(other[key]), abs=tolerance)


def test_layers_of_each_image_of_a_batch(run, pictures):
    single = run(source=pictures / "*.png", imgsz=128, visualize=True, nosave=True)
    several = run(source=pictures / "*.png", imgsz=128, visualize=True, nosave=True, batch_size=4)
    maps = {name: np.load(single / name) for name in contents(single) if name.endswith(".npy")}
    assert len(maps) == 9
    for name, values in maps.items():
        np.testing.assert_allclose(np.load(several / name), values, atol=1e-5)


# Frames that are left out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "numbers"), [(2, [1, 3, 5]), (3, [1, 4]), (9, [1])])
def test_each_nth_frame_of_a_video(run, tmp_path, stride, numbers):
    write_clip(tmp_path / "clip.mp4", 6 if stride < 3 else 5)
    folder = run(source=tmp_path / "clip.mp4", vid_stride=stride, save_csv=True, save_txt=True, hide_labels=True)
    assert [int(row["frame"]) for row in rows_of(folder)] == numbers
    assert {path.stem for path in (folder / "labels").iterdir()} == {f"clip_{number}" for number in numbers}
    frames, rate = frames_of(folder / "clip.mp4")
    assert (len(frames), rate) == (len(numbers), pytest.approx(20 / stride, rel=1e-3))
    corner = [frame[2, 2].mean() for frame in frames]
    assert corner == pytest.approx([20 + 20 * number for number in numbers], abs=9)


def test_each_nth_frame_of_a_stream(run, tmp_path):
    write_clip(tmp_path / "clip.mp4", 9, 50)
    (tmp_path / "streams.txt").write_text("clip.mp4\n")
    folder = run(source=tmp_path / "streams.txt", vid_stride=4, save_csv=True, save_json=True)
    numbers = [int(row["frame"]) for row in rows_of(folder)]
    assert set(numbers) <= {1, 5, 9}
    assert numbers[-1] == 9
    assert [entry["frame"] for entry in json.loads((folder / "predictions.json").read_text())] == numbers


def test_a_clip_of_ten_seconds(shared, tmp_path):
    """Frames, rate, and the boxes of the frames detected as images, in batches of 4 as one by one."""
    clip, folder = tmp_path / "clip.mp4", tmp_path / "frames"
    image = cv2.resize(read_image(shared / "images" / "bus.jpg"), (480, 640), interpolation=cv2.INTER_AREA)
    views = [image[4 * i : 4 * i + 240, i : i + 320] for i in range(100)]
    if shutil.which("ffmpeg"):
        command = ["ffmpeg", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", "320x240", "-r", "10"]
        command += ["-i", "pipe:0", "-pix_fmt", "yuv420p", str(clip)]
        subprocess.run(command, input=b"".join(view.tobytes() for view in views), check=True)
    else:
        with VideoWriter(clip, 10) as writer:
            for view in views:
                writer.write(view)
    frames, rate = frames_of(clip)
    assert (len(frames), rate) == (100, 10)
    folder.mkdir()
    for i, frame in enumerate(frames, 1):
        write_image(folder / f"{i:03d}.png", frame)
    options = {"imgsz": 160, "device": "cpu", "save_csv": True, "project": tmp_path / "runs", "batch_size": 4}
    of_clip = detect.run(shared / "weights" / "yolov5n.pt", clip, **options)
    of_images = detect.run(shared / "weights" / "yolov5n.pt", folder, **options | {"batch_size": 1}, nosave=True)
    drawn, rate = frames_of(of_clip / clip.name)
    assert (len(drawn), rate, drawn[0].shape) == (100, 10, (240, 320, 3))
    assert sum((a != b).any() for a, b in zip(drawn, frames, strict=True)) > 50
    with pytest.importorskip("av").open(str(of_clip / clip.name)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 100
        assert float(file.duration / 1_000_000) == pytest.approx(10, abs=0.11)
    boxes = [{i: [] for i in range(1, 101)} for _ in range(2)]
    for row in rows_of(of_clip):
        boxes[0][int(row["frame"])].append(row)
    for row in rows_of(of_images):
        boxes[1][int(row["image"][-7:-4])].append(row)
    assert sum(len(rows) for rows in boxes[0].values()) > 100
    for i in boxes[0]:
        found = [[[float(row[key]) for key in ("class", "x1", "y1", "x2", "y2")] for row in side[i]] for side in boxes]
        assert len(found[0]) == len(found[1])
        np.testing.assert_allclose(*map(np.array, found), atol=1)  # rounded to pixels


# Tables ---------------------------------------------------------------------------------------------------------------


def test_tables(run, pictures):
    folder = run(source=pictures, save_csv=True, save_json=True, nosave=True, imgsz=128)
    assert set(contents(folder)) == {"predictions.csv", "predictions.json"}
    rows, entries = rows_of(folder), json.loads((folder / "predictions.json").read_text())
    assert list(rows[0]) == ["image", "frame", "class", "name", "confidence", "x1", "y1", "x2", "y2"]
    assert [(row["image"], int(row["frame"])) for row in rows] == [
        *((str(pictures / f"p{i}.png"), 0) for i in range(9)),
        *((str(pictures / "clip.mp4"), i) for i in range(1, 6)),
    ]
    assert rows[0] | {"image": ""} == {
        "image": "",
        "frame": "0",
        "class": "0",
        "name": "dark, bright",
        "confidence": "0.9",
        "x1": "59",
        "y1": "16",
        "x2": "69",
        "y2": "48",  # 20 / 255 of 128 pixels is 10 of them
    }
    assert rows[8]["name"] == 'a "thing"'
    assert entries[0] == {
        "image_id": "p0",
        "category_id": 0,
        "bbox": [59, 16, 10, 32],
        "score": 0.9,
        "image": str(pictures / "p0.png"),
        "frame": 0,
        "name": "dark, bright",
    }
    assert [entry["image_id"] for entry in entries[9:]] == [f"clip_{i}" for i in range(1, 6)]
    for row, entry in zip(rows, entries, strict=True):
        x, y, w, h = entry["bbox"]
        assert [int(row[key]) for key in ("x1", "y1", "x2", "y2")] == [x, y, x + w, y + h]


def test_tables_of_nothing_found(run, pictures):
    folder = run(source=pictures, save_csv=True, save_json=True, nosave=True, conf_thres=0.95)
    assert rows_of(folder) == []
    assert json.loads((folder / "predictions.json").read_text()) == []


def test_tables_and_video_are_whole_after_ctrl_c(run, pictures, model, monkeypatch):
    forward = model.forward

    def interrupted(x, augment=False):
        if len(model.shapes) == 12:
            raise KeyboardInterrupt
        return forward(x, augment)

    monkeypatch.setattr(model, "forward", interrupted)
    with pytest.raises(SystemExit):
        run(source=pictures, save_csv=True, save_json=True)
    (folder,) = (pictures.parent / "runs").iterdir()
    assert len(rows_of(folder)) == len(json.loads((folder / "predictions.json").read_text())) == 12
    assert len(frames_of(folder / "clip.mp4")[0]) == 3


def test_tables_and_names_hold_no_password(tmp_path, monkeypatch):
    image = np.zeros((8, 8, 3), np.uint8)
    address = "rtsp://user:secret@host/cam?key=secret"
    monkeypatch.setattr("utils.predict.streams.Stream._run", lambda self: None)
    source = LiveSource([address])
    source.close()
    frame = detect.Frame(image, source.streams[0].name, "0: ", source.stems[0], ".mp4", 1)
    with outputs.ResultWriter(tmp_path / "out", ["a"], ["csv", "json"]) as writer:
        found = torch.tensor([[0.0, 0, 8, 8, 0.5, 0]])
        writer.save_rows(frame, found)
        writer.save_labels(frame, found, True)
        writer.save_crops(frame, found)
        writer.save_picture(frame, image, True)
    written = contents(tmp_path / "out")
    assert len(written) == 5
    assert all("secret" not in name and b"secret" not in content for name, content in written.items())
    assert b"rtsp://host/cam" in written["predictions.csv"]
    assert "secret" not in source.summary()[0]


# Lists ----------------------------------------------------------------------------------------------------------------


def test_list_of_images_in_a_text_file(run, pictures, caplog):
    (pictures / "list.txt").write_text(f"# mine\np1.png\n\n{pictures / 'p0.png'}\nclip.mp4\n", encoding="utf-8")
    folder = run(source=pictures / "list.txt", save_csv=True, imgsz=64)
    assert set(contents(folder)) == {"p1.png", "p0.png", "clip.mp4", "predictions.csv"}
    assert [row["image"].rpartition("/")[2] for row in rows_of(folder)] == ["p1.png", "p0.png"] + ["clip.mp4"] * 5
    assert console(caplog)[0].startswith(f"image 1/3 {pictures / 'p1.png'}: ")


def test_missing_files_of_a_list_are_skipped_and_told_at_the_end(run, pictures, caplog):
    (pictures / "broken.mp4").write_bytes(b"no video")
    (pictures / "list.txt").write_text("p0.png\nabsent.png\nbroken.mp4\nnotes.md\np2.png\n")
    with pytest.raises(ValueError, match="3 files of the list could not be read"):
        run(source=pictures / "list.txt")
    (folder,) = (pictures.parent / "runs").iterdir()
    assert set(contents(folder)) == {"p0.png", "p2.png"}
    assert "2 images: 2 dark, brights, 3 unreadable files skipped" in caplog.text
    for name in ("absent.png: no such file", "broken.mp4: not a readable video", "notes.md: neither an image"):
        assert name in caplog.text


@pytest.mark.usefixtures("model")
def test_names_on_standard_input_are_taken_as_they_come(run, pictures, monkeypatch, caplog):
    reader, writer = os.pipe()
    saved = os.dup(0)
    os.dup2(reader, 0)
    shows = []

    def save(opt, frame, *rest):
        shows.append(frame.name)
        if len(shows) == 1:  # only when the first one is done the others are named
            os.write(writer, f"{pictures / 'p1.png'}\r\n\n{pictures / 'clip.mp4'}".encode())
            os.close(writer)

    monkeypatch.setattr(detect, "save", save)
    try:
        os.write(writer, f"{pictures / 'p0.png'}\n".encode())
        run(source="-")
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(reader)
    assert shows == [str(pictures / name) for name in ("p0.png", "p1.png", *["clip.mp4"] * 5)]
    assert console(caplog)[1].startswith(f"image 2/? {pictures / 'p1.png'}: ")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "--source -: standard input names no file"),
        (["rtsp://user:secret@host/x"], "a stream in a list of files"),
        (["absent.jpg", "notes.md"], "none of the 2 files could be read; the last: notes.md"),
    ],
    ids=["empty", "stream", "missing"],
)
def test_bad_standard_input(run, monkeypatch, tmp_path, given, message, caplog):
    monkeypatch.setattr("utils.predict.sources.standard_input", lambda: iter(given))
    with pytest.raises(ValueError, match=message) as error:
        run(source="-", save_csv=True)
    assert "secret" not in str(error.value) + caplog.text
    assert not list((tmp_path / "runs").rglob("*"))


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory):
    """A checkpoint of an untrained network that is sure of something everywhere."""
    from models.yolo import Model
    from utils.files.checkpoint import Checkpoint, save_checkpoint

    torch.manual_seed(0)
    network = Model(str(ROOT / "models" / "yolov5n-NAM.yaml"), nc=3)
    with torch.no_grad():
        for conv in network.model[-1].m:
            conv.bias.view(3, -1)[:, 4:] += 6
            conv.weight.mul_(8)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    save_checkpoint(path, Checkpoint(network.yaml, ("a", "b", "c"), network.state_dict(), 0, None, None, "today"))
    return str(path)


# Several processes ----------------------------------------------------------------------------------------------------


def launch(arguments, size, standard_input=""):
    """detect.py in so many processes, as torchrun starts them; their exit codes and standard errors."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "detect.py", *arguments, "--device", "cpu"],
            cwd=ROOT,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)} if size > 1 else None,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    errors = [process.communicate(standard_input, timeout=LIMIT_S)[1] for process in started]
    return [process.returncode for process in started], errors


def test_two_processes_write_what_one_writes(tmp_path, tiny_weights, pictures):
    for name in ("p1.jpg", "P12.png"):  # names that collide, with each other and with second crops
        write_image(pictures / name, np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    (pictures / "p3.png").write_bytes(b"broken")
    flags = ["--weights", tiny_weights, "--source", str(pictures), "--imgsz", "64", "--max-det", "3"]
    flags += ["--save-txt", "--save-conf", "--save-crop", "--save-csv", "--save-json", "--project", str(tmp_path / "r")]
    (code,), (single,) = launch([*flags, "--name", "one"], 1)
    codes, (main, other) = launch([*flags, "--name", "two"], 2)
    assert (code, codes) == (0, [0, 0]), single + main + other
    one, two = contents(tmp_path / "r" / "one"), contents(tmp_path / "r" / "two")
    assert set(one) == set(two)
    assert [name for name in one if one[name] != two[name]] == []
    assert len(rows_of(tmp_path / "r" / "two")) > 20
    assert {"labels/p1_jpg.txt", "labels/p1_png.txt", "labels/P12.txt", "clip.mp4"} <= set(one)
    assert "Speed" not in other
    totals = [
        [line for line in text.splitlines() if "skipped" in line and " images: " in line] for text in (single, main)
    ]
    assert totals[0] == totals[1]
    assert "15 images: " in totals[0][0]


def test_more_processes_than_files(tmp_path, tiny_weights, pictures):
    flags = [
        "--weights",
        tiny_weights,
        "--imgsz",
        "64",
        "--max-det",
        "2",
        "--save-csv",
        "--project",
        str(tmp_path / "r"),
    ]
    codes, errors = launch([*flags, "--source", "-"], 2, f"{pictures / 'p1.png'}\n")
    assert codes == [0, 0], errors
    assert set(contents(tmp_path / "r" / "exp")) == {"p1.png", "predictions.csv"}
    assert "1 image: " in errors[0]


def test_streams_are_shared_out(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.predict.streams.Stream._run", lambda self: None)
    addresses = [f"rtsp://host/{i}" for i in range(3)]
    opened = []
    for rank in range(4):
        reading = detect.Reading(ranks=type(SINGLE)(rank, 4))
        source = LiveSource(addresses, reading)
        opened += [(number, stream.name) for number, stream in zip(source.numbers, source.streams, strict=True)]
        assert list(source) == []  # where one process has none that sends, the others go on
        source.close()
    assert opened == [*enumerate(addresses)]


# Errors on the way ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"save_crop": True, "nosave": True}], ids=["pictures", "crops"])
def test_a_full_disk_ends_the_run_with_its_message(run, pictures, monkeypatch, options):
    def full(path, image):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(outputs, "write_image", full)
    with pytest.raises(OSError, match="No space left on device"):
        run(source=pictures, **options)


def test_an_error_of_the_reader_ends_the_run(run, pictures, monkeypatch):
    def broken(*_):
        raise MemoryError("no more")

    monkeypatch.setattr("utils.predict.sources.read_video", broken)
    with pytest.raises(MemoryError, match="no more"):
        run(source=pictures)
    (folder,) = (pictures.parent / "runs").iterdir()
    assert len(contents(folder)) == 9  # what came before is there


def test_broken_video_among_others(run, pictures, caplog):
    (pictures / "a.mp4").write_bytes(b"no video")
    folder = run(source=pictures / "*.mp4")
    assert set(contents(folder)) == {"clip.mp4"}
    assert f"skipped: {pictures / 'a.mp4'}: not a readable video" in caplog.text
    assert "1 unreadable file skipped" in caplog.text


def test_an_unquoted_glob_is_explained(capsys):
    with pytest.raises(SystemExit):
        detect.parse_opt(["--source", "a.jpg", "b.jpg"])
    assert "a glob in quotes" in capsys.readouterr().err
    assert detect.parse_opt(["--source", "screen", "1"]).source == "screen 1"
