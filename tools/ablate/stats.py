"""Paired tests of two variants' values, with Holm's correction and a verdict.

Shapes: n pairs, usually the runs of two variants with the same seed; d their differences (n,).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 100_000  # of signs; with up to 16 pairs all 2^n signs are tried
DECIMALS = 12  # sums of differences that agree to so many decimals are ties
CONSTANT = 1e-12  # relative spread below which differences are the same but for rounding


@dataclass(frozen=True)
class Paired:
    """Mean, sd and confidence interval of paired differences, and three two-sided p values.

    With a single pair sd and interval are nan, and each p is 1.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    p_t: float
    p_wilcoxon: float
    p_permutation: float


def compare_paired(values: Sequence[float], baseline: Sequence[float], confidence: float = 0.95) -> Paired:
    """Compare n values with n of the baseline, in the same order."""
    assert len(values) == len(baseline) > 0
    assert 0 < confidence < 1
    d = np.asarray(values, np.float64) - np.asarray(baseline, np.float64)
    mean, sd = mean_sd(d)
    low, high = t_interval(d, confidence)
    return Paired(len(d), mean, sd, low, high, t_p(d), wilcoxon_p(d), permutation_p(d))


def mean_sd(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the mean and the sample standard deviation; nan where there are too few values."""
    values = np.asarray(values, np.float64)
    mean = float(values.mean()) if len(values) else math.nan
    return mean, float(values.std(ddof=1)) if len(values) > 1 else math.nan


def t_interval(d: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Return Student's confidence interval of the mean; nan with fewer than two differences."""
    import scipy.stats

    if len(d) < 2:
        return math.nan, math.nan
    mean, sd = mean_sd(d)
    half = float(scipy.stats.t.ppf(0.5 + confidence / 2, len(d) - 1)) * sd / math.sqrt(len(d))
    return mean - half, mean + half


def t_p(d: np.ndarray) -> float:
    """Return the two-sided p of Student's paired t test, which assumes normal differences."""
    import scipy.stats

    if len(d) < 2 or not d.any():
        return 1.0
    if np.ptp(d) <= CONSTANT * abs(d.mean()):  # scipy's statistic is rounding noise or infinite there
        return 0.0
    return float(scipy.stats.ttest_1samp(d, 0).pvalue)


def permutation_p(d: np.ndarray, seed: int = 0) -> float:
    """Return the two-sided p of the sum under random signs: exact with up to 16 pairs, else of RESAMPLES."""
    import scipy.stats

    if len(d) < 2:
        return 1.0
    found = scipy.stats.permutation_test(
        (d,),
        lambda signed, axis: np.round(signed.sum(axis), DECIMALS),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=seed,
    )
    return float(found.pvalue)


def wilcoxon_p(d: np.ndarray) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test, without zeros.

    Exact with up to 50 pairs, or 13 if some are of equal size; beyond that by the normal approximation.
    """
    import scipy.stats

    d = d[d != 0]
    return float(scipy.stats.wilcoxon(d).pvalue) if len(d) else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number by Holm's step-down method; the order is kept."""
    order = np.argsort(p_values, kind="stable")
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order.tolist()):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def smallest_p(n: int) -> float:
    """Return the smallest two-sided p that an exact test of n pairs can give, 2 / 2^n: 0.0625 for 5."""
    return min(1.0, 2.0 ** (1 - n))


RULE = (
    "A variant differs from the baseline if the p of Student's paired t test over the seeds, corrected by Holm for the "
    "number of variants, is below alpha, or with planned looks below the limit of the last one. That test assumes "
    "normal differences. Wilcoxon's test and the permutation test do not, but with n seeds their p cannot be below "
    "2 / 2^n. The verdict states whether the permutation test confirms the t test. With fewer than 3 paired seeds, "
    "there is no verdict."
)
MIN_PAIRS = 3


def verdict(paired: Paired, corrected_t: float, corrected_permutation: float, alpha: float = 0.05) -> str:
    """Return a variant's verdict by RULE."""
    if paired.n < MIN_PAIRS:
        return f"no verdict: {paired.n} paired seed{'' if paired.n == 1 else 's'}, {MIN_PAIRS} or more are needed"
    if corrected_t >= alpha:
        return "no significant difference"
    found = "significantly better" if paired.mean > 0 else "significantly worse"
    if corrected_permutation < alpha:
        return found
    least = smallest_p(paired.n)
    if least >= alpha:
        return f"{found} if the differences are normal; {paired.n} seeds cannot confirm it (exact p >= {least:.3g})"
    return f"{found} if the differences are normal; the permutation test does not confirm it"
