"""Figures with axes: precision and recall curves, confusion matrix, a run's results, a data set's labels.

matplotlib's figures are used as objects: no pyplot, so no window, no back-end to choose and no state between two calls.
Every function writes one file and is done when it returns.

Legend: K classes that have a curve, P points of a curve, n labels.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from utils.files.fonts import find_font
from utils.general import plural
from utils.ops.boxes import xywh2xyxy
from utils.plots import colors

if TYPE_CHECKING:  # matplotlib is slow to import, and a script's --help or a run without plots does without
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.lines import Line2D

MAX_LEGEND = 20  # classes; with more, one legend cannot be read and the colours repeat
MAX_CELL_NUMBERS = 30
MAX_CELL_NAMES = 99
INK, FAINT, PALE, ACCENT, GOOD = "#1F2937", "#9CA3AF", "#D1D5DB", "#2F5BEA", "#22A06B"
DENSITY = ("#FFFFFF", "#BFD4FB", "#2F5BEA", "#141B52")

# Title and column of results.csv, in the order of the 2 x 5 panels.
RESULT_PANELS = (
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
)


def plot_pr_curve(
    recall: np.ndarray, precision: np.ndarray, ap50: np.ndarray, names: Sequence[str], path: Path
) -> None:
    """Precision over recall: recall (P,), precision (K, P), ap50 (K,) and names of the same K classes."""
    legend = [f"{name} {ap:.3f}" for name, ap in zip(names, ap50, strict=True)]
    mean = f"all classes {ap50.mean() if len(ap50) else 0:.3f} mAP@0.5"
    draw_curves(recall, precision, legend, mean, ("Recall", "Precision"), path)


def plot_metric_curve(
    confidence: np.ndarray,
    values: np.ndarray,
    names: Sequence[str],
    path: Path,
    ylabel: str = "F1",
    threshold: float | None = None,
) -> None:
    """A metric over the confidence threshold: confidence (P,), values (K, P), names of the same K classes.

    The legend gives the mean at `threshold`, without one at its peak.
    """
    legend = [str(name) for name in names]
    mean = f"all classes {ylabel}"
    if len(values):
        means = values.mean(0)  # (P,)
        place = confidence[means.argmax()] if threshold is None else threshold
        mean = f"all classes {np.interp(place, confidence, means):.2f} at {place:.3f}"
    draw_curves(confidence, values, legend, mean, ("Confidence", ylabel), path)


def draw_curves(
    x: np.ndarray, curves: np.ndarray, legend: Sequence[str], mean_legend: str, axis_names: tuple[str, str], path: Path
) -> None:
    """One thin line per class, with a legend up to MAX_LEGEND classes, and their mean as a thick one."""
    assert len(curves) == len(legend), "a name for each curve"
    figure = new_figure(9, 6)
    axes = figure.subplots()
    named = len(legend) <= MAX_LEGEND
    for i, (curve, text) in enumerate(zip(curves, legend, strict=True)):
        color = hex_color(i) if named else PALE
        axes.plot(x, curve, linewidth=1.2 if named else 0.6, color=color, label=text if named else None)
    if len(curves):
        axes.plot(x, curves.mean(0), linewidth=3, color=INK)
        entries = [*legend, mean_legend] if named else [mean_legend]
        add_legend(axes, axes.lines[-len(entries) :], entries, bbox_to_anchor=(1.02, 1), loc="upper left")
    else:
        axes.text(0.5, 0.5, "no detections or no labels", ha="center", color=FAINT)
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1], xlim=(0, 1), ylim=(0, 1.02))
    tidy(axes, grid=True)
    figure.savefig(path, dpi=250)


def plot_ap_bars(ap: np.ndarray, names: Sequence[str], path: Path) -> None:
    """A bar for each of K classes, from top to bottom: AP at IoU 0.5, and within it the mean of ap (K, levels)."""
    assert len(ap) == len(names), "a name for each class"
    count = len(names)
    figure = new_figure(9, float(np.clip(1.2 + 0.28 * count, 2.5, 60)))
    axes = figure.subplots()
    if count:
        axes.barh(range(count), ap[:, 0], height=0.75, color=DENSITY[1], label=f"AP@.5, mean {ap[:, 0].mean():.3f}")
        inner = axes.barh(range(count), ap.mean(1), height=0.45, color=ACCENT, label=f"AP@.5:.95, mean {ap.mean():.3f}")
        axes.bar_label(inner, [f"{mean:.3f}" for mean in ap.mean(1)], padding=4, fontsize=8, color=INK)
        axes.set_yticks(range(count), names, fontproperties=font_for(names))
        axes.legend(bbox_to_anchor=(0, 1.01), loc="lower left", ncols=2, frameon=False)
        axes.invert_yaxis()
    else:
        axes.text(0.5, 0.5, "no labels", ha="center", color=FAINT)
    axes.set(xlabel="average precision", xlim=(0, 1))
    tidy(axes, grid=True)
    figure.savefig(path, dpi=150)


def plot_confusion_matrix(matrix: np.ndarray, names: Sequence[str], path: Path, normalize: bool = True) -> None:
    """The matrix (nc + 1, nc + 1), predicted class x true class, background last: counts, and shares of each column."""
    assert matrix.shape == (len(names) + 1,) * 2, "rows and columns: the named classes and the background"
    shares = matrix / np.maximum(matrix.sum(0, keepdims=True), 1e-9) if normalize else matrix.astype(float)
    count = len(names)
    font_size = float(np.clip(220 / (count + 1), 5, 11))
    figure = new_figure(12, 9)
    axes = figure.subplots()
    picture = axes.imshow(
        np.where(shares < 0.005, np.nan, shares),
        cmap=density_colours(),
        vmin=0,
        vmax=1 if normalize else None,
        aspect="auto",
    )
    if count < MAX_CELL_NUMBERS:
        threshold = 0.5 * (1 if normalize else max(shares.max(), 1))
        for (row, column), value in np.ndenumerate(shares):
            if value >= 0.005:
                text = f"{matrix[row, column]:.0f}"
                if normalize:
                    text = f"{value:.2f}\n({text})"
                ink = "white" if value > threshold else INK
                axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=font_size)
    if count < MAX_CELL_NAMES:
        ticks, font = range(count + 1), font_for(names, font_size)
        axes.set_xticks(ticks, [*names, "background"], rotation=0 if count < 8 else 90, fontproperties=font)
        axes.set_yticks(ticks, [*names, "background"], fontproperties=font)
    axes.set_xticks(np.arange(count) + 0.5, minor=True)
    axes.set_yticks(np.arange(count) + 0.5, minor=True)
    axes.grid(which="minor", color=PALE, linewidth=0.5)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("True", fontsize=12)
    axes.set_ylabel("Predicted", fontsize=12)
    bar = figure.colorbar(picture, ax=axes, pad=0.01, aspect=40)
    bar.set_label("share of the true class" if normalize else "count")
    bar.outline.set_visible(False)
    tidy(axes, frame=True)
    figure.savefig(path, dpi=250)


def read_results(path: Path) -> dict[str, np.ndarray]:
    """The columns of a results.csv by name, each (epochs,); ValueError names a file that is not one."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    header, body = (rows[0], rows[1:]) if rows else ([], [])
    missing = [name for name in ("epoch", *RESULT_PANELS) if name not in header]
    if missing:
        raise ValueError(f"{path}: not a results.csv of a training, it has no column {missing[0]!r}")
    try:
        # A run killed while it wrote may leave a short last row.
        table = np.array([[float(cell) for cell in row] for row in body if len(row) == len(header)])
    except ValueError as error:
        raise ValueError(f"{path}: {error}; all cells below the header must be numbers") from None
    return dict(zip(header, table.reshape(-1, len(header)).T, strict=True))


def plot_results(csv_path: Path, path: Path | None = None) -> None:
    """The ten curves of a training's results.csv over its epochs, by default as results.png beside it."""
    table = read_results(csv_path)
    figure = new_figure(15, 6)
    for axes, name in zip(figure.subplots(2, 5).flat, RESULT_PANELS, strict=True):
        values = table[name]
        color = ACCENT if "loss" in name else GOOD
        axes.plot(
            table["epoch"], values, color=color, linewidth=1.8, marker="o" if len(values) < 60 else "", markersize=3
        )
        if "mAP" in name and np.isfinite(values).any():
            best = int(np.nanargmax(values))
            axes.plot(table["epoch"][best], values[best], "*", color="#FFB000", ms=13, mec=INK, clip_on=False, zorder=3)
            axes.set_xlabel(f"best {values[best]:.3g} in epoch {table['epoch'][best]:.0f}", fontsize=9, color=INK)
        axes.set_title(name, fontsize=11, color=INK)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if len(values) == 1:
            axes.set_xticks(table["epoch"])
        tidy(axes, grid=True)
    figure.savefig(path or csv_path.with_suffix(".png"), dpi=150)


def plot_labels(labels: np.ndarray, names: Sequence[str], folder: Path) -> None:
    """Writes labels.jpg and labels_correlogram.jpg of labels (n, 5), class cx cy w h: what, where, how large."""
    labels = np.asarray(labels, np.float32).reshape(-1, 5)
    plot_label_overview(labels, names, folder / "labels.jpg")
    plot_label_correlogram(labels[:, 1:], folder / "labels_correlogram.jpg")


def plot_label_overview(labels: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Four panels: labels per class, up to 1000 boxes moved to one centre, centres, sizes."""
    figure = new_figure(10, 10)
    bars, boxes, centres, sizes = figure.subplots(2, 2).flat
    counts = np.bincount(labels[:, 0].astype(int), minlength=len(names))
    bars.bar(range(len(counts)), counts, color=[hex_color(i) for i in range(len(counts))], width=0.8)
    bars.set(
        ylabel="labels",
        xlabel="" if len(names) < 30 else "class",
        title=f"{plural(len(labels), 'label')}, {plural(len(names), 'class')}",
    )
    if 0 < len(names) < 30:
        upright = len(names) < 6 and max(map(len, names)) < 14
        bars.set_xticks(range(len(names)), names, rotation=0 if upright else 90, fontproperties=font_for(names, 10))
    if 0 < len(counts) <= 10:
        bars.bar_label(bars.containers[0], fontsize=9, color=INK)
    boxes.imshow(centred_boxes(labels[:1000]))
    boxes.set(title="boxes, moved to the centre")
    boxes.axis("off")
    draw_density(centres, labels[:, 1], labels[:, 2], ("x", "y"))
    centres.invert_yaxis()
    draw_density(sizes, labels[:, 3], labels[:, 4], ("width", "height"))
    tidy(bars)
    figure.savefig(path, dpi=200)


def centred_boxes(labels: np.ndarray, side: int = 1000) -> np.ndarray:
    """(side, side, 3) uint8 RGB, the outlines of all boxes on white around one centre, in their classes' colours."""
    canvas = np.full((side, side, 3), 255, np.uint8)
    centred = np.concatenate((np.full((len(labels), 2), 0.5, np.float32), labels[:, 3:]), 1)
    for index, corners in zip(labels[:, 0], xywh2xyxy(centred) * side, strict=True):
        x1, y1, x2, y2 = (int(v) for v in corners)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colors(index), 1)
    return canvas


def plot_label_correlogram(boxes: np.ndarray, path: Path) -> None:
    """The lower triangle of a pair plot of boxes (n, 4), cx cy w h, with histograms on the diagonal."""
    variables = ("x", "y", "width", "height")
    figure = new_figure(10, 10)
    for (row, column), axes in np.ndenumerate(figure.subplots(4, 4, sharex="col")):
        if column > row:
            axes.set_visible(False)
        elif column == row:
            axes.hist(boxes[:, row], bins=50, range=(0, 1), color=ACCENT)
            axes.set(yticks=[], xlim=(0, 1))
        else:
            draw_density(axes, boxes[:, column], boxes[:, row], ("", ""))
            if variables[row] == "y":  # downwards, as in the images and in labels.jpg
                axes.invert_yaxis()
        axes.set_xlabel(variables[column] if row == 3 else "")
        axes.set_ylabel(variables[row] if column == 0 else "")
        axes.label_outer()
        tidy(axes)
    figure.savefig(path, dpi=150)


def draw_density(axes: "Axes", x: np.ndarray, y: np.ndarray, axis_names: tuple[str, str]) -> None:
    """How often each (x, y) of the unit square occurs; as square roots, so that single labels can be seen."""
    counts, _, _ = np.histogram2d(x, y, bins=50, range=((0, 1), (0, 1)))
    axes.imshow(np.sqrt(counts).T, origin="lower", extent=(0, 1, 0, 1), cmap=density_colours(), aspect="auto")
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1], xlim=(0, 1), ylim=(0, 1))
    tidy(axes)


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches whose parts keep clear of each other and of the rim.

    Its texts are shown as they are: what stands between two `$` is no formula.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.text import Text

    class PlainTextFigure(Figure):
        def savefig(self, fname: Path, **options: object) -> None:
            for text in self.findobj(Text):
                text.set_parse_math(False)
            with rc_context({"text.parse_math": False}):  # for ticks that are made while it is drawn
                # Lines on white compress well at the first level, which takes a third of the default's time.
                super().savefig(fname, pil_kwargs={"compress_level": 1}, **options)

    return PlainTextFigure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def add_legend(
    axes: "Axes",
    lines: "Sequence[Line2D]",
    texts: Sequence[str],
    *,
    loc: str = "best",
    bbox_to_anchor: tuple[float, float] | None = None,
) -> None:
    """Add a legend with a text for each line; matplotlib would leave out texts that begin with `_`."""
    numbers = [str(i) for i in range(len(texts))]
    legend = axes.legend(lines, numbers, loc=loc, bbox_to_anchor=bbox_to_anchor, frameon=False, prop=font_for(texts))
    for entry, text in zip(legend.get_texts(), texts, strict=True):
        entry.set_text(text)


def tidy(axes: "Axes", grid: bool = False, frame: bool = False) -> None:
    """The look all figures share: no upper and right line, faint grid, small grey numbers."""
    hidden = ("top", "right", "left", "bottom") if frame else ("top", "right")
    for side in hidden:
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK)
    if grid:
        axes.grid(color=PALE, linewidth=0.6)
        axes.set_axisbelow(True)


def limit_ticks(axes: "Axes", count: int = 4) -> None:
    """Put at most `count` intervals between the ticks of the x axis, so that their numbers do not overlap."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=count))


def density_colours() -> "Colormap":
    """White for nothing, over blue, to nearly black."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("density", DENSITY)


def hex_color(index: int) -> str:
    """The colour of a class, in matplotlib's notation."""
    return "#{:02X}{:02X}{:02X}".format(*colors(index))


def font_for(names: Sequence[str], size: float = 9) -> "FontProperties":
    """A font that has the names' glyphs; matplotlib's own for what it covers."""
    from matplotlib.font_manager import FontProperties

    path = find_font("".join(sorted(set("".join(names)))))
    return FontProperties(fname=path, size=size) if path else FontProperties(size=size)
