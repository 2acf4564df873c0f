"""How size, speed and quality go together: the rows and the figure of `val.py --task study`.

Legend: R image sizes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.draw.curves import add_legend, hex_color, limit_ticks, new_figure, tidy
from utils.files.names import UniqueNames
from utils.general import atomic_write
from utils.metrics import EvalResult

PANELS = ("precision", "recall", "mAP@.5", "pre-process (ms)", "inference (ms)", "NMS (ms)")
PANEL_COLUMNS = (0, 1, 2, 7, 8, 9)


class Study:
    """Collects results by weights and image size; a file is whole after each size, so that what is cut off is kept."""

    def __init__(self, folder: Path, data: str) -> None:
        self.folder, self.data = folder, data
        self.names = UniqueNames()
        self.rows: dict[str, list[tuple[int, np.ndarray]]] = {}

    def begin(self, weights: str) -> str:
        """The name that the results of these weights go by: theirs, with a number where it is there already."""
        name = self.names.claim(weights)
        self.rows[name] = []
        return name

    def add(self, name: str, imgsz: int, result: EvalResult) -> None:
        """Writes study_<data>_<name>.txt with one more row, which is that of `study_row`."""
        self.rows[name].append((imgsz, study_row(result)))
        table = np.stack([row for _, row in self.rows[name]])
        with atomic_write(self.folder / f"study_{self.data}_{name}.txt") as temporary:
            np.savetxt(temporary, table, fmt="%10.4g")

    def finish(self) -> None:
        """Draws study.png."""
        tables = {name: np.stack([row for _, row in rows]) for name, rows in self.rows.items()}
        sizes = [[imgsz for imgsz, _ in rows] for rows in self.rows.values()]
        plot_study(tables, sizes, self.folder / "study.png")


def study_row(result: EvalResult) -> np.ndarray:
    """(10,) P, R, mAP@.5, mAP@.5:.95, three losses (0 without), and ms of pre-processing, inference, NMS per image."""
    losses = result.losses or (0.0, 0.0, 0.0)
    return np.array((result.mp, result.mr, result.map50, result.map, *losses, *result.speed_ms))


def plot_study(tables: dict[str, np.ndarray], sizes: Sequence[Sequence[int]], path: Path) -> None:
    """Tables (R, 10) by weights: six panels over the image size, and mAP over the time that an image takes."""
    figure = new_figure(15, 8)
    grid = figure.add_gridspec(3, 4)
    panels = [figure.add_subplot(grid[i // 2, i % 2]) for i in range(len(PANELS))]
    main = figure.add_subplot(grid[:, 2:])
    for i, (table, imgsz) in enumerate(zip(tables.values(), sizes, strict=True)):
        style = {"color": hex_color(i), "marker": "o", "markersize": 4, "linewidth": 1.8}
        for axes, column in zip(panels, PANEL_COLUMNS, strict=True):
            axes.plot(imgsz, table[:, column], **style)
        times = table[:, 7:].sum(1)
        main.plot(times, table[:, 3], **style)
        for size, x, y in zip(imgsz, times, table[:, 3], strict=True):
            main.annotate(str(size), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
    for axes, title in zip(panels, PANELS, strict=True):
        axes.set(title=title, xlabel="image size", ylim=(0, None))
        limit_ticks(axes)
        tidy(axes, grid=True)
    main.set(title="mAP@.5:.95 and speed, by image size", xlabel="ms per image, all three parts", xlim=(0, None))
    add_legend(main, main.lines, list(tables))
    tidy(main, grid=True)
    figure.savefig(path, dpi=150)
