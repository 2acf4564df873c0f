"""TensorBoard's events read back: scalars, the graph, curves of precision over recall, pictures."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from models.yolo import Model
from utils.files.images import write_image
from utils.loggers import KEYS, RunLogger
from utils.loggers.base import RunStart
from utils.loggers.tensorboard import TensorBoardLogger, pr_counts, summary_writer
from utils.metrics import IOU_LEVELS, EvalResult, average_precision

accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
LOSSES, RATES = torch.tensor([1.0, 2.0, 3.0]), [0.01, 0.01, 0.1]


@pytest.fixture
def result():
    """Four labels of class `b`, three detections, of which the second is wrong."""
    right = np.repeat([[True], [False], [True]], len(IOU_LEVELS), 1)
    stats = average_precision(right, np.array([0.9, 0.8, 0.7]), np.ones(3), np.ones(4))
    return EvalResult(("a", "b"), 4, np.array([0, 4]), stats, (0.1, 0.2, 0.3), (0, 0, 0), (1, 3, 64, 64))


def logged(folder, model, story, start_epoch=0):
    start = RunStart(folder, {}, {}, start_epoch, ("a", "b"), model, 64)
    with RunLogger([TensorBoardLogger(summary_writer())], start) as logger:
        story(logger)
    events = accumulators.EventAccumulator(str(folder))
    events.Reload()
    return events


def test_scalars_pictures_and_curves(tmp_path, result):
    def story(logger):
        logger.log_epoch(0, LOSSES, result, RATES)
        logger.log_epoch(1, LOSSES, None, RATES)
        write_image(tmp_path / "results.png", np.zeros((8, 8, 3), np.uint8))
        logger.log_end(1, tmp_path / "best.pt", result)

    events = logged(tmp_path, nn.Identity(), story)
    assert set(events.Tags()["scalars"]) == set(KEYS)
    assert events.Tags()["images"] == ["results.png"]
    assert [event.step for event in events.Scalars("metrics/mAP_0.5")] == [0]
    (curve,) = events.Tensors("PR/b")
    values = np.array(curve.tensor_proto.float_val).reshape(6, -1)
    assert np.allclose(values, pr_counts(result)["b"])


def test_counts_of_a_curve(result):
    counts = pr_counts(result)
    assert list(counts) == ["b"]
    right, wrong, _, missed, precision, recall = counts["b"][:, 0]  # of all detections
    assert (right, wrong, missed) == (2, 1, 2)
    assert np.allclose((precision, recall), (2 / 3, 1 / 2))
    assert counts["b"][:4, -1].tolist() == [0, 0, 0, 4]  # of none


def test_no_class_has_labels():
    empty = average_precision(np.zeros((0, 10), bool), np.zeros(0), np.zeros(0), np.zeros(0))
    assert pr_counts(EvalResult(("a",), 1, np.zeros(1), empty, None, (0, 0, 0), (1, 3, 64, 64))) == {}


def test_graph_leaves_the_model_as_it_was(tmp_path, recwarn, capsys):
    model = Model("yolov5n-NAM.yaml", nc=2).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    events = logged(tmp_path, model, lambda logger: None)
    assert any("Detect" in node.name for node in events.Graph().node)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not [warning for warning in recwarn if "trac" in str(warning.message).lower()]
    assert capsys.readouterr().out == ""


def test_a_run_that_goes_on_draws_no_second_graph(tmp_path):
    assert not logged(tmp_path, nn.Identity(), lambda logger: None, start_epoch=3).Tags()["graph"]


def test_what_cannot_be_traced_has_no_graph(tmp_path, caplog, capsys):
    class Stubborn(nn.Module):
        def forward(self, images):
            raise ValueError("not for tracing")

    with caplog.at_level("DEBUG", "yolov5"):
        events = logged(tmp_path, Stubborn(), lambda logger: None)
    assert not events.Tags()["graph"]
    assert caplog.messages[-1] == "TensorBoard: no graph, the network cannot be traced: not for tracing"
    assert capsys.readouterr().out == ""


def test_without_the_package_the_run_goes_on(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level("INFO", "yolov5"):
        assert summary_writer() is None
    assert "pip install tensorboard" in caplog.text
