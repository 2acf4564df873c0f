"""What benchmarks/formats.py found, as text, Markdown, CSV, JSON and a picture."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from utils.draw.curves import hex_color, new_figure, tidy
from utils.general import LOGGER, atomic_write, in_columns

BASE = "v6.1's way"  # what all are measured by: eager PyTorch in FP32, fused, contiguous, one image at a time
BAR = 1.8  # times v6.1's way that the fastest format should be
TITLES = ("Format", "Computes in", "MB", "mAP@.5:.95", "to PyTorch", "p50 ms", "p95 ms", "images/s", "x v6.1's")


@dataclass(frozen=True)
class FormatRow:
    """What is known of a format in a setting.

    at_a_time: images that are computed at a time; with the hint throughput, for which OpenVINO has a queue of as many
    requests, the milliseconds are from the start of an image to its end. difference: its mAP less PyTorch's. ratio: of
    its images/s to v6.1's way in the same round, the median of all rounds.
    """

    name: str
    precision: str
    hint: str
    at_a_time: int
    megabytes: float
    map50_95: float
    difference: float
    p50_ms: float
    p95_ms: float
    images_per_s: float
    ratio: float

    @property
    def title(self) -> str:
        """The name, and how many images at a time, where there is a queue of them."""
        return self.name if self.hint == "latency" else f"{self.name}, throughput, {self.at_a_time} at a time"

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands in a row of the table, below TITLES."""
        sizes = (f"{self.megabytes:.1f}", f"{self.map50_95:.4f}", f"{self.difference:+.4f}")
        speeds = (f"{self.p50_ms:.1f}", f"{self.p95_ms:.1f}", f"{self.images_per_s:.1f}", f"{self.ratio:.2f}")
        return self.title, self.precision, *sizes, *speeds


@dataclass(frozen=True)
class Timing:
    """Of one format: milliseconds of each image (rounds, n), and images per second of each round (rounds,)."""

    images_ms: np.ndarray
    rates: np.ndarray


def summarize(base: Timing, timing: Timing) -> tuple[float, float, float, float]:
    """p50 and p95 in milliseconds of all images, the median images/s, and the median ratio to the base's."""
    p50, p95 = (float(np.percentile(timing.images_ms, share)) for share in (50, 95))
    return p50, p95, float(np.median(timing.rates)), float(np.median(timing.rates / base.rates))


def text_table(rows: Sequence[FormatRow]) -> list[str]:
    """Lines of the table for a console, in columns."""
    return in_columns([TITLES, *(row.cells for row in rows)], words=2)


def markdown_table(rows: Sequence[FormatRow]) -> list[str]:
    """Lines of the table in Markdown."""
    head = [f"| {' | '.join(TITLES)} |", "|---|---" + "|---:" * (len(TITLES) - 2) + "|"]
    return head + [f"| {' | '.join(row.cells)} |" for row in rows]


def verdict(rows: Sequence[FormatRow]) -> list[str]:
    """Which format is the fastest, in FP32 and in any number format, and whether that reaches the bar."""
    formats = [row for row in rows if row.name not in {BASE, "pytorch"}]
    lines = []
    for what, some in (("FP32", [row for row in formats if row.precision == "fp32"]), ("any precision", formats)):
        if some:
            best = max(some, key=lambda row: row.ratio)
            reaches = "reaches" if best.ratio >= BAR else "misses"
            lines.append(
                f"Fastest in {what}: {best.title} in {best.precision}, {best.images_per_s:.1f} images/s, "
                f"{best.ratio:.2f} times {BASE} ({reaches} {BAR}), mAP {best.difference:+.4f}"
            )
    return lines


def write(
    folder: Path, rows: Sequence[FormatRow], options: Mapping[str, object], machine: Mapping[str, object]
) -> None:
    """formats.txt, .md, .csv, .json and .png in the folder; the table goes to the log too."""
    about = ", ".join(f"{key} {value}" for key, value in machine.items())
    lines = [*text_table(rows), *verdict(rows), about]
    for line in lines:
        LOGGER.info(line)
    texts = {"txt": lines, "md": [*markdown_table(rows), "", *(f"{line}  " for line in (*verdict(rows), about))]}
    for suffix, content in texts.items():
        with atomic_write(folder / f"formats.{suffix}") as file:
            file.write_text("\n".join(content) + "\n", encoding="utf-8")
    with atomic_write(folder / "formats.csv") as file, file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, [field.name for field in fields(FormatRow)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    content = {"options": dict(options), "machine": dict(machine), "rows": [asdict(row) for row in rows]}
    with atomic_write(folder / "formats.json") as file:
        file.write_text(json.dumps(content, indent=2), encoding="utf-8")
    plot(rows, folder / "formats.png")
    LOGGER.info(f"files in {folder}")


def plot(rows: Sequence[FormatRow], path: Path) -> None:
    """Images per second with the ratio, difference in mAP, and megabytes, a bar for each row."""
    figure = new_figure(14, 1.2 + 0.45 * len(rows))
    panels = (("images per second", "images_per_s"), ("mAP@.5:.95 less PyTorch's", "difference"), ("MB", "megabytes"))
    labels = {
        "images_per_s": [f"{row.images_per_s:.1f} ({row.ratio:.2f}x)" for row in rows],
        "difference": [f"{row.difference:+.4f}" for row in rows],
        "megabytes": [f"{row.megabytes:.1f}" for row in rows],
    }
    names = [f"{row.title}, {row.precision}" for row in rows]
    for i, (title, field) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        values = [getattr(row, field) for row in rows]
        bars = axes.barh(range(len(rows)), values, color=[hex_color(n) for n in range(len(rows))])
        axes.bar_label(bars, labels[field], padding=3)
        axes.set(title=title, yticks=range(len(rows)), yticklabels=names if i == 0 else [])
        axes.margins(x=0.35)
        axes.locator_params(axis="x", nbins=4)
        axes.invert_yaxis()
        if field == "images_per_s":
            axes.axvline(BAR * rows[0].images_per_s, linestyle="--", color="0.5", linewidth=1, zorder=0)
        tidy(axes)
    with atomic_write(path) as file:
        figure.savefig(file, dpi=150, format="png")
