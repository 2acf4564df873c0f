"""Plan how many paired seeds an ablation needs, and when it may stop, before the first run.

A variant is compared with the baseline by Student's t test of the paired differences, whose standard deviation comes
from a pilot. Looking at the result after every run and stopping once it is significant finds differences that are not
there. So the number of pairs is fixed beforehand, or the looks are, and each look spends its share of alpha
(Lan and DeMets 1983, with the spending function that gives O'Brien and Fleming's limits).
"""

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DIFFERENCES = (0.005, 0.01, 0.02)  # of mAP@.5:.95
POWER = 0.8
MAX_PAIRS = 10_000
GRID = 2001  # points of a look's distribution
WIDEST = 8.0  # standard deviations, beyond which nothing is left


def power_of(pairs: int, difference: float, sd: float, alpha: float = 0.05) -> float:
    """Return the power of a two-sided paired t test for a true mean difference; sd is that of the differences."""
    import scipy.stats

    if pairs < 2:
        return 0.0
    limit = scipy.stats.t.ppf(1 - alpha / 2, pairs - 1)
    shift = abs(difference) / sd * math.sqrt(pairs)
    return float(scipy.stats.nct.sf(limit, pairs - 1, shift) + scipy.stats.nct.cdf(-limit, pairs - 1, shift))


def pairs_needed(difference: float, sd: float, alpha: float = 0.05, power: float = POWER) -> int:
    """Return the smallest number of pairs with that power; raise ValueError if MAX_PAIRS are too few."""
    if not (difference > 0 and sd > 0):
        raise ValueError(f"difference {difference} and sd {sd}: must be above 0")
    if power_of(MAX_PAIRS, difference, sd, alpha) < power:
        raise ValueError(f"a difference of {difference:g} needs more than {MAX_PAIRS} pairs at an sd of {sd:g}")
    return bisect.bisect_left(range(MAX_PAIRS), power, key=lambda n: power_of(n, difference, sd, alpha))


def half_width(pairs: int, sd: float, alpha: float = 0.05) -> float:
    """Return half the expected width of the mean difference's confidence interval."""
    import scipy.stats

    return float(scipy.stats.t.ppf(1 - alpha / 2, pairs - 1)) * sd / math.sqrt(pairs)


# Looks ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """An interim test: after how many pairs, at which two-sided p it stops, and the alpha spent up to it."""

    pairs: int
    p: float
    spent: float


def spending(share: float, alpha: float) -> float:
    """Return the alpha spent after a share 0..1 of the planned pairs: little early, all at the end.

    Each side spends its half of alpha.
    """
    import scipy.stats

    return float(4 * scipy.stats.norm.sf(scipy.stats.norm.ppf(1 - alpha / 4) / math.sqrt(share))) if share > 0 else 0.0


def plan_looks(pairs: Sequence[int], alpha: float = 0.05) -> tuple[Look, ...]:
    """Return the looks after these numbers of pairs, the last of which is the planned end, for one alpha of all.

    The limits are those of a normal test. As p values they serve the t test, too: `simulate` counts its false
    positives. ValueError if the numbers do not increase, or the first is below 3.
    """
    import scipy.stats

    counts = list(pairs)
    if not counts or counts[0] < 3 or any(b <= a for a, b in itertools.pairwise(counts)):
        raise ValueError(f"looks {counts}: numbers of pairs must increase, from 3 on, as in 8 12 16 20")
    grid = np.linspace(-WIDEST, WIDEST, GRID)
    step = grid[1] - grid[0]
    looks: list[Look] = []
    density = np.zeros(0)  # of the sum of what is not stopped yet, at the points of `sums`
    sums = np.zeros(0)
    for i, count in enumerate(counts):
        share = count / counts[-1]
        spent = spending(share, alpha)
        tail = (spent - (looks[-1].spent if looks else 0.0)) / 2
        own = grid * math.sqrt(share)  # sums of a Brownian motion at this time
        if i == 0:
            passed = scipy.stats.norm.pdf(own, scale=math.sqrt(share))
        else:
            before = counts[i - 1] / counts[-1]
            kernel = scipy.stats.norm.pdf(own[:, None] - sums, scale=math.sqrt(share - before))
            passed = kernel @ density * (sums[1] - sums[0])
        above = (np.flip(np.flip(passed).cumsum()) - passed / 2) * step * math.sqrt(share)  # chance of more than each
        limit = float(np.interp(-tail, -above, own)) / math.sqrt(share)
        looks.append(Look(count, float(2 * scipy.stats.norm.sf(limit)), spent))
        inside = np.abs(own) <= limit * math.sqrt(share)
        sums, density = own[inside], passed[inside]
    return tuple(looks)


def limit_after(pairs: int, looks: Sequence[Look], alpha: float) -> float:
    """Return the p below which a difference counts after so many pairs: that of the last look; alpha without looks."""
    if not looks:
        return alpha
    return next((look.p for look in reversed(looks) if look.pairs <= pairs), looks[0].p)


def stopped_at(differences: np.ndarray, looks: Sequence[Look]) -> Look | None:
    """Return the look at which a test of differences (n,), in the order of their seeds, stops; None if it does not."""
    import scipy.stats

    for look in looks:
        if len(differences) < look.pairs:
            return None
        if scipy.stats.ttest_1samp(differences[: look.pairs], 0).pvalue <= look.p:
            return look
    return None


def simulate(
    looks: Sequence[Look], difference: float, sd: float, trials: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the share of simulated ablations that find a difference, and their mean number of pairs."""
    import scipy.stats

    values = np.random.default_rng(seed).normal(difference, sd, (trials, looks[-1].pairs))
    is_open, taken = np.ones(trials, bool), np.full(trials, looks[-1].pairs)
    for look in looks:
        p = scipy.stats.ttest_1samp(values[:, : look.pairs], 0, axis=1).pvalue
        taken[is_open & (p <= look.p)] = look.pairs
        is_open &= p > look.p
    return float(1 - is_open.mean()), float(taken.mean())


# Words ----------------------------------------------------------------------------------------------------------------


def describe(sd: float, minutes: float | None, alpha: float = 0.05, looks: Sequence[Look] = ()) -> list[str]:
    """Return the lines of --plan: pairs and hours by difference, and the stopping rule; minutes are those of a run."""
    lines = [f"differences of pairs have an sd of {sd:.4f}; a two-sided t test at alpha {alpha:g} then needs"]
    for difference in DIFFERENCES:
        count = pairs_needed(difference, sd, alpha)
        hours = f", {2 * count * minutes / 60:.1f} hours of two trainings a pair" if minutes else ""
        width = half_width(count, sd, alpha)
        lines.append(f"  {difference:g} mAP: {count} pairs for {POWER:.0%} power (interval +-{width:.4f}){hours}")
    for look in looks:
        lines.append(f"look after {look.pairs} pairs: stop at p <= {look.p:.4f} (alpha spent: {look.spent:.4f})")
    if looks:
        wrong, _ = simulate(looks, 0.0, sd)
        right, taken = simulate(looks, DIFFERENCES[1], sd)
        lines.append(
            f"in 10000 simulated ablations these looks find a difference in {wrong:.1%} if there is none, and in "
            f"{right:.1%} if it is {DIFFERENCES[1]:g}, after {taken:.1f} pairs on average"
        )
    else:
        lines.append("rule: the number of pairs is fixed, and the test is made once, when all are done")
    return lines
