"""Charts as SVG within a page: curves, a matrix, maps of density. They follow the page's colours, light or dark.

Legend: K curves, P points of a curve, nc classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.draw.html_page import escaped
from utils.plots import colors

WIDTH, HEIGHT = 360, 220  # of a chart, in units of its own; it is drawn as wide as its place is
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 30  # margins of the plot
SERIES_COLORS = ("var(--a)", "var(--b)", "var(--c)")
MAX_HOVERS = 150  # points of a curve that tell their values
MAX_NAMED = 20  # curves that have colours of their own
MAX_NUMBERED = 30  # classes of a matrix with numbers in its cells
LEVELS = 8  # shades of a density map


@dataclass(frozen=True, eq=False)
class Curve:
    """A line of a chart: x (P,), y (P,), where nan or inf leaves a gap. color is CSS; kind a class of page.css."""

    name: str
    x: np.ndarray
    y: np.ndarray
    color: str = ""
    kind: str = ""


def training_chart(title: str, epochs: np.ndarray, columns: Sequence[tuple[str, np.ndarray]]) -> str:
    """Markup of a chart over the epochs, up to three curves, each point of which tells its value on hover."""
    curves = [Curve(name, epochs, values, color) for (name, values), color in zip(columns, SERIES_COLORS, strict=False)]
    known = np.concatenate([curve.y[np.isfinite(curve.y)] for curve in curves] or [np.zeros(0)])
    if not len(known):
        return ""
    x = Axis(float(epochs.min()), float(epochs.max()), is_whole=True)
    low = min(float(known.min()), 0.0) if known.min() < 0.3 * known.max() else float(known.min())
    room = 0.04 * (float(known.max()) - low)
    return chart(title, curves, x, Axis(low, float(known.max()) + room), "epoch", has_hovers=True)


def metric_chart(
    title: str, points: np.ndarray, values: np.ndarray, names: Sequence[str], xlabel: str, mark: float | None = None
) -> str:
    """Markup of a metric's curves (K, P) over points (P,), both in 0..1, one for each name, and of their mean."""
    if not len(values):
        return ""
    many = len(names) > MAX_NAMED
    curves = [
        Curve(name, points, curve, "" if many else css_color(i), "pale" if many else "thin")
        for i, (name, curve) in enumerate(zip(names, values, strict=True))
    ]
    if len(values) > 1:
        curves.append(Curve("all classes", points, values.mean(0), "var(--ink)", "mean"))
    return chart(title, curves, Axis(0, 1), Axis(0, 1), xlabel, mark=mark)


def css_color(index: int) -> str:
    """The colour of a class, as everywhere else."""
    return "#{:02x}{:02x}{:02x}".format(*colors(index))


class Axis:
    """The range of an axis, low to high, made wider where it is empty, and the round numbers in it."""

    def __init__(self, low: float, high: float, is_whole: bool = False) -> None:
        if high - low < 1e-12:
            middle = abs(high) or 1.0
            low, high = (low - 0.5, high + 0.5) if is_whole else (low - middle / 2, high + middle / 2)
        self.low, self.high = low, high
        step = 10 ** math.floor(math.log10((high - low) / 3))
        step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5)
        step = max(round(step), 1) if is_whole else step
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        self.ticks = [i * step for i in range(first, last + 1)]

    def shares(self, values: np.ndarray) -> np.ndarray:
        """Where the values lie between both ends, as shares."""
        return (values - self.low) / (self.high - self.low)


def chart(
    title: str,
    curves: Sequence[Curve],
    x: Axis,
    y: Axis,
    xlabel: str,
    *,
    mark: float | None = None,
    has_hovers: bool = False,
) -> str:
    """Markup of a figure: title, legend, axes, curves; mark is an x with a dashed line."""
    parts = [*_grid(x, y), f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 2}" text-anchor="end">{escaped(xlabel)}</text>']
    if mark is not None:
        place = float(_x(x, np.array([mark]))[0])
        parts.append(f'<path class="mark" d="M{place:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    for curve in curves:
        parts += _curve(curve, x, y, has_hovers)
    named = [curve for curve in curves if curve.kind != "pale"]
    legend = "".join(f'<span><i style="background:{c.color}"></i>{escaped(c.name)}</span>' for c in named)
    if len(named) < len(curves):
        legend += f"<span>each line a class ({len(curves) - len(named)})</span>"
    return (
        f'<figure><figcaption>{escaped(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escaped(title)}">{"".join(parts)}</svg><div class="legend">{legend}</div></figure>'
    )


def _x(axis: Axis, values: np.ndarray) -> np.ndarray:
    return LEFT + axis.shares(values) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, values: np.ndarray) -> np.ndarray:
    return HEIGHT - BOTTOM - axis.shares(values) * (HEIGHT - TOP - BOTTOM)


def _grid(x: Axis, y: Axis) -> list[str]:
    parts = []
    for value, place in zip(y.ticks, _y(y, np.array(y.ticks, float)), strict=True):
        parts.append(f'<path class="axis" d="M{LEFT} {place:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{place + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value, place in zip(x.ticks, _x(x, np.array(x.ticks, float)), strict=True):
        parts.append(f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{value:.4g}</text>')
    return parts


def _curve(curve: Curve, x: Axis, y: Axis, has_hovers: bool) -> list[str]:
    known = np.isfinite(curve.y)
    # What is beyond the axis by a rounding error stays in it.
    places = np.stack((_x(x, curve.x), _y(y, np.clip(np.nan_to_num(curve.y), y.low, y.high))), 1)  # (P, 2)
    path, starts = [], True
    for (px, py), is_known in zip(places.tolist(), known.tolist(), strict=True):
        if is_known:
            path.append(f"{'M' if starts else 'L'}{px:.1f} {py:.1f}")
        starts = not is_known
    stroke = f' style="stroke:{curve.color}"' if curve.color else ""
    title = f"<title>{escaped(curve.name)}</title>"
    parts = [f'<path class="curve {curve.kind}"{stroke} d="{"".join(path)}">{title}</path>'] if path else []
    if has_hovers:
        lone = known & ~np.concatenate(([False], known[:-1])) & ~np.concatenate((known[1:], [False]))
        for i in np.flatnonzero(lone).tolist():  # a line of one point cannot be seen
            parts.append(f'<circle cx="{places[i, 0]:.1f}" cy="{places[i, 1]:.1f}" r="3" style="fill:{curve.color}"/>')
        indices = np.flatnonzero(known)
        for i in indices[:: max(1, -(-len(indices) // MAX_HOVERS))].tolist():
            text = f"{curve.name}, epoch {curve.x[i]:.0f}: {curve.y[i]:.4g}"
            parts.append(
                f'<circle class="hit" cx="{places[i, 0]:.1f}" cy="{places[i, 1]:.1f}" r="4">'
                f"<title>{escaped(text)}</title></circle>"
            )
    return parts


def matrix_chart(matrix: np.ndarray, names: Sequence[str]) -> str:
    """Markup of counts (nc + 1, nc + 1), predicted x true with the background last, shaded by shares of each column."""
    labels = [*names, "background"]
    numbered = len(names) < MAX_NUMBERED
    cell, size, most = (44, 11, 16) if numbered else (11, 9, 14)  # units, font, letters of a name
    left = min(max(map(len, labels)), most) * 7 + 24
    side = left + cell * len(labels)
    shares = matrix / np.maximum(matrix.sum(0, keepdims=True), 1)
    parts = []
    for row, column in np.argwhere(matrix > 0).tolist():
        x, y, share = left + column * cell, row * cell, float(shares[row, column])
        text = f"predicted {labels[row]}, true {labels[column]}: {matrix[row, column]} ({share:.1%})"
        parts.append(
            f'<rect class="cell" x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
            f'fill-opacity="{0.08 + 0.72 * share:.2f}"><title>{escaped(text)}</title></rect>'
        )
        if numbered:
            place = f'x="{x + cell / 2}" y="{y + cell / 2 + 4}" text-anchor="middle" pointer-events="none"'
            parts.append(f'<text class="{"over" if share > 0.65 else "on"}" {place}>{share:.2f}</text>')
    for i, name in enumerate(labels):
        short = name if len(name) <= most else f"{name[: most - 1]}…"
        middle, end = (i + 0.5) * cell, len(labels) * cell
        tip = f"<title>{escaped(name)}</title>{escaped(short)}"
        font = f'style="font-size:{size}px"'
        parts.append(f'<text {font} x="{left - 5}" y="{middle + size / 3:.1f}" text-anchor="end">{tip}</text>')
        place = f"translate({left + middle + size / 3:.1f} {end + 5}) rotate(-90)"
        parts.append(f'<text {font} transform="{place}" text-anchor="end">{tip}</text>')
    return (
        f'<div class="scroll"><svg class="matrix" width="{side}" height="{side}" viewBox="0 0 {side} {side}" '
        f'role="img" aria-label="confusion matrix">{"".join(parts)}</svg></div>'
    )


def density_chart(title: str, counts: np.ndarray, axis_names: tuple[str, str], is_downward: bool) -> str:
    """Markup of a map of counts (G, G), x first, over the unit square; shades are by square roots."""
    if not counts.any():
        return ""
    unit = 300 / len(counts)
    square = f"h{unit:.4g}v{unit:.4g}h-{unit:.4g}z"
    shade = np.ceil(np.sqrt(counts / counts.max()) * LEVELS).astype(int)
    parts = ['<rect x="30" y="0" width="300" height="300" class="axis"/>']
    for level in range(1, LEVELS + 1):
        cells = [
            f"M{30 + i * unit:.5g} {(j if is_downward else len(counts) - 1 - j) * unit:.5g}{square}"
            for i, j in np.argwhere(shade == level).tolist()
        ]
        if cells:
            parts.append(f'<path class="cell" fill-opacity="{level / LEVELS:.3g}" d="{"".join(cells)}"/>')
    first, last = (12, 300) if is_downward else (300, 12)
    parts += [
        f'<text x="25" y="{first}" text-anchor="end">0</text><text x="25" y="{last}" text-anchor="end">1</text>',
        f'<text x="25" y="156" text-anchor="middle" transform="rotate(-90 18 150)">{escaped(axis_names[1])}</text>',
        f'<text x="180" y="315" text-anchor="middle">{escaped(axis_names[0])}</text>',
        '<text x="30" y="315">0</text><text x="330" y="315" text-anchor="end">1</text>',
    ]
    return (
        f'<figure><figcaption>{escaped(title)}</figcaption><svg viewBox="0 0 340 320" role="img" '
        f'aria-label="{escaped(title)}">{"".join(parts)}</svg></figure>'
    )
