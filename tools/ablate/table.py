"""What an ablation has found: its runs, each variant against the baseline by seed, as CSV, Markdown and LaTeX.

Shapes: E epochs.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tools.ablate.stats import Paired, compare_paired, holm, mean_sd, smallest_p, verdict
from utils.files.names import plain_cell
from utils.general import plural

METRICS = {"map": "mAP@.5:.95", "map50": "mAP@.5", "map75": "mAP@.75", "last_map": "last epoch's mAP@.5:.95"}
METRIC = "map"  # what the verdict is about
COSTS = {"parameters": "parameters", "gmacs": "GMACs", "p50_ms": "p50 (ms)", "p95_ms": "p95 (ms)", "peak_mb": "GPU MB"}
UNKNOWN = "-"


@dataclass(frozen=True, eq=False)
class Findings:
    """All that a report is made of.

    records: of each run that is done `variant`, `seed` and numbers, those of METRICS among them. costs: by variant,
    those of COSTS. bootstrap: the images' interval by variant. curves: mAP by variant, of each seed (E,). provenance:
    what was run on what. notes: what a reader must know. failed: keys of runs; open: how many are not done yet.
    """

    title: str
    baseline: str
    variants: tuple[str, ...]
    alpha: float
    records: Sequence[Mapping[str, object]]
    costs: Mapping[str, Mapping[str, float | None]]
    bootstrap: Mapping[str, tuple[float, float]]
    curves: Mapping[str, Sequence[np.ndarray]]
    provenance: Mapping[str, str]
    notes: Sequence[str] = ()
    failed: Sequence[str] = ()
    open: int = 0

    def values(self, variant: str, metric: str = METRIC) -> dict[int, float]:
        """A metric of a variant by seed, where it is known."""
        found = {int(r["seed"]): r.get(metric) for r in self.records if r["variant"] == variant}
        return {seed: float(value) for seed, value in sorted(found.items()) if value is not None}


@dataclass(frozen=True)
class Row:
    """A variant: the seeds it has, its mean and sd; against the baseline the paired values, p corrected, a verdict."""

    variant: str
    n: int
    mean: float
    sd: float
    paired: Paired | None  # None for the baseline and without common seeds
    corrected: tuple[float, float, float]  # p of t, Wilcoxon, permutation; nan without
    verdict: str


def rows_of(findings: Findings, metric: str = METRIC) -> list[Row]:
    """A row for each variant, in the plan's order; Holm's correction is over those that are compared."""
    base = findings.values(findings.baseline, metric)
    paired: dict[str, Paired] = {}
    for name in findings.variants:
        own = findings.values(name, metric)
        seeds = [seed for seed in own if seed in base]
        if name != findings.baseline and seeds:
            paired[name] = compare_paired([own[s] for s in seeds], [base[s] for s in seeds], 1 - findings.alpha)
    pairs = list(paired.values())
    columns = [holm([getattr(p, f"p_{test}") for p in pairs]) for test in ("t", "wilcoxon", "permutation")]
    corrected = dict(zip(paired, zip(*columns, strict=True), strict=True))
    rows = []
    for name in findings.variants:
        own, pair = list(findings.values(name, metric).values()), paired.get(name)
        p = corrected.get(name, (math.nan,) * 3)
        words = "baseline" if name == findings.baseline else "no verdict: no seed in common with the baseline"
        if pair:
            words = verdict(pair, p[0], p[2], findings.alpha)
        rows.append(Row(name, len(own), *mean_sd(own), pair, p, words))
    return rows


def summary(findings: Findings) -> list[str]:
    """The answer in words, a line for each variant, and what the number of seeds allows to be said."""
    lines = []
    for row in rows_of(findings):
        if row.paired:
            p = row.paired
            interval = f", {1 - findings.alpha:.0%} CI {p.low:+.4f} to {p.high:+.4f}" if p.n > 1 else ""
            lines.append(
                f"{row.variant}: {row.verdict} ({p.mean:+.4f} mAP over {plural(p.n, 'paired seed')}{interval})"
            )
        elif row.variant != findings.baseline:
            lines.append(f"{row.variant}: {row.verdict}")
    n = max((row.paired.n for row in rows_of(findings) if row.paired), default=0)
    if n:
        lines.append(
            f"with {plural(n, 'paired seed')} an exact test's p is {smallest_p(n):.3g} at least, before any correction"
        )
    if findings.open or findings.failed:
        failed = f", {len(findings.failed)} failed ({', '.join(findings.failed)})" if findings.failed else ""
        lines.append(f"not final: {plural(findings.open, 'run')} not done yet{failed}")
    return lines


HEAD = ("variant", "seeds", "mean", "sd", "difference", "CI low", "CI high", "images low", "images high")
HEAD += ("p t", "p Wilcoxon", "p permutation", "Holm t", "Holm Wilcoxon", "Holm permutation", "verdict")


def cells_of(findings: Findings, row: Row) -> tuple[str, ...]:
    """The cells of HEAD."""
    p = row.paired
    differences = (p.mean, p.low, p.high) if p else (math.nan,) * 3
    tests = (p.p_t, p.p_wilcoxon, p.p_permutation) if p else (math.nan,) * 3
    signed = [_number(value, "+.4f") for value in (*differences, *findings.bootstrap.get(row.variant, (math.nan,) * 2))]
    shown = [_number(value, ".3g") for value in (*tests, *row.corrected)]
    return row.variant, str(row.n), _number(row.mean, ".4f"), _number(row.sd, ".4f"), *signed, *shown, row.verdict


def cost_cells(findings: Findings, name: str) -> tuple[str, ...]:
    """Variant, the cells of COSTS, and minutes and MB of its trainings, their means."""
    costs = findings.costs.get(name, {})
    shown = [_number(costs.get(key), ".0f" if key == "parameters" else ".4g") for key in COSTS]
    trained = []
    for key, unit in (("train_seconds", 60), ("peak_mb", 1)):
        values = list(findings.values(name, key).values())
        trained.append(_number(float(np.mean(values)) / unit if values else None, ".4g"))
    return name, *shown, *trained


COST_HEAD = ("variant", *COSTS.values(), "training (min)", "training (MB)")


def metric_cells(findings: Findings, name: str) -> tuple[str, ...]:
    """Variant, then mean and sd of each of METRICS."""
    pairs = [mean_sd(list(findings.values(name, metric).values())) for metric in METRICS]
    return name, *(f"{_number(mean, '.4f')} ± {_number(sd, '.4f')}" for mean, sd in pairs)


def runs_csv(findings: Findings) -> str:
    """A row for each run that is done."""
    heads = list(dict.fromkeys(key for record in findings.records for key in record))
    return _csv([heads, *([record.get(key, "") for key in heads] for record in findings.records)])


def summary_csv(findings: Findings) -> str:
    """A row for each variant."""
    return _csv([HEAD, *(cells_of(findings, row) for row in rows_of(findings))])


def markdown(findings: Findings, rule: str) -> str:
    """The report without pictures."""
    rows = rows_of(findings)
    parts = [
        f"# {_plain(findings.title)}",
        "\n".join(f"- {_plain(line)}" for line in (*summary(findings), *findings.notes)),
        rule,
        _markdown_table(HEAD, [cells_of(findings, row) for row in rows]),
        _markdown_table(("variant", *METRICS.values()), [metric_cells(findings, row.variant) for row in rows]),
        _markdown_table(COST_HEAD, [cost_cells(findings, row.variant) for row in rows]),
        "\n".join(f"- {_plain(key)}: {_plain(value)}" for key, value in findings.provenance.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(findings: Findings) -> str:
    """A table for a paper, of \\hline alone, which needs no package."""
    lines = [r"\begin{tabular}{lrrrrr}", r"\hline", r"Variant & $n$ & mAP & $\Delta$ & CI & $p$ (Holm) \\", r"\hline"]
    for row in rows_of(findings):
        cells = cells_of(findings, row)
        interval = f"[{cells[5]}, {cells[6]}]" if row.paired and row.paired.n > 1 else "--"
        difference, p = (cells[4], cells[12]) if row.paired else ("--", "--")
        values = (_tex(row.variant), str(row.n), f"${cells[2]} \\pm {cells[3]}$", difference, interval, p)
        lines.append(" & ".join(values) + r" \\")
    return "\n".join((*lines, r"\hline", r"\end{tabular}", ""))


def _number(value: float | None, how: str) -> str:
    return UNKNOWN if value is None or not math.isfinite(value) else format(value, how)


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[plain_cell(cell) for cell in row] for row in rows])
    return text.getvalue()


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_plain(cell) for cell in line)} |" for line in lines)


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
