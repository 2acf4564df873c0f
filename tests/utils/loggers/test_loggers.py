"""results.csv row by row, also after a crash; what loggers are told, and that none can end or change a run; the bar."""

import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from train import parse_opt, wandb_flags
from utils.datasets import Batch
from utils.files.images import write_image
from utils.loggers import HEADER, KEYS, CsvLogger, EpochBar, RunLogger, check_services, open_loggers
from utils.loggers.base import Logger, RunStart, store_service, stored_service
from utils.loggers.wandb import WandbFlags
from utils.training.run_files import RunFiles

RESULT = SimpleNamespace(mp=0.5, mr=0.25, map50=0.123456789, map=0.1, losses=(0.1, 0.2, 0.3))
LOSSES = torch.tensor([1.0, 2.0, 3.0])
RATES = [0.01, 0.01, 1e-9]


def start_of(folder, start_epoch=0):
    return RunStart(folder, {}, {}, start_epoch, ("a",), nn.Identity(), 64)


def csv_logger(folder, start_epoch=0):
    return RunLogger([CsvLogger()], start_of(folder, start_epoch))


def lines(folder):
    return (folder / "results.csv").read_text().splitlines()


class Recorder(Logger):
    """Keeps what it is told, draws random numbers as packages do, and fails at what `fails` names."""

    name = "recorder"

    def __init__(self, fails=""):
        self.fails, self.told = fails, []

    def tell(self, event, *facts):
        random.random(), np.random.rand(), torch.rand(1)
        self.told.append((event, *facts))
        if event == self.fails:
            raise ConnectionError("the server is gone")

    def on_start(self, start):
        self.tell("start")

    def on_images(self, epoch, evaluated):
        self.tell("images", epoch, evaluated.index)

    def on_epoch(self, record):
        self.tell("epoch", record)

    def on_pictures(self, epoch, paths):
        self.tell("pictures", epoch, [path.name for path in paths])

    def on_checkpoint(self, epoch, path, is_best):
        self.tell("checkpoint", epoch, path.name, is_best)

    def on_end(self, end):
        self.tell("end", end)

    def close(self, is_complete):
        self.tell("close", is_complete)


# results.csv ----------------------------------------------------------------------------------------------------------


def test_header_is_that_of_v61():
    names = ["epoch", *KEYS]
    assert [cell.strip() for cell in HEADER.split(",")] == names
    assert all(len(cell) == max(20, len(name)) for cell, name in zip(HEADER.split(","), names, strict=True))


def test_rows_and_an_epoch_without_validation(tmp_path):
    with csv_logger(tmp_path) as logger:
        logger.log_epoch(0, LOSSES, RESULT, RATES)
        logger.log_epoch(1, LOSSES, None, RATES)
    assert lines(tmp_path)[0] == HEADER
    first, second = ([cell.strip() for cell in line.split(",")] for line in lines(tmp_path)[1:])
    assert first == ["0", "1", "2", "3", "0.5", "0.25", "0.12346", "0.1", "0.1", "0.2", "0.3", "0.01", "0.01", "1e-09"]
    assert second[4:11] == ["nan"] * 7


@pytest.mark.parametrize("torn", ["", "                   2,     ", "                   2"])
def test_a_run_that_goes_on_writes_later_rows_anew(tmp_path, torn):
    with csv_logger(tmp_path) as logger:
        for epoch in range(3):
            logger.log_epoch(epoch, LOSSES, RESULT, RATES)
    kept = lines(tmp_path)[:3]
    with (tmp_path / "results.csv").open("a") as file:
        file.write(torn)
    with csv_logger(tmp_path, start_epoch=2) as logger:
        assert lines(tmp_path) == kept
        logger.log_epoch(2, LOSSES * 2, RESULT, RATES)
    assert len(lines(tmp_path)) == 4


def test_a_new_run_in_an_old_folder_starts_anew(tmp_path):
    for _ in range(2):
        with csv_logger(tmp_path) as logger:
            logger.log_epoch(0, LOSSES, RESULT, RATES)
    assert len(lines(tmp_path)) == 2


# What loggers are told ------------------------------------------------------------------------------------------------


def test_the_story_of_a_run(tmp_path):
    recorder = Recorder()
    with RunLogger([recorder], start_of(tmp_path), interval=2) as logger:
        write_image(tmp_path / "labels.jpg", np.zeros((8, 8, 3), np.uint8))
        assert logger.observer(0) is None
        logger.log_epoch(0, LOSSES, RESULT, RATES, best_epoch=0)
        logger.log_checkpoint(0, None, is_best=True)
        for index in range(2):
            logger.observer(1)(SimpleNamespace(index=index))
        logger.log_epoch(1, LOSSES, SimpleNamespace(mp=1, mr=1, map50=1, map=1, losses=None), RATES, best_epoch=1)
        logger.log_checkpoint(1, tmp_path / "epoch1.pt", is_best=True)
        write_image(tmp_path / "results.png", np.zeros((8, 8, 3), np.uint8))
        logger.log_end(1, tmp_path / "best.pt", RESULT)
    events = [told[0] for told in recorder.told]
    assert events == ["start", "epoch", "pictures", "images", "epoch", "checkpoint", "pictures", "end", "close"]
    told = dict(zip(events, recorder.told, strict=True))
    assert told["images"] == ("images", 1, 0)
    assert [facts[2] for facts in recorder.told if facts[0] == "pictures"] == [["labels.jpg"], ["results.png"]]
    assert told["checkpoint"] == ("checkpoint", 1, "epoch1.pt", True)
    expected = {"best/epoch": 1, "best/precision": 1, "best/recall": 1, "best/mAP_0.5": 1, "best/mAP_0.5:0.95": 1}
    assert told["end"][1].best == expected
    assert told["close"] == ("close", True)


def test_the_best_epoch_may_be_one_before_the_run_went_on(tmp_path):
    with csv_logger(tmp_path) as logger:
        logger.log_epoch(0, LOSSES, RESULT, RATES, 0)
    recorder = Recorder()
    with RunLogger([CsvLogger(), recorder], start_of(tmp_path, 1)) as logger:
        logger.log_epoch(1, LOSSES, RESULT, RATES, 0)
    assert recorder.told[1][1].best == {
        "best/epoch": 0,
        "best/precision": 0.5,
        "best/recall": 0.25,
        "best/mAP_0.5": 0.12346,
        "best/mAP_0.5:0.95": 0.1,
    }


@pytest.mark.parametrize("event", ["epoch", "pictures", "images", "checkpoint", "end", "close"])
def test_a_logger_that_fails_is_dropped(tmp_path, caplog, event):
    broken, sound = Recorder(event), Recorder()
    with RunLogger([broken, sound], start_of(tmp_path), interval=1) as logger:
        for epoch in range(2):
            logger.observer(epoch)(SimpleNamespace(index=0))
            logger.log_epoch(epoch, LOSSES, RESULT, RATES)
            logger.log_checkpoint(epoch, tmp_path / "epoch.pt", is_best=False)
        logger.log_end(1, tmp_path / "best.pt", RESULT)
    assert caplog.messages == ["recorder: the server is gone; the run goes on without it"]
    assert [told[0] for told in broken.told].count(event) == 1
    assert broken.told[-1][0] == event
    assert [told[0] for told in sound.told].count("epoch") == 2


def test_what_fails_to_start_ends_the_run_and_closes_the_others(tmp_path):
    first, broken, never = Recorder(), Recorder("start"), Recorder()
    with pytest.raises(ConnectionError), RunLogger([first, broken, never], start_of(tmp_path)):
        pytest.fail("the run must not begin")
    assert first.told == [("start",), ("close", False)]
    assert never.told == []


def test_a_run_that_fails_tells_so(tmp_path):
    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt), RunLogger([recorder], start_of(tmp_path)):
        raise KeyboardInterrupt
    assert recorder.told[-1] == ("close", False)


def test_loggers_leave_random_states_alone(tmp_path):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    with RunLogger([Recorder("epoch"), Recorder()], start_of(tmp_path)) as logger:
        logger.log_epoch(0, LOSSES, RESULT, RATES)
        logger.log_end(0, tmp_path / "best.pt", RESULT)
    assert states() == before


def test_without_loggers_nothing_is_written(tmp_path):
    run = RunFiles(tmp_path, {}, {}, {}, [])
    flags = WandbFlags(bbox_interval=3)
    with open_loggers(
        run, 0, nn.Identity(), 64, ("a",), {}, epochs=300, data_file="", wandb=flags, is_main=False
    ) as logger:
        logger.log_epoch(0, LOSSES, RESULT, RATES, 0)
        logger.log_end(0, run.final, None)
        seen = [logger.observer(epoch) is not None for epoch in range(4)]
    assert seen == [False, False, True, False]  # as in the main process, which waits for all to see the batches
    assert list(tmp_path.iterdir()) == []


def test_services_know_their_run_again(tmp_path):
    assert stored_service(tmp_path, "wandb") == {}
    store_service(tmp_path, "wandb", {"id": "1e3"})
    store_service(tmp_path, "mlflow", {"run_id": "b"})
    store_service(tmp_path, "wandb", {"id": "2e3"})
    assert stored_service(tmp_path, "wandb") == {"id": "2e3"}
    assert stored_service(tmp_path, "mlflow") == {"run_id": "b"}


@pytest.mark.parametrize(
    ("flags", "package"),
    [
        (["--wandb"], "wandb"),
        (["--entity", "me"], "wandb"),
        (["--bbox_interval", "3"], "wandb"),
        (["--mlflow"], "mlflow"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, flags, package):
    monkeypatch.setitem(sys.modules, package, None)
    opt = parse_opt(flags)
    with pytest.raises(ImportError, match=f"--{package}: .*pip install {package}"):
        check_services(wandb_flags(opt), opt.mlflow)
    check_services(WandbFlags(), None)


# Console --------------------------------------------------------------------------------------------------------------


def test_bar(capsys, caplog):
    batches = [Batch(torch.zeros(2, 3, 64, 96), torch.zeros(5, 6), (), ())] * 3
    with caplog.at_level("INFO", "yolov5"):
        bar = EpochBar(1, 10, batches, 3)
    assert caplog.messages[0].split() == ["Epoch", "gpu_mem", "box", "obj", "cls", "labels", "img_size"]
    for i, batch in enumerate(bar):
        bar.show("0G", batch, torch.tensor([0.123456, 2, 3]) if i == 0 else None)
    assert bar.bar.desc.split() == ["1/9", "0G", "0.1235", "2", "3", "5", "96"]
    assert bar.bar.n == 3
