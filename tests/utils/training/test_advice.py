"""utils/training/advice.py: warnings about settings, and the commands after a training."""

import math
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

import detect
import val
from utils.data.config import Hyp
from utils.training.advice import loss_warning, next_commands, setting_warnings

HYP = Hyp.from_yaml("hyp.scratch-low.yaml")


@pytest.mark.parametrize(
    ("optimizer", "lr0", "is_warned"),
    [
        ("SGD", 0.01, False),
        ("AdamW", 0.01, True),
        ("Adam", 0.01, True),
        ("AdamW", 0.001, False),
        ("AdamW", 0.004, False),
    ],
)
def test_a_learning_rate_for_another_optimizer(optimizer: str, lr0: float, is_warned: bool) -> None:
    found = setting_warnings(replace(HYP, lr0=lr0), optimizer, 1000, 300)
    assert len(found) == is_warned
    assert all(f"--optimizer {optimizer}" in line and f"{lr0:g}" in line for line in found)


@pytest.mark.parametrize(
    ("batches", "epochs", "is_warned"),
    [(13, 30, False), (13, 15, False), (13, 14, True), (13, 3, True), (2000, 1, True)],
)
def test_a_run_too_short_for_its_warm_up(batches: int, epochs: int, is_warned: bool) -> None:
    found = setting_warnings(HYP, "SGD", batches, epochs)
    assert len(found) == is_warned
    assert all(f"--epochs {epochs}" in line and str(batches * epochs // 5) in line for line in found)


def test_no_warm_up_is_not_short() -> None:
    assert setting_warnings(replace(HYP, warmup_epochs=0), "SGD", 10, 1) == []


def test_losses_that_are_not_finite() -> None:
    assert loss_warning(None) is None
    assert loss_warning((0.1, 0.2, 0.3)) is None
    line = loss_warning((0.1, math.nan, math.inf))
    assert "obj, cls" in line
    assert "box" not in line


def test_the_next_commands_can_be_pasted() -> None:
    """The scripts' own parsers take them, with a folder that a shell would divide."""
    lines = next_commands(Path("runs/a b/weights/best.pt"), Path("data/my set.yaml"), 320)
    parsed = [shlex.split(line) for line in lines]
    assert [words[:2] for words in parsed] == [["python", "val.py"], ["python", "detect.py"]]
    rated, found = val.parse_opt(parsed[0][2:]), detect.parse_opt(parsed[1][2:])
    assert rated.weights == found.weights == ["runs/a b/weights/best.pt"]
    assert rated.data == "data/my set.yaml"
    assert rated.imgsz == 320
    assert found.imgsz == [320]
