"""Paired tests, against scipy's and cases that can be counted by hand."""

import math

import numpy as np
import pytest
import scipy.stats

from tools.ablate import stats


@pytest.mark.parametrize("n", [3, 5, 9])
def test_t_is_scipys(n):
    a, b = np.random.default_rng(n).normal(size=(2, n))
    found, known = stats.compare_paired(a, b), scipy.stats.ttest_rel(a, b)
    interval = known.confidence_interval(0.95)
    assert found.p_t == pytest.approx(known.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.sd == pytest.approx(np.std(a - b, ddof=1))


@pytest.mark.parametrize("n", [2, 4, 8, 12])
def test_exact_tests_are_scipys(n):
    d = np.random.default_rng(n).normal(0.4, size=n)
    known = scipy.stats.wilcoxon(d, method="exact").pvalue
    assert stats.wilcoxon_p(d) == pytest.approx(known, rel=1e-9)
    signs = scipy.stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert stats.permutation_p(d) == pytest.approx(signs.pvalue, rel=1e-9)


def test_equal_sizes_share_ranks():
    # ranks 1.5, 1.5, 3 all positive: one of 8 signs gives as much, two sides
    assert stats.wilcoxon_p(np.array([0.1, 0.1, 0.2, 0.0])) == pytest.approx(2 / 8)
    # -1.5, 1.5, 3: sums of the negative ones up to 1.5 are {}, {1.5}, {1.5}
    assert stats.wilcoxon_p(np.array([-0.1, 0.1, 0.2])) == pytest.approx(2 * 3 / 8)


@pytest.mark.parametrize("n", [2, 5, 7])
def test_the_least_p_is_reached_and_not_undercut(n):
    d = np.linspace(1, 2, n)
    assert stats.permutation_p(d) == stats.wilcoxon_p(d) == stats.smallest_p(n) == 2 / 2**n


def test_rounding_makes_no_difference():
    assert stats.permutation_p(np.array([0.1, 0.2, -0.3])) == 1


def test_many_pairs_are_drawn_and_near_normal():
    d = np.random.default_rng(1).normal(0.3, size=40)
    assert stats.permutation_p(d) == pytest.approx(stats.t_p(d), abs=0.01)
    assert stats.permutation_p(d) == stats.permutation_p(d)
    assert stats.permutation_p(np.full(40, 1.0)) == 2 / (stats.RESAMPLES + 1)


def test_holm_by_hand():
    assert stats.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert stats.holm([0.9, 0.5]) == [1, 1]
    assert stats.holm([]) == []


def test_no_difference_and_one_pair():
    same = stats.compare_paired([0.5, 0.6, 0.7], [0.5, 0.6, 0.7])
    assert (same.mean, same.sd, same.p_t, same.p_wilcoxon, same.p_permutation) == (0, 0, 1, 1, 1)
    one = stats.compare_paired([0.5], [0.4])
    assert (one.p_t, one.p_wilcoxon, one.p_permutation) == (1, 1, 1)
    assert math.isnan(one.sd)
    assert math.isnan(one.low)
    assert stats.t_p(np.array([1.0, 1.0])) == 0


def words(d, alpha=0.05):
    paired = stats.compare_paired(d, np.zeros(len(d)))
    return stats.verdict(paired, paired.p_t, paired.p_permutation, alpha)


def test_verdicts():
    assert words([0.1, -0.1, 0.05, -0.06, 0.01, 0.02]) == "no significant difference"
    assert words([0.1, 0.11, 0.12, 0.1, 0.11, 0.12]) == "significantly better"
    assert words([-0.1, -0.11, -0.12, -0.1, -0.11, -0.12]) == "significantly worse"
    assert "5 seeds cannot confirm it (exact p >= 0.0625)" in words([0.1, 0.11, 0.12, 0.1, 0.11])
    assert words([0.1, 0.1]).startswith("no verdict: 2 paired seeds")
    assert words([0.1]).startswith("no verdict: 1 paired seed,")


@pytest.mark.parametrize("n", [3, 5, 10])
def test_false_alarms_without_an_effect_are_as_rare_as_alpha_says(n):
    draws = np.random.default_rng(0).normal(size=(1000, n))
    alarms = np.mean([stats.t_p(d) < 0.05 for d in draws])
    assert 0.03 < alarms < 0.07


def test_false_alarms_among_seven_variants_that_share_a_baseline():
    generator, alarms = np.random.default_rng(0), 0
    for _ in range(400):
        base, *others = generator.normal(size=(8, 5))
        alarms += min(stats.holm([stats.t_p(other - base) for other in others])) < 0.05
    assert alarms / 400 < 0.07
