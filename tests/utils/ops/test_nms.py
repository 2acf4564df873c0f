"""Non-maximum suppression: v6.1's numbers, both back ends, limits, and predictions that are none."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from utils.general import ROOT, non_max_suppression
from utils.ops import nms
from utils.ops.nms import nms_opencv

GOLDEN = np.load(ROOT / "tests" / "golden" / "nms.npz")
SETTINGS = {
    "val": {"conf_thres": 0.001, "iou_thres": 0.6, "multi_label": True},
    "detect": {},
    "agnostic": {"agnostic": True},
    "classes": {"conf_thres": 0.1, "classes": [1, 4]},
    "max_det": {"conf_thres": 0.05, "max_det": 20},
}


@pytest.fixture
def golden_prediction():
    return torch.from_numpy(GOLDEN["pred"])


def random_prediction(seed, images=2, count=400, nc=3, side=300):
    rng = np.random.default_rng(seed)
    xy, wh = rng.uniform(0, side, (images, count, 2)), rng.uniform(5, side / 3, (images, count, 2))
    return torch.from_numpy(np.concatenate((xy, wh, rng.uniform(0, 1, (images, count, 1 + nc))), 2)).float()


def greedy(boxes, iou_thres):
    """Indices of boxes (n, 4) in order, each of which stays unless a kept one overlaps it too much."""
    kept = []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i, box in enumerate(boxes):
        sides = np.minimum(box[2:], boxes[kept, 2:]) - np.maximum(box[:2], boxes[kept, :2])
        both = sides.clip(0).prod(1)
        if not (both / (areas[i] + areas[kept] - both) > iou_thres).any():
            kept.append(i)
    return kept


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("backend", ["torchvision", "opencv"])
def test_equals_v61(golden_prediction, setting, backend, monkeypatch):
    if backend == "opencv":
        monkeypatch.setattr(nms, "_backend", lambda device_type: nms_opencv)
    for found, expected in zip(
        non_max_suppression(golden_prediction, **SETTINGS[setting]),
        [GOLDEN[f"{setting}_0"], GOLDEN[f"{setting}_1"]],
        strict=True,
    ):
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_back_ends_agree(seed):
    ops = pytest.importorskip("torchvision.ops")
    rng = np.random.default_rng(seed)
    corners = torch.from_numpy(rng.uniform(0, 100, (500, 2)))
    boxes = torch.cat((corners, corners + torch.from_numpy(rng.uniform(1, 40, (500, 2)))), 1)
    scores = torch.from_numpy((rng.permutation(500) + 1) / 500)
    assert nms_opencv(boxes, scores, 0.45).tolist() == ops.nms(boxes, scores, 0.45).tolist()
    assert nms_opencv(boxes[:0], scores[:0], 0.45).shape == (0,)


@pytest.mark.parametrize("broken", ["absent", "another build"])
def test_takes_opencv_where_torchvision_does_not_work(broken, golden_prediction, monkeypatch, caplog):
    if broken == "absent":
        monkeypatch.setitem(sys.modules, "torchvision", None)
    else:

        def fail(*arguments):
            raise RuntimeError("operator torchvision::nms does not exist\nand more")

        monkeypatch.setattr(nms, "_torchvision_nms", lambda: fail)
    nms._backend.cache_clear()
    caplog.set_level("INFO", "yolov5")
    try:
        found = non_max_suppression(golden_prediction)
    finally:
        nms._backend.cache_clear()
    np.testing.assert_allclose(found[0].numpy(), GOLDEN["detect_0"], atol=1e-4)
    assert "OpenCV" in caplog.text
    assert "\n" not in caplog.records[0].getMessage()


def test_the_import_of_torchvision_is_not_waited_for():
    pytest.importorskip("torchvision")
    code = (
        "import sys, torch; from utils.general import non_max_suppression; "
        "found = non_max_suppression(torch.tensor([[[8.0, 8, 4, 4, 1, 1], [8, 8, 4, 4, 0.9, 1]]])); "
        "print(len(found[0]), 'torchvision' in sys.modules, torch.ops.torchvision.nms)"
    )
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.split() == ["1", "False", "torchvision.nms"]


def test_the_library_is_imported_if_it_does_not_load_by_itself(monkeypatch):
    ops = pytest.importorskip("torchvision.ops")

    def fail(library):
        raise OSError(f"{library}: a DLL is missing")

    monkeypatch.setattr(torch.ops, "load_library", fail)
    assert nms._torchvision_nms() is ops.nms


def test_first_few_give_what_all_give():
    """max_det 30 tries 512 of 20000 boxes first; the crowd in one place makes it look at all of them."""
    crowd = random_prediction(0, images=1, count=20_000, nc=1, side=30)
    crowd[..., 2:4] = 25
    crowd[0, 0, :5] = torch.tensor([500, 500, 25, 25, 0.3])
    crowd[..., 5] = 1
    (found,) = non_max_suppression(crowd, 0.001, 0.2, max_det=30)
    order = crowd[0, :, 4].argsort(descending=True, stable=True)
    xy, wh = crowd[0, order, :2].numpy(), crowd[0, order, 2:4].numpy()
    expected = greedy(np.concatenate((xy - wh / 2, xy + wh / 2), 1), 0.2)[:30]
    assert len(found) < 30
    np.testing.assert_array_equal(found[:, 4].numpy(), crowd[0, order[expected], 4].numpy())


@pytest.mark.parametrize("limit", [1, 4 * 400 * 3, 10**9])
def test_groups_of_images_make_no_difference(limit, monkeypatch):
    prediction = random_prediction(1, images=5)
    expected = non_max_suppression(prediction, 0.1, multi_label=True)
    monkeypatch.setattr(nms, "MAX_SCORES", limit)
    for one, other in zip(non_max_suppression(prediction, 0.1, multi_label=True), expected, strict=True):
        assert torch.equal(one, other)


def test_images_of_a_batch_are_independent():
    prediction = random_prediction(2, images=3)
    prediction[1, :, 4] = 0
    for image, found in zip(prediction, non_max_suppression(prediction), strict=True):
        assert torch.equal(found, non_max_suppression(image[None])[0])
    assert [len(found) > 0 for found in non_max_suppression(prediction)] == [True, False, True]


def one_box(x=100.0, y=100.0, w=50.0, h=50.0, obj=0.9, classes=(0.8, 0.1)):
    return torch.tensor([[[x, y, w, h, obj, *classes]]])


@pytest.mark.parametrize(
    ("box", "count"),
    [
        ({}, 1),
        ({"w": 2, "h": 7680}, 1),
        ({"w": 1.9}, 0),
        ({"h": 7681}, 0),
        ({"obj": 0.25}, 0),
        ({"obj": 0.3}, 0),  # 0.24 with its class
        *(({key: value}, 0) for key in ("x", "y", "w", "h", "obj") for value in (np.nan, np.inf, -np.inf)),
        ({"classes": (np.nan, np.nan)}, 0),
        ({"classes": (np.inf, 0.1)}, 0),
        ({"classes": (np.nan, 0.9)}, 1),
        ({"x": 1e30}, 0),
    ],
)
@pytest.mark.parametrize("multi_label", [True, False])
def test_what_is_an_object(box, count, multi_label):
    (found,) = non_max_suppression(one_box(**box), multi_label=multi_label)
    assert len(found) == count
    assert found.isfinite().all()


def test_rows_are_corners_confidence_class():
    (found,) = non_max_suppression(one_box(classes=(0.1, 0.8)))
    np.testing.assert_allclose(found, [[75, 75, 125, 125, 0.72, 1]], rtol=1e-6)
    assert found.dtype == torch.float32


def test_multi_label_gives_a_row_for_each_class():
    (found,) = non_max_suppression(one_box(classes=(0.6, 0.8)), multi_label=True)
    assert found[:, 5].tolist() == [1, 0]
    (found,) = non_max_suppression(one_box(classes=(0.8,)), multi_label=True)
    assert found[:, 5].tolist() == [0]


def test_surest_boxes_go_first_where_there_are_too_many(monkeypatch):
    prediction = random_prediction(3, images=1)
    monkeypatch.setattr(nms, "MAX_BOXES", 10)
    (found,) = non_max_suppression(prediction, iou_thres=1.0, max_det=100)
    best = (prediction[0, :, 5:] * prediction[0, :, 4:5]).amax(1).sort(descending=True).values
    assert torch.equal(found[:, 4], best[:10])


def test_half_precision_is_computed_in_float32():
    prediction = random_prediction(4).half()
    for one, other in zip(non_max_suppression(prediction), non_max_suppression(prediction.float()), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(0, 10, 8), (2, 0, 8), (2, 10, 8)])
def test_nothing_found(shape):
    found = non_max_suppression(torch.zeros(shape), multi_label=True)
    assert [tuple(rows.shape) for rows in found] == [(0, 6)] * shape[0]


def test_known_labels_win():
    labels = [torch.tensor([[1.0, 101, 101, 50, 50], [0, 300, 300, 40, 40]]), torch.zeros(0, 5)]
    prediction = one_box(classes=(0.1, 1.0), obj=1.0).repeat(2, 1, 1)
    first, second = non_max_suppression(prediction, labels=labels)
    np.testing.assert_allclose(first, [[76, 76, 126, 126, 1, 1], [280, 280, 320, 320, 1, 0]])
    np.testing.assert_allclose(second, [[75, 75, 125, 125, 1, 1]])


def test_input_stays_as_it_is():
    prediction = random_prediction(5)
    before = prediction.clone()
    non_max_suppression(prediction, multi_label=True)
    assert torch.equal(prediction, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conf_thres": 1.1}, "confidence threshold is 1.1"),
        ({"iou_thres": -0.1}, "IoU threshold is -0.1"),
        ({"conf_thres": float("nan")}, "confidence threshold is nan"),
        ({"max_det": 0}, "max_det is 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        non_max_suppression(random_prediction(0), **options)


def test_classes_that_the_model_has_not_are_ignored():
    found = non_max_suppression(random_prediction(0), 0.1, classes=[0, 999, -1])[0]
    assert torch.equal(found, non_max_suppression(random_prediction(0), 0.1, classes=[0])[0])
    assert len(found)
    assert not len(non_max_suppression(random_prediction(0), 0.1, classes=[999])[0])


def test_what_a_network_gives_in_evaluation_is_taken_as_it_is():
    prediction = random_prediction(0)
    assert torch.equal(non_max_suppression((prediction, []))[0], non_max_suppression(prediction)[0])


class WithoutFloat64(torch.Tensor):
    """A tensor that says it is on an Apple GPU, where torch has no float64."""

    @property
    def device(self):
        return torch.device("mps")

    def double(self):
        raise TypeError("MPS has no float64")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize("setting", SETTINGS)
def test_on_mps_the_cpu_does_it(golden_prediction, setting):
    found = non_max_suppression(golden_prediction.as_subclass(WithoutFloat64), **SETTINGS[setting])
    for rows, expected in zip(found, non_max_suppression(golden_prediction, **SETTINGS[setting]), strict=True):
        assert type(rows) is torch.Tensor
        assert torch.equal(rows, expected)
