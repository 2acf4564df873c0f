"""What a run remembers of its data: the same for the same images and labels, another for any other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.data.labels import LabelRecord
from utils.training.fingerprint import describe_changes, fingerprint

ROOT = Path("/data/set")
BOX = np.array([[1, 0.5, 0.5, 0.2, 0.2]], np.float32)
POLYGON = np.array([[0.4, 0.4], [0.6, 0.4], [0.5, 0.6]], np.float32)
RECORD = LabelRecord("/data/set/images/a.jpg", (20, 30), BOX, (POLYGON,))


def test_a_moved_set_is_the_same():
    moved = replace(RECORD, image="/elsewhere/images/a.jpg")
    assert torch.equal(fingerprint([RECORD], ROOT), fingerprint([moved], Path("/elsewhere")))
    assert fingerprint([], ROOT).shape == (0, 16)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([RECORD], []),
        ([replace(RECORD, boxes=BOX * np.float32(1.0001))], ["train: 0 images added, 0 removed, labels of 1 changed"]),
        ([replace(RECORD, boxes=BOX[:0], polygons=())], ["train: 0 images added, 0 removed, labels of 1 changed"]),
        ([replace(RECORD, polygons=(POLYGON[::-1],))], ["train: 0 images added, 0 removed, labels of 1 changed"]),
        ([replace(RECORD, hw=(30, 20))], ["train: 0 images added, 0 removed, labels of 1 changed"]),
        ([replace(RECORD, image="/data/set/images/b.jpg")], ["train: 1 image added, 1 removed, labels of 0 changed"]),
        ([], ["train: 0 images added, 1 removed, labels of 0 changed"]),
        ([RECORD] * 3, ["train: 2 images added, 0 removed, labels of 0 changed"]),
    ],
)
def test_changes(other, expected):
    before, now = ({"train": fingerprint(records, ROOT)} for records in ([RECORD], other))
    assert describe_changes(before, now) == expected


@pytest.mark.parametrize("damaged", [None, [1], torch.zeros(3), torch.zeros((3, 9), dtype=torch.uint8)])
def test_a_damaged_record(damaged):
    with pytest.raises(ValueError, match="record of the train images is damaged"):
        describe_changes({"train": damaged}, {"train": fingerprint([RECORD], ROOT)})
