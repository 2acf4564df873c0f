"""The search over places: schedules within budgets, a planted place found, nothing found in nothing."""

import itertools

import numpy as np
import pytest

from tools.place.search import PLAIN, Schedule, min_runs, plan_schedule, search

PLACES = [str(i) for i in range(8)]


def trainer(effects: dict[str, float], seed: int, sd: float = 0.01):
    """Trainings whose mAP is 0.5, the place's effect and noise; which were asked for."""
    rng = np.random.default_rng(seed)
    asked: list[tuple[str, int]] = []

    def train(place: str, run_seed: int) -> float:
        asked.append((place, run_seed))
        return 0.5 + effects.get(place, 0.0) + rng.normal(0, sd)

    return train, asked


@pytest.mark.parametrize("runs", [15, 30, 47, 100, 400])
@pytest.mark.parametrize("places", [1, 2, 5, 20])
def test_schedules_keep_to_their_runs(places, runs):
    schedule = plan_schedule(places, runs)
    assert schedule.runs <= runs
    assert schedule.confirmations >= 6
    assert all(a == (b + 1) // 2 for b, a in itertools.pairwise(schedule.rungs))


def test_too_few_runs():
    assert min_runs() == 15
    with pytest.raises(ValueError, match="15 or more"):
        plan_schedule(8, 10)
    with pytest.raises(ValueError, match="position"):
        plan_schedule(0, 100)


def test_more_runs_are_more_places_and_then_more_seeds():
    small, large = plan_schedule(8, 40), plan_schedule(8, 200)
    assert small.rungs == (8, 4, 2)
    assert (small.seeds, large.seeds) == (1, 5)
    assert large.confirmations > small.confirmations


def test_seeds_are_paired_and_those_that_confirm_are_fresh():
    schedule = Schedule((4, 2), 2, 6)
    train, searched = trainer({}, 0)
    confirm, confirmed = trainer({}, 1)
    verdict = search(PLACES, schedule, train, confirm)
    assert len(searched) + len(confirmed) == schedule.runs
    for seed in range(4):
        assert (PLAIN, seed) in searched
    assert {place for place, _ in searched} == {PLAIN, *PLACES[:4]}
    assert {seed for _, seed in confirmed}.isdisjoint({seed for _, seed in searched})
    assert {place for place, _ in confirmed} == {PLAIN, verdict.winner}
    assert len(set(searched)) == len(searched)


def test_a_planted_place_is_found_wherever_it_is():
    schedule = plan_schedule(8, 80)
    found = []
    for trial in range(40):
        planted = PLACES[trial % 8]
        train, _ = trainer({planted: 0.03}, trial)
        verdict = search(PLACES, schedule, train, train)
        found.append(verdict.winner == planted and verdict.is_better)
    assert np.mean(found) >= 0.85


def test_where_nothing_helps_nothing_is_found():
    """The test is two-sided at 0.05 and only better counts, so 2.5 % of the searches may err."""
    schedule = plan_schedule(8, 60)
    found = [search(PLACES, schedule, *[trainer({}, 1000 + trial)[0]] * 2).is_better for trial in range(300)]
    assert 0.005 < np.mean(found) < 0.05


def test_harm_is_not_taken_for_help():
    train, _ = trainer(dict.fromkeys(PLACES, -0.05), 0)
    assert not search(PLACES, plan_schedule(8, 60), train, train).is_better
