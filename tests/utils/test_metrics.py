"""Overlap, matching and average precision: v6.1's numbers, plain re-computations, degenerate boxes and empty sets."""

import itertools
from types import CodeType, FunctionType

import numpy as np
import pytest
import torch

from utils import metrics
from utils.evaluation.files import class_rows
from utils.general import ROOT
from utils.loggers.tensorboard import pr_counts
from utils.metrics import (
    IOU_LEVELS,
    EvalResult,
    average_precision,
    bbox_iou,
    box_iou,
    distinct_names,
    fitness,
    match_predictions,
    peak_of,
)
from utils.ops.boxes import xywh2xyxy

GOLDEN = ROOT / "tests" / "golden"
KINDS = {"iou": {}, "giou": {"GIoU": True}, "diou": {"DIoU": True}, "ciou": {"CIoU": True}}


def random_boxes(seed, count):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(
        np.concatenate((rng.uniform(0, 100, (count, 2)), rng.uniform(1, 60, (count, 2))), 1)
    ).float()


# Overlap --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_bbox_iou_equals_v61(kind, corners, layout):
    golden = np.load(GOLDEN / "iou.npz")
    boxes = [torch.from_numpy(golden[name]) for name in ("box1_xywh", "box2_xywh")]
    box1, box2 = [xywh2xyxy(box) for box in boxes] if corners else boxes
    box1 = box1.T if layout == "columns" else box1
    np.testing.assert_allclose(bbox_iou(box1, box2, corners, **KINDS[kind]), golden[kind], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bbox_iou_of_a_box_with_itself_is_one(kind):
    boxes = random_boxes(0, 50)
    np.testing.assert_allclose(bbox_iou(boxes, boxes, x1y1x2y2=False, **KINDS[kind]), 1, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bbox_iou_of_one_box_with_many(kind):
    one, many = xywh2xyxy(random_boxes(5, 1)), xywh2xyxy(random_boxes(6, 4))
    expected = bbox_iou(one.expand(4, 4).T, many, **KINDS[kind])
    torch.testing.assert_close(bbox_iou(one[0], many, **KINDS[kind]), expected)
    torch.testing.assert_close(bbox_iou(one, many, **KINDS[kind]), expected)


def test_four_boxes_by_four_numbers_are_v61s_columns():
    box1, box2 = xywh2xyxy(random_boxes(7, 4)), xywh2xyxy(random_boxes(8, 4))
    torch.testing.assert_close(bbox_iou(box1.T, box2), box_iou(box1, box2).diag())


@pytest.mark.parametrize("kind", KINDS)
def test_bbox_iou_and_gradient_are_finite_for_boxes_without_area(kind):
    sizes = torch.tensor([[0.0, 0], [0, 5], [5, 0], [1e-30, 1e-30], [5, 5]])
    first, second = sizes.repeat_interleave(len(sizes), 0), sizes.repeat(len(sizes), 1)
    box1 = torch.cat((torch.full_like(first, 3.0), first), 1).requires_grad_()
    iou = bbox_iou(box1, torch.cat((torch.full_like(second, 3.0), second), 1), False, **KINDS[kind])
    iou.sum().backward()
    assert iou.isfinite().all()
    assert box1.grad.isfinite().all()


def test_ciou_gradient_equals_torchvision():
    ops = pytest.importorskip("torchvision.ops")
    corners = xywh2xyxy(random_boxes(1, 100)).requires_grad_()
    others = xywh2xyxy(random_boxes(2, 100))
    (expected,) = torch.autograd.grad(ops.complete_box_iou_loss(corners, others, reduction="sum"), corners)
    (gradient,) = torch.autograd.grad((1 - bbox_iou(corners, others, CIoU=True)).sum(), corners)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


def test_box_iou_is_bbox_iou_of_all_pairs():
    first, second = random_boxes(3, 7), random_boxes(4, 5)
    expected = torch.stack([bbox_iou(box, second, x1y1x2y2=False) for box in first])
    np.testing.assert_allclose(box_iou(xywh2xyxy(first), xywh2xyxy(second)), expected, atol=1e-5)
    assert box_iou(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)
    assert box_iou(torch.zeros(2, 4), torch.zeros(3, 4)).tolist() == [[0, 0, 0]] * 2


# Matching -------------------------------------------------------------------------------------------------------------


def match_one_level(pred_classes, true_classes, iou, level):
    """The definition step by step: each detection, surest first, takes the best of the labels that are still free."""
    free, right = set(range(len(true_classes))), np.zeros(len(pred_classes), bool)
    for n in range(len(pred_classes)):
        possible = [(iou[t, n], t) for t in free if true_classes[t] == pred_classes[n] and iou[t, n] >= level]
        right[n] = bool(possible)
        free -= {max(possible)[1]} if possible else set()
    return right


@pytest.mark.parametrize("seed", range(10))
def test_matching_equals_its_definition(seed):
    rng = np.random.default_rng(seed)
    iou = rng.uniform(0.3, 1, (12, 40)).round(1 + seed % 2)  # some are equal
    predicted, true = rng.integers(0, 3, 40), rng.integers(0, 3, 12)
    right = match_predictions(predicted, true, iou)
    for level, column in zip(IOU_LEVELS, right.T, strict=True):
        np.testing.assert_array_equal(column, match_one_level(predicted, true, iou, level))


def test_each_level_has_its_own_pairs():
    """The surer detection takes the label as long as it overlaps it enough; beyond that the other one has it."""
    right = match_predictions(np.array([0, 0]), np.array([0]), np.array([[0.61, 0.88]]))
    assert right[:, :3].tolist() == [[True] * 3, [False] * 3]
    assert right[:, 3:8].tolist() == [[False] * 5, [True] * 5]
    assert not right[:, 8:].any()


def test_a_detection_takes_its_second_label_where_a_surer_one_has_the_first():
    right = match_predictions(np.zeros(2), np.zeros(2), np.array([[0.92, 0.81], [0.0, 0.62]]))
    assert right.sum(0).tolist() == [2] * 3 + [1] * 6 + [0]
    assert right[0, :9].all()


@pytest.mark.parametrize(("detections", "labels"), [(0, 0), (3, 0), (0, 3)])
def test_matching_of_nothing(detections, labels):
    right = match_predictions(np.zeros(detections), np.zeros(labels), np.zeros((labels, detections)))
    assert right.shape == (detections, 10)
    assert not right.any()


# Average precision ----------------------------------------------------------------------------------------------------


def test_ap_equals_coco_and_the_rest_v61():
    golden = np.load(GOLDEN / "ap.npz")
    stats = average_precision(*(golden[name] for name in ("tp", "conf", "pred_cls", "target_cls")), smooth=False)
    np.testing.assert_array_equal(stats.classes, golden["classes"])
    np.testing.assert_allclose(stats.ap, golden["ap_coco"], atol=1e-9)
    for name in ("precision", "recall", "f1"):
        np.testing.assert_allclose(getattr(stats, name), golden[name], atol=1e-9)


def test_recalls_that_are_never_reached_count_as_nothing():
    """Ten of a hundred objects are found, all of them rightly: eleven recalls, 0 to 0.1, have a precision of 1."""
    tp, zeros = np.ones((10, 10), bool), np.zeros(10)
    stats = average_precision(tp, np.linspace(0.9, 0.5, 10), zeros, np.zeros(100))
    np.testing.assert_allclose(stats.ap, 11 / 101)
    np.testing.assert_allclose(stats.pr_curve.mean(), 0.1, atol=1e-3)


def test_leaving_out_unsure_detections_never_raises_ap():
    golden = np.load(GOLDEN / "ap.npz")
    tp, conf, pred_cls = (golden[name] for name in ("tp", "conf", "pred_cls"))
    aps = []
    for threshold in (0, 0.25, 0.5, 0.75):
        sure = conf >= threshold
        aps.append(average_precision(tp[sure], conf[sure], pred_cls[sure], golden["target_cls"]).ap)
    assert all((more >= fewer).all() for more, fewer in itertools.pairwise(aps))


def test_smoothing_moves_the_peak_only():
    golden = np.load(GOLDEN / "ap.npz")
    arguments = [golden[name] for name in ("tp", "conf", "pred_cls", "target_cls")]
    plain, smooth = average_precision(*arguments, smooth=False), average_precision(*arguments)
    np.testing.assert_array_equal(plain.f1_curve, smooth.f1_curve)
    assert plain.threshold == plain.points[plain.f1_curve.mean(0).argmax()]
    assert (plain.class_thresholds == plain.points[plain.f1_curve.argmax(1)]).all()
    padded = np.pad(smooth.f1_curve.mean(0), 50, mode="edge")
    means = [padded[i : i + 101].mean() for i in range(1000)]
    assert means[round(smooth.threshold * 999)] == pytest.approx(max(means))
    np.testing.assert_array_equal(smooth.precision, smooth.precision_curve[:, round(smooth.threshold * 999)])


def test_perfect_detections():
    classes = np.array([0, 0, 2, 2, 2])
    stats = average_precision(np.ones((5, 10), bool), np.linspace(0.9, 0.5, 5), classes, classes)
    assert stats.classes.tolist() == [0, 2]
    assert stats.counts.tolist() == [2, 3]
    np.testing.assert_allclose(stats.ap, 1)
    np.testing.assert_allclose(stats.f1, 1)
    assert stats.threshold < 0.5


def test_order_of_detections_makes_no_difference():
    rng = np.random.default_rng(0)
    tp, conf, classes = rng.random((200, 10)) < 0.5, rng.permutation(200) / 200, rng.integers(0, 4, 200)
    labels, order = rng.integers(0, 4, 150), rng.permutation(200)
    one, other = (
        average_precision(tp, conf, classes, labels),
        average_precision(tp[order], conf[order], classes[order], labels),
    )
    np.testing.assert_array_equal(one.ap, other.ap)
    np.testing.assert_array_equal(one.pr_curve, other.pr_curve)


@pytest.mark.parametrize(("detections", "labels"), [(0, 0), (3, 0), (0, 3), (3, 3)])
def test_nothing_right(detections, labels):
    zeros = np.zeros(detections)
    stats = average_precision(np.zeros((detections, 10), bool), zeros + 0.5, zeros, np.zeros(labels))
    assert stats.counts.tolist() == [labels] * bool(labels)
    assert stats.ap.sum() == stats.f1.sum() == 0
    result = EvalResult(("a",), 1, np.array([labels]), stats, None, (0, 0, 0), ())
    assert (result.mp, result.mr, result.map50, result.map, result.fitness) == (0, 0, 0, 0, 0) or labels
    assert result.maps.tolist() == [0]


def test_fitness_weighs_the_two_aps():
    assert fitness((0.9, 0.8, 0.5, 0.3)) == pytest.approx(0.1 * 0.5 + 0.9 * 0.3)
    np.testing.assert_allclose(fitness(np.eye(4)), [0, 0, 0.1, 0.9])


@pytest.mark.parametrize(
    ("f1", "lowest", "expected"),
    [
        ([0, 0.5, 0.9, 0.2, 0], 0, 2),
        ([0.8, 0.8, 0.8, 0.1, 0.8], 0, 1),  # the middle of the first stretch
        ([0.1, 0.7, 0.7, 0.7, 0.7], 0, 2),
        ([0.8, 0.8, 0.8, 0.1, 0.8], 2, 2),  # there are no detections of less confidence
        ([0.8, 0.8, 0.8, 0.1, 0.8], 3, 4),
        ([0.8, 0.8, 0.8, 0.1, 0.1], 4, 4),
    ],
)
def test_peak_of(f1, lowest, expected):
    assert peak_of(np.array(f1), lowest, smooth=False) == expected


def test_threshold_is_not_below_what_the_detections_were_cut_off_at():
    conf = np.array([0.9, 0.7, 0.6])
    for conf_thres in (0.0, 0.5):
        stats = average_precision(np.ones((3, 10), bool), conf, np.zeros(3), np.zeros(4), conf_thres=conf_thres)
        assert conf_thres <= stats.threshold < 0.6
        assert stats.recall[0] == 0.75


def test_one_class_has_one_threshold():
    rng = np.random.default_rng(0)
    conf = rng.random(300)
    right = np.repeat(rng.random((300, 1)) < conf[:, None], 10, 1)
    stats = average_precision(right, conf, np.zeros(300), np.zeros(250))
    result = EvalResult(("a",), 1, np.array([250]), stats, None, (0, 0, 0), ())
    assert result.class_thresholds == {"a": result.threshold}
    assert stats.f1[0] == stats.f1_curve[0, round(result.threshold * 999)]


def test_each_class_has_its_own_threshold():
    """Right detections of class 0 are above 0.6 and wrong ones below; those of class 2 change at 0.3."""
    conf = np.array([0.9, 0.8, 0.7, 0.5, 0.45, 0.4, 0.38, 0.2, 0.15])
    tp = np.repeat((np.array([1, 1, 1, 0, 0, 1, 1, 0, 0]) > 0)[:, None], 10, 1)
    classes = np.array([0, 0, 0, 0, 0, 2, 2, 2, 2])
    stats = average_precision(tp, conf, classes, np.array([0, 0, 0, 2, 2]))
    result = EvalResult(("a", "b", "c"), 1, np.array([3, 0, 2]), stats, None, (0, 0, 0), ())
    thresholds = result.class_thresholds
    assert list(thresholds) == ["a", "b", "c"]
    assert thresholds["b"] is None
    assert 0.5 < thresholds["a"] <= 0.7
    assert 0.2 < thresholds["c"] <= 0.38
    for row, name in enumerate("ac"):
        curve = stats.f1_curve[row]
        assert np.interp(thresholds[name], stats.points, curve) == pytest.approx(curve.max(), abs=0.05)


def test_classes_of_one_name_keep_their_own_thresholds():
    conf = np.array([0.9, 0.8, 0.2, 0.1])
    classes = np.array([0, 0, 1, 1])
    tp = np.repeat(np.array([True, False, True, False])[:, None], 10, 1)
    stats = average_precision(tp, conf, classes, np.array([0, 1]))
    alike, apart = (
        EvalResult(names, 1, np.array([1, 1]), stats, None, (0, 0, 0), ()) for names in (("a", "a"), ("a", "b"))
    )
    assert list(alike.class_thresholds.values()) == list(apart.class_thresholds.values())
    assert list(alike.class_thresholds) == ["a (0)", "a (1)"]
    rows = class_rows(alike)
    assert [row["name"] for row in rows] == ["a", "a"]
    assert rows[0]["threshold"] > 0.5 > rows[1]["threshold"]
    assert len(pr_counts(alike)) == 2


def test_distinct_names_stay_distinct():
    assert distinct_names(["a", "b"]) == ["a", "b"]
    assert distinct_names(["a", "a", "a (1)", ""]) == ["a (0)", "a (1)'", "a (1)", ""]


# Pasted functions of v6.1 ---------------------------------------------------------------------------------------------


def pasted(monkeypatch, text):
    """Define functions in utils/metrics.py, as a user does who pastes them."""
    code = compile(text, "metrics.py", "exec")
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            function = FunctionType(constant, vars(metrics), constant.co_name)
            monkeypatch.setattr(metrics, constant.co_name, function, raising=False)


def test_a_pasted_compute_ap_counts(monkeypatch):
    tp, conf, classes = np.array([[True], [False]]), np.array([0.9, 0.8]), np.zeros(2)
    pasted(monkeypatch, "def compute_ap(recall, precision):\n return (0.125 * len(recall), 0, 0)")
    assert average_precision(tp, conf, classes, np.zeros(4)).ap.tolist() == [[0.25]]


@pytest.mark.parametrize("names", ["tp, tp, conf, conf, conf, ap, conf", "conf, conf, ap, conf, conf"])
def test_a_pasted_ap_per_class_counts_and_finds_v61s_names(monkeypatch, names):
    """It calls compute_ap, which is behind the door of the module."""
    body = f" ap = np.array([[compute_ap([0.0, 1.0], [1.0, 1.0])[0] / 4]])\n return {names}"
    pasted(monkeypatch, f"def ap_per_class(tp, conf, pred_cls, target_cls, **_):\n{body}")
    monkeypatch.setitem(vars(metrics), "compute_ap", None)
    monkeypatch.delitem(vars(metrics), "compute_ap")
    found = average_precision(np.array([[True]]), np.array([0.5]), np.zeros(1), np.zeros(1))
    assert found.ap.tolist() == [[0.995 / 4]]  # v6.1's compute_ap of these two points
    assert found.precision.tolist() == found.recall.tolist() == found.f1.tolist() == [0.5]
