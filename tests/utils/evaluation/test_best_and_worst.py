"""The best and the worst images of a hand-made evaluation: their order, their number, their pictures."""

import base64

import cv2
import numpy as np
import pytest
import torch

from utils.datasets import Batch, ImageShape
from utils.evaluation.best_and_worst import BestAndWorst, ImageScore, score_image, unpadded
from utils.evaluation.evaluate import EvaluatedBatch
from utils.plots import colors

BOXES = torch.tensor([[10.0 * i, 10, 10 * i + 8, 18] for i in range(6)])  # apart from each other
PLAIN = ImageShape((64, 64), ((1.0, 1.0), (0.0, 0.0)))


def found(count, shift=0.0, category=0, confidence=0.9):
    rows = torch.tensor([[confidence, float(category)]]).expand(count, 2)
    return torch.cat((BOXES[:count] + shift, rows), 1)


def known(count, category=0):
    return torch.cat((torch.full((count, 1), float(category)), BOXES[:count]), 1)


def seen(*images, names=None):
    """What `evaluate` shows of (detections, labels) of each image."""
    count = len(images)
    paths = tuple(names or (f"folder/{i}.jpg" for i in range(count)))
    batch = Batch(torch.full((count, 3, 64, 64), 99, dtype=torch.uint8), torch.zeros(0, 6), paths, (PLAIN,) * count)
    detections, labels = zip(*images, strict=True)
    return EvaluatedBatch(0, batch, detections, detections, labels)


def names_of(images):
    return [image.name for image in images]


@pytest.mark.parametrize(
    ("detections", "labels", "score", "f1"),
    [
        (found(3), known(3), ImageScore(3, 0, 0), 1),
        (found(2), known(3), ImageScore(2, 0, 1), 0.8),
        (found(3), known(1), ImageScore(1, 2, 0), 0.5),
        (found(1, category=1), known(1), ImageScore(0, 1, 1), 0),
        (found(1, shift=5), known(1), ImageScore(0, 1, 1), 0),
        (found(2, confidence=0.25), known(1), ImageScore(0, 0, 1), 0),  # not surer than 0.25
        (torch.cat((found(1), found(1, confidence=0.8))), known(1), ImageScore(1, 1, 0), 2 / 3),  # twice the same
        (found(0), known(0), ImageScore(0, 0, 0), None),
        (found(1), known(0), ImageScore(0, 1, 0), 0),
    ],
)
def test_score(detections, labels, score, f1):
    assert score_image(detections, labels) == score
    assert score.f1 == pytest.approx(f1)


def test_order_of_best_and_worst():
    keep = BestAndWorst(["a", "b"], kept=3)
    cases = {
        "empty": (found(0), known(0)),  # not ranked
        "0 of 2": (found(0), known(2)),
        "3 of 3": (found(3), known(3)),
        "2 of 3": (found(2), known(3)),
        "1 of 1": (found(1), known(1)),
        "0 of 5": (found(0), known(5)),
        "1 of 3": (found(1), known(3)),
        "another 1 of 1": (found(1), known(1)),
        "4 of 4": (found(4), known(4)),
    }
    for name, case in cases.items():  # one image a batch
        keep(seen(case, names=[name]))
    best, worst = keep.chosen()
    assert names_of(best) == ["4 of 4", "3 of 3", "1 of 1"]  # of equals the earlier
    assert names_of(worst) == ["0 of 5", "0 of 2", "1 of 3"]
    facts = keep.to_dict()
    assert (facts["seen"], facts["ranked"]) == (9, 8)
    assert "0.25" in facts["measure"]


def test_few_images_are_shown_once():
    keep = BestAndWorst(["a"])
    keep(seen((found(2), known(3)), (found(1), known(5)), (found(3), known(3)), (found(0), known(1))))
    best, worst = keep.chosen()
    assert names_of(best) == ["2.jpg", "0.jpg"]
    assert names_of(worst) == ["3.jpg", "1.jpg"]


def test_nothing_right_is_not_best_and_nothing_wrong_not_worst():
    keep = BestAndWorst(["a"])
    keep(seen((found(0), known(2))))
    assert [len(images) for images in keep.chosen()] == [0, 1]
    keep = BestAndWorst(["a"])
    keep(seen((found(2), known(2))))
    assert [len(images) for images in keep.chosen()] == [1, 0]
    assert BestAndWorst(["a"]).chosen() == ([], [])


def test_memory_and_drawing_are_bounded(monkeypatch):
    keep = BestAndWorst(["a"], kept=2)
    drawn = []
    draw = keep._draw
    monkeypatch.setattr(keep, "_draw", lambda evaluated, i, score: drawn.append(i) or draw(evaluated, i, score))
    for _ in range(50):
        keep(seen((found(1), known(2)), (found(3), known(4))))
    assert len(keep._best) == len(keep._worst) == 2
    assert len(drawn) == 4  # the first two of each kind; equals that come later are not even drawn


def test_picture_has_no_padding_and_shows_labels_and_detections():
    shape = ImageShape((100, 200), ((0.5, 0.5), (14.0, 18.0)))  # 100 wide, 50 high, from (14, 18)
    image = torch.full((1, 3, 96, 128), 114, dtype=torch.uint8)
    image[:, :, 18:68, 14:114] = 250
    assert unpadded(image[0], shape).shape == (240, 480, 3)
    assert unpadded(image[0], shape).min() == 250
    box = torch.tensor([[20.0, 20, 180, 80]])  # pixels of the file
    detections = torch.cat((box, torch.tensor([[0.9, 1.0]])), 1)
    labels = torch.cat((torch.zeros(1, 1), box), 1)
    keep = BestAndWorst(["a", "b"])
    keep(EvaluatedBatch(0, Batch(image, torch.zeros(0, 6), ("x/i.png",), (shape,)), (), (detections,), (labels,)))
    (only,) = keep.chosen()[1]
    white = np.array([250, 250, 250])
    for code, category in ((only.labels_jpeg, 0), (only.found_jpeg, 1)):
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(code), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (240, 480, 3)
        for y, x in ((120, 48), (120, 432), (192, 240)):  # left, right and lower edge
            shades = [colors(0, bgr=True), colors(1, bgr=True), white]  # JPEG smears them
            distances = [np.abs(picture[y, x].astype(int) - shade).sum() for shade in shades]
            assert np.argmin(distances) == category


@pytest.mark.parametrize("hw", [(1, 4000), (4000, 1), (2, 2)])
def test_odd_pictures_are_bounded(hw):
    picture = unpadded(torch.zeros(3, *hw, dtype=torch.uint8), ImageShape(hw, ((1.0, 1.0), (0.0, 0.0))))
    assert max(picture.shape[:2]) == 480
    assert min(picture.shape[:2]) >= 1
