"""Charts: lines where the numbers are, gaps where there are none, names escaped, many classes readable."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from utils.draw import html_charts
from utils.draw.html_charts import Axis, Curve

EVIL = "<b onload='x'>\"犬"


def points(path):
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def tree(markup):
    """The figure, which must be well-formed."""
    return ET.fromstring(markup)


def paths(markup, kind):
    return [node.get("d") for node in tree(markup).iter("path") if kind in (node.get("class") or "").split()]


@pytest.mark.parametrize(
    ("low", "high", "whole", "ticks"),
    [
        (0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 3, True, [0, 1, 2, 3]),
        (0, 299, True, [0, 100, 200]),
        (7, 7, True, [7]),
        (0.5, 0.5, False, [0.3, 0.4, 0.5, 0.6, 0.7]),
        (0, 0, False, [-0.4, -0.2, 0, 0.2, 0.4]),
    ],
)
def test_ticks_are_round_and_within(low, high, whole, ticks):
    assert Axis(low, high, whole).ticks == pytest.approx(ticks)


def test_a_curve_goes_through_its_points():
    markup = html_charts.chart("t", [Curve("a", np.array([0, 1]), np.array([0, 1]))], Axis(0, 1), Axis(0, 1), "x")
    (path,) = paths(markup, "curve")
    left, right = html_charts.LEFT, html_charts.WIDTH - html_charts.RIGHT
    assert points(path) == [(left, html_charts.HEIGHT - html_charts.BOTTOM), (right, html_charts.TOP)]


def test_gaps_and_lone_points_of_a_training():
    values = np.array([1, np.nan, 2, 3, np.inf, np.nan])
    markup = html_charts.training_chart("t", np.arange(6), [("loss", values)])
    (path,) = paths(markup, "curve")
    assert path.count("M") == 2
    assert path.count("L") == 1
    titles = [node.text for node in tree(markup).iter("title")]
    assert titles == ["loss", "loss, epoch 0: 1", "loss, epoch 2: 2", "loss, epoch 3: 3"]
    circles = [node for node in tree(markup).iter("circle") if node.get("class") != "hit"]
    assert len(circles) == 1  # epoch 0, which no line reaches


def test_one_epoch_can_be_seen_and_none_is_no_chart():
    assert html_charts.training_chart("t", np.array([0]), [("a", np.array([0.5]))]).count("<circle") == 2
    assert html_charts.training_chart("t", np.array([0]), [("a", np.array([np.nan]))]) == ""
    assert html_charts.training_chart("t", np.zeros(0), [("a", np.zeros(0))]) == ""


def test_hovers_are_bounded():
    markup = html_charts.training_chart("t", np.arange(3000), [("a", np.arange(3000.0))])
    assert 100 < markup.count('class="hit"') <= html_charts.MAX_HOVERS


def test_metric_chart_names_few_classes_and_counts_many():
    x = np.linspace(0, 1, 11)
    few = html_charts.metric_chart("t", x, np.ones((2, 11)), [EVIL, "b"], "recall", mark=0.5)
    assert "".join(tree(few).itertext()).count(EVIL) == 2  # on hover and in the legend
    assert len(paths(few, "curve")) == 3
    assert len(paths(few, "mark")) == 1
    many = html_charts.metric_chart("t", x, np.ones((80, 11)), [f"c{i}" for i in range(80)], "recall")
    assert "each line a class (80)" in many
    assert many.count("<i ") == 1  # the mean's
    assert len(paths(html_charts.metric_chart("t", x, np.ones((1, 11)), ["a"], "x"), "curve")) == 1
    assert html_charts.metric_chart("t", x, np.zeros((0, 11)), [], "x") == ""


def test_matrix_tells_counts_and_shares():
    matrix = np.array([[3, 0, 1], [1, 0, 0], [0, 2, 0]])
    titles = [node.text for node in tree(html_charts.matrix_chart(matrix, [EVIL, "b"])).iter("title")]
    assert f"predicted {EVIL}, true {EVIL}: 3 (75.0%)" in titles
    assert "predicted background, true b: 2 (100.0%)" in titles
    assert len([title for title in titles if title.startswith("predicted")]) == 4  # no cell for 0
    assert "0.75" in html_charts.matrix_chart(matrix, ["a", "b"])


def test_matrix_of_many_classes_has_no_numbers():
    count = html_charts.MAX_NUMBERED
    markup = html_charts.matrix_chart(np.eye(count + 1, dtype=int), ["a name that is far too long"] * count)
    assert "1.00" not in markup
    assert "a name that i…" in markup
    assert tree(html_charts.matrix_chart(np.zeros((2, 2), int), ["a"])).tag == "div"


@pytest.mark.parametrize(("downward", "y"), [(True, 0), (False, 150)])
def test_density_puts_counts_in_their_cells(downward, y):
    counts = np.array([[0, 0], [4, 1]])  # x 1: y 0 four times, y 1 once
    few, most = paths(html_charts.density_chart("t", counts, ("x", "y"), downward), "cell")
    assert most.startswith(f"M180 {y}h150")
    assert few.startswith(f"M180 {150 - y}h150")
    assert html_charts.density_chart("t", np.zeros((2, 2)), ("x", "y"), downward) == ""
