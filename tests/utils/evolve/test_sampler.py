"""v6.1's genetic sampler against its formula, its bounds, and that both samplers repeat."""

import numpy as np
import optuna
import pytest

from utils.data.config import Hyp
from utils.evolve.sampler import (
    GENES,
    HYP,
    bounded,
    child,
    choose_parent,
    make_sampler,
    mutation,
    outside,
    search_space,
)

START = Hyp.from_yaml("hyp.scratch-med.yaml").to_dict() | {"anchors": 3.0}
optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_every_hyper_parameter_is_a_gene():
    assert {*START, "nam_sparsity"} == GENES.keys()
    assert len(GENES) == 30
    fixed = {"iou_t", "fl_gamma", "perspective", "fliplr", "nam_sparsity"}
    assert {name for name, gene in GENES.items() if not gene.gain} == fixed


@pytest.mark.parametrize("file", ["low", "med", "high"])
def test_shipped_values_are_within_the_bounds(file):
    assert outside(Hyp.from_yaml(f"hyp.scratch-{file}.yaml").to_dict()) == []


def test_bounds_and_rounding():
    hyp = {"lr0": 0.0, "obj": 8.0, "momentum": 0.9123456789, "anchors": 10.5}
    assert outside(hyp) == ["lr0", "obj", "anchors"]
    assert bounded(hyp) == {"lr0": 1e-5, "obj": 4, "momentum": 0.91235, "anchors": 10}


@pytest.mark.parametrize("end", ["low", "high"])
def test_bounded_values_are_valid_hyper_parameters(end):
    hyp = bounded({name: getattr(gene, end) for name, gene in GENES.items()})
    assert Hyp.from_dict(hyp, "bounds").to_dict() == hyp


# The formula ----------------------------------------------------------------------------------------------------------


def formula(gains, n, seed):
    """(n, G) factors as behaviour.md states them: gain [rand < .8] N(0, 1) U(0, 1) .2 + 1, clipped to .3 to 3."""
    rng = np.random.default_rng(seed)
    shape = (n, len(gains))
    factors = gains * (rng.random(shape) < 0.8) * rng.normal(size=shape) * rng.random((n, 1)) * 0.2 + 1
    return factors.clip(0.3, 3)


def test_factors_have_the_formulas_distribution():
    gains = np.array([0.3, 1, 1, 2, 0], float)
    rng = np.random.default_rng(0)
    ours = np.stack([mutation(gains, rng) for _ in range(20_000)])
    theirs = formula(gains, 20_000, 1)
    assert (ours[:, 4] == 1).all()
    np.testing.assert_allclose((ours[:, :4] == 1).mean(0), 0.2, atol=0.015)
    np.testing.assert_allclose(ours.mean(0), 1, atol=0.01)
    expected = gains[:3] * 0.2 * np.sqrt(0.8 / 3)  # E[U^2] = 1 / 3; the clip does not matter yet
    np.testing.assert_allclose(ours[:, :3].std(0), expected, rtol=0.03)
    share = np.linspace(0.01, 0.99, 25)
    np.testing.assert_allclose(np.quantile(ours, share, 0), np.quantile(theirs, share, 0), atol=0.03)
    together = [np.corrcoef(np.abs(factors[:, 1:3] - 1).T)[0, 1] for factors in (ours, theirs)]
    assert together[0] == pytest.approx(together[1], abs=0.05)
    assert together[0] > 0.1


def test_factors_are_clipped():
    rng = np.random.default_rng(0)
    drawn = np.concatenate([mutation(np.full(3, 100.0), rng) for _ in range(200)])
    assert (drawn.min(), drawn.max()) == (0.3, 3)


def test_a_mutation_changes_something():
    """With one gene every fifth draw changes nothing and is drawn again."""
    rng = np.random.default_rng(0)
    assert all(mutation(np.array([0.0, 1.0]), rng)[1] != 1 for _ in range(200))


def test_parents_are_the_best_five_by_fitness():
    fitness = np.array([0.1, 0.9, 0.3, 0.5, 0.7, 0.6, 0.2])
    rng = np.random.default_rng(0)
    counts = np.bincount([choose_parent(fitness, rng) for _ in range(20_000)], minlength=7) / 20_000
    weights = np.where(fitness >= 0.3, fitness - 0.3 + 1e-6, 0)
    np.testing.assert_allclose(counts, weights / weights.sum(), atol=0.015)


@pytest.mark.parametrize("fitness", [[0.0], [0.2, 0.2], [0.0] * 7])
def test_equal_parents_are_equally_likely(fitness):
    rng = np.random.default_rng(0)
    counts = np.bincount([choose_parent(np.array(fitness), rng) for _ in range(4000)], minlength=len(fitness))
    expected = np.zeros(len(fitness))
    expected[:5] = 4000 / min(len(fitness), 5)
    np.testing.assert_allclose(counts, expected, atol=150)


def test_children_are_within_the_bounds_and_rounded():
    rng = np.random.default_rng(0)
    edge = {name: gene.high for name, gene in GENES.items()}
    for _ in range(100):
        found = child([edge, START], [0.5, 0.4], rng)
        assert list(found) == list(edge)
        assert outside(found) == []
        assert found == {name: round(value, 5) for name, value in found.items()}
        assert all(found[name] == edge[name] for name, gene in GENES.items() if not gene.gain)


def test_zero_stays_zero():
    rng = np.random.default_rng(0)
    zeros = {name for name, value in START.items() if value == 0}
    children = [child([START], [0.1], rng) for _ in range(50)]
    assert "degrees" in zeros
    assert all(found[name] == 0 for found in children for name in zeros)


# Behind Optuna's interface --------------------------------------------------------------------------------------------


def ask(kind, seed, values=(), start=START):
    """The next trial's values after trials of this fitness."""
    study = optuna.create_study(direction="maximize")
    for i, value in enumerate(values):
        hyp = bounded(START | {"lr0": 0.001 * (i + 1)})
        space = search_space(hyp)
        params = {name: hyp[name] for name in space}
        study.add_trial(
            optuna.trial.create_trial(value=value, params=params, distributions=space, user_attrs={HYP: hyp})
        )
    study.sampler = make_sampler(kind, start, seed, len(values))
    trial = study.ask(search_space(start))
    return trial.params


def test_the_first_children_are_the_starts():
    expected = child([START], [0.0], np.random.default_rng((3, 0)))
    assert ask("ga", 3) == {name: expected[name] for name in search_space(START)}


def test_children_are_those_of_what_has_ended():
    values = [0.1, 0.4, 0.2]
    parents = [bounded(START | {"lr0": 0.001 * (i + 1)}) for i in range(3)]
    expected = child(parents, values, np.random.default_rng((5, 3)))
    assert ask("ga", 5, values) == {name: expected[name] for name in search_space(START)}


@pytest.mark.parametrize("kind", ["ga", "tpe"])
def test_same_seed_same_choice(kind):
    values = list(np.linspace(0.1, 0.3, 12))
    assert ask(kind, 1, values) == ask(kind, 1, values)
    assert ask(kind, 1, values) != ask(kind, 2, values)
    assert ask(kind, 1, values) != ask(kind, 1, values[:-1])


@pytest.mark.parametrize("kind", ["ga", "tpe"])
def test_without_anchors(kind):
    start = {name: value for name, value in START.items() if name != "anchors"}
    assert "anchors" not in ask(kind, 0, start=start)
    assert outside(ask(kind, 0, start=start)) == []
