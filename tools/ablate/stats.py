"""Is a difference more than chance? Tests of paired values, honest with few of them.

Legend: n pairs, as a rule runs of two variants with the same seed; d their differences (n,).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST_EXACT = 20  # pairs whose 2^n signs are all tried
DRAWS = 100_000  # of signs, where there are more pairs
TOLERANCE = 1e-12  # relative: sums that differ by rounding alone are the same


@dataclass(frozen=True)
class Paired:
    """What is known of differences: their mean, sd, confidence interval of the mean, and three two-sided p values.

    Of a single pair only the mean is known: the others are nan, and each p is 1.
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
    """The differences of n values to n of the baseline, in the same order."""
    assert len(values) == len(baseline) > 0
    assert 0 < confidence < 1
    d = np.asarray(values, np.float64) - np.asarray(baseline, np.float64)
    mean, sd = mean_sd(d)
    low, high = t_interval(d, confidence)
    return Paired(len(d), mean, sd, low, high, t_p(d), wilcoxon_p(d), permutation_p(d))


def mean_sd(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) of n values; nan for what too few of them do not tell."""
    values = np.asarray(values, np.float64)
    mean = float(values.mean()) if len(values) else math.nan
    return mean, float(values.std(ddof=1)) if len(values) > 1 else math.nan


def t_interval(d: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean of d (n,); nan for fewer than two."""
    from scipy.special import stdtrit

    mean, sd = mean_sd(d)
    if len(d) < 2:
        return math.nan, math.nan
    half = float(stdtrit(len(d) - 1, 0.5 + confidence / 2)) * sd / math.sqrt(len(d))
    return mean - half, mean + half


def t_p(d: np.ndarray) -> float:
    """Two-sided p of Student's paired test, which takes the differences as normal; 1 where all are 0, or of one."""
    from scipy.special import stdtr

    if len(d) < 2 or not np.any(d):
        return 1.0
    mean, sd = mean_sd(d)
    if sd <= TOLERANCE * abs(mean):
        return 0.0
    return float(2 * stdtr(len(d) - 1, -abs(mean) / (sd / math.sqrt(len(d)))))


def permutation_p(d: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of the mean of d (n,) when each difference might as well have the other sign.

    Exact up to MOST_EXACT pairs; beyond that from DRAWS random choices of signs, the given one counted among them.
    """
    n, given = len(d), abs(float(np.sum(d)))
    limit = given - TOLERANCE * float(np.abs(d).sum())
    if n <= MOST_EXACT:
        sums = np.zeros(1)
        for value in d:
            sums = np.concatenate((sums + value, sums - value))  # (2^i,)
        return float((np.abs(sums) >= limit).mean())
    generator, hits = np.random.default_rng(seed), 0
    for _ in range(DRAWS // 1000):
        signs = generator.integers(0, 2, (1000, n)) * 2 - 1
        hits += int((np.abs(signs @ d) >= limit).sum())
    return (hits + 1) / (DRAWS + 1)


def wilcoxon_p(d: np.ndarray) -> float:
    """Two-sided exact p of Wilcoxon's signed ranks of d (n,): zeros are left out, equal sizes share their ranks."""
    sizes = np.abs(d[d != 0])
    if not len(sizes):
        return 1.0
    _, inverse, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    doubled = (2 * counts.cumsum() - counts + 1)[inverse]  # twice the mean rank: whole numbers
    total = int(doubled.sum())
    chances = np.zeros(total + 1)  # of each sum of the positive ones' ranks
    chances[0] = 1
    for rank in doubled.tolist():
        shifted = np.zeros_like(chances)
        shifted[rank:] = chances[: total + 1 - rank]
        chances = (chances + shifted) / 2
    positive = int(doubled[d[d != 0] > 0].sum())
    return min(1.0, 2 * float(chances[: min(positive, total - positive) + 1].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values, corrected for how many they are by Holm's step-down method, in their order."""
    order = np.argsort(p_values, kind="stable")
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order.tolist()):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def smallest_p(n: int) -> float:
    """The least two-sided p that an exact test of n pairs can give, 2 / 2^n: 0.0625 of 5."""
    return min(1.0, 2.0 ** (1 - n))


RULE = (
    "A variant counts as different from the baseline if the p of Student's paired t test over the seeds, corrected by "
    "Holm for the number of variants, is below alpha. That test takes the differences as normal. Wilcoxon's test and "
    "the exact permutation test do not, but with n seeds their p cannot be below 2 / 2^n; where they cannot confirm, "
    "the verdict says so. With fewer than 3 paired seeds there is no verdict."
)
LEAST_PAIRS = 3


def verdict(paired: Paired, corrected_t: float, corrected_permutation: float, alpha: float = 0.05) -> str:
    """What may be said of a variant, in words, by RULE."""
    if paired.n < LEAST_PAIRS:
        return f"no verdict: {paired.n} paired seed{'' if paired.n == 1 else 's'}, {LEAST_PAIRS} or more are needed"
    if corrected_t >= alpha:
        return "no significant difference"
    found = "significantly better" if paired.mean > 0 else "significantly worse"
    if corrected_permutation < alpha:
        return found
    least = smallest_p(paired.n)
    if least >= alpha:
        return f"{found} if the differences are normal; {paired.n} seeds cannot confirm it (exact p >= {least:.3g})"
    return f"{found} if the differences are normal; the exact test does not confirm it"
