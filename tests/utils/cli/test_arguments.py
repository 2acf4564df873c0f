"""Which weights are taken, and names that never repeat."""

import logging
import os
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from models.runtimes.coreml import MANIFEST
from utils.cli.arguments import check_limits, check_size, check_threads, meant_options, normalized, thread_count
from utils.cli.detect_options import DetectOptions
from utils.data.label_files import label_rows
from utils.files.names import UniqueNames, run_folder, safe_name
from utils.files.weights import find_weights, initial_weights, newest


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"weights": Path("a.pt"), "data": Path("b.yaml")}, {"weights": ["a.pt"], "data": "b.yaml"}),
        ({"weights": (Path("a.pt"), "b.pt")}, {"weights": ["a.pt", "b.pt"]}),
        ({"imgsz": 640, "half": True}, {"imgsz": [640], "half": True}),
        ({"imgsz": [], "weights": None}, {"imgsz": [], "weights": None}),
        ({"device": 0, "name": 3}, {"device": "0", "name": "3"}),
        ({"device": [0, 1]}, {"device": "0,1"}),
        ({"device": None}, {"device": ""}),
        ({"device": torch.device("cuda", 1)}, {"device": "1"}),
        ({"device": torch.device("cpu")}, {"device": "cpu"}),
    ],
)
def test_normalized(given, expected):
    before = dict(given)
    assert normalized(given, several={"weights", "imgsz"}) == expected
    assert given == before


@pytest.mark.parametrize(
    ("name", "hint"), [("wieghts", "did you mean weights"), ("img", "did you mean imgsz"), ("zzz", "there are data, ")]
)
def test_an_unknown_option_is_said_with_the_nearest(name, hint):
    allowed = {"weights", "imgsz", "data"}
    with pytest.raises(ValueError, match=f"no option is called {name}; {hint}"):
        normalized({"weights": "a.pt", name: 1}, several={"weights"}, allowed=allowed)
    assert normalized({"data": 1}, allowed=allowed) == {"data": 1}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conf", ["conf_thres"]),
        ("confidence", ["conf_thres"]),
        ("iou", ["iou_thres"]),
        ("conf_thresh", ["conf_thres"]),
        ("batch", ["batch_size"]),
        ("size", ["imgsz"]),
        ("img_size", ["imgsz"]),
        ("show", ["view_img"]),
        ("model", ["weights"]),
        ("hide", ["hide_conf", "hide_labels"]),
    ],
)
def test_what_is_meant(name, expected):
    assert meant_options(name, {item.name for item in fields(DetectOptions)}) == expected


def test_run_folder_goes_only_where_it_is_new_and_empty(tmp_path):
    with run_folder(tmp_path / "exp") as first, run_folder(tmp_path / "exp") as second:
        assert (first, second) == (tmp_path / "exp", tmp_path / "exp2")  # two runs at a time share nothing
        (second / "a.jpg").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["exp2"]
    (tmp_path / "mine").mkdir()
    with run_folder(tmp_path / "mine", exist_ok=True):
        pass
    assert (tmp_path / "mine").is_dir()


def run_and_fail(path):
    with run_folder(path):
        raise KeyboardInterrupt


def test_run_folder_of_a_failed_run_goes(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_and_fail(tmp_path / "exp")
    assert not list(tmp_path.iterdir())


def test_label_rows():
    found = torch.tensor([[20.0, 10, 60, 90, 0.25, 1], [100, 0, 200, 100, 0.8125, 0]])
    assert label_rows(found, (100, 200), with_confidence=False) == "1 0.2 0.5 0.2 0.8\n0 0.75 0.5 0.5 1\n"
    assert label_rows(found[1:], (100, 200), with_confidence=True) == "0 0.75 0.5 0.5 1 0.8125\n"
    assert label_rows(found[:0], (100, 200), with_confidence=True) == ""


@pytest.fixture
def runs(tmp_path):
    """Three trainings, of which exp2 wrote last; one has no best.pt."""
    for i, name in enumerate(("exp", "exp3", "exp2")):
        path = tmp_path / "runs" / name / "weights" / "best.pt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1000 + i, 1000 + i))
    (tmp_path / "runs" / "exp4" / "weights").mkdir(parents=True)
    return tmp_path / "runs"


def test_named_weights(tmp_path, runs):
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).touch()
    files = [tmp_path / "a.pt", tmp_path / "b.pt"]
    assert find_weights([str(file) for file in files], runs=runs) == files
    assert find_weights(str(files[0]), runs=runs) == files[:1]
    assert find_weights(files[0], runs=runs) == files[:1]


@pytest.mark.parametrize("weights", [None, [], "default"], ids=str)
def test_default_where_it_is(tmp_path, runs, weights):
    default = tmp_path / "yolov5s.pt"
    default.touch()
    assert find_weights(str(default) if weights == "default" else weights, default, runs) == [default]


@pytest.mark.parametrize("weights", [None, [], "default"], ids=str)
def test_newest_best_in_place_of_the_default(tmp_path, runs, weights, caplog):
    default = tmp_path / "yolov5s.pt"
    with caplog.at_level(logging.INFO, "yolov5"):
        found = find_weights([str(default)] if weights == "default" else weights, default, runs)
    assert found == [runs / "exp2" / "weights" / "best.pt"]
    assert len(caplog.records) == 1
    assert str(found[0]) in caplog.text


def test_nothing_in_place_of_named_weights(tmp_path, runs):
    with pytest.raises(FileNotFoundError, match=r"other\.pt: no such file.*exp2"):
        find_weights([str(tmp_path / "other.pt")], tmp_path / "yolov5s.pt", runs)


def test_no_weights_at_all(tmp_path):
    assert newest(tmp_path / "runs", "best.pt") is None
    assert newest(tmp_path / "runs", "last.pt") is None
    with pytest.raises(FileNotFoundError, match="train with"):
        find_weights(None, tmp_path / "yolov5s.pt", tmp_path / "runs")


def test_unique_names():
    names = UniqueNames()
    claimed = [names.claim(name) for name in ("bus", "bus", "Bus", "bus2", "bus", "bus_1", "bus22")]
    assert claimed == ["bus", "bus2", "Bus3", "bus22", "bus4", "bus_1", "bus222"]
    assert len({name.casefold() for name in claimed}) == len(claimed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("person", "person"),
        ("traffic light", "traffic light"),
        ("猫", "猫"),
        ("a/b\\c:d", "a_b_c_d"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("..", "_"),
        ("", "_"),
        ("host:554/cam?x=1", "host_554_cam_x=1"),
        ("a\nb\x7f", "a_b_"),
        ("x" * 300, "x" * 200),
        ("猫" * 300, "猫" * 66),
    ],
)
def test_safe_name(text, expected):
    assert safe_name(text) == expected


def test_a_folder_is_no_weights(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder; name a \.pt file"):
        find_weights(tmp_path)
    for folder, file in (
        ("a_openvino_model", "a.xml"),
        ("a_ncnn_model", "model.ncnn.param"),
        ("a.mlpackage", MANIFEST),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).touch()
        assert find_weights(tmp_path / folder) == [tmp_path / folder]


def test_weights_to_start_from(tmp_path, caplog):
    file = tmp_path / "yolov5s.pt"
    assert initial_weights("", True, "yolov5n.yaml") is None
    with caplog.at_level(logging.INFO, "yolov5"):
        assert initial_weights(str(file), False, "yolov5n.yaml") is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "yolov5n.yaml" in caplog.text
    assert "releases/download/v6.1/yolov5s.pt" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"yolov5s\.pt: no such file"):
        initial_weights(str(file), True, "yolov5n.yaml")
    file.touch()
    assert initial_weights(str(file), False, "yolov5n.yaml") == file
    with pytest.raises(ValueError, match=r"a \.pt file is wanted"):
        initial_weights("yolov5n.onnx", True, "yolov5n.yaml")
    for name in ("net", "net.pt"):  # whose password nobody is to see
        with pytest.raises(ValueError, match=rf"^--weights http://host/{name}: a \.pt file is wanted"):
            initial_weights(f"http://me:secret@host/{name}", True, "yolov5n.yaml")
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml"):
        initial_weights("", True, "absent.yaml")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((1.1, 0.5), "--conf-thres 1.1: a share"),
        ((float("nan"), 0.5), "--conf-thres nan: a share"),
        ((0.5, -0.1), "--iou-thres -0.1: a share"),
        ((0.5, 0.5, 0), "--max-det 0: 1 or more"),
    ],
)
def test_limits(limits, message):
    with pytest.raises(ValueError, match=message):
        check_limits(*limits[:2], {"--max-det": limits[2] if len(limits) > 2 else 1})
    check_limits(0, 1, {"--max-det": 1})


@pytest.mark.parametrize("imgsz", [[], [1, 2, 3], [0], [64, -1], 0])
def test_no_size(imgsz):
    with pytest.raises(ValueError, match=r"--imgsz .*: (one size, or height and width|1 or more)"):
        check_size(imgsz)
    check_size(None)


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("3", 3), ("0", 0)])
def test_threads(text, value):
    assert thread_count(text) == value
    check_threads(value)


@pytest.mark.parametrize("value", [-1, "all", 1.5])
def test_no_number_of_threads(value):
    with pytest.raises(ValueError, match=f"--threads {value}"):
        check_threads(value)
