"""Search space of --evolve, and its two samplers: v6.1's genetic one, and TPE.

Both stand behind Optuna's interface, so that many workers may draw from one study; what a trial trained with and how
good it was are the trial's own attributes and value. A trial's choice depends on the seed, on the trial's number and
on what the study holds, on nothing else: a search repeats.

Legend: G genes, P parents.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial

PARENTS = 5  # the best so many may have children
MUTATED, STRENGTH = 0.8, 0.2  # share of the genes that change, and how much
LEAST_FACTOR, MOST_FACTOR = 0.3, 3.0
DECIMALS = 5
LOGARITHMIC = ("lr0",)  # TPE looks for it by its order of magnitude
HYP = "hyp"  # the trial's attribute with all values that it trained with


class Gene(NamedTuple):
    """Mutation gain of a hyper-parameter (0 = fixed), and its bounds."""

    gain: float
    low: float
    high: float


GENES = {
    "lr0": Gene(1, 1e-5, 0.1),
    "lrf": Gene(1, 0.01, 1),
    "momentum": Gene(0.3, 0.6, 0.98),
    "weight_decay": Gene(1, 0, 0.001),
    "warmup_epochs": Gene(1, 0, 5),
    "warmup_momentum": Gene(1, 0, 0.95),
    "warmup_bias_lr": Gene(1, 0, 0.2),
    "box": Gene(1, 0.02, 0.2),
    "cls": Gene(1, 0.2, 4),
    "cls_pw": Gene(1, 0.5, 2),
    "obj": Gene(1, 0.2, 4),
    "obj_pw": Gene(1, 0.5, 2),
    "iou_t": Gene(0, 0.1, 0.7),
    "anchor_t": Gene(1, 2, 8),
    "anchors": Gene(2, 2, 10),
    "fl_gamma": Gene(0, 0, 2),
    "nam_sparsity": Gene(0, 0, 1),
    "hsv_h": Gene(1, 0, 0.1),
    "hsv_s": Gene(1, 0, 0.9),
    "hsv_v": Gene(1, 0, 0.9),
    "degrees": Gene(1, 0, 45),
    "translate": Gene(1, 0, 0.9),
    "scale": Gene(1, 0, 0.9),
    "shear": Gene(1, 0, 10),
    "perspective": Gene(0, 0, 0.001),
    "flipud": Gene(1, 0, 1),
    "fliplr": Gene(0, 0, 1),
    "mosaic": Gene(1, 0, 1),
    "mixup": Gene(1, 0, 1),
    "copy_paste": Gene(1, 0, 1),
}


def outside(hyp: Mapping[str, float]) -> list[str]:
    """Return the names of the values outside of their bounds."""
    return [name for name, value in hyp.items() if not GENES[name].low <= value <= GENES[name].high]


def bounded(hyp: Mapping[str, float]) -> dict[str, float]:
    """Clip values to their bounds and round them to five decimals."""
    return {
        name: round(float(np.clip(value, GENES[name].low, GENES[name].high)), DECIMALS) for name, value in hyp.items()
    }


def choose_parent(fitness: np.ndarray, rng: np.random.Generator) -> int:
    """Draw the index of a parent from the best five, weighted by fitness (P,)."""
    best = np.argsort(-fitness, kind="stable")[:PARENTS]
    weights = fitness[best] - fitness[best].min() + 1e-6
    return int(rng.choice(best, p=weights / weights.sum()))


def mutation(gains: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw mutation factors (G,) for gains (G,), at least one of which is not 1.

    One number for all genes says how far the child goes, so that some go far and others hardly move.
    """
    assert (gains > 0).any()
    factors = np.ones_like(gains)
    while (factors == 1).all():
        changes = gains * (rng.random(len(gains)) < MUTATED) * rng.standard_normal(len(gains))
        factors = np.clip(changes * rng.random() * STRENGTH + 1, LEAST_FACTOR, MOST_FACTOR)
    return factors


def child(
    parents: Sequence[Mapping[str, float]], fitness: Sequence[float], rng: np.random.Generator
) -> dict[str, float]:
    """Mutate one of the parents within the bounds; a value of 0 stays 0, as in v6.1."""
    parent = parents[choose_parent(np.asarray(fitness, np.float64), rng)]
    factors = mutation(np.array([GENES[name].gain for name in parent], np.float64), rng)
    return bounded({name: value * factor for (name, value), factor in zip(parent.items(), factors, strict=True)})


# Optuna ---------------------------------------------------------------------------------------------------------------


def search_space(hyp: Mapping[str, float]) -> "dict[str, BaseDistribution]":
    """Return the distributions of the values that change."""
    from optuna.distributions import FloatDistribution

    genes = {name: GENES[name] for name in hyp if GENES[name].gain}
    return {name: FloatDistribution(gene.low, gene.high, log=name in LOGARITHMIC) for name, gene in genes.items()}


def make_sampler(kind: str, start: Mapping[str, float], seed: int, number: int) -> "BaseSampler":
    """Create the sampler of a trial; `start` is the only parent until a trial has ended."""
    import optuna

    if kind == "ga":
        return genetic_sampler(start, seed)
    assert kind == "tpe"
    own_seed = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    return optuna.samplers.TPESampler(seed=own_seed)


def genetic_sampler(start: Mapping[str, float], seed: int) -> "BaseSampler":
    """Create v6.1's sampler: children of the best complete trials."""
    import optuna

    class GeneticSampler(optuna.samplers.BaseSampler):
        """Draws each trial from the seed and the trial's number alone."""

        def infer_relative_search_space(self, study: "Study", trial: "FrozenTrial") -> "dict[str, BaseDistribution]":
            return search_space(start)

        def sample_relative(
            self, study: "Study", trial: "FrozenTrial", search_space: "dict[str, BaseDistribution]"
        ) -> dict[str, Any]:
            ended = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
            parents = [other.user_attrs[HYP] for other in ended] or [start]
            fitness = [other.value for other in ended] or [0.0]
            values = child(parents, fitness, np.random.default_rng((seed, trial.number)))
            return {name: values[name] for name in search_space}

        def sample_independent(
            self, study: "Study", trial: "FrozenTrial", param_name: str, param_distribution: "BaseDistribution"
        ) -> float:
            raise AssertionError(f"{param_name}: is not in the search space")

    return GeneticSampler()
