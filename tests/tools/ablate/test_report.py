"""The report of made-up results: numbers, words, formats, and what it says of too few runs."""

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from tools.ablate.report import mean_curves, write_reports
from tools.ablate.table import Findings, cells_of, latex, markdown, runs_csv, summary, summary_csv

BASE = [0.50, 0.52, 0.51, 0.53, 0.49, 0.50]
BETTER = [0.60, 0.63, 0.61, 0.64, 0.60, 0.60]
NOISE = [0.51, 0.51, 0.52, 0.52, 0.50, 0.49]


def records(**values):
    return [
        {"variant": name, "seed": seed, "map": value, "map50": value + 0.2, "map75": value, "last_map": value - 0.01}
        | {"train_seconds": 120.0, "peak_mb": None}
        for name, column in values.items()
        for seed, value in enumerate(column)
    ]


@pytest.fixture
def findings():
    return Findings(
        title="<b>A & B",
        baseline="plain",
        variants=("plain", "better_one", "noise"),
        alpha=0.05,
        records=records(plain=BASE, better_one=BETTER, noise=NOISE),
        costs={"plain": {"parameters": 1234567, "gmacs": 2.1, "p50_ms": 3.0, "p95_ms": 4.0, "peak_mb": None}},
        bootstrap={"better_one": (0.08, 0.13)},
        curves={"plain": [np.array([0.1, 0.3]), np.array([0.3])], "noise": [np.array([0.2, 0.2])]},
        provenance={"commit": "abc", "data fingerprint": "00ff"},
    )


def test_rows(findings):
    plain, better, noise = findings.rows
    assert (plain.verdict, plain.paired, plain.n) == ("baseline", None, 6)
    p_better, p_noise = (scipy.stats.ttest_rel(x, BASE).pvalue for x in (BETTER, NOISE))
    assert better.corrected[0] == pytest.approx(min(2 * p_better, 1))
    assert noise.corrected[0] == pytest.approx(max(p_noise, 2 * p_better))
    assert better.paired.p_permutation == better.paired.p_wilcoxon == 2 / 2**6
    assert better.corrected[2] == pytest.approx(2 * 2 / 2**6)
    assert "if the differences are normal; the permutation test does not confirm it" in better.verdict
    assert noise.verdict == "no significant difference"
    cells = cells_of(findings, better)
    assert cells[:4] == ("better_one", "6", "0.6133", "0.0175")
    assert cells[7:9] == ("+0.0800", "+0.1300")


def test_only_common_seeds_are_paired(findings):
    few = [r for r in findings.records if r["variant"] != "noise" or r["seed"] in (1, 4)]
    few += [{"variant": "noise", "seed": 99, "map": 0.9}]
    row = replace(findings, records=few).rows[2]
    assert (row.n, row.paired.n) == (3, 2)
    assert row.paired.mean == pytest.approx(((0.51 - 0.52) + (0.50 - 0.49)) / 2)
    assert row.verdict.startswith("no verdict: 2 paired seeds")


def test_summary_says_what_few_seeds_allow_and_what_is_missing(findings):
    lines = summary(replace(findings, open=2, failed=["noise-s3"]))
    assert any("with 6 paired seeds an exact test's p is 0.0312 at least" in line for line in lines)
    assert lines[-1] == "not final: 2 runs not done yet, 1 failed (noise-s3)"
    alone = summary(replace(findings, records=records(better_one=BETTER)))
    assert "better_one: no verdict: no seed in common with the baseline" in alone


def test_csv_round_trip(findings):
    rows = list(csv.DictReader(io.StringIO(runs_csv(findings))))
    assert [float(row["map"]) for row in rows if row["variant"] == "noise"] == NOISE
    found = list(csv.DictReader(io.StringIO(summary_csv(findings))))
    assert [row["variant"] for row in found] == list(findings.variants)
    assert found[2]["verdict"] == "no significant difference"


def test_texts_are_escaped(findings):
    assert r"better\_one & 6 & $0.6133 \pm 0.0175$ & +0.1050 &" in latex(findings)
    assert markdown(findings, "rule").startswith("# &lt;b>A & B\n")


def test_mean_curves_go_on_where_one_has_ended(findings):
    assert mean_curves(findings)["plain"].tolist() == pytest.approx([0.2, 0.3])
    assert mean_curves(replace(findings, curves={"plain": [np.array([math.nan])], "noise": []})) == {}


def test_files(findings, tmp_path):
    write_reports(findings, tmp_path / "out")
    names = {"report.html", "report.md", "table.tex", "runs.csv", "summary.csv", "differences.png", "convergence.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;A &amp; B" in page
    assert "no significant difference" in page
    assert "<td>1234567</td>" in page
    for name in ("differences.png", "convergence.png"):
        assert (tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG"


def test_a_single_run_makes_a_report(findings, tmp_path):
    write_reports(replace(findings, records=records(plain=[0.5]), curves={}, costs={}, bootstrap={}), tmp_path)
    assert "no verdict" in (tmp_path / "report.md").read_text(encoding="utf-8")
