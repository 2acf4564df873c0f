"""Evaluation of small fake models on drawn batches: numbers, coordinates, options, observers, empty cases."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from utils.datasets import Batch, ImageShape
from utils.evaluation.evaluate import EvalSettings, evaluate, log_sizes, log_speed, log_table, run_in_parts

CPU = torch.device("cpu")
NAMES = ("cat", "dog")
SHAPE = ImageShape((120, 200), ((0.5, 0.5), (14.0, 18.0)))  # 120 x 200 at half size, padded to 96 x 128


class Answer(nn.Module):
    """Gives the rows (N, 5 + nc) that it was made with for every image, or for the i-th image the i-th rows."""

    def __init__(self, rows):
        super().__init__()
        self.rows, self.seen = torch.as_tensor(rows, dtype=torch.float32), []

    def forward(self, images, **options):
        self.seen.append((images.dtype, tuple(images.shape), float(images.amax()), options, torch.is_grad_enabled()))
        rows = self.rows if self.rows.ndim == 3 else self.rows.expand(len(images), *self.rows.shape)
        return rows.to(images.dtype), [images.mean((1, 2, 3))]


def batch(*targets, count=1):
    """A batch of `count` white images with targets image, class, cx, cy, w, h."""
    rows = torch.tensor(targets, dtype=torch.float32).view(-1, 6)
    images = torch.full((count, 3, 96, 128), 255, dtype=torch.uint8)
    return Batch(images, rows, tuple(f"{i}.jpg" for i in range(count)), (SHAPE,) * count)


def row(x=64.0, y=48.0, w=32.0, h=24.0, obj=0.9, classes=(1.0, 0.0)):
    return [x, y, w, h, obj, *classes]


CENTRE = (0.5, 0.5, 0.25, 0.25)  # the box of row(), in shares of the network's image


def run(model, *batches, names=NAMES, compute_loss=None, on_batch=None, **settings):
    return evaluate(
        model,
        batches,
        names,
        device=CPU,
        settings=EvalSettings(**settings),
        compute_loss=compute_loss,
        on_batch=on_batch,
        show_progress=False,
    )


def test_perfect_model():
    result = run(Answer([row()]), batch((0, 0, *CENTRE)), batch((0, 0, *CENTRE)))
    assert (result.mp, result.mr) == pytest.approx((1, 1))
    assert (result.map50, result.map) == pytest.approx((1, 1))
    assert result.fitness == pytest.approx(1)
    assert (result.images, result.counts.tolist(), result.losses) == (2, [2, 0], None)
    assert result.maps.tolist() == pytest.approx([1, 1])
    assert 0 <= result.threshold < 0.9
    assert result.shape == (1, 3, 96, 128)
    assert all(value >= 0 for value in result.speed_ms)


def test_boxes_come_back_in_pixels_of_the_file():
    seen = []
    run(Answer([row(), row(x=4, y=4, w=8, h=8, classes=(0, 0.5))]), batch((0, 1, *CENTRE)), on_batch=seen.append)
    (only,) = seen
    np.testing.assert_allclose(only.found[0], [[48, 36, 80, 60, 0.9, 0], [0, 0, 8, 8, 0.45, 1]], rtol=1e-6)
    np.testing.assert_allclose(only.native[0], [[68, 36, 132, 84, 0.9, 0], [0, 0, 0, 0, 0.45, 1]], rtol=1e-6)
    np.testing.assert_allclose(only.labels[0], [[1, 68, 36, 132, 84]], rtol=1e-6)
    assert only.index == 0


def test_detections_and_labels_stay_with_their_images():
    rows = torch.tensor([[row(obj=0.0)], [row()], [row(classes=(0.0, 1.0))]])
    targets = [(2, 1, *CENTRE), (1, 0, *CENTRE), (0, 0, *CENTRE), (2, 1, 0.1, 0.1, 0.1, 0.1)]  # in no order
    seen = []
    result = run(Answer(rows), batch(*targets, count=3), on_batch=seen.append)
    assert [len(found) for found in seen[0].native] == [0, 1, 1]
    assert [labels[:, 0].tolist() for labels in seen[0].labels] == [[0], [0], [1, 1]]
    assert result.counts.tolist() == [2, 2]
    np.testing.assert_allclose(result.stats.recall, [0.5, 0.5])
    np.testing.assert_allclose(result.stats.precision, [1, 1])


def test_batches_make_no_difference():
    rng = np.random.default_rng(0)
    rows = rng.uniform(0.05, 0.9, (6, 40, 7)) * (128, 96, 60, 60, 1, 1, 1)
    targets = np.concatenate(
        (np.repeat(np.arange(6), 5)[:, None], rng.integers(0, 2, (30, 1)), rng.uniform(0.2, 0.6, (30, 4))), 1
    )
    whole = run(Answer(rows), batch(*targets.tolist(), count=6))
    parts = []
    for i in range(6):
        own = targets[targets[:, 0] == i] * (0, 1, 1, 1, 1, 1)
        parts.append(batch(*own.tolist()))
    rows_iterator = iter(torch.as_tensor(rows, dtype=torch.float32))
    apart = run(lambda images: (next(rows_iterator)[None], []), *parts)
    np.testing.assert_allclose(whole.stats.ap, apart.stats.ap, atol=1e-9)
    assert whole.threshold == apart.threshold
    assert 0 < whole.map50 < 1


def coco_by_hand(scenes, nc):
    """mAP@.5:.95 and mAP@.5 by COCO's definition, one step after another, of detections and labels by image."""
    found = []
    for category in range(nc):
        count = sum(int((labels[:, 0] == category).sum()) for _, labels in scenes)
        for level in np.linspace(0.5, 0.95, 10) if count else ():
            flags = []  # of each detection its confidence and whether it is right, image by image
            for detections, labels in scenes:
                free = [box for index, *box in labels.tolist() if index == category]
                for *box, confidence, index in detections.tolist():
                    if index != category:
                        continue
                    ious = [overlap(box, other) for other in free]
                    best = max(range(len(ious)), key=lambda i: (ious[i], i), default=None)
                    is_right = best is not None and ious[best] >= level
                    if is_right:
                        del free[best]
                    flags.append((confidence, is_right))
            flags.sort(key=lambda flag: -flag[0])
            right = np.cumsum([flag[1] for flag in flags])
            precision, recall = right / np.arange(1, len(flags) + 1), right / count
            points = [precision[recall >= point].max(initial=0) for point in np.linspace(0, 1, 101)]
            found.append((category, level, np.mean(points)))
    return np.mean([ap for *_, ap in found]), np.mean([ap for _, level, ap in found if level == 0.5])


def overlap(one, other):
    w = min(one[2], other[2]) - max(one[0], other[0])
    h = min(one[3], other[3]) - max(one[1], other[1])
    both = max(w, 0) * max(h, 0)
    return both / ((one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - both)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("conf_thres", "max_det"), [(0.001, 300), (0.4, 300), (0.7, 300), (0.001, 5), (0.4, 2)])
def test_ap_is_cocos_at_any_limits(seed, conf_thres, max_det):
    """Crowded images, one of them without labels, a class without any, confidences that are often the same."""
    rng = np.random.default_rng(seed)
    count, size = 7, np.array([128, 96, 128, 96])
    boxes = np.concatenate((rng.uniform(0.3, 0.7, (count, 12, 2)), rng.uniform(0.2, 0.4, (count, 12, 2))), 2)
    classes = rng.integers(0, 2, (count, 12))
    targets = np.concatenate(
        (np.repeat(np.arange(count), 12)[:, None], classes.reshape(-1, 1), boxes.reshape(-1, 4)), 1
    )
    targets = targets[targets[:, 0] != 3]
    moved = np.concatenate((boxes, boxes), 1) * size + rng.normal(0, 3, (count, 24, 4))
    confidence = rng.uniform(0, 1, (count, 24, 1)).round(1)
    one_hot = np.eye(3)[np.concatenate((classes, rng.integers(0, 3, (count, 12))), 1)]
    seen = []
    result = run(
        Answer(np.concatenate((moved, confidence, one_hot), 2)),
        batch(*targets.tolist(), count=count),
        names=("cat", "dog", "emu"),
        on_batch=seen.append,
        conf_thres=conf_thres,
        max_det=max_det,
        iou_thres=0.9,
    )
    scenes = list(zip(seen[0].native, seen[0].labels, strict=True))
    assert max(len(detections) for detections, _ in scenes) <= max_det
    assert (result.map, result.map50) == pytest.approx(coco_by_hand(scenes, 3), abs=1e-6)
    assert 0 < result.map < 0.9


def test_order_of_images_makes_no_difference_to_detections_of_one_confidence():
    rows = [[row()], [row(x=30)], [row()], [row(x=30)]]
    paths = ("d.jpg", "a.jpg", "c.jpg", "b.jpg")

    def rate(order):
        one = batch(*((i, 0, *CENTRE) for i in range(4)), count=4)._replace(paths=tuple(paths[i] for i in order))
        return run(Answer([rows[i] for i in order]), one, by_size=True)

    first, *others = [rate(order) for order in ((0, 1, 2, 3), (1, 3, 2, 0), (3, 2, 1, 0))]
    assert {other.map50 for other in others} == {first.map50}
    assert {other.sizes.map50[1] for other in others} == {first.sizes.map50[1]}
    assert first.map50 == pytest.approx(0.5 * 51 / 101)  # a and b come first, which are wrong


def test_network_gets_floats_in_evaluation_mode_without_gradients():
    model = Answer([row()]).train()
    run(model, batch(), augment=True)
    assert model.seen == [(torch.float32, (1, 3, 96, 128), 1.0, {"augment": True}, False)]
    assert not model.training
    run(model, batch(), half=True)
    assert model.seen[1][0] == torch.float16
    assert model.seen[1][3] == {}


def test_grids_made_in_evaluation_serve_training():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.grid = nn.Parameter(torch.ones(1)), None

        def forward(self, images):
            if self.grid is None:
                self.grid = torch.ones(len(images), 1, 7) * images.mean()
            return self.grid * self.weight, []

    head = Head()
    run(head, batch())
    head(torch.ones(1, 3, 8, 8))[0].sum().backward()
    assert head.weight.grad.item() == 7


def test_losses_are_means_of_batches():
    def loss(raw, targets):
        return torch.tensor(0.0), torch.tensor([len(targets), raw[0].item(), 2.0])

    result = run(Answer([row()]), batch((0, 0, *CENTRE)), batch(), compute_loss=loss)
    assert result.losses == pytest.approx((0.5, 1, 2))


def test_all_classes_as_one():
    loss_targets = []

    def loss(raw, targets):
        loss_targets.append(targets)
        return torch.zeros(1), torch.zeros(3)

    loader_batch = batch((0, 1, *CENTRE))
    rows = [row(classes=(0.9, 0, 0.8))]  # the model's number of classes does not matter
    result = run(Answer(rows), loader_batch, single_cls=True, compute_loss=loss)
    assert (result.map50, result.names, result.counts.tolist()) == (pytest.approx(1), ("item",), [1])
    assert loss_targets[0][:, 1].tolist() == [0]
    assert loader_batch.targets[:, 1].tolist() == [1]  # is not changed
    assert run(Answer([row(classes=(1.0,))]), batch((0, 0, *CENTRE)), names=["a"], single_cls=True).names == ("a",)


def test_limits_reach_the_suppression():
    rows = [row(), row(x=20, obj=0.2), row(x=66, obj=0.8), row(x=100, obj=0.7)]
    seen = []
    for options in ({"conf_thres": 0.25}, {"iou_thres": 0.99}, {"max_det": 1}):
        run(Answer(rows), batch(), on_batch=seen.append, **options)
    assert [len(one.native[0]) for one in seen] == [2, 4, 1]


def test_classes_that_differ_are_an_error():
    with pytest.raises(ValueError, match="the model has 2 classes, the data set 3"):
        run(Answer([row()]), batch(), names=("a", "b", "c"))


@pytest.mark.parametrize("batches", [(), (batch(),), (batch((0, 1, *CENTRE)),)])
def test_nothing_found(batches, caplog):
    caplog.set_level(logging.INFO, "yolov5")
    result = run(Answer([row(obj=0.0)]), *batches, compute_loss=lambda raw, targets: (0, torch.zeros(3)))
    assert (result.mp, result.mr, result.map50, result.map) == (0, 0, 0, 0)
    assert result.counts.sum() == sum(len(one.targets) for one in batches)  # v6.1 said 0 where nothing was right
    assert result.losses == (0, 0, 0)
    log_table(result, per_class=True)
    log_speed(result)
    assert caplog.records


def test_detections_without_labels():
    result = run(Answer([row()]), batch())
    assert (result.map, result.counts.tolist()) == (0, [0, 0])


def test_table_has_v61_columns(caplog):
    caplog.set_level(logging.INFO, "yolov5")
    result = run(Answer([row()]), batch((0, 0, *CENTRE), (0, 1, *CENTRE)))
    log_table(result, per_class=True)
    log_table(result)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].split() == ["Class", "Images", "Labels", "P", "R", "mAP@.5", "mAP@.5:.95"]
    assert [line.split()[:3] for line in lines[1:4]] == [["all", "1", "2"], ["cat", "1", "1"], ["dog", "1", "1"]]
    assert lines[2].split()[3:] == ["1", "1", "1", "1"]
    assert lines[3].split()[3:] == ["0", "0", "0", "0"]
    assert {len(line) for line in lines} == {20 + 6 * 11}
    assert lines[4:] == lines[:2]


def test_labels_join_what_is_found():
    targets = [(1, 1, *CENTRE), (0, 0, 0.25, 0.25, 0.2, 0.2)]
    seen = []
    result = run(Answer([row(obj=0.0)]), batch(*targets, count=2), hybrid=True, on_batch=seen.append)
    assert result.map == pytest.approx(1)
    for native, labels in zip(seen[0].native, seen[0].labels, strict=True):
        np.testing.assert_allclose(native[:, :4], labels[:, 1:], atol=1e-3)
        assert native[:, 4:].tolist() == [[1, labels[0, 0]]]


def test_sizes_are_told_when_asked_for(caplog):
    caplog.set_level(logging.INFO, "yolov5")
    batches = [batch((0, 0, *CENTRE)), batch((0, 1, *CENTRE))]
    plain = run(Answer([row()]), *batches)
    assert plain.sizes is None
    log_sizes(plain)
    assert not caplog.records
    result = run(Answer([row()]), *batches, by_size=True)  # 64 x 48 pixels of the file
    np.testing.assert_array_equal(result.sizes.counts, [[0, 0], [1, 1], [0, 0]])
    np.testing.assert_array_equal(result.sizes.map, [np.nan, 0.5, np.nan])  # all of cat, none of dog
    np.testing.assert_array_equal(result.stats.ap, plain.stats.ap)
    log_sizes(result)
    lines = [record.getMessage().split() for record in caplog.records]
    assert lines[2:3] == [["medium", "2", "0.5", "0.5"]]
    assert lines[1] == ["small", "0", "-", "-"]


class Levels(nn.Module):
    """Gives rows that depend on each image alone, and two levels of maps; notes how many images came at a time."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, images, augment=False):
        self.sizes.append(len(images))
        means = images.mean((1, 2, 3)) * (2 if augment else 1)
        return means.view(-1, 1, 1).expand(-1, 4, 7), [means.view(-1, 1, 1), -means.view(-1, 1, 1).expand(-1, 3, 2)]


@pytest.mark.parametrize("augment", [False, True])
def test_parts_of_a_batch_give_what_the_whole_gives(augment, monkeypatch):
    images = torch.rand(5, 3, 32, 64)
    whole, whole_maps = run_in_parts(Levels(), images, augment)
    monkeypatch.setattr("utils.evaluation.evaluate.PART_PIXELS", 2 * 32 * 64)
    model = Levels()
    decoded, maps = run_in_parts(model, images, augment)
    assert model.sizes == [2, 2, 1]
    assert torch.equal(decoded, whole)
    assert all(torch.equal(one, other) for one, other in zip(maps, whole_maps, strict=True))


def test_an_exported_file_gets_the_whole_batch(monkeypatch):
    monkeypatch.setattr("utils.evaluation.evaluate.PART_PIXELS", 1)
    model = Levels()
    model.metadata = "of the file"
    run_in_parts(model, torch.rand(3, 3, 32, 64), augment=False)
    assert model.sizes == [3]
