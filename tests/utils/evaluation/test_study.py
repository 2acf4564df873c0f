"""A study's tables, whole after each size, and its figure."""

import cv2
import numpy as np
import pytest

from utils.base.constants import STUDY_SIZES
from utils.evaluation.study import Study, study_row
from utils.metrics import EvalResult, average_precision


def result(speed_ms, losses=None):
    """Two objects of which one is found."""
    stats = average_precision(np.ones((1, 10), bool), np.array([0.9]), np.zeros(1), np.zeros(2))
    return EvalResult(("a",), 2, np.array([2]), stats, losses, speed_ms, (1, 3, 64, 64))


def test_sizes():
    assert STUDY_SIZES == (256, 384, 512, 640, 768, 896, 1024, 1152, 1280, 1408, 1536)


@pytest.mark.parametrize("losses", [None, (0.1, 0.2, 0.3)])
def test_row_has_v61_columns(losses):
    one = result((1, 2, 3), losses)
    expected = [one.mp, one.mr, one.map50, one.map, *(losses or (0, 0, 0)), 1, 2, 3]
    np.testing.assert_array_equal(study_row(one), expected)
    assert one.map == pytest.approx(51 / 101)


def test_table_grows_by_size(tmp_path):
    study = Study(tmp_path, "bccd")
    name = study.begin("best")
    for count, imgsz in enumerate((64, 128, 256), 1):
        study.add(name, imgsz, result((imgsz / 64, 0.25, 12345)))
        lines = (tmp_path / "study_bccd_best.txt").read_text().splitlines()
        assert len(lines) == count
        assert lines[-1].split()[-3:] == [str(imgsz // 64), "0.25", "1.234e+04"]
        assert {len(line) for line in lines} == {10 * 10 + 9}
    study.finish()
    assert cv2.imread(str(tmp_path / "study.png")).shape == (1200, 2250, 3)


def test_weights_of_one_name_keep_their_own_table(tmp_path):
    study = Study(tmp_path, "d")
    names = [study.begin("best") for _ in range(2)]
    for name in names:
        study.add(name, 64, result((1, 2, 3)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study_d_best.txt", "study_d_best2.txt"]
    study.finish()
    assert (tmp_path / "study.png").exists()
