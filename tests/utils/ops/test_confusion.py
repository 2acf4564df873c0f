"""The confusion matrix: v6.1's numbers, and what v6.1 left out."""

import numpy as np
import pytest
import torch

from utils.general import ROOT
from utils.ops.confusion import ConfusionMatrix

NOTHING_FOUND, NO_LABELS = torch.zeros(0, 6), torch.zeros(0, 5)


def detections(*rows):
    """Rows of x1, confidence, class: boxes 10 x 10 at y 0."""
    return torch.tensor([[x, 0, x + 10, 10, confidence, index] for x, confidence, index in rows]).view(-1, 6).float()


def labels(*rows):
    """Rows of x1, class: boxes 10 x 10 at y 0."""
    return torch.tensor([[index, x, 0, x + 10, 10] for x, index in rows]).view(-1, 5).float()


def test_equals_v61():
    golden = np.load(ROOT / "tests" / "golden" / "confusion.npz")
    confusion = ConfusionMatrix(4)
    confusion.process_batch(torch.from_numpy(golden["detections"]), torch.from_numpy(golden["labels"]))
    np.testing.assert_array_equal(confusion.matrix, golden["matrix"])


@pytest.mark.parametrize(
    ("found", "known", "cells"),
    [
        (detections((0, 0.9, 1)), labels((0, 1)), {(1, 1): 1}),
        (detections((0, 0.9, 0)), labels((0, 1)), {(0, 1): 1}),
        (detections((0, 0.25, 1)), labels((0, 1)), {(2, 1): 1}),  # too unsure
        (detections((5, 0.9, 1)), labels((0, 1)), {(2, 1): 1, (1, 2): 1}),  # IoU 1/3
        (detections((0, 0.9, 0)), NO_LABELS, {(0, 2): 1}),
        (NOTHING_FOUND, labels((0, 1), (50, 1)), {(2, 1): 2}),
        (NOTHING_FOUND, NO_LABELS, {}),
        (detections((1, 0.9, 0), (0, 0.5, 1)), labels((0, 1)), {(1, 1): 1, (0, 2): 1}),  # the nearer one has it
        (detections((0, 0.9, 0), (0, 0.8, 0)), labels((0, 0)), {(0, 0): 1, (0, 2): 1}),
    ],
)
def test_cells(found, known, cells):
    confusion = ConfusionMatrix(2)
    confusion.process_batch(found, known)
    expected = np.zeros((3, 3))
    for cell, count in cells.items():
        expected[cell] = count
    np.testing.assert_array_equal(confusion.matrix, expected)


def test_images_add_up():
    confusion = ConfusionMatrix(2)
    confusion.process_batch(detections((0, 0.9, 1)), labels((0, 1)))
    confusion.process_batch(detections((0, 0.9, 1)), labels((0, 1)))
    assert confusion.matrix[1, 1] == confusion.matrix.sum() == 2
