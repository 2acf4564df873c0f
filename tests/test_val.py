"""val.py as a user runs it: flags, table, files, errors, empty sets, and known numbers on a real data set."""

import contextlib
import io
import json
import logging
import sys

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import nn

import val
from models.experimental import attempt_load
from utils.data.coco_ids import COCO_IDS, is_coco
from utils.data.config import DataConfig
from utils.data.labels import find_images, scan
from utils.files.images import write_image
from utils.general import ROOT

NAMES = ["cell", "plate"]
NUMBERS = {"results.json", "thresholds.yaml"}
SQUARE = (0.5, 0.5, 0.25, 0.25)  # the label that the fake model finds


class OneBox(nn.Module):
    """Finds a cell in the middle of every image, and a plate left of it half as surely."""

    names = NAMES
    stride = torch.tensor([8.0, 16, 32])

    def __init__(self):
        super().__init__()
        self.confidence = nn.Parameter(torch.tensor(0.9))
        self.seen = []

    def forward(self, x, augment=False):
        self.seen.append((tuple(x.shape), x.dtype, augment))
        h, w = x.shape[2:]
        side = min(h, w) - 32  # half a stride of padding on both sides
        cell = [w / 2, h / 2, side / 4, side / 4, float(self.confidence), 1, 0]
        plate = [w / 2 - side / 4, h / 2, side / 8, side / 4, float(self.confidence) / 2, 0, 1]
        return torch.tensor([cell, plate]).expand(len(x), 2, 7), []


@pytest.fixture
def model(monkeypatch):
    fake = OneBox().eval()
    monkeypatch.setattr(val, "load_backend", lambda weights, device, **options: fake)
    return fake


def make_data(folder, labels, names=NAMES, stem="{}"):
    """A data set of square gray pictures of 64 pixels with a list of label rows each; its yaml."""
    for i, rows in enumerate(labels):
        path = folder / "images" / "val" / f"{stem.format(i)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.full((64, 64, 3), 90, np.uint8))
        text = folder / "labels" / "val" / f"{path.stem}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    yaml = folder / "data.yaml"
    yaml.write_text(f"path: {folder}\ntrain: images/val\nval: images/val\nnames: {json.dumps(list(names))}\n")
    return yaml


@pytest.fixture
def run(model, tmp_path, caplog):
    """`val.run` on a data set with the model above; gives the result, the folder of files and the console's lines."""
    caplog.set_level(logging.INFO, "yolov5")
    (tmp_path / "best.pt").touch()

    def call(data, **options):
        caplog.clear()
        common = {"project": str(tmp_path / "runs"), "name": "exp", "exist_ok": True, "workers": 0, "imgsz": 64}
        fixed = {"noplots": True, "device": "cpu", "weights": tmp_path / "best.pt"}
        result = val.run(**fixed | common | options | {"data": str(data)})
        return result, tmp_path / "runs" / "exp", [record.getMessage() for record in caplog.records]

    return call


# Flags ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--imgsz", "--img", "--img-size"])
def test_names_of_the_size(flag):
    assert val.parse_opt([flag, "320", "--weights", "a.pt", "b.pt"]).imgsz == 320


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conf_thres": 2}, "--conf-thres 2"),
        ({"iou_thres": -1}, "--iou-thres -1"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"imgsz": 0}, "--imgsz 0"),
        ({"max_det": 0}, "--max-det 0"),
        ({"workers": -1}, "--workers -1"),
        ({"threads": -1}, "--threads -1"),
        ({"task": "fast"}, "--task fast: must be one of train, val, test, speed, study"),
        ({"task": "study", "sizes": []}, "--sizes"),
        ({"task": "study", "sizes": [64, 0]}, "--sizes"),
        ({"task": "study", "sizes": [64], "weights": ["absent.pt"]}, "absent.pt"),
        ({"task": "test"}, "has no `test`"),
        ({"weights": "absent.pt"}, "absent.pt"),
        ({"data": "absent.yaml"}, "absent.yaml"),
    ],
)
def test_errors_say_what_is_wrong(options, message, run, tmp_path):
    data = make_data(tmp_path / "set", [[]])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(**{"data": data} | options)
    assert not (tmp_path / "runs").exists()


# Results --------------------------------------------------------------------------------------------------------------


def test_table_and_summary(run, model, tmp_path):
    data = make_data(tmp_path / "set", [[(0, *SQUARE)], [(0, *SQUARE), (1, 0.1, 0.1, 0.1, 0.1)], []])
    result, folder, lines = run(data, augment=True)
    assert result.counts.tolist() == [2, 1]
    assert result.stats.ap[0] == pytest.approx(np.full(10, result.map50 * 2))
    table = [line.split() for line in lines if len(line) == 20 + 6 * 11 and "Speed" not in line]
    assert [row[:3] for row in table] == [
        ["Class", "Images", "Labels"],
        ["all", "3", "3"],
        ["cell", "3", "2"],
        ["plate", "3", "1"],
    ]
    assert any(line.startswith("Speed: ") for line in lines)
    assert "on 3 images of val, P and R at confidence 0." in lines[-1]
    assert str(folder) in lines[-1]
    assert model.seen == [((3, 3, 96, 96), torch.float32, True)]
    assert {path.name for path in folder.iterdir()} == NUMBERS


def test_warns_of_high_confidence_and_other_names(run, model, tmp_path):
    data = make_data(tmp_path / "set", [[(0, *SQUARE)]], names=["cell", "dish"])
    _, _, lines = run(data, conf_thres=0.25)
    assert any("cuts the curves" in line for line in lines)
    assert any("class 1 is 'plate' to the model and 'dish'" in line for line in lines)


def test_classes_that_differ(run, tmp_path):
    data = make_data(tmp_path / "set", [[(2, *SQUARE)]], names=["a", "b", "c"])
    with pytest.raises(ValueError, match="the model has 2 classes, the data set 3"):
        run(data)
    result, _, _ = run(data, single_cls=True)
    assert result.map50 == pytest.approx(1)
    assert result.names == ("item",)


@pytest.mark.parametrize("labels", [[[]], [[], []], [[(1, *SQUARE)]]])
@pytest.mark.parametrize("finds", [True, False])
def test_nothing_right(run, model, tmp_path, labels, finds):
    model.confidence.data.fill_(0.9 if finds else 0.0)
    options = {"save_txt": True, "save_json": True, "noplots": False}
    result, folder, _ = run(make_data(tmp_path / "set", labels), **options)
    assert (result.map, result.map50, result.mp, result.mr) == (0, 0, 0, 0)
    assert result.counts.tolist() == [0, sum(map(len, labels))]
    assert len(json.loads((folder / "best_predictions.json").read_text())) == 2 * len(labels) * finds
    assert len(list((folder / "labels").iterdir())) == len(labels) * finds


def test_single_class_with_plots(run, tmp_path):
    _, folder, _ = run(make_data(tmp_path / "set", [[(1, *SQUARE)]]), single_cls=True, noplots=False)
    assert (folder / "confusion_matrix.png").exists()


# Files ----------------------------------------------------------------------------------------------------------------


def test_plots(run, tmp_path):
    _, folder, _ = run(make_data(tmp_path / "set", [[(0, *SQUARE)]] * 4), noplots=False, batch_size=1)
    expected = {f"{name}_curve.png" for name in ("PR", "F1", "P", "R")} | {"confusion_matrix.png", "AP_bars.png"}
    expected |= {f"val_batch{i}_{kind}.jpg" for i in range(3) for kind in ("labels", "pred")}
    assert {path.name for path in folder.iterdir()} == expected | NUMBERS | {"report.html", "report.json"}
    for name in expected:
        assert cv2.imread(str(folder / name)) is not None


def test_numbers_in_files(run, tmp_path):
    data = make_data(tmp_path / "set", [[(0, *SQUARE)], [(0, *SQUARE), (1, 0.1, 0.1, 0.1, 0.1)]])
    result, folder, lines = run(data, verbose=True)
    content = json.loads((folder / "results.json").read_text())
    assert (content["images"], content["labels"]) == (2, 3)
    assert (content["mAP_0.5"], content["threshold"]) == (result.map50, result.threshold)
    assert content["sizes"] == {
        "small": {"labels": 3, "mAP_0.5": 0.5, "mAP_0.5:0.95": 0.5},
        "medium": {"labels": 0, "mAP_0.5": None, "mAP_0.5:0.95": None},
        "large": {"labels": 0, "mAP_0.5": None, "mAP_0.5:0.95": None},
    }
    start = next(i for i, line in enumerate(lines) if line.split()[0] == "Size")
    assert [line.split() for line in lines[start : start + 4]] == [
        ["Size", "Labels", "mAP@.5", "mAP@.5:.95"],
        ["small", "3", "0.5", "0.5"],
        ["medium", "0", "-", "-"],
        ["large", "0", "-", "-"],
    ]
    thresholds = yaml.safe_load((folder / "thresholds.yaml").read_text())
    assert list(thresholds) == NAMES
    assert thresholds["cell"] == pytest.approx(0.425, abs=0.002)  # the middle of what is right at 0 to 0.9, smoothed
    assert thresholds["plate"] is None


def test_labels_join_what_is_found(run, tmp_path):
    corner = (0.1, 0.1, 0.125, 0.125)
    data = make_data(tmp_path / "set", [[(0, *SQUARE), (1, *corner)]])
    result, folder, lines = run(data, save_hybrid=True, save_conf=True)
    rows = np.loadtxt(folder / "labels" / "0.txt")
    expected = [[0, *SQUARE, 1], [1, *corner, 1], [1, 0.25, 0.5, 0.125, 0.25, 0.45]]  # the found cell is the label's
    np.testing.assert_allclose(rows[rows[:, :2].argsort(0)[:, 0]][:1], expected[:1], atol=1e-5)
    assert sorted(map(tuple, rows.round(4).tolist())) == sorted(tuple(map(float, row)) for row in expected)
    assert result.map == pytest.approx(1)
    assert any("mAP and all other numbers come out far too high" in line for line in lines)
    assert not (folder / "thresholds.yaml").exists()
    result, _, lines = run(data)
    assert result.map50 < 0.6
    assert not any("too high" in line for line in lines)


def test_hybrid_with_all_classes_as_one(run, tmp_path):
    data = make_data(tmp_path / "set", [[(1, 0.1, 0.1, 0.125, 0.125)], []])
    result, folder, _ = run(data, save_hybrid=True, single_cls=True)
    assert result.map == pytest.approx(1)
    assert len(np.loadtxt(folder / "labels" / "0.txt")) == 3
    assert len(np.loadtxt(folder / "labels" / "1.txt")) == 2


# Speed and study ------------------------------------------------------------------------------------------------------


def test_speed(run, model, tmp_path):
    data = make_data(tmp_path / "set", [[(0, *SQUARE)]])
    second = tmp_path / "second.pt"
    second.touch()
    options = {"save_txt": True, "save_json": True, "noplots": False, "conf_thres": 0.6, "iou_thres": 0.9}
    results, folder, lines = run(data, task="speed", weights=[tmp_path / "best.pt", second], **options)
    assert len(results) == 2
    assert [shape for shape, *_ in model.seen] == [(1, 3, 64, 64)] * 2  # no padding
    assert results[0].stats.recall_curve.shape == (1, 1000)
    assert sum(line.startswith("Speed: ") for line in lines) == 2
    remark = "at 64 pixels, confidence 0.25, IoU 0.45, FP32, as detect.py has them: its mAP is"
    assert sum(remark in line for line in lines) == 2
    assert any("--save-txt is left out" in line for line in lines)
    assert not any("cuts the curves" in line for line in lines)
    assert not folder.exists()


def test_the_network_is_compiled_for_all_shapes(run, model, monkeypatch, tmp_path):
    compiled = []
    monkeypatch.setattr(val, "compile_network", lambda network, is_dynamic: compiled.append((network, is_dynamic)))
    data = make_data(tmp_path / "set", [[(0, *SQUARE)]])
    run(data)
    assert not compiled
    run(data, compile=True)
    assert compiled == [(model, True)]


def test_speed_has_the_limits_of_detection(run, monkeypatch, tmp_path):
    seen = []
    evaluate = val.evaluate
    monkeypatch.setattr(val, "evaluate", lambda *args, **named: seen.append(named) or evaluate(*args, **named))
    run(make_data(tmp_path / "set", [[(0, *SQUARE)]]), task="speed", save_hybrid=True)
    (named,) = seen
    settings = named["settings"]
    assert (settings.conf_thres, settings.iou_thres, settings.half) == (0.25, 0.45, False)
    assert not settings.by_size
    assert not settings.hybrid


def test_study(run, model, tmp_path):
    data = make_data(tmp_path / "set", [[(0, *SQUARE)], []])
    other = tmp_path / "other" / "best.pt"
    other.parent.mkdir()
    other.touch()
    results, folder, _ = run(data, task="study", sizes=[64, 90], weights=[tmp_path / "best.pt", other])
    assert [shape for shape, *_ in model.seen] == [(2, 3, side, side) for side in (96, 128)] * 2
    assert {path.name for path in folder.iterdir()} == {"study_data_best.txt", "study_data_best2.txt", "study.png"}
    for name, own in {"best": results[:2], "best2": results[2:]}.items():
        table = np.loadtxt(folder / f"study_data_{name}.txt")
        expected = [[one.mp, one.mr, one.map50, one.map, 0, 0, 0, *one.speed_ms] for one in own]
        np.testing.assert_allclose(table, expected, rtol=1e-3)
    assert cv2.imread(str(folder / "study.png")) is not None


def test_label_files(run, model, tmp_path):
    data = make_data(tmp_path / "set", [[(0, *SQUARE)]])
    _, folder, _ = run(data, save_txt=True, save_conf=True)
    _, folder, _ = run(data, save_txt=True, save_conf=True)  # replaces, does not append
    rows = np.loadtxt(folder / "labels" / "0.txt")
    np.testing.assert_allclose(rows, [[0, *SQUARE, 0.9], [1, 0.25, 0.5, 0.125, 0.25, 0.45]], atol=1e-6)
    _, folder, _ = run(data, save_txt=True)
    assert np.loadtxt(folder / "labels" / "0.txt").shape == (2, 5)
    model.confidence.data.fill_(0)
    run(data, save_txt=True)
    assert list((folder / "labels").iterdir()) == []


@pytest.mark.parametrize(("stem", "image_id"), [("00{}7", 7), ("cell_{}", "cell_0")])
def test_json(run, tmp_path, stem, image_id):
    _, folder, lines = run(make_data(tmp_path / "set", [[(0, *SQUARE)]], stem=stem), save_json=True)
    cell, plate = json.loads((folder / "best_predictions.json").read_text())
    assert cell == {"image_id": image_id, "category_id": 0, "bbox": [24.0, 24.0, 16.0, 16.0], "score": 0.9}
    assert plate == {"image_id": image_id, "category_id": 1, "bbox": [12.0, 24.0, 8.0, 16.0], "score": 0.45}
    assert not any("pycocotools" in line for line in lines)


def annotate(data, categories=((7, "plate"), (3, "cell"))):
    """The COCO annotations of a data set's val split, with numbers of its own for images and classes."""
    config = DataConfig.from_yaml(data)
    records, _ = scan(find_images(config.split("val")), config.nc)
    numbers = {name: index for index, name in categories}
    images, annotations = [], []
    for number, record in enumerate(records, 100):
        h, w = record.hw
        images.append({"id": number, "file_name": record.image.rsplit("/", 1)[-1], "height": h, "width": w})
        for index, x, y, bw, bh in record.boxes.astype(float).tolist():
            box = [(x - bw / 2) * w, (y - bh / 2) * h, bw * w, bh * h]
            known = {"id": len(annotations) + 1, "image_id": number, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            annotations.append(known | {"category_id": numbers.get(config.names[int(index)], 0)})
    kinds = [{"id": index, "name": name} for index, name in categories]
    return {"images": images, "annotations": annotations, "categories": kinds}


def write_annotations(data, content):
    path = data.parent / "annotations" / "instances_val.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))


def test_pycocotools_rates_the_json(run, tmp_path):
    pytest.importorskip("pycocotools")
    data = make_data(tmp_path / "set", [[(0, *SQUARE)], [(0, *SQUARE), (1, 0.1, 0.1, 0.1, 0.1)]], stem="x{}")
    write_annotations(data, annotate(data))
    _, folder, lines = run(data, save_json=True)
    rows = json.loads((folder / "best_predictions.json").read_text())
    assert {(row["image_id"], row["category_id"]) for row in rows} == {(100, 3), (100, 7), (101, 3), (101, 7)}
    (line,) = [line for line in lines if line.startswith("pycocotools")]
    assert line.endswith("mAP@.5 0.500, mAP@.5:.95 0.500")


@pytest.mark.parametrize("case", ["not installed", "unknown image", "unknown class", "nothing found"])
def test_why_pycocotools_does_not_rate(case, run, model, tmp_path, monkeypatch):
    data = make_data(tmp_path / "set", [[(0, *SQUARE)]])
    content, reason = annotate(data), {"unknown image": "is not in", "unknown class": "no category"}.get(case, case)
    if case == "not installed":
        monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
        reason = "pip install pycocotools"
    elif case == "nothing found":
        model.confidence.data.fill_(0)
        reason = "nothing was found"
    elif case == "unknown image":
        content["images"] = []
    else:
        content["categories"] = []
    if case in {"unknown image", "nothing found"}:
        pytest.importorskip("pycocotools")
    write_annotations(data, content)
    result, _, lines = run(data, save_json=True)
    assert any("official COCO result is left out" in line and reason in line for line in lines)
    assert result.images == 1


@pytest.mark.parametrize("where", ["images", "annotations"])
def test_images_of_one_name_are_not_rated(where, run, tmp_path):
    data = make_data(tmp_path / "set", [[(0, *SQUARE)]])
    content = annotate(data)
    if where == "images":
        (tmp_path / "set" / "images" / "val" / "more").mkdir()
        write_image(tmp_path / "set" / "images" / "val" / "more" / "0.png", np.full((64, 64, 3), 90, np.uint8))
    else:
        content["images"].append({"id": 101, "file_name": "more/0.png", "height": 64, "width": 64})
    write_annotations(data, content)
    _, folder, lines = run(data, save_json=True)
    assert len(json.loads((folder / "best_predictions.json").read_text())) == (4 if where == "images" else 2)
    assert any("several images" in line and "official COCO result" in line for line in lines)
    assert not any(line.startswith("pycocotools") for line in lines)


def test_annotations_that_are_none(run, tmp_path):
    data = make_data(tmp_path / "set", [[]])
    write_annotations(data, {"images": []})
    with pytest.raises(ValueError, match=r"instances_val.json: has no 'annotations'"):
        run(data, save_json=True)


def test_coco_is_known_by_its_classes():
    names = DataConfig.from_yaml(ROOT / "data" / "coco.yaml").names
    assert is_coco(names)
    assert is_coco(list(names))
    assert not is_coco(names[::-1])
    assert not is_coco(names[:79])
    assert len(COCO_IDS) == 80
    numbers = dict(zip(names, COCO_IDS, strict=True))
    assert [numbers[name] for name in ("person", "stop sign", "backpack", "toilet", "toothbrush")] == [
        1,
        13,
        27,
        70,
        90,
    ]


# Known numbers --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bccd_yaml(shared, tmp_path_factory):
    """The BCCD data set through links, so that nothing is written into the folder that is shared."""
    folder = tmp_path_factory.mktemp("bccd")
    (folder / "images").symlink_to(shared / "datasets" / "bccd" / "images")
    (folder / "labels").symlink_to(shared / "datasets" / "bccd" / "labels")
    yaml = folder / "bccd.yaml"
    yaml.write_text(
        f"path: {folder}\ntrain: images/train\nval: images/val\ntest: images/test\nnames: [RBC, WBC, Platelets]\n"
    )
    return yaml


@pytest.mark.parametrize(("task", "imgsz"), [("val", 320), ("test", 320), ("val", 640)])
def test_equals_the_v7_line_and_pycocotools(task, imgsz, bccd_yaml, shared, tmp_path):
    weights = shared / "weights" / "yolov5n-bccd.pt"
    common = {"device": "cpu", "project": str(tmp_path), "workers": 0, "noplots": True}
    result = val.run(weights=weights, data=str(bccd_yaml), task=task, imgsz=imgsz, **common)
    golden = json.loads((shared / "golden" / "val_bccd.json").read_text())
    expected = golden["reference_per_level"][f"{task}_{imgsz}"]
    assert (result.mp, result.mr) == pytest.approx((expected["P"], expected["R"]), abs=0.002)
    # Beyond the last recall the v7 line goes on along a line to (1, 0); so its mAP is a little higher.
    assert (result.map50, result.map) == pytest.approx((expected["mAP50"], expected["mAP50_95"]), abs=0.005)
    if imgsz == 320:
        expected = golden["pycocotools_imgsz_320"][task]
        assert (result.map50, result.map) == pytest.approx((expected["AP50"], expected["AP"]), abs=0.002)
        np.testing.assert_allclose(result.stats.ap.mean(1), expected["per_class"], atol=0.002)


class Replayed(nn.Module):
    """A network that computes each batch once, and from then on gives what it gave."""

    def __init__(self, network):
        super().__init__()
        self.network, self.names, self.stride = network, network.names, network.stride
        self.seen = {}

    def forward(self, images, augment=False):
        key = (tuple(images.shape), float(images.double().sum()))
        if key not in self.seen:
            self.seen[key] = self.network(images)
        return self.seen[key]


@pytest.fixture(scope="module")
def replayed(shared):
    return Replayed(attempt_load(shared / "weights" / "yolov5n-bccd.pt"))


@pytest.mark.parametrize("max_det", [5, 300])
@pytest.mark.parametrize("conf_thres", [0.001, 0.25, 0.5, 0.7])
def test_equals_pycocotools_on_the_same_detections(
    conf_thres, max_det, bccd_yaml, replayed, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(val, "load_backend", lambda weights, device, **options: replayed)
    (tmp_path / "best.pt").touch()
    limits = {"conf_thres": conf_thres, "max_det": max_det, "imgsz": 320}
    common = {"device": "cpu", "project": str(tmp_path), "workers": 0, "noplots": True, "save_json": True}
    result = val.run(weights=tmp_path / "best.pt", data=str(bccd_yaml), **limits, **common)
    precision = pycocotools_precision(bccd_yaml, tmp_path / "exp" / "best_predictions.json", max_det)
    expected = precision[:, :, :, 0]  # (levels, recalls, classes)
    np.testing.assert_allclose(result.stats.ap.mean(1), expected.mean((0, 1)), atol=1e-4)
    assert (result.map, result.map50) == pytest.approx((expected.mean(), expected[0].mean()), abs=1e-4)
    np.testing.assert_allclose(result.stats.pr_curve.mean(1), result.stats.ap[:, 0], atol=0.01)  # what is drawn
    for size in range(3):
        of_size = precision[:, :, :, size + 1]
        known = of_size[of_size > -1].mean() if (of_size > -1).any() else np.nan
        assert result.sizes.map[size] == pytest.approx(known, abs=0.005, nan_ok=True)  # borders are 0.1 px apart
    said = [record.getMessage() for record in caplog.records]
    assert any("--conf-thres" in line and "AP comes out lower" in line for line in said) == (conf_thres > 0.001)
    assert any("--max-det 5" in line and "AP comes out lower" in line for line in said) == (max_det == 5)


def pycocotools_precision(data, predictions, max_det):
    """pycocotools' precision (levels, recalls, classes, areas) of a result file, with up to max_det of an image."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = annotate(data, categories=((0, "RBC"), (1, "WBC"), (2, "Platelets"))) | {"info": {}}
        stems = {image["file_name"].rsplit(".", 1)[0]: image["id"] for image in truth.dataset["images"]}
        truth.createIndex()
        rows = [row | {"image_id": stems[row["image_id"]]} for row in json.loads(predictions.read_text())]
        rating = cocoeval.COCOeval(truth, truth.loadRes(rows), "bbox")
        rating.params.maxDets = [1, 10, max_det]
        rating.evaluate()
        rating.accumulate()
    return rating.eval["precision"][..., 2]


def test_the_result_unpacks_as_v61s(run, model, tmp_path):
    data = make_data(tmp_path / "set", [[(0, *SQUARE)]])
    result, _, lines = run(data, plots=False)
    results, maps, times = result
    assert results == (result.mp, result.mr, result.map50, result.map, 0, 0, 0)
    assert maps.tolist() == result.maps.tolist()
    assert (times, len(times), result[0][2], len(result)) == (result.speed_ms, 3, result.map50, 3)
    assert len(repr(result)) < 160
    assert f"{result.map50:.3f}" in repr(result)
    assert any("mAP@.5" in line for line in lines)


@pytest.mark.parametrize(("plots", "is_drawn"), [(True, True), (False, False)])
def test_plots_of_v61(model, tmp_path, plots, is_drawn):
    (tmp_path / "best.pt").touch()
    data = make_data(tmp_path / "set", [[(0, *SQUARE)]])
    common = {"weights": tmp_path / "best.pt", "project": tmp_path / "runs", "workers": 0, "imgsz": 64, "device": "cpu"}
    val.run(data, plots=plots, **common)
    assert (tmp_path / "runs" / "exp" / "PR_curve.png").exists() == is_drawn


def test_label_files_of_images_of_one_stem(run, model, tmp_path):
    data = make_data(tmp_path / "set", [[(0, *SQUARE)], [(0, *SQUARE)]])
    images = tmp_path / "set" / "images" / "val"
    (first, second) = sorted(images.iterdir())
    (images / "sub").mkdir()
    second.rename(images / "sub" / first.name)
    _, folder, _ = run(data, save_txt=True)
    assert sorted(path.name for path in (folder / "labels").iterdir()) == ["sub_0.txt", "val_0.txt"]


def test_v61s_positions_and_unknown_options():
    with pytest.raises(ValueError, match="did you mean imgsz"):
        val.run(img=64)
    with pytest.raises(FileNotFoundError, match=r"--weights absent\.pt: no such file"):
        val.run("shapes.yaml", "absent.pt")
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml: no such file"):
        val.run("absent.yaml", "absent.pt")
