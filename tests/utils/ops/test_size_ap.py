"""AP by object size: pycocotools' numbers on random scenes, the rules one by one, empty input."""

import contextlib
import io

import numpy as np
import pytest
import torch

from utils.metrics import IOU_LEVELS
from utils.ops.iou import box_iou
from utils.ops.size_ap import SizeTally, claims, coco_ap, sizes_of

NC = 3


def add(tally, detections, labels):
    iou = box_iou(torch.as_tensor(labels[:, 1:]), torch.as_tensor(detections[:, :4])).numpy()
    tally.add(detections, labels, iou)


def random_boxes(rng, count):
    sides = np.exp(rng.uniform(np.log(10), np.log(220), (count, 2)))
    corner = rng.uniform(0, 400, (count, 2))
    return np.concatenate((corner, corner + sides), 1)


def random_scenes(seed, images=20):
    """Labels (t, 5) and detections (n, 6) of some images: moved labels, of which some twice, and boxes of nothing."""
    rng = np.random.default_rng(seed)
    for _ in range(images):
        count = int(rng.integers(0, 12))
        labels = np.concatenate((rng.integers(0, NC, (count, 1)), random_boxes(rng, count)), 1)
        again = labels[rng.integers(0, count, 3 * count // 2)] if count else labels
        side = (again[:, 3:] - again[:, 1:3]).min(1, initial=500)[:, None]
        moved = again[:, 1:] + rng.normal(0, 0.08, (len(again), 4)) * side
        boxes = np.concatenate((moved, random_boxes(rng, 4)))
        classes = np.concatenate((again[:, 0], rng.integers(0, NC, 4)))
        conf = rng.permutation(len(boxes)) / len(boxes) * 0.9 + rng.uniform(0, 0.1)
        detections = np.concatenate((boxes, conf[:, None], classes[:, None]), 1)
        yield detections[(-conf).argsort()].astype(np.float32), labels.astype(np.float32)


def pycocotools_ap(scenes):
    """pycocotools' precision (levels, recalls, classes, areas) of the scenes; -1 where there are no labels."""
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    annotations, found = [], []
    for number, (detections, labels) in enumerate(scenes, 1):
        for index, x1, y1, x2, y2 in labels.astype(float).tolist():
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": int(index)} | box)
        for x1, y1, x2, y2, score, index in detections.astype(float).tolist():
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            found.append({"image_id": number, "category_id": int(index)} | box)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(1, len(scenes) + 1)],
            "annotations": annotations,
            "categories": [{"id": i} for i in range(NC)],
        }
        truth.createIndex()
        rating = cocoeval.COCOeval(truth, truth.loadRes(found), "bbox")
        rating.evaluate()
        rating.accumulate()
        rating.summarize()
    return rating.stats, rating.eval["precision"][..., 2]


@pytest.mark.parametrize("seed", range(5))
def test_equals_pycocotools(seed):
    scenes = list(random_scenes(seed))
    stats, precision = pycocotools_ap(scenes)
    tally = SizeTally(IOU_LEVELS)
    for detections, labels in scenes:
        add(tally, detections, labels)
    result = tally.result(NC)
    assert (result.counts.sum(1) > 5).all()
    np.testing.assert_allclose(result.map, stats[3:6], atol=1e-6)
    for size in range(3):
        expected = precision[..., size + 1].mean(1).T  # (classes, levels)
        np.testing.assert_allclose(np.nan_to_num(result.ap[size], nan=-1), expected, atol=1e-6)
    np.testing.assert_allclose(result.map50, [np.mean(ap[ap[:, 0] >= 0, 0]) for ap in result.ap], atol=1e-9)
    assert 0.1 < result.map.min() < result.map.max() < 0.95


def square(x, side, *rest):
    return [x, 0, x + side, side, *rest]


SMALL, MEDIUM, LARGE = square(0, 20), square(100, 60), square(300, 150)


def ap_of(detections, labels):
    tally = SizeTally(IOU_LEVELS)
    add(tally, np.array(detections, np.float32).reshape(-1, 6), np.array(labels, np.float32).reshape(-1, 5))
    return tally.result(1)


def test_each_size_sees_its_own():
    result = ap_of([[*SMALL, 0.9, 0], [*LARGE, 0.8, 0]], [[0, *SMALL], [0, *MEDIUM], [0, *LARGE]])
    assert result.counts.tolist() == [[1], [1], [1]]
    assert result.map.tolist() == [1, 0, 1]


def test_a_found_label_of_another_size_is_no_mistake():
    """The detection of the medium label is small, which alone would make it a mistake among the small."""
    labels = [[0, *square(0, 34)], [0, *square(200, 20)]]
    result = ap_of([[*square(0, 31), 0.9, 0], [*square(200, 20), 0.5, 0]], labels)
    assert result.map50.tolist()[:2] == [1, 1]


def test_a_mistake_of_another_size_is_none():
    mistakes = {"small": square(500, 20), "medium": square(500, 60), "large": square(500, 150)}
    for size, box in mistakes.items():
        result = ap_of([[*box, 0.9, 0], [*SMALL, 0.8, 0]], [[0, *SMALL]])
        assert result.map[0] == (0.5 if size == "small" else 1)


def test_a_label_of_the_size_comes_before_a_nearer_one_of_another():
    detection, medium, large = square(0, 93), square(0, 92), square(0, 97)
    iou = np.array([[(92 / 93) ** 2], [0.99]])  # the large label is the nearer
    sized = sizes_of(np.array([medium, large], np.float64))
    taken, right = claims(np.zeros(1), np.zeros(2), iou, sized, np.array([0.5]))
    assert sizes_of(np.array([detection]))[0].tolist() == [False, True, False]
    assert taken[0, :, 0].tolist() == [True, True, True]
    assert right[0, :, 0].tolist() == [False, True, True]


def test_a_detection_takes_the_next_label_where_the_best_is_gone():
    iou = np.array([[0.9, 0.8], [0.0, 0.6]])
    _, right = claims(np.zeros(2), np.zeros(2), iou, np.ones((2, 3), bool), np.array([0.5, 0.7]))
    assert right[:, 0].tolist() == [[True, True], [True, False]]


def test_borders_belong_to_both():
    sides = [31.9, 32, 32.1, 95.9, 96, 96.1]
    found = sizes_of(np.array([square(0.3, side) for side in sides], np.float32))
    assert found.astype(int).tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1]]


def test_ap_by_hand():
    right = np.array([[True], [False], [True]])
    assert coco_ap(right, np.ones((3, 1), bool), 2)[0] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert coco_ap(right, right, 2)[0] == pytest.approx(1)
    assert coco_ap(right, right, 4)[0] == pytest.approx(51 / 101)
    assert coco_ap(np.zeros((0, 10), bool), np.zeros((0, 10), bool), 3).tolist() == [0] * 10


@pytest.mark.parametrize("detections", [[], [[*SMALL, 0.9, 0]]])
@pytest.mark.parametrize("labels", [[], [[0, *LARGE]]])
def test_nothing_right(detections, labels):
    result = ap_of(detections, labels)
    assert result.counts.sum() == len(labels)
    np.testing.assert_array_equal(result.map, [np.nan, np.nan, 0 if labels else np.nan])
    np.testing.assert_array_equal(SizeTally(IOU_LEVELS).result(2).map, [np.nan] * 3)
