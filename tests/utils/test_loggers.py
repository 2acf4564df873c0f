"""results.csv row by row, also after a crash; TensorBoard's events; the bar's columns."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.datasets import Batch
from utils.images import write_image
from utils.loggers import HEADER, KEYS, EpochBar, RunLogger

RESULT = SimpleNamespace(mp=0.5, mr=0.25, map50=0.123456789, map=0.1, losses=(0.1, 0.2, 0.3))
LOSSES = torch.tensor([1.0, 2.0, 3.0])
RATES = [0.01, 0.01, 1e-9]


def lines(folder):
    return (folder / "results.csv").read_text().splitlines()


def test_header_is_that_of_v61():
    names = ["epoch", *KEYS]
    assert [cell.strip() for cell in HEADER.split(",")] == names
    assert all(len(cell) == max(20, len(name)) for cell, name in zip(HEADER.split(","), names, strict=True))


def test_rows_and_an_epoch_without_validation(tmp_path):
    with RunLogger(tmp_path) as logger:
        logger.log_epoch(0, LOSSES, RESULT, RATES)
        logger.log_epoch(1, LOSSES, None, RATES)
    assert lines(tmp_path)[0] == HEADER
    first, second = ([cell.strip() for cell in line.split(",")] for line in lines(tmp_path)[1:])
    assert first == ["0", "1", "2", "3", "0.5", "0.25", "0.12346", "0.1", "0.1", "0.2", "0.3", "0.01", "0.01", "1e-09"]
    assert second[4:11] == ["nan"] * 7


@pytest.mark.parametrize("torn", ["", "                   2,     ", "                   2"])
def test_a_run_that_goes_on_writes_later_rows_anew(tmp_path, torn):
    with RunLogger(tmp_path) as logger:
        for epoch in range(3):
            logger.log_epoch(epoch, LOSSES, RESULT, RATES)
    kept = lines(tmp_path)[:3]
    with (tmp_path / "results.csv").open("a") as file:
        file.write(torn)
    with RunLogger(tmp_path, start_epoch=2) as logger:
        assert lines(tmp_path) == kept
        logger.log_epoch(2, LOSSES * 2, RESULT, RATES)
    assert len(lines(tmp_path)) == 4


def test_a_new_run_in_an_old_folder_starts_anew(tmp_path):
    for _ in range(2):
        with RunLogger(tmp_path) as logger:
            logger.log_epoch(0, LOSSES, RESULT, RATES)
    assert len(lines(tmp_path)) == 2


def test_tensorboard_has_scalars_and_pictures(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with RunLogger(tmp_path) as logger:
        logger.log_epoch(0, LOSSES, RESULT, RATES)
        logger.log_epoch(1, LOSSES, None, RATES)
        write_image(tmp_path / "results.png", np.zeros((8, 8, 3), np.uint8))
        logger.log_end(1)
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(KEYS)
    assert events.Tags()["images"] == ["results.png"]
    assert [event.step for event in events.Scalars("metrics/mAP_0.5")] == [0]


def test_bar(capsys, caplog):
    batches = [Batch(torch.zeros(2, 3, 64, 96), torch.zeros(5, 6), (), ())] * 3
    with caplog.at_level("INFO", "yolov5"):
        bar = EpochBar(1, 10, batches, 3)
    assert caplog.messages[0].split() == ["Epoch", "gpu_mem", "box", "obj", "cls", "labels", "img_size"]
    for i, batch in enumerate(bar):
        bar.show("0G", batch, torch.tensor([0.123456, 2, 3]) if i == 0 else None)
    assert bar.bar.desc.split() == ["1/9", "0G", "0.1235", "2", "3", "5", "96"]
    assert bar.bar.n == 3
