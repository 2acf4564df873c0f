"""Numbers of pairs against tables and simulation; limits of looks against published ones; false positives counted."""

import numpy as np
import pytest
from scipy import stats

from tools.ablate.power import (
    Look,
    describe,
    half_width,
    limit_after,
    pairs_needed,
    plan_looks,
    power_of,
    simulate,
    spending,
    stopped_at,
)
from tools.ablate.stats import Paired, mean_sd, t_p, verdict


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_pairs_are_those_of_cohens_tables(effect, pairs):
    """G*Power 3.1 for a two-sided paired t test, alpha 0.05, power 0.8."""
    assert pairs_needed(effect, 1.0) == pairs
    assert power_of(pairs, effect, 1.0) >= 0.8 > power_of(pairs - 1, effect, 1.0)


def test_power_is_what_simulation_counts():
    d = np.random.default_rng(0).normal(0.01, 0.012, (20_000, 15))
    found = (stats.ttest_1samp(d, 0, axis=1).pvalue < 0.05).mean()
    assert power_of(15, 0.01, 0.012) == pytest.approx(found, abs=0.01)
    assert power_of(15, 0.0, 0.012) == pytest.approx(0.05, abs=1e-6)
    assert power_of(1, 1.0, 0.1) == 0


def test_half_width_is_the_interval_of_such_data():
    d = np.array([-1.0, 1.0] * 10) * np.sqrt(19 / 20)  # sd 1
    low, high = stats.ttest_1samp(d, 0).confidence_interval()
    assert half_width(20, 1.0) == pytest.approx((high - low) / 2)


@pytest.mark.parametrize(
    ("difference", "sd", "message"),
    [(0.0, 1.0, "above 0"), (0.1, 0.0, "above 0"), (1e-6, 1.0, "more than 10000 pairs")],
)
def test_impossible_plans_are_refused(difference, sd, message):
    with pytest.raises(ValueError, match=message):
        pairs_needed(difference, sd)


def test_limits_are_the_published_ones():
    """Five equal looks at alpha 0.05 with the O'Brien-Fleming spending function: Jennison and Turnbull 2000, ch. 7."""
    looks = plan_looks((10, 20, 30, 40, 50))
    limits = [stats.norm.isf(look.p / 2) for look in looks]
    np.testing.assert_allclose(limits, (4.877, 3.357, 2.680, 2.290, 2.031), atol=0.01)
    assert looks[-1].spent == pytest.approx(0.05)
    assert [look.spent for look in looks] == pytest.approx([spending(i / 5, 0.05) for i in range(1, 6)])


def test_a_single_look_is_the_plain_test():
    assert plan_looks((20,))[0].p == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize("looks", [(20,), (8, 12, 16, 20), (5, 10, 15, 20, 25, 30)])
def test_false_positives_of_the_whole_procedure(looks):
    found, _ = simulate(plan_looks(looks), 0.0, 0.01)
    assert 0.03 < found < 0.07


def test_power_of_the_whole_procedure_at_a_hundredth():
    """Looks cost little power and save runs where there is a difference."""
    pairs = pairs_needed(0.01, 0.0145)
    looks = plan_looks((pairs // 2, 3 * pairs // 4, pairs))
    found, taken = simulate(looks, 0.01, 0.0145)
    assert found > 0.76
    assert taken < 0.9 * pairs
    assert simulate(plan_looks((pairs,)), 0.01, 0.0145)[0] == pytest.approx(0.8, abs=0.03)


def share_found(difference, sd, looks, trials=1000):
    """The share of ablations whose report finds a difference, with runs until a look stops them, as the tool does."""
    rng, found = np.random.default_rng(1), 0
    for d in rng.normal(difference, sd, (trials, looks[-1].pairs)):
        look = stopped_at(d, looks)
        d = d[: look.pairs] if look else d
        p = t_p(d)
        pair = Paired(len(d), *mean_sd(d), 0, 0, p, p, p)
        found += verdict(pair, p, p, limit_after(len(d), looks, 0.05)).startswith("significantly")
    return found / trials


@pytest.mark.parametrize("looks", [(8, 12, 16, 20), (10, 20)])
def test_false_positives_and_power_of_stopping_and_verdict(looks):
    looks = plan_looks(looks)
    assert 0.03 < share_found(0.0, 0.01, looks) < 0.07
    assert share_found(0.01, 0.0145, looks) == pytest.approx(simulate(looks, 0.01, 0.0145)[0], abs=0.03)


def test_limits_of_verdicts_are_those_of_the_looks():
    looks = (Look(4, 0.01, 0.01), Look(6, 0.04, 0.05))
    assert [limit_after(n, looks, 0.05) for n in (3, 4, 5, 6, 7)] == [0.01, 0.01, 0.01, 0.04, 0.04]
    assert limit_after(6, (), 0.05) == 0.05


def test_stopping():
    looks = (Look(4, 0.01, 0.01), Look(6, 0.05, 0.05))
    clear = np.array([1.0, 1.01, 0.99, 1.0, 5, 5])
    assert stopped_at(clear, looks) == looks[0]
    assert stopped_at(np.array([1.0, -1, 1, -1, 1, -1]), looks) is None
    assert stopped_at(clear[:3], looks) is None


@pytest.mark.parametrize("looks", [(), (2, 5), (5, 5), (9, 4)])
def test_looks_must_rise(looks):
    with pytest.raises(ValueError, match="increase"):
        plan_looks(looks)


def test_description_has_a_line_for_each_difference_and_look():
    lines = describe(0.01, 6.0, looks=plan_looks((8, 20)))
    assert sum("80% power" in line for line in lines) == 3
    assert sum(line.startswith("look") for line in lines) == 2
    assert "34 pairs" in lines[1]
    assert "6.8 hours" in lines[1]
