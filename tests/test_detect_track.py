"""detect.py over drawn videos with known paths: ids, crossings, zones, slices, and the files that have them."""

import csv
import json
import logging

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import detect
import val
from utils.base.constants import TRACKERS
from utils.files.images import write_image
from utils.predict.tracking import NO_ID
from utils.predict.video import VideoWriter

HW = (96, 128)
FRAMES = 16
SIDE = 16
CHANNELS = {"red": 0, "green": 1, "blue": 2}  # in the network's RGB
CONFIDENCE = 0.9


def left_to_right(i):
    """The centre of a square that crosses x = 64 once."""
    return 14 + 6 * i, 20


def right_to_left(i):
    """The centre of a square that crosses x = 64 once, the other way."""
    return 112 - 6 * i, 70


def standing(_i):
    """The centre of a square that stays."""
    return 20, 46


PATHS = {"red": left_to_right, "green": right_to_left, "blue": standing}


class Squares(nn.Module):
    """Finds the bounding box of each pure colour in the network's images; its class is the colour's index."""

    names = tuple(CHANNELS)
    stride = torch.tensor([8.0, 16, 32])

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 3, 1, 1), -1.0) + 2 * torch.eye(3)[..., None, None])
        self.confidence = {}  # by the number of a forward pass and the class; others CONFIDENCE
        self.min_pixels = 1  # of a square in the network's image
        self.shapes = []

    def forward(self, x, augment=False):
        maps = nn.functional.conv2d(x.float(), self.weight)  # (B, 3, H, W), over 0.5 where a colour is pure
        self.shapes.append(tuple(x.shape))
        rows = torch.zeros(len(x), 3, 8)
        for b, image in enumerate(maps):
            for kind, plane in enumerate(image):
                ys, xs = torch.where(plane > 0.5)
                if len(xs) >= self.min_pixels:
                    low, high = torch.stack((xs.min(), ys.min())), torch.stack((xs.max(), ys.max())) + 1
                    rows[b, kind, :4] = torch.cat(((low + high) / 2, high - low))
                    rows[b, kind, 4] = self.confidence.get((len(self.shapes) - 1, kind), CONFIDENCE)
                    rows[b, kind, 5 + kind] = 1
        return rows, []


@pytest.fixture
def model(monkeypatch):
    fake = Squares().eval()
    monkeypatch.setattr(detect, "load_backend", lambda weights, device, **how: fake)
    return fake


@pytest.fixture
def run(model, tmp_path, caplog):
    """`detect.run` with the model above, results in tmp_path/runs."""
    caplog.set_level(logging.INFO, "yolov5")
    (tmp_path / "best.pt").touch()

    def call(**options):
        how = {"imgsz": HW[1], "save_csv": True, "save_json": True} | options
        return detect.run(weights=tmp_path / "best.pt", project=str(tmp_path / "runs"), **how)

    return call


@pytest.fixture
def clip(tmp_path):
    """The paths as a video."""
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 10) as writer:
        for i in range(FRAMES):
            writer.write(picture(i))
    return path


def picture(i):
    """A grey image with the squares at their places in frame i."""
    image = np.full((*HW, 3), 90, np.uint8)
    for name, path in PATHS.items():
        x, y = path(i)
        bgr = [0, 0, 0]
        bgr[2 - CHANNELS[name]] = 255
        cv2.rectangle(image, (x - SIDE // 2, y - SIDE // 2), (x + SIDE // 2 - 1, y + SIDE // 2 - 1), bgr, -1)
    return image


def table(folder):
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", TRACKERS)
def test_ids_stay_with_their_objects(run, clip, name):
    rows = table(run(source=clip, track=name))
    assert len(rows) == 3 * FRAMES
    ids = {name: {row["track_id"] for row in rows if row["name"] == name} - {str(NO_ID)} for name in PATHS}
    assert sorted(len(found) for found in ids.values()) == [1, 1, 1]
    assert set.union(*ids.values()) == {"1", "2", "3"}
    late = [row for row in rows if int(row["frame"]) > 4]
    assert all(row["track_id"] != str(NO_ID) for row in late)  # each is confirmed by then


def test_all_files_have_the_ids(run, clip):
    import trackers

    folder = run(source=clip, track="bytetrack", save_txt=True, save_conf=True, save_mot=True)
    rows = table(folder)
    entries = json.loads((folder / "predictions.json").read_text())
    assert [(e["frame"], e["track_id"]) for e in entries] == [(int(r["frame"]), int(r["track_id"])) for r in rows]
    labels = [line.split() for line in (folder / "labels" / "clip_9.txt").read_text().splitlines()]
    ninth = [row for row in rows if row["frame"] == "9"]
    assert [(len(fields), int(fields[6])) for fields in labels] == [(7, int(row["track_id"])) for row in ninth]

    tracks = trackers.load_mot_file(folder / "mot" / "clip.txt")
    expected = {(int(row["frame"]), int(row["track_id"])): row for row in rows if int(row["track_id"]) != NO_ID}
    found = {}
    for frame, data in tracks.items():
        for track_id, box in zip(data.ids.tolist(), data.boxes.tolist(), strict=True):
            found[frame, track_id] = box
    assert found.keys() == expected.keys()
    for key, (left, top, width, height) in found.items():
        corners = [float(expected[key][name]) for name in ("x1", "y1", "x2", "y2")]
        assert [left, top, left + width, top + height] == corners


def test_an_unsure_detection_continues_a_track_and_starts_none(run, clip, model):
    model.confidence = {(i, 0): 0.15 for i in (7, 8)} | {(i, 1): 0.15 for i in range(FRAMES)}
    rows = table(run(source=clip, track="bytetrack"))
    red = [row for row in rows if row["name"] == "red"]
    assert len(red) == FRAMES
    assert len({row["track_id"] for row in red[2:]}) == 1
    assert not [row for row in rows if row["name"] == "green"]


def test_each_video_begins_at_one_and_images_have_no_ids(run, clip, tmp_path, caplog):
    folder = tmp_path / "both"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_bytes(clip.read_bytes())
    for i in range(3):
        write_image(folder / f"p{i}.png", picture(i))
    out = run(source=folder, track="ocsort", save_mot=True, batch_size=4)
    rows = table(out)
    for name in ("a.mp4", "b.mp4"):
        assert {int(r["track_id"]) for r in rows if r["image"].endswith(name)} == {NO_ID, 1, 2, 3}
    assert {int(r["track_id"]) for r in rows if r["image"].endswith(".png")} == {NO_ID}
    assert sorted(path.name for path in (out / "mot").iterdir()) == ["a.txt", "b.txt"]
    assert len([record for record in caplog.records if "p0.png" in record.message and "--track" in record.message]) == 1


def test_ids_are_drawn(run, clip):
    plain, tracked = run(source=clip, line_thickness=1), run(source=clip, line_thickness=1, track="bytetrack")
    frames = []
    for folder in (plain, tracked):
        capture = cv2.VideoCapture(str(folder / "clip.mp4"))
        frames.append([capture.read()[1] for _ in range(FRAMES)][-1].astype(int))
    assert np.abs(frames[0] - frames[1]).max() > 60


@pytest.mark.parametrize(
    ("options", "words"),
    [({"track": "deepsort"}, "--track deepsort.*bytetrack"), ({"save_mot": True}, "--save-mot.*--track")],
)
def test_wrong_options(run, clip, options, words):
    with pytest.raises(ValueError, match=words):
        run(source=clip, **options)


def test_a_missing_package_is_named_with_its_command(run, clip, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "trackers", None)
    with pytest.raises(ImportError, match=r"trackers.*requirements-track\.txt"):
        run(source=clip, track="sort")


# Lines and zones ------------------------------------------------------------------------------------------------------


LINE = [64, 0, 64, 95]
ZONES = {"left": [[0, 0], [63, 0], [63, 95], [0, 95]], "upper right": [[64, 0], [127, 0], [127, 40], [64, 40]]}


def counts(folder):
    """The rows of counts.json by image, counter and class; counts.csv has the same."""
    rows = json.loads((folder / "counts.json").read_text())
    with (folder / "counts.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]
    return {(row["counter"], row["class"]): row for row in rows}


@pytest.mark.parametrize("name", TRACKERS)
def test_crossings(run, clip, name):
    folder = run(source=clip, track=name, line=LINE)
    found = counts(folder)
    assert {key: (row["in"], row["out"]) for key, row in found.items()} == {
        ("line", "all"): (1, 1),
        ("line", "red"): (1, 0),
        ("line", "green"): (0, 1),
    }
    crossed = {row["name"]: (int(row["frame"]), row["crossed"]) for row in table(folder) if row["crossed"]}
    first = {
        "red": next(i for i in range(FRAMES) if left_to_right(i)[0] - SIDE // 2 > LINE[0]) + 1,
        "green": next(i for i in range(FRAMES) if right_to_left(i)[0] + SIDE // 2 < LINE[0]) + 1,
    }
    assert crossed == {"red": (first["red"], "in"), "green": (first["green"], "out")}


def test_the_lines_direction_names_in_and_out(run, clip):
    turned = counts(run(source=clip, track="bytetrack", line=LINE[2:] + LINE[:2]))
    assert {key[1]: (row["in"], row["out"]) for key, row in turned.items()} == {
        "all": (1, 1),
        "red": (0, 1),
        "green": (1, 0),
    }


@pytest.mark.parametrize("track", [None, "bytetrack"])
def test_zones(run, clip, tmp_path, track):
    (tmp_path / "zones.json").write_text(json.dumps(ZONES))
    folder = run(source=clip, track=track, zone=str(tmp_path / "zones.json"))
    found = counts(folder)
    inside = {name: [] for name in ZONES}
    for i in range(FRAMES):
        bottoms = {name: (path(i)[0], path(i)[1] + SIDE // 2) for name, path in PATHS.items()}
        inside["left"].append({name for name, (x, _) in bottoms.items() if x < 64})
        inside["upper right"].append({name for name, (x, y) in bottoms.items() if x >= 64 and y <= 40})
    for name, sets in inside.items():
        row = found[name, "all"]
        assert row["max"] == max(map(len, sets))
        assert row["objects"] == (None if track is None else len(set.union(*sets)))
    for i in range(FRAMES):
        rows = {row["name"]: row["zones"] for row in table(folder) if row["frame"] == str(i + 1)}
        assert rows == {name: ";".join(zone for zone in ZONES if name in inside[zone][i]) for name in PATHS}
    entries = json.loads((folder / "predictions.json").read_text())
    assert {tuple(entry["zones"]) for entry in entries} == {(), ("left",), ("upper right",)}


def test_zones_of_images_have_no_different_objects(run, tmp_path):
    (tmp_path / "zones.json").write_text(json.dumps(ZONES["left"]))
    write_image(tmp_path / "a.png", picture(0))
    row = counts(run(source=tmp_path / "a.png", track="sort", zone=str(tmp_path / "zones.json")))["zone 1", "all"]
    assert (row["max"], row["objects"]) == (2, None)


def test_counts_are_logged_and_drawn(run, clip, tmp_path, caplog):
    (tmp_path / "zones.json").write_text(json.dumps(ZONES["left"]))
    plain = run(source=clip, track="bytetrack")
    folder = run(source=clip, track="bytetrack", line=LINE, zone=str(tmp_path / "zones.json"))
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "1 in and 1 out" in text
    assert "zone 1" in text
    last = [cv2.VideoCapture(str(out / "clip.mp4")) for out in (plain, folder)]
    images = [[capture.read()[1] for _ in range(FRAMES)][-1].astype(int) for capture in last]
    assert np.abs(images[0] - images[1])[5:90, 63:66].max(2).min(1).mean() > 40  # along the line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "zones.json"),
        ("[[1, 2", "zones.json.*JSON"),
        ("[]", "zones.json.*no polygon"),
        ("[[0, 0], [5, 5]]", "zones.json.*zone 1"),
        ('{"door": [[0, 0], [5, 5], [-1, 3]]}', "zones.json.*door"),
        ('{"door": [[0, 0], [5, 5], ["a", 3]]}', "zones.json.*door"),
    ],
)
def test_wrong_zones(run, clip, tmp_path, text, words):
    if text is not None:
        (tmp_path / "zones.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        run(source=clip, zone=str(tmp_path / "zones.json"))


@pytest.mark.parametrize("line", [[1, 2, 1, 2], [1, 2, 3], [0, 0, float("nan"), 5]])
def test_wrong_lines(run, clip, line):
    with pytest.raises(ValueError, match="--line"):
        run(source=clip, track="sort", line=line)


def test_a_line_wants_tracks_and_one_outside_is_warned_of(run, clip, caplog):
    with pytest.raises(ValueError, match="--track"):
        run(source=clip, line=LINE)
    run(source=clip, track="sort", line=[500, 0, 500, 90])
    assert [r for r in caplog.records if r.levelname == "WARNING" and "--line 500" in r.getMessage()]


# Slices ---------------------------------------------------------------------------------------------------------------


SMALL = {"red": (40, 100), "green": (300, 60), "blue": (220, 245)}  # top left corners of squares of SIDE pixels


@pytest.fixture
def large(tmp_path):
    """Two images of 384 x 320 with small squares, and their labels."""
    for part in ("images", "labels"):
        (tmp_path / "set" / part / "val").mkdir(parents=True)
    for i in range(2):
        image, rows = np.full((320, 384, 3), 90, np.uint8), []
        for name, (x, y) in SMALL.items():
            x, y = x + 9 * i, y + 9 * i
            bgr = [0, 0, 0]
            bgr[2 - CHANNELS[name]] = 255
            image[y : y + SIDE, x : x + SIDE] = bgr
            centre = f"{(x + SIDE / 2) / 384} {(y + SIDE / 2) / 320}"
            rows.append(f"{CHANNELS[name]} {centre} {SIDE / 384} {SIDE / 320}\n")
        write_image(tmp_path / "set" / "images" / "val" / f"{i}.png", image)
        (tmp_path / "set" / "labels" / "val" / f"{i}.txt").write_text("".join(rows))
    names = ", ".join(CHANNELS)
    (tmp_path / "set.yaml").write_text(f"path: {tmp_path}/set\nval: images/val\nnc: 3\nnames: [{names}]\n")
    return tmp_path / "set.yaml"


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
def test_slices_find_what_is_too_small_in_the_whole(run, large, model, overlap):
    model.min_pixels = 100
    source = large.with_suffix("") / "images" / "val" / "0.png"
    assert not table(run(source=source))
    rows = table(run(source=source, slice=128, overlap=overlap, batch_size=4))
    boxes = {row["name"]: [float(row[key]) for key in ("x1", "y1", "x2", "y2")] for row in rows}
    assert len(rows) == 3
    for name, (x, y) in SMALL.items():
        np.testing.assert_allclose(boxes[name], [x, y, x + SIDE, y + SIDE], atol=1)
    assert {shape[2:] for shape in model.shapes[2:]} == {(128, 128)}
    assert max(shape[0] for shape in model.shapes) == 4


@pytest.mark.parametrize("size", [384, 1000])
def test_one_slice_is_plain_detection(run, large, model, size):
    source = large.with_suffix("") / "images" / "val"
    plain = table(run(source=source))
    before = len(model.shapes)
    assert table(run(source=source, slice=size)) == plain
    assert len(plain) == 6
    assert len(model.shapes) - before == 2


def test_val_in_slices(model, large, tmp_path, monkeypatch):
    monkeypatch.setattr(val, "load_backend", lambda weights, device, **how: model)
    (tmp_path / "best.pt").touch()
    model.min_pixels = 100
    how = {"imgsz": 128, "noplots": True, "workers": 0, "project": str(tmp_path / "val"), "device": "cpu"}

    def evaluated(**options):
        return val.run(large, tmp_path / "best.pt", **how, **options)

    assert evaluated().map == 0
    assert evaluated(slice=128).map50 > 0.9
    model.min_pixels = 1
    plain, covered = evaluated(), evaluated(slice=384)
    assert plain.map50 > 0
    np.testing.assert_array_equal(covered.stats.ap, plain.stats.ap)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slice": 0}, "--slice 0"),
        ({"slice": 64, "overlap": 1.0}, "--overlap 1"),
        ({"slice": 64, "overlap": -0.1}, "--overlap -0.1"),
        ({"slice": 64, "visualize": True}, "--visualize.*--slice"),
    ],
)
def test_wrong_slices(run, clip, options, words):
    with pytest.raises(ValueError, match=words):
        run(source=clip, **options)
