"""Successive halving over places, with paired seeds, and a test of the winner with seeds that the search has not seen.

Each rung trains the places that are left, and the network without the block, with new seeds, and keeps the better half.
The best of many always looks better than it is, so its own numbers prove nothing: the winner and the plain network are
trained again with fresh seeds, and only those are tested. The answer may be that no place is better than none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tools.ablate.stats import Paired, compare_paired

PLAIN = ""  # the place of a network without the block
MIN_CONFIRMATIONS = 6  # pairs: the least with which an exact test can give a p below 0.05
CONFIRMED_SHARE = 0.5  # of the runs

Train = Callable[[str, int], float]  # a place, or PLAIN, and a seed; the run's mAP


@dataclass(frozen=True)
class Schedule:
    """Positions of each rung, new seeds of a rung, and pairs that confirm the winner."""

    rungs: tuple[int, ...]  # 8, 4, 2
    seeds: int
    confirmations: int

    @property
    def runs(self) -> int:
        """Number of trainings, including those of the plain network."""
        return sum((places + 1) * self.seeds for places in self.rungs) + 2 * self.confirmations


@dataclass(frozen=True)
class Verdict:
    """Winner of the rungs, mean differences by position, and the confirmation."""

    winner: str
    differences: dict[str, float]  # by place, over all its seeds in the rungs; selected, so not to be quoted
    confirmed: Paired
    is_better: bool


def plan_schedule(places: int, runs: int) -> Schedule:
    """Plan the rungs within a number of trainings; raise ValueError if those are too few.

    Half of the trainings confirm the winner. The first rung has as many positions as the other half allows.
    """
    if places < 1:
        raise ValueError("no position to try")
    confirmations = max(MIN_CONFIRMATIONS, int(runs * CONFIRMED_SHARE) // 2)
    left = runs - 2 * confirmations
    first = places
    while first > 1 and _cost(_rungs(first)) > left:
        first -= 1
    rungs = _rungs(first)
    if _cost(rungs) > left:
        raise ValueError(f"{runs} trainings are too few; {min_runs()} or more are required")
    return Schedule(rungs, max(1, left // _cost(rungs)) if rungs else 0, confirmations)


def min_runs() -> int:
    """Return the smallest number of trainings: a rung of two positions, and the confirmation."""
    return _cost(_rungs(2)) + 2 * MIN_CONFIRMATIONS


def _rungs(places: int) -> tuple[int, ...]:
    """Return the positions of each rung, halved until one is left; no rung for a single one."""
    rungs = []
    while places > 1:
        rungs.append(places)
        places = (places + 1) // 2
    return tuple(rungs)


def _cost(rungs: Sequence[int]) -> int:
    return sum(places + 1 for places in rungs)


def search(places: Sequence[str], schedule: Schedule, train: Train, confirm: Train, alpha: float = 0.05) -> Verdict:
    """Find the best position and test it against the plain network.

    Args:
        places: positions, the most promising first
        train: trains and rates on the split that positions are chosen by
        confirm: trains and rates on the split that the winner is tested on
    """
    alive = list(places[: schedule.rungs[0]] if schedule.rungs else places[:1])
    differences: dict[str, list[float]] = {place: [] for place in alive}
    seed = 0
    for _ in schedule.rungs:
        for _ in range(schedule.seeds):
            plain = train(PLAIN, seed)
            for place in alive:
                differences[place].append(train(place, seed) - plain)
            seed += 1
        alive.sort(key=lambda place: -float(np.mean(differences[place])))
        alive = alive[: (len(alive) + 1) // 2]
    winner = alive[0]
    pairs = [(confirm(winner, s), confirm(PLAIN, s)) for s in range(seed, seed + schedule.confirmations)]
    confirmed = compare_paired([pair[0] for pair in pairs], [pair[1] for pair in pairs], 1 - alpha)
    is_better = confirmed.mean > 0 and confirmed.p_t < alpha
    means = {place: float(np.mean(values)) for place, values in differences.items() if values}
    return Verdict(winner, means, confirmed, is_better)
