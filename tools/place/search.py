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
LEAST_CONFIRMATIONS = 6  # pairs: the least with which an exact test can give a p below 0.05
CONFIRMED_SHARE = 0.5  # of the runs

Train = Callable[[str, int], float]  # a place, or PLAIN, and a seed; the run's mAP


@dataclass(frozen=True)
class Schedule:
    """How many places each rung trains, with how many new seeds each, and how many pairs confirm the winner."""

    rungs: tuple[int, ...]  # 8, 4, 2
    seeds: int
    confirmations: int

    @property
    def runs(self) -> int:
        """The trainings in all, those of the plain network included."""
        return sum((places + 1) * self.seeds for places in self.rungs) + 2 * self.confirmations


@dataclass(frozen=True)
class Verdict:
    """The winner of the rungs, its mean difference there by place, and its confirmation."""

    winner: str
    differences: dict[str, float]  # by place, over all its seeds in the rungs; selected, so not to be quoted
    confirmed: Paired
    is_better: bool


def plan_schedule(places: int, runs: int) -> Schedule:
    """The schedule for so many places within a number of trainings; ValueError where those are too few.

    Half of the runs confirm the winner. The first rung has as many places as the rest allows.
    """
    if places < 1:
        raise ValueError("no place is left to try")
    confirmations = max(LEAST_CONFIRMATIONS, int(runs * CONFIRMED_SHARE) // 2)
    left = runs - 2 * confirmations
    first = places
    while first > 1 and _cost(_rungs(first)) > left:
        first -= 1
    rungs = _rungs(first)
    if _cost(rungs) > left:
        raise ValueError(f"{runs} trainings are too few: {least_runs()} or more are needed")
    return Schedule(rungs, max(1, left // _cost(rungs)) if rungs else 0, confirmations)


def least_runs() -> int:
    """The trainings without which there is no answer: a rung of two places, and the confirmation."""
    return _cost(_rungs(2)) + 2 * LEAST_CONFIRMATIONS


def _rungs(places: int) -> tuple[int, ...]:
    """The numbers of places from rung to rung, halved until one would be left; of one place there is nothing to try."""
    rungs = []
    while places > 1:
        rungs.append(places)
        places = (places + 1) // 2
    return tuple(rungs)


def _cost(rungs: Sequence[int]) -> int:
    return sum(places + 1 for places in rungs)


def search(places: Sequence[str], schedule: Schedule, train: Train, confirm: Train, alpha: float = 0.05) -> Verdict:
    """Find the best of the places, the most promising of which come first, and test it against none.

    `train` rates on what places are chosen by, `confirm` on what the winner is tested by.
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
