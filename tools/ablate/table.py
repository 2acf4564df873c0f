"""The findings of an ablation: runs, and each variant against the baseline by seed, as CSV, Markdown and LaTeX.

Shapes: E epochs.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from tools.ablate.power import Look, limit_after
from tools.ablate.stats import Paired, compare_paired, holm, mean_sd, smallest_p, verdict
from utils.files.names import plain_cell
from utils.general import plural

if TYPE_CHECKING:
    import pandas

METRICS = {"map": "mAP@.5:.95", "map50": "mAP@.5", "map75": "mAP@.75", "last_map": "last epoch's mAP@.5:.95"}
METRIC = "map"  # what the verdict is about
COSTS = {"parameters": "parameters", "gmacs": "GMACs", "p50_ms": "p50 (ms)", "p95_ms": "p95 (ms)", "peak_mb": "GPU MB"}
UNKNOWN = "-"


@dataclass(frozen=True, eq=False)
class Findings:
    """The content of a report.

    Attributes:
        records: one for each run that is done, with `variant`, `seed` and numbers, METRICS among them
        costs: COSTS by variant
        bootstrap: interval of the difference over resampled images, by variant
        curves: mAP by epoch, by variant and seed, each (E,)
        provenance: configuration, data, code and machine
        notes: warnings for the reader
        failed: keys of the runs that failed
        open: number of runs that are still to be done
        looks: planned interim tests, whose limits the verdicts keep
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
    looks: Sequence[Look] = ()

    def values(self, variant: str, metric: str = METRIC) -> dict[int, float]:
        """Return a metric of a variant by seed, without runs that lack it."""
        found = {int(r["seed"]): r.get(metric) for r in self.records if r["variant"] == variant}
        return {seed: float(value) for seed, value in sorted(found.items()) if value is not None}

    @cached_property
    def rows(self) -> "list[Row]":
        """A row for each variant, in the plan's order; Holm's correction is over the variants with common seeds."""
        base = self.values(self.baseline)
        paired: dict[str, Paired] = {}
        for name in self.variants:
            own = self.values(name)
            seeds = [seed for seed in own if seed in base]
            if name != self.baseline and seeds:
                paired[name] = compare_paired([own[s] for s in seeds], [base[s] for s in seeds], 1 - self.alpha)
        tests = ("p_t", "p_wilcoxon", "p_permutation")
        columns = [holm([getattr(pair, test) for pair in paired.values()]) for test in tests]
        corrected = dict(zip(paired, zip(*columns, strict=True), strict=True))
        rows = []
        for name in self.variants:
            own, pair = list(self.values(name).values()), paired.get(name)
            p = corrected.get(name, (math.nan,) * 3)
            if pair:
                words = verdict(pair, p[0], p[2], limit_after(pair.n, self.looks, self.alpha))
            elif name == self.baseline:
                words = "baseline"
            else:
                words = "no verdict: no seed in common with the baseline"
            rows.append(Row(name, len(own), *mean_sd(own), pair, p, words))
        return rows


@dataclass(frozen=True)
class Row:
    """A variant: number of seeds, mean, sd, comparison with the baseline, corrected p values and verdict."""

    variant: str
    n: int
    mean: float
    sd: float
    paired: Paired | None  # None for the baseline and without common seeds
    corrected: tuple[float, float, float]  # p of t, Wilcoxon, permutation; nan without
    verdict: str


def summary(findings: Findings) -> list[str]:
    """Return a line for each variant, then the smallest p of so many seeds and the number of open runs."""
    lines = []
    for row in findings.rows:
        if row.paired:
            p = row.paired
            interval = f", {1 - findings.alpha:.0%} CI {p.low:+.4f} to {p.high:+.4f}" if p.n > 1 else ""
            lines.append(
                f"{row.variant}: {row.verdict} ({p.mean:+.4f} mAP over {plural(p.n, 'paired seed')}{interval})"
            )
        elif row.variant != findings.baseline:
            lines.append(f"{row.variant}: {row.verdict}")
    n = max((row.paired.n for row in findings.rows if row.paired), default=0)
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
    """Return the cells of HEAD."""
    p = row.paired
    differences = (p.mean, p.low, p.high) if p else (math.nan,) * 3
    tests = (p.p_t, p.p_wilcoxon, p.p_permutation) if p else (math.nan,) * 3
    signed = [_number(value, "+.4f") for value in (*differences, *findings.bootstrap.get(row.variant, (math.nan,) * 2))]
    shown = [_number(value, ".3g") for value in (*tests, *row.corrected)]
    return row.variant, str(row.n), _number(row.mean, ".4f"), _number(row.sd, ".4f"), *signed, *shown, row.verdict


def cost_cells(findings: Findings, name: str) -> tuple[str, ...]:
    """Return the cells of COST_HEAD: costs, and means of the minutes and MB of the trainings."""
    costs = findings.costs.get(name, {})
    shown = [_number(costs.get(key), ".0f" if key == "parameters" else ".4g") for key in COSTS]
    trained = []
    for key, unit in (("train_seconds", 60), ("peak_mb", 1)):
        values = list(findings.values(name, key).values())
        trained.append(_number(float(np.mean(values)) / unit if values else None, ".4g"))
    return name, *shown, *trained


COST_HEAD = ("variant", *COSTS.values(), "training (min)", "training (MB)")


def metric_cells(findings: Findings, name: str) -> tuple[str, ...]:
    """Return the variant, then mean and sd of each of METRICS."""
    pairs = [mean_sd(list(findings.values(name, metric).values())) for metric in METRICS]
    return name, *(f"{_number(mean, '.4f')} ± {_number(sd, '.4f')}" for mean, sd in pairs)


def runs_csv(findings: Findings) -> str:
    """Return a CSV with a row for each run that is done."""
    return _csv(_pandas().DataFrame(list(findings.records), dtype=object))


def summary_csv(findings: Findings) -> str:
    """Return a CSV with a row for each variant."""
    return _csv(_pandas().DataFrame([cells_of(findings, row) for row in findings.rows], columns=HEAD))


def latex(findings: Findings) -> str:
    """Return a LaTeX table for a paper; it needs the package booktabs."""
    table = []
    for row in findings.rows:
        cells = dict(zip(HEAD, cells_of(findings, row), strict=True))
        interval = f"[{cells['CI low']}, {cells['CI high']}]" if row.paired and row.paired.n > 1 else "--"
        difference, p = (cells["difference"], cells["Holm t"]) if row.paired else ("--", "--")
        table.append((row.variant, row.n, f"${cells['mean']} \\pm {cells['sd']}$", difference, interval, p))
    head = ("Variant", "$n$", "mAP", r"$\Delta$", "CI", "$p$ (Holm)")
    frame = _pandas().DataFrame(table, columns=head)
    style = frame.style.hide(axis="index").format(escape="latex", subset=["Variant"])
    return style.to_latex(column_format="lrrrrr", hrules=True)


def markdown(findings: Findings, rule: str) -> str:
    """Return the report without plots."""
    names = [row.variant for row in findings.rows]
    parts = [
        f"# {_plain(findings.title)}",
        "\n".join(f"- {_plain(line)}" for line in (*summary(findings), *findings.notes)),
        rule,
        markdown_table(HEAD, [cells_of(findings, row) for row in findings.rows]),
        markdown_table(("variant", *METRICS.values()), [metric_cells(findings, name) for name in names]),
        markdown_table(COST_HEAD, [cost_cells(findings, name) for name in names]),
        "\n".join(f"- {_plain(key)}: {_plain(value)}" for key, value in findings.provenance.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; pandas would need tabulate, which leaves `|` in a cell as it is."""
    return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in (head, ["---"] * len(head), *rows))


def _number(value: float | None, how: str) -> str:
    return UNKNOWN if value is None or not math.isfinite(value) else format(value, how)


def _csv(frame: "pandas.DataFrame") -> str:
    return frame.map(plain_cell).to_csv(index=False, lineterminator="\n")


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _pandas() -> ModuleType:
    try:
        import pandas
    except ImportError:
        raise ImportError("the tables of tools.ablate need pandas: pip install pandas") from None
    return pandas
