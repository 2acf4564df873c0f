"""Ranges of train.py's options, and which of them the user gave."""

from dataclasses import replace

import pytest

from train import parse_opt

GOOD = parse_opt(["--epochs", "1", "--batch-size", "8", "--imgsz", "64", "--workers", "0"])


@pytest.mark.parametrize(
    "changes", [{}, {"cache": "val"}, {"quad": True}, {"quad": True, "rect": True}, {"close_mosaic": 400}], ids=str
)
def test_options_that_are_taken(changes):
    replace(GOOD, **changes).check()


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"close_mosaic": -1}, "--close-mosaic -1"),
        ({"cache": "foo"}, "--cache foo"),
        ({"label_smoothing": -0.1}, "--label-smoothing -0.1"),
        ({"quad": True, "batch_size": 6}, "--quad: .* 4 .*--batch-size 6"),
        ({"rect": True, "image_weights": True}, "--rect .*--image-weights"),
    ],
    ids=str,
)
def test_options_that_are_refused(changes, flag):
    with pytest.raises(ValueError, match=flag):
        replace(GOOD, **changes).check()


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"batch_size": 5}, "--batch-size 5 .* 2 processes: a multiple of 2"),
        ({"batch_size": 12, "quad": True}, "a multiple of 8"),
        ({"batch_size": -1}, "--batch-size -1"),
        ({"batch_size": 5, "resume": "last.pt"}, "--resume: .*--batch-size 5 .* 2"),
    ],
)
def test_batches_that_cannot_be_shared_out(changes, flag):
    options = replace(GOOD, **changes)
    options.check_shares(1)
    with pytest.raises(ValueError, match=flag):
        options.check_shares(2)


def test_given_are_the_flags_of_the_command_line():
    """Those named with their default's value too; --insert may be repeated."""
    named = ["--epochs", "300", "--img", "640", "--resume", "--insert", "A@p5", "--insert", "B@p4"]
    assert parse_opt(named).given == {"epochs", "imgsz", "resume", "insert"}
    assert parse_opt(named).insert == ["A@p5", "B@p4"]
    assert parse_opt([]).given == frozenset()
