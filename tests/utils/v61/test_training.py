"""Weights, schedules, evolve.csv, hooks, loggers, AutoAnchor and AutoBatch in v6.1's words."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from models.yolo import Model
from utils.autoanchor import check_anchor_order, check_anchors
from utils.autobatch import autobatch, check_train_batch_size
from utils.callbacks import Callbacks
from utils.general import (
    coco80_to_coco91_class,
    intersect_dicts,
    labels_to_class_weights,
    labels_to_image_weights,
    one_cycle,
    print_mutation,
)
from utils.loggers import Loggers
from utils.loss import ComputeLoss
from utils.plots import plot_evolve
from utils.torch_utils import ModelEMA


def test_one_cycle():
    curve = one_cycle(1, 0.1, 10)
    assert [curve(0), curve(5), curve(10)] == pytest.approx([1, 0.55, 0.1])


def test_weights_of_classes_and_images():
    labels = [np.array([[0, 0.5, 0.5, 0.1, 0.1]] * 3), np.array([[1, 0.5, 0.5, 0.1, 0.1]]), np.zeros((0, 5))]
    weights = labels_to_class_weights(labels, nc=3)
    assert weights.tolist() == pytest.approx([1 / 7, 3 / 7, 3 / 7])
    assert labels_to_image_weights(labels, nc=3, class_weights=weights.numpy()).tolist() == pytest.approx(
        [3 / 7, 3 / 7, 0]
    )
    assert labels_to_image_weights(labels, nc=3).tolist() == [3, 1, 0]
    assert not labels_to_class_weights([]).numel()


def test_what_two_state_dicts_share():
    a, b = torch.zeros(2), torch.zeros(3)
    found = intersect_dicts({"w": a, "anchors": a, "b": a, "c": a}, {"w": a, "anchors": a, "b": b}, exclude=["anchor"])
    assert found == {"w": a}


def test_coco_numbers():
    numbers = coco80_to_coco91_class()
    assert (len(numbers), numbers[0], numbers[11], numbers[-1]) == (80, 1, 13, 90)


def test_evolve_csv(tmp_path, caplog):
    hyp = {"lr0": 0.01, "momentum": 0.9}
    for results in ((0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1), (0.6, 0.5, 0.4, 0.3, 0.1, 0.1, 0.1)):
        hyp["lr0"] *= 2
        with caplog.at_level("INFO", "yolov5"):
            print_mutation(results, hyp.copy(), tmp_path, "")
    lines = (tmp_path / "evolve.csv").read_text().splitlines()
    assert [cell.strip() for cell in lines[0].split(",")][:4] == (
        ["metrics/precision", "metrics/recall", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95"]
    )
    assert len(lines) == 3
    assert yaml.safe_load((tmp_path / "hyp_evolve.yaml").read_text()) == {"lr0": pytest.approx(0.04), "momentum": 0.9}
    assert "lr0 0.04" in caplog.text
    plot_evolve(tmp_path / "evolve.csv")
    assert (tmp_path / "evolve.png").stat().st_size > 1000
    with pytest.raises(FileNotFoundError, match=r"absent\.csv"):
        plot_evolve(tmp_path / "absent.csv")


def test_callbacks():
    seen, callbacks = [], Callbacks()
    callbacks.register_action("on_train_start", name="mine", callback=lambda *args, **words: seen.append((args, words)))
    callbacks.run("on_train_start", 1, epoch=2)
    callbacks.run("on_val_end")
    assert seen == [((1,), {"epoch": 2})]
    assert callbacks.get_registered_actions("on_train_start")[0]["name"] == "mine"
    assert len(callbacks.get_registered_actions()) == 19
    assert callbacks.stop_training is False
    with pytest.raises(AssertionError, match="on_lunch"):
        callbacks.register_action("on_lunch", callback=print)
    with pytest.raises(AssertionError, match="cannot be called"):
        callbacks.register_action("on_train_start", callback=None)


def test_loggers_without_tensorboard(tmp_path):
    loggers = Loggers(tmp_path, include=("csv",))
    assert (loggers.tb, loggers.wandb, loggers.csv, len(loggers.keys)) == (None, None, True, 13)
    for epoch in range(2):
        loggers.on_fit_epoch_end([*range(13)], epoch, 0.0, np.zeros(1))
    rows = [row.split(",") for row in (tmp_path / "results.csv").read_text().splitlines()]
    assert [cell.strip() for cell in rows[0]][:2] == ["epoch", "train/box_loss"]
    assert [float(cell) for cell in rows[2]] == [1, *range(13)]
    assert {len(cell) for row in rows[1:] for cell in row} == {20}
    loggers.on_train_end(None, None, True, 1, ())
    assert (tmp_path / "results.png").exists()


def test_loss_of_a_model_with_a_dictionary(tiny):
    model = Model(tiny(), verbose=False)
    with pytest.raises(ValueError, match=r"model\.hyp has no box, obj, cls"):
        ComputeLoss(model)
    model.hyp = {"box": 0.05, "obj": 1.0, "cls": 0.5, "obj_pw": 1.0, "cls_pw": 1.0, "fl_gamma": 0.0, "anchor_t": 4.0}
    raw, targets = model(torch.rand(2, 3, 64, 64)), torch.tensor([[0, 1, 0.5, 0.5, 0.3, 0.3]])
    total, items = ComputeLoss(model)(raw, targets)
    expected, expected_items = ComputeLoss(model.head, hyp=model.hyp)(raw, targets)
    assert torch.equal(total, expected)
    assert torch.equal(items, expected_items)
    wrapped = SimpleNamespace(module=model)
    assert torch.equal(ComputeLoss(wrapped, autobalance=True)(raw, targets)[0], expected)
    model.hyp["label_smoothing"] = 0.1
    assert not torch.equal(ComputeLoss(model, False)(raw, targets)[1][2], items[2])


def test_attributes_of_the_average(tiny):
    model = Model(tiny(), verbose=False)
    ema = ModelEMA(model)
    model.hyp, model.other = {"lr0": 1}, 2
    ema.update_attr(model, include=["hyp"])
    assert ema.ema.hyp == {"lr0": 1}
    assert not hasattr(ema.ema, "other")
    ema.update_attr(model)
    assert ema.ema.other == 2
    assert not ema.ema.training


def test_anchors_of_a_user(tiny, caplog):
    model = Model(tiny(), verbose=False)
    before = model.head.anchors.clone()
    check_anchor_order(model.head)
    assert torch.equal(model.head.anchors, before)
    model.head.anchors[:] = (before * model.head.stride[:, None, None]).flip(0) / model.head.stride[:, None, None]
    wrong = model.head.anchors.clone()
    check_anchor_order(model.head)
    assert torch.equal(model.head.anchors, wrong.flip(0))
    model = Model(tiny(), verbose=False)
    boxes = np.array([[0, 0.5, 0.5, 0.9, 0.02]] * 8, np.float32)  # far too flat for any anchor
    dataset = SimpleNamespace(labels=[boxes], shapes=np.array([[640, 640]]))
    with caplog.at_level("INFO", "yolov5"):
        check_anchors(dataset, model=model, thr=4.0, imgsz=640)
    assert "anchors/target" in caplog.text
    assert not torch.equal(model.head.anchors, before)


def test_batch_size_on_a_cpu(tiny):
    model = Model(tiny(), verbose=False)
    assert check_train_batch_size(model, 64) == 16
    assert autobatch(model, 64, batch_size=8) == 8
