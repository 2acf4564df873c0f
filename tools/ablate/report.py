"""Write the report of an ablation: report.html, report.md, table.tex, runs.csv, summary.csv and two plots."""

from pathlib import Path

import numpy as np

from tools.ablate.stats import RULE
from tools.ablate.table import (
    COST_HEAD,
    HEAD,
    METRICS,
    Findings,
    cells_of,
    cost_cells,
    latex,
    markdown,
    metric_cells,
    runs_csv,
    summary,
    summary_csv,
)
from utils.draw.curves import add_legend, font_for, hex_color, new_figure, tidy
from utils.draw.html_charts import Axis, Curve, chart, css_color
from utils.draw.html_page import escaped, lines, section, table, write_page
from utils.general import atomic_write


def write_reports(findings: Findings, folder: Path) -> None:
    """Write all files into a folder; replace older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.md": markdown(findings, RULE),
        "table.tex": latex(findings),
        "runs.csv": runs_csv(findings),
        "summary.csv": summary_csv(findings),
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    plot_differences(findings, folder / "differences.png")
    plot_convergence(findings, folder / "convergence.png")
    write_html(findings, folder / "report.html")


def write_html(findings: Findings, path: Path) -> None:
    """The page, which needs no other file."""
    rows = findings.rows
    parts = [
        f"<h1>{escaped(findings.title)}</h1>",
        section("Verdict", lines(summary(findings), ""), lines(findings.notes, "problem"), f"<p>{escaped(RULE)}</p>"),
        section(
            "Differences in mAP@.5:.95 to the baseline",
            table(HEAD, [cells_of(findings, row) for row in rows]),
            f"<p class=note>CI: {1 - findings.alpha:.0%} of the mean over the seeds (Student's t). images: the same "
            "share of draws of the images with replacement, for the trained networks as they are.</p>",
        ),
        section(
            "Metrics, mean ± sd over the seeds",
            table(("variant", *METRICS.values()), [metric_cells(findings, row.variant) for row in rows]),
        ),
        section(
            "Costs",
            table(COST_HEAD, [cost_cells(findings, row.variant) for row in rows]),
            "<p class=note>Of the fused network and one image; training is the mean of runs that were not cut off, its "
            "memory that of the process at its peak.</p>",
        ),
        section("Convergence", _convergence(findings)),
        section("Runs", _runs(findings)),
        section("Provenance", table(("", ""), list(findings.provenance.items()), "text")),
    ]
    write_page(path, findings.title, parts)


def mean_curves(findings: Findings) -> dict[str, np.ndarray]:
    """Return each variant's mean mAP by epoch (E,) over the seeds that reached the epoch."""
    means = {}
    for name, curves in findings.curves.items():
        length = max((len(curve) for curve in curves), default=0)
        padded = np.full((len(curves), length), np.nan)
        for row, curve in zip(padded, curves, strict=True):
            row[: len(curve)] = curve
        known = np.isfinite(padded)
        sums, counts = np.where(known, padded, 0).sum(0), known.sum(0)
        if counts.any():
            means[name] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return means


def plot_convergence(findings: Findings, path: Path) -> None:
    """Plot the mAP on val by epoch: runs as thin lines, means of the variants as thick ones."""
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    means = mean_curves(findings)
    lines = []
    for i, (name, mean) in enumerate(means.items()):
        for curve in findings.curves[name]:
            axes.plot(curve, color=hex_color(i), linewidth=0.5, alpha=0.5)
        lines += axes.plot(mean, color=hex_color(i), linewidth=1.8, marker="o" if len(mean) == 1 else "")
    axes.set(xlabel="epoch", ylabel="mAP@.5:.95 on val")
    if lines:
        add_legend(axes, lines, list(means))
    tidy(axes, grid=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def plot_differences(findings: Findings, path: Path) -> None:
    """Plot each seed's difference to the baseline as a dot, and the mean with its confidence interval."""
    rows = [row for row in findings.rows if row.paired]
    base = findings.values(findings.baseline)
    figure = new_figure(8, 1.5 + 0.5 * len(rows))
    axes = figure.add_subplot()
    for i, row in enumerate(rows):
        own = findings.values(row.variant)
        seeds = [own[seed] - base[seed] for seed in own if seed in base]
        axes.plot(seeds, [i] * len(seeds), "o", color=hex_color(i), alpha=0.5, markersize=4)
        axes.plot(row.paired.mean, i, "D", color=hex_color(i))
        if row.paired.n > 1:
            axes.plot([row.paired.low, row.paired.high], [i, i], color=hex_color(i), linewidth=2)
    axes.axvline(0, color="grey", linewidth=1)
    names = [row.variant for row in rows]
    axes.set_yticks(range(len(rows)), names, fontproperties=font_for(names))
    axes.set(xlabel=f"difference in mAP@.5:.95 to {findings.baseline}")
    axes.invert_yaxis()
    tidy(axes, grid=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _convergence(findings: Findings) -> str:
    means = mean_curves(findings)
    if not means:
        return ""
    curves = [Curve(name, np.arange(len(y)), y, css_color(i)) for i, (name, y) in enumerate(means.items())]
    last = max(len(curve.y) for curve in curves) - 1
    highest = max(float(np.nanmax(curve.y)) for curve in curves)
    title = "mAP@.5:.95 on val, mean over the seeds"
    axes = Axis(0, last, is_whole=True), Axis(0, max(highest, 1e-3))
    return f'<div class="charts">{chart(title, curves, *axes, "epoch", has_hovers=True)}</div>'


def _runs(findings: Findings) -> str:
    head = ("variant", "seed", *METRICS.values())
    rows = [
        (r["variant"], r["seed"], *("-" if r.get(m) is None else f"{r[m]:.4f}" for m in METRICS))
        for r in findings.records
    ]
    return table(head, rows)
