"""Write and read the files of a search: evolve.csv, hyp_evolve.yaml and evolve.png, in v6.1's formats.

Legend: R generations that have a result.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from utils.draw.curves import ACCENT, INK, limit_ticks, new_figure, tidy
from utils.evolve.sampler import GENES
from utils.files.reading import read_plain
from utils.general import atomic_write, remove_stale
from utils.loggers import KEYS
from utils.metrics import fitness

RESULT_KEYS = KEYS[3:10]  # P, R, mAP@.5, mAP@.5:.95, three losses
MOST_BYTES = 64 << 20  # of evolve.csv
PANELS = (6, 5)  # rows and columns of evolve.png
assert len(GENES) <= math.prod(PANELS)


@dataclass(frozen=True)
class Generation:
    """A complete training: its hyper-parameters and seven results."""

    hyp: Mapping[str, float]
    results: Sequence[float]

    @property
    def fitness(self) -> float:
        """Value that the search maximizes; 0 if it is not finite."""
        value = float(fitness(np.array([self.results]))[0])
        return value if math.isfinite(value) else 0.0


@dataclass(frozen=True)
class EvolveFiles:
    """Files of a search in a folder; names are those of its hyper-parameters."""

    folder: Path
    names: tuple[str, ...]
    has_plot: bool = True

    @property
    def csv(self) -> Path:
        """Path of the table: results and values of each generation."""
        return self.folder / "evolve.csv"

    @property
    def best(self) -> Path:
        """Path of the best values, for train.py --hyp."""
        return self.folder / "hyp_evolve.yaml"

    def write(self, generations: Sequence[Generation]) -> None:
        """Write all files, each atomically."""
        remove_stale(self.folder)
        rows = [[f"{name:>20}" for name in (*RESULT_KEYS, *self.names)]]
        for generation in generations:
            values = (*generation.results, *(generation.hyp[name] for name in self.names))
            rows.append([f"{value:>20.5g}" for value in values])
        with atomic_write(self.csv) as temporary:
            temporary.write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
        if generations:
            with atomic_write(self.best) as temporary:
                temporary.write_text(best_text(generations, rows), encoding="utf-8")
            if self.has_plot:
                with atomic_write(self.folder / "evolve.png") as temporary:
                    plot_evolve(generations, self.names, temporary)

    def read(self) -> list[Generation]:
        """Read the generations of an evolve.csv, also v6.1's; raise ValueError if it is damaged."""
        if not self.csv.exists():
            return []
        try:
            text = read_plain(self.csv, MOST_BYTES, "evolve.csv").decode("utf-8")
            rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text, newline="")) if row]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{self.csv}: damaged: {error}; move it away") from None
        header = rows[0] if rows else []
        if tuple(header[: len(RESULT_KEYS)]) != RESULT_KEYS:
            raise ValueError(f"{self.csv}: its first columns must be {', '.join(RESULT_KEYS)}; move it away")
        names = header[len(RESULT_KEYS) :]
        if other := sorted(set(names) ^ set(self.names)):
            raise ValueError(f"{self.csv}: {', '.join(other)} is in this file or in --hyp, not in both; move it away")
        generations = []
        for number, row in enumerate(rows[1:], 2):
            try:
                values = [float(cell) for cell in row]
                hyp = dict(zip(names, values[len(RESULT_KEYS) :], strict=True))
            except ValueError:
                raise ValueError(f"{self.csv}, line {number}: {len(header)} numbers expected") from None
            generations.append(Generation(hyp, values[: len(RESULT_KEYS)]))
        return generations


def best_index(generations: Sequence[Generation]) -> int:
    """Return the index of the fittest generation."""
    return int(np.argmax([generation.fitness for generation in generations]))


def best_text(generations: Sequence[Generation], rows: Sequence[Sequence[str]]) -> str:
    """Return the best values as yaml below a comment with generation numbers and results."""
    best = best_index(generations)
    width = len(RESULT_KEYS)
    head = (
        "Hyper-parameters found by train.py --evolve",
        f"Best generation: {best}",
        f"Last generation: {len(generations) - 1}",
        ",".join(rows[0][:width]),
        ",".join(rows[best + 1][:width]),
    )
    values = yaml.safe_dump(dict(generations[best].hyp), sort_keys=False)
    return "".join(f"# {line}\n" for line in head) + "\n" + values


def plot_evolve(generations: Sequence[Generation], names: Sequence[str], path: Path) -> None:
    """Plot fitness over each value; the best is marked, later generations are darker."""
    reached = np.array([generation.fitness for generation in generations])  # (R,)
    best = best_index(generations)
    figure = new_figure(13, 15)
    for axes, name in zip(figure.subplots(*PANELS).flat, names, strict=False):
        values = np.array([generation.hyp[name] for generation in generations])  # (R,)
        shades = np.linspace(0.25, 0.9, len(values))
        axes.scatter(values, reached, s=16, color=ACCENT, alpha=shades, linewidths=0)
        axes.plot(values[best], reached[best], "*", color="#FFB000", ms=12, mec=INK, clip_on=False, zorder=3)
        axes.set_title(f"{name} = {values[best]:.3g}", fontsize=10, color=INK)
        axes.tick_params(labelsize=7)
        limit_ticks(axes)
        tidy(axes, grid=True)
    for axes in figure.axes[len(names) :]:
        axes.set_visible(False)
    figure.supylabel("fitness", fontsize=10, color=INK)
    figure.savefig(path, dpi=110, format="png")
