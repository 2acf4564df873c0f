"""What tools.prune found: a row for each network, as a table in the log, a CSV file and a picture.

Legend: Pareto front: the networks that no other one beats in accuracy without costing more.
"""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from utils.draw.curves import ACCENT, FAINT, INK, font_for, limit_ticks, new_figure, tidy
from utils.files.names import plain_cell
from utils.general import atomic_write, in_columns

COLUMNS = {  # heading in the log: field and how it is written
    "network": ("name", ""),
    "removed": ("removed", ".1%"),
    "parameters": ("parameters", ","),
    "GMACs": ("gmacs", ".3f"),
    "p50 ms": ("p50_ms", ".2f"),
    "p95 ms": ("p95_ms", ".2f"),
    "mAP before": ("map_before", ".4f"),
    "mAP after": ("map_after", ".4f"),
    "mAP50 before": ("map50_before", ".4f"),
    "mAP50 after": ("map50_after", ".4f"),
    "front": ("is_on_front", ""),
}
COSTS = {"gmacs": "1e9 multiplications of an image", "p50_ms": "median latency, ms"}


@dataclass(frozen=True)
class PrunedRow:
    """A network: `ratio` was asked for and `removed` is the share of channels that went, both 0 for the original.

    mAP@.5:.95 and mAP@.5 are those before and after the fine-tune, None where there was none. Costs are of the fused
    network `weights` and one image.
    """

    name: str
    ratio: float
    removed: float
    criterion: str
    weights: str
    map_before: float
    map50_before: float
    map_after: float | None = None
    map50_after: float | None = None
    parameters: int = 0
    gmacs: float = 0.0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    megabytes: float = 0.0
    is_on_front: bool = False

    @property
    def final_map(self) -> float:
        """After the fine-tune, or without one as pruned."""
        return self.map_before if self.map_after is None else self.map_after


def with_front(rows: Sequence[PrunedRow]) -> list[PrunedRow]:
    """The rows, each with whether it is on the front of mAP@.5:.95 against multiplications."""
    points = [(row.gmacs, row.final_map) for row in rows]
    best = front(points)
    return [replace(row, is_on_front=point in best) for row, point in zip(rows, points, strict=True)]


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of (cost, quality) that no other one beats in one without being worse in the other, by cost."""
    return sorted(
        {
            (cost, quality)
            for cost, quality in points
            if not any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in points)
        }
    )


def table(rows: Sequence[PrunedRow]) -> list[str]:
    """The lines of the log's table."""
    return in_columns([[*COLUMNS], *([_cell(getattr(row, key), how) for key, how in COLUMNS.values()] for row in rows)])


def _cell(value: object, how: str) -> str:
    if value is None:
        return "-"
    return ("yes" if value else "") if isinstance(value, bool) else format(value, how)


def write_csv(rows: Sequence[PrunedRow], path: Path) -> None:
    """A line for each row, all its fields; empty where there is nothing."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*asdict(rows[0])], lineterminator="\n")
        writer.writeheader()
        writer.writerows([{key: plain_cell(cell) for key, cell in asdict(row).items()} for row in rows])


def plot(rows: Sequence[PrunedRow], path: Path) -> None:
    """mAP@.5:.95 over each of COSTS: hollow before the fine-tune, full after it, the front as a line."""
    figure = new_figure(11, 5)
    for axes, (key, title) in zip(figure.subplots(1, len(COSTS)), COSTS.items(), strict=True):
        points = [(getattr(row, key), row.final_map) for row in rows]
        best = front(points)
        axes.plot(*zip(*best, strict=True), color=ACCENT, linewidth=1.2, zorder=1, label="front")
        for row, (x, y) in zip(rows, points, strict=True):
            if row.map_after is not None:
                axes.plot([x, x], [row.map_before, row.map_after], color=FAINT, linewidth=0.8, zorder=1)
                axes.scatter(x, row.map_before, s=30, facecolor="white", edgecolor=FAINT, zorder=2)
            axes.scatter(x, y, s=30, color=ACCENT if (x, y) in best else INK, zorder=3)
            font = font_for([row.name], 8)
            axes.annotate(row.name, (x, y), xytext=(5, 5), textcoords="offset points", fontproperties=font)
        axes.set(xlabel=title, ylabel="mAP@.5:.95")
        limit_ticks(axes)
        axes.margins(0.15)
        axes.legend(frameon=False, loc="lower right")
        tidy(axes, grid=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
