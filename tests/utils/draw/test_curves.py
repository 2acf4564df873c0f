"""Figures: they are written, complete, with the right numbers, from empty data too."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from utils.draw import curves
from utils.files.images import read_image
from utils.general import ROOT

HEADER = ("epoch", *curves.RESULT_PANELS, "x/lr0")
X = np.linspace(0, 1, 100)


@pytest.fixture
def figure(monkeypatch):
    """Keeps the figures that a function writes, and writes them small."""
    kept = []
    save = Figure.savefig

    def keep(self, path, dpi, **_):
        kept.append(self)
        save(self, path, dpi=30)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


def legend_texts(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def write_csv(path, rows, header=HEADER):
    lines = [",".join(f"{cell:>20}" for cell in row) for row in (header, *rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_pr_legend_pairs_names_with_their_curves(tmp_path, figure):
    precision = np.stack([1 - X**2, 1 - X**4])
    curves.plot_pr_curve(X, precision, np.array([0.6, 0.8]), ["RBC", "WBC"], tmp_path / "PR_curve.png")
    assert legend_texts(figure[0]) == ["RBC 0.600", "WBC 0.800", "all classes 0.700 mAP@0.5"]
    np.testing.assert_allclose(figure[0].axes[0].lines[1].get_ydata(), precision[1])
    assert read_image(tmp_path / "PR_curve.png").ndim == 3


def test_metric_curve_names_the_peak(tmp_path, figure):
    values = np.stack([4 * X * (1 - X), 2 * X * (1 - X)])
    curves.plot_metric_curve(X, values, ["a", "b"], tmp_path / "F1_curve.png")
    peak = X[values.mean(0).argmax()]
    assert legend_texts(figure[0])[-1] == f"all classes 0.75 at {peak:.3f}"


def test_ap_bars_pair_names_with_their_values(tmp_path, figure):
    curves.plot_ap_bars(np.array([[0.8, 0.4], [0.6, 0.0]]), ["RBC", "é"], tmp_path / "AP_bars.png")
    axes = figure[0].axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.8, 0.6, 0.6, 0.3])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["RBC", "é"]
    assert axes.yaxis_inverted()  # the first class on top
    assert legend_texts(figure[0]) == ["AP@.5, mean 0.700", "AP@.5:.95, mean 0.450"]


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_ap_bars_of_none_and_of_many(tmp_path, figure, count):
    curves.plot_ap_bars(np.ones((count, 10)), [f"c{i}" for i in range(count)], tmp_path / "AP_bars.png")
    assert read_image(tmp_path / "AP_bars.png").ndim == 3
    assert figure[0].get_figheight() <= 60


@pytest.mark.parametrize(("count", "entries"), [(20, 21), (21, 1)])
def test_legend_only_where_it_can_be_read(tmp_path, figure, count, entries):
    curves.plot_metric_curve(X, np.ones((count, 100)), [f"c{i}" for i in range(count)], tmp_path / "P_curve.png", "P")
    assert len(legend_texts(figure[0])) == entries


@pytest.mark.usefixtures("figure")
def test_no_curves(tmp_path):
    curves.plot_pr_curve(X, np.zeros((0, 100)), np.zeros(0), [], tmp_path / "PR_curve.png")
    curves.plot_metric_curve(X, np.zeros((0, 100)), [], tmp_path / "F1_curve.png")
    assert len(list(tmp_path.iterdir())) == 2


def test_confusion_matrix_shows_shares_of_the_true_class(tmp_path, figure):
    matrix = np.array([[8, 1, 2], [0, 3, 0], [2, 0, 0]])
    curves.plot_confusion_matrix(matrix, ["cat", "dog"], tmp_path / "confusion_matrix.png")
    axes = figure[0].axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {
        (0, 0): "0.80\n(8)",
        (1, 0): "0.25\n(1)",
        (2, 0): "1.00\n(2)",
        (1, 1): "0.75\n(3)",
        (0, 2): "0.20\n(2)",
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "background"]


@pytest.mark.parametrize(
    ("count", "has_numbers", "has_names"), [(0, False, True), (29, True, True), (30, False, True), (99, False, False)]
)
def test_confusion_matrix_of_many_classes(tmp_path, figure, count, has_numbers, has_names):
    names = [f"class {i}" for i in range(count)]
    curves.plot_confusion_matrix(np.diag([5] * count + [0]), names, tmp_path / "confusion_matrix.png")
    axes = figure[0].axes[0]
    assert bool(axes.texts) == has_numbers
    assert ("background" in [label.get_text() for label in axes.get_xticklabels()]) == has_names


def test_results_in_ten_panels_of_the_usual_order(tmp_path, figure):
    rows = [[epoch, *np.arange(10) / 10 + epoch, 0.01] for epoch in range(3)]
    curves.plot_results(write_csv(tmp_path / "results.csv", rows))
    assert [axes.get_title() for axes in figure[0].axes] == [
        "train/box_loss",
        "train/obj_loss",
        "train/cls_loss",
        "metrics/precision",
        "metrics/recall",
        "val/box_loss",
        "val/obj_loss",
        "val/cls_loss",
        "metrics/mAP_0.5",
        "metrics/mAP_0.5:0.95",
    ]
    np.testing.assert_allclose(figure[0].axes[4].lines[0].get_ydata(), [0.4, 1.4, 2.4])
    assert figure[0].axes[9].get_xlabel() == "best 2.9 in epoch 2"
    assert (tmp_path / "results.png").is_file()


@pytest.mark.parametrize("rows", [[], [[0, *[0.5] * 11]], [[0, *["nan"] * 11]]], ids=["no epoch", "one epoch", "nan"])
def test_results_of_short_runs(tmp_path, rows, figure):
    curves.plot_results(write_csv(tmp_path / "results.csv", rows), tmp_path / "other.png")
    assert (tmp_path / "other.png").is_file()
    if rows:
        assert [tick.tolist() for tick in (axes.get_xticks() for axes in figure[0].axes)] == [[0]] * 10


def test_a_small_best_value_keeps_its_digits(tmp_path, figure):
    curves.plot_results(write_csv(tmp_path / "results.csv", [[0, *[0.000167] * 11]]))
    assert figure[0].axes[9].get_xlabel() == "best 0.000167 in epoch 0"


def test_the_legend_gives_the_threshold_it_is_told(tmp_path, figure):
    values = np.stack((X, X))
    curves.plot_metric_curve(X, values, ["a", "b"], tmp_path / "F1_curve.png", threshold=0.25)
    assert legend_texts(figure[0])[-1] == "all classes 0.25 at 0.250"


def test_y_of_the_correlogram_is_downwards_as_in_images(tmp_path, figure):
    boxes = np.random.default_rng(0).uniform(0.2, 0.8, (50, 4))
    curves.plot_label_correlogram(boxes, tmp_path / "labels_correlogram.jpg")
    grid = np.array(figure[0].axes).reshape(4, 4)
    assert grid[1, 0].yaxis_inverted()
    assert not grid[2, 0].yaxis_inverted()


def test_results_of_a_killed_run(tmp_path):
    path = write_csv(tmp_path / "results.csv", [[0, *[0.5] * 11]])
    path.write_text(path.read_text() + "1, 0.4, 0.")
    assert curves.read_results(path)["epoch"].tolist() == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'epoch'"),
        ("epoch,train/box_loss\n0,1\n", "train/obj_loss"),
        (",".join(HEADER) + "\n" + "x," * 11 + "x\n", "numbers"),
    ],
    ids=["empty", "short", "words"],
)
def test_no_results(tmp_path, text, message):
    path = tmp_path / "results.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        curves.read_results(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("count", [0, 1, 1500])
def test_labels(tmp_path, figure, count):
    rng = np.random.default_rng(0)
    labels = np.concatenate((rng.integers(0, 3, (count, 1)), rng.uniform(0.1, 0.9, (count, 4))), 1)
    curves.plot_labels(labels, ["RBC", "WBC", "Platelets"], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"labels.jpg", "labels_correlogram.jpg"}
    bars = [bar.get_height() for bar in figure[0].axes[0].patches]
    assert bars == np.bincount(labels[:, 0].astype(int), minlength=3).tolist()


def test_centred_boxes():
    image = curves.centred_boxes(np.array([[0, 0.1, 0.9, 0.5, 0.2]], np.float32), side=100)
    rows, columns = np.nonzero((image != 255).any(2))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (25, 75, 40, 60)


def test_pyplot_is_never_loaded_and_matplotlib_with_the_first_figure():
    code = (
        "import sys, utils.draw.curves as c; assert 'matplotlib' not in sys.modules; "
        "c.new_figure(1, 1), c.density_colours(), c.font_for(['a']); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


PLAIN = ["$a_$", r"\frac$\bad$", "US$", "_scratch", "$$", "same", "same"]


def test_names_are_no_formulas_and_none_is_left_out(tmp_path, figure):
    count = len(PLAIN)
    values = np.stack([X] * count)
    curves.plot_pr_curve(X, values, np.full(count, 0.5), PLAIN, tmp_path / "pr.png")
    assert legend_texts(figure[0])[:-1] == [f"{name} 0.500" for name in PLAIN]
    curves.plot_metric_curve(X, values, PLAIN, tmp_path / "f1.png")
    assert legend_texts(figure[1])[:-1] == PLAIN
    curves.plot_ap_bars(np.full((count, 10), 0.5), PLAIN, tmp_path / "bars.png")
    assert [text.get_text() for text in figure[2].axes[0].get_yticklabels()] == PLAIN
    curves.plot_confusion_matrix(np.eye(count + 1), PLAIN, tmp_path / "matrix.png")
    assert [text.get_text() for text in figure[3].axes[0].get_xticklabels()] == [*PLAIN, "background"]
    labels = np.array([[i, 0.5, 0.5, 0.2, 0.2] for i in range(count)])
    curves.plot_label_overview(labels, PLAIN, tmp_path / "labels.jpg")
    assert [text.get_text() for text in figure[4].axes[0].get_xticklabels()] == PLAIN
    assert not any(text.get_parse_math() for drawn in figure for text in drawn.findobj(Text))
