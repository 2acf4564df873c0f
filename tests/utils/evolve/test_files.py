"""evolve.csv, hyp_evolve.yaml and evolve.png as v6.1's users know them."""

import math

import cv2
import pytest
import yaml

from utils.data.config import Hyp
from utils.evolve.files import EvolveFiles, Generation, best_index

START = Hyp.from_yaml("hyp.scratch-low.yaml").to_dict()
HEADER = (
    "metrics/precision,metrics/recall,metrics/mAP_0.5,metrics/mAP_0.5:0.95,val/box_loss,val/obj_loss,val/cls_loss,lr0,"
)
GENERATIONS = [
    Generation(START, [0.5, 0.4, 0.3, 0.2, 0.05, 0.01, 0.03]),
    Generation(START | {"lr0": 0.0123456}, [0.6, 0.5, 0.4, 0.3, 0.04, 0.02, 1 / 3]),
    Generation(START | {"lr0": 0.02}, [0.6, 0.5, 0.4, 0.25, 0.04, 0.02, 123456.7]),
]


@pytest.fixture
def files(tmp_path):
    return EvolveFiles(tmp_path, tuple(START), has_plot=False)


def test_csv_has_v61s_columns_and_cells(files):
    files.write(GENERATIONS)
    lines = files.csv.read_text().splitlines()
    assert len(lines) == 4
    assert lines[0].replace(" ", "").startswith(HEADER)
    assert lines[0].replace(" ", "").split(",")[7:] == list(START)
    cells = lines[2].split(",")
    assert len(cells) == 7 + len(START)
    assert all(len(cell) == 20 for cell in cells)
    assert cells[:3] == [f"{text:>20}" for text in ("0.6", "0.5", "0.4")]
    assert cells[6].strip() == "0.33333"
    assert cells[7].strip() == "0.012346"
    assert lines[3].split(",")[6].strip() == "1.2346e+05"


def test_csv_is_read_as_it_was_written(files):
    files.write(GENERATIONS)
    found = files.read()
    assert [generation.hyp["lr0"] for generation in found] == [0.01, 0.012346, 0.02]
    assert found[0] == GENERATIONS[0]


def test_nothing_is_read_where_nothing_is(files):
    assert files.read() == []


def test_without_generations_there_is_only_a_header(files):
    files.write([])
    assert [path.name for path in files.folder.iterdir()] == ["evolve.csv"]
    assert files.read() == []


def test_best_values_are_a_hyp_file(files):
    files.write(GENERATIONS)
    assert Hyp.from_yaml(files.best).to_dict() == GENERATIONS[1].hyp
    text = files.best.read_text()
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert head[1:3] == ["# Best generation: 1", "# Last generation: 2"]
    assert head[3].replace(" ", "").startswith("#metrics/precision,")
    assert head[4].replace(" ", "").startswith("#0.6,0.5,0.4,0.3,")
    assert list(yaml.safe_load(text)) == list(START)


def test_figure(tmp_path):
    EvolveFiles(tmp_path, tuple(START)).write(GENERATIONS)
    image = cv2.imread(str(tmp_path / "evolve.png"))
    assert image.shape[0] > image.shape[1] > 1000
    assert image.min() < 100


def test_no_figure_where_none_is_wanted(files):
    files.write(GENERATIONS)
    assert sorted(path.name for path in files.folder.iterdir()) == ["evolve.csv", "hyp_evolve.yaml"]


def test_fitness_that_is_no_number_is_the_least():
    broken = Generation(START, [math.nan] * 7)
    assert broken.fitness == 0
    assert best_index([broken, *GENERATIONS]) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("metrics/recall", "metrics/rec   "), "first columns"),
        (lambda text: text.replace("shear", "share"), "share, shear is in this file or in --hyp, not in both"),
        (lambda text: text + "1,2\n", r"line 5: 35 numbers"),
        (lambda text: text + "a," * 34 + "b\n", r"line 5: 35 numbers"),
        (lambda text: "", "first columns"),
    ],
)
def test_another_csv_is_refused(files, change, says):
    files.write(GENERATIONS)
    files.csv.write_text(change(files.csv.read_text()))
    with pytest.raises(ValueError, match=says):
        files.read()
