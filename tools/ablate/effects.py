"""Compute the variants' effects on several data sets from their runs.csv, and pool them.

    python -m tools.ablate --runs docs/nam-bccd-runs.csv docs/nam-cards-runs.csv --figure docs/nam-effects.png

Pooling is DerSimonian and Laird's (1986): a data set's effect is a draw from a distribution of effects, whose variance
is estimated by moments. Two data sets tell little of that variance; the interval says how much.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.ablate.known import read_runs
from tools.ablate.stats import Paired, compare_paired, holm, mean_sd
from tools.ablate.table import markdown_table
from utils.draw.curves import font_for, hex_color, new_figure, tidy
from utils.general import atomic_write

MIN_PAIRS = 3
MIN_VARIANCE = 1e-12  # of a mean difference, where all pairs differ by the same
HEAD = ("variant", "seeds", "mAP@.5:.95 (sd)", "difference", "95 % interval", "p of the t test (Holm)")
POOLED = "pooled"


@dataclass(frozen=True)
class Effect:
    """A variant on a data set: mean and sd over its seeds, and the paired differences to the baseline.

    `paired` and `corrected_p` (by Holm, over the data set's variants) are None with fewer than MIN_PAIRS common seeds.
    """

    variant: str
    seeds: int
    mean: float
    sd: float
    paired: Paired | None
    corrected_p: float | None


@dataclass(frozen=True)
class PooledEffect:
    """Mean effect over data sets with its confidence interval, and the sd `tau` between data sets."""

    mean: float
    low: float
    high: float
    tau: float


def effects_of(
    records: Sequence[Mapping[str, object]], baseline: str = "plain", metric: str = "map", confidence: float = 0.95
) -> list[Effect]:
    """Return the effect of each variant, the baseline first; raise ValueError if the baseline has no run."""
    values: dict[str, dict[int, float]] = {}
    for record in records:
        if record.get(metric) is not None:
            values.setdefault(str(record["variant"]), {})[int(record["seed"])] = float(record[metric])
    if baseline not in values:
        raise ValueError(f"no run of the baseline {baseline}; there are {', '.join(values) or 'none'}")
    base = values.pop(baseline)
    paired: dict[str, Paired] = {}
    for name, own in values.items():
        seeds = [seed for seed in sorted(own) if seed in base]
        if len(seeds) >= MIN_PAIRS:
            paired[name] = compare_paired([own[seed] for seed in seeds], [base[seed] for seed in seeds], confidence)
    corrected = dict(zip(paired, holm([pair.p_t for pair in paired.values()]), strict=True))
    effects = [Effect(baseline, len(base), *mean_sd(list(base.values())), None, None)]
    for name, own in values.items():
        mean, sd = mean_sd(list(own.values()))
        effects.append(Effect(name, len(own), mean, sd, paired.get(name), corrected.get(name)))
    return effects


def pool(pairs: Sequence[Paired], confidence: float = 0.95) -> PooledEffect:
    """Pool one variant's differences on k data sets by random effects; raise ValueError if k is 0."""
    import scipy.stats

    if not pairs:
        raise ValueError("nothing to pool")
    means = np.array([pair.mean for pair in pairs])
    variances = np.array([pair.sd**2 / pair.n for pair in pairs])
    if not variances.all():  # equal differences in all pairs: nothing to weigh by
        variances = np.full(len(pairs), max(float(variances.max()), MIN_VARIANCE))
    weights = 1 / variances
    fixed = float(weights @ means / weights.sum())
    excess = float(weights @ (means - fixed) ** 2) - (len(pairs) - 1)
    scale = float(weights.sum() - (weights**2).sum() / weights.sum())
    tau2 = max(0.0, excess / scale) if len(pairs) > 1 else 0.0
    weights = 1 / (variances + tau2)
    mean, half = float(weights @ means / weights.sum()), float(scipy.stats.norm.ppf(0.5 + confidence / 2))
    half /= math.sqrt(weights.sum())
    return PooledEffect(mean, mean - half, mean + half, math.sqrt(tau2))


def table_of(effects: Sequence[Effect]) -> str:
    """Return the effects as a Markdown table."""
    return markdown_table(HEAD, map(_cells, effects))


def _cells(effect: Effect) -> tuple[str, ...]:
    cells = (effect.variant, str(effect.seeds), f"{effect.mean:.4f} ({effect.sd:.4f})")
    pair = effect.paired
    if pair is None:
        return (*cells, "", "", "")
    return (
        *cells,
        f"{pair.mean:+.4f}",
        f"{pair.low:+.4f} to {pair.high:+.4f}",
        f"{pair.p_t:.3f} ({effect.corrected_p:.3f})",
    )


def pooled_table(by_data: Mapping[str, Sequence[Effect]]) -> str:
    """Return a Markdown table of the variants that two or more data sets have."""
    head = ("variant", "data sets", "difference", "95 % interval", "sd between data sets")
    rows = []
    for name, pairs in common_pairs(by_data).items():
        found = pool(pairs)
        interval = f"{found.low:+.4f} to {found.high:+.4f}"
        rows.append((name, str(len(pairs)), f"{found.mean:+.4f}", interval, f"{found.tau:.4f}"))
    return markdown_table(head, rows)


def common_pairs(by_data: Mapping[str, Sequence[Effect]]) -> dict[str, list[Paired]]:
    """Return paired differences on each data set, for variants of two or more data sets."""
    found: dict[str, list[Paired]] = {}
    for effects in by_data.values():
        for effect in effects:
            if effect.paired is not None:
                found.setdefault(effect.variant, []).append(effect.paired)
    return {name: pairs for name, pairs in found.items() if len(pairs) > 1}


def plot_effects(by_data: Mapping[str, Sequence[Effect]], path: Path) -> None:
    """Draw a forest plot: each variant's difference and interval on each data set, and pooled."""
    pooled = {name: pool(pairs) for name, pairs in common_pairs(by_data).items()}
    variants = list(dict.fromkeys(e.variant for effects in by_data.values() for e in effects if e.paired))
    figure = new_figure(8, 1.5 + 0.6 * len(variants))
    axes = figure.add_subplot()
    groups = [*by_data, *([POOLED] if pooled else [])]
    for i, group in enumerate(groups):
        intervals = {
            effect.variant: effect.paired for effect in by_data.get(group, ()) if effect.paired is not None
        } or pooled
        for name, interval in intervals.items():
            y = variants.index(name) + (i - (len(groups) - 1) / 2) * 0.2
            label = group if name == next(iter(intervals)) else None
            axes.plot([interval.low, interval.high], [y, y], color=hex_color(i), linewidth=2)
            axes.plot(interval.mean, y, "D" if group == POOLED else "o", color=hex_color(i), label=label)
    axes.axvline(0, color="grey", linewidth=1)
    axes.set_yticks(range(len(variants)), variants, fontproperties=font_for(variants))
    axes.set(xlabel="difference in mAP@.5:.95 to the baseline, with its 95 % interval")
    axes.invert_yaxis()
    axes.legend(frameon=False, prop=font_for(groups))
    tidy(axes, grid=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def read_effects(paths: Sequence[Path], baseline: str) -> dict[str, list[Effect]]:
    """Read the effects in each runs.csv, by the file's name without `-runs.csv`."""
    found = {}
    for path in paths:
        try:
            found[path.name.removesuffix(".csv").removesuffix("-runs")] = effects_of(read_runs(path), baseline)
        except ValueError as error:
            message = str(error)
            raise ValueError(message if message.startswith(str(path)) else f"{path}: {message}") from None
    return found


def tables_of(by_data: Mapping[str, Sequence[Effect]]) -> str:
    """Return all tables in Markdown, each with a title."""
    parts = [f"**{name}**\n\n{table_of(effects)}" for name, effects in by_data.items()]
    if common_pairs(by_data):
        parts.append(f"**{POOLED}** (random effects)\n\n{pooled_table(by_data)}")
    return "\n\n".join(parts) + "\n"
