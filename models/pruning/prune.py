"""Structured pruning: ranks a network's channels, chooses those to go, and makes the narrower network's checkpoint.

Channels that are tied (models/pruning/channels.py) go together and are counted once. What is left of NAM's channels is
gated as before: its weights w_c = |gamma_c| / sum |gamma| would grow with each gamma that leaves the sum, which
`kept_gain` undoes.

Sources: ranking by a batch norm's |gamma| is network slimming (Liu et al. 2017, arXiv 1708.06519); by NAM's, whose
weights are meant to say which channels matter, section 3 of arXiv 2111.12419; by the L1 norm of filters, Li et al.
2017, arXiv 1608.08710.

Legend: n channels of a family.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from models.blocks.nam import NAMChannel
from models.pruning.channels import Axis, ChannelMap, Family, map_channels
from models.yolo import Model

CRITERIA = ("nam", "gamma", "l1", "random")
MIN_CHANNELS = 8  # that a family keeps; no shipped yaml has fewer in a layer


@dataclass(frozen=True)
class Rule:
    """How channels are chosen: see `parse_opt` of tools.prune for what each means."""

    criterion: str = "nam"
    per_layer: bool = False
    min_channels: int = MIN_CHANNELS
    round_to: int = 1
    keep: tuple[int, ...] = ()  # rows whose channels stay, those that they give and those that they read
    seed: int = 0

    def check(self) -> None:
        """ValueError where a value makes no sense."""
        if self.criterion not in CRITERIA:
            raise ValueError(f"--criterion {self.criterion}: must be one of {', '.join(CRITERIA)}")
        for flag, value in (("--min-channels", self.min_channels), ("--round", self.round_to)):
            if value < 1:
                raise ValueError(f"{flag} {value}: 1 or more")

    def least(self, size: int) -> int:
        """The channels that a family of this size keeps in any case."""
        return min(size, math.ceil(self.min_channels / self.round_to) * self.round_to)


@dataclass(frozen=True)
class Ranked:
    """Families that may lose channels with a score (n,) for each, low ones go first; others with why they may not."""

    families: list[tuple[Family, np.ndarray]]
    whole: list[tuple[Family, str]]

    @property
    def channels(self) -> int:
        """The channels that a ratio is a share of."""
        return sum(family.size for family, _ in self.families)


# Which ----------------------------------------------------------------------------------------------------------------


def rank(model: Model, channels: ChannelMap, rule: Rule) -> Ranked:
    """The channels' scores by the rule's criterion; families without what it ranks by stay whole."""
    rule.check()
    rows = len(model.model)
    wrong = [row for row in rule.keep if not 0 <= row < rows]
    if wrong:
        raise ValueError(f"--keep {wrong[0]}: the model's rows are 0 to {rows - 1}")
    generator = np.random.default_rng(rule.seed)
    norms = norm_names(model)
    state = model.state_dict()
    found, whole = [], []
    for family in channels.families:
        kept = sorted(family.rows & set(rule.keep))
        reason = family.reason or (f"--keep {kept[0]}" if kept else "")
        scores = None if reason else scores_of(family, rule.criterion, state, norms, generator)
        if scores is None:
            whole.append((family, reason or f"no norm behind it that {rule.criterion} could rank it by"))
        else:
            found.append((family, scores))
    return Ranked(found, whole)


def norm_names(model: nn.Module) -> dict[str, bool]:
    """The names of batch norms' gammas, and whether they are NAM's."""
    nam = {id(module.bn2) for module in model.modules() if isinstance(module, NAMChannel)}
    named = model.named_modules()
    return {f"{name}.weight": id(module) in nam for name, module in named if isinstance(module, nn.BatchNorm2d)}


def scores_of(
    family: Family,
    criterion: str,
    state: dict[str, torch.Tensor],
    norms: dict[str, bool],
    generator: np.random.Generator,
) -> np.ndarray | None:
    """(n,) how much each channel counts; None where the family lacks what the criterion looks at.

    gamma is the mean |gamma| of a channel's norms as it is, so that layers are compared by it as network slimming does.
    nam and l1 are relative to the family's mean, as a NAM's weights are shares: gammas of a NAM and of a batch norm, or
    filters of different sizes, have no scale in common.
    """
    if criterion == "random":
        return generator.random(family.size)
    if criterion == "l1":
        axes = [axis for axis in family.places if axis.dim == 0 and state[axis.tensor].ndim > 1]
        values = [state[axis.tensor].abs().flatten(1).mean(1) for axis in axes]
    else:
        axes = [axis for axis in family.places if axis.tensor in norms and not norms[axis.tensor]]
        nam = [axis for axis in family.places if norms.get(axis.tensor)]
        axes = nam if criterion == "nam" and nam else axes
        values = [state[axis.tensor].abs() for axis in axes]
    if not axes:
        return None
    parts = [
        value.double().cpu().numpy()[family.places[axis]].mean(1) for axis, value in zip(axes, values, strict=True)
    ]
    if criterion != "gamma":
        parts = [part / (part.mean() or 1.0) for part in parts]
    return np.mean(parts, axis=0)


def choose(ranked: Ranked, ratio: float, rule: Rule) -> list[np.ndarray]:
    """For each ranked family (n,) whether a channel goes: a share `ratio` of all, or of each with rule.per_layer.

    Families keep rule.least channels, and with rule.round_to the nearest multiple of it. ValueError where a ratio
    cannot be reached.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"--ratio {ratio:g}: a share of the channels, from 0 to below 1")
    sizes = np.array([family.size for family, _ in ranked.families], dtype=int)
    least = np.array([rule.least(size) for size in sizes.tolist()], dtype=int)
    wanted, most = round(ratio * int(sizes.sum())), int((sizes - least).sum())
    if wanted > most:
        floors = f"--min-channels {rule.min_channels} and --round {rule.round_to}"
        raise ValueError(
            f"--ratio {ratio:g}: {wanted} of {sizes.sum()} channels, but {floors} let {most} go at most "
            f"({most / max(sizes.sum(), 1):.2f})"
        )
    orders = [np.argsort(scores, kind="stable") for _, scores in ranked.families]
    if rule.per_layer:
        counts = [
            min(round(ratio * size), size - low) for size, low in zip(sizes.tolist(), least.tolist(), strict=True)
        ]
    else:
        counts = lowest(
            [scores[order] for (_, scores), order in zip(ranked.families, orders, strict=True)], least, wanted
        )
    removed = []
    for (family, _), order, count, low in zip(ranked.families, orders, counts, least.tolist(), strict=True):
        kept = family.size - count
        if count and rule.round_to > 1:
            kept = min(family.size, max(low, math.floor(kept / rule.round_to + 0.5) * rule.round_to))
        mask = np.zeros(family.size, bool)
        mask[order[: family.size - kept]] = True
        removed.append(mask)
    return removed


def lowest(scores: Sequence[np.ndarray], least: np.ndarray, wanted: int) -> list[int]:
    """How many each family loses of its scores, which rise, if the lowest of all go and each keeps its least."""
    removable = [values[: len(values) - low] for values, low in zip(scores, least.tolist(), strict=True)]
    if not removable:
        return []
    owners = np.repeat(np.arange(len(removable)), [len(values) for values in removable])
    chosen = owners[np.argsort(np.concatenate(removable), kind="stable")[:wanted]]
    return np.bincount(chosen, minlength=len(removable)).tolist()


# Surgery --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pruned:
    """A narrower network, unfused and in evaluation, and what became of the channels: of `channels` `removed` went."""

    model: Model
    removed: int
    channels: int

    @property
    def ratio(self) -> float:
        """The share that went."""
        return self.removed / self.channels if self.channels else 0.0


@torch.no_grad()
def cut(model: Model, channels: ChannelMap, families: Sequence[Family], masks: Sequence[np.ndarray]) -> Pruned:
    """The network without the channels (n,) of `masks`, built from its yaml and a record of what is left of it.

    The network itself stays as it is. Without anything to remove it is copied. ValueError where a block takes no fewer.
    """
    state, gone, weight = model.state_dict(), {}, next(model.parameters())
    for family, mask in zip(families, masks, strict=True):
        for axis, places in family.places.items():
            lost = gone.setdefault(axis, np.zeros(state[axis.tensor].shape[axis.dim], bool))
            lost[places[mask].ravel()] = True
    gone = {axis: lost for axis, lost in gone.items() if lost.any()}
    removed, total = int(sum(mask.sum() for mask in masks)), sum(family.size for family in families)
    if not gone:
        return Pruned(copy.deepcopy(model).eval(), 0, total)
    for axis, lost in gone.items():
        kept = torch.from_numpy(np.flatnonzero(~lost)).to(state[axis.tensor].device)
        state[axis.tensor] = state[axis.tensor].index_select(axis.dim, kept)
    by_family = {id(family): mask for family, mask in zip(families, masks, strict=True)}
    lost_outputs = [by_family.get(id(family), np.zeros(family.size, bool)) for family in channels.families]
    yaml = {**copy.deepcopy(model.yaml), "pruned": record_of(model, gone, widths(model, channels, lost_outputs))}
    try:
        pruned = Model(yaml, verbose=False, warn=False).to(weight.device, weight.dtype)
    except ValueError as error:  # a user's block that holds a number of channels of its own
        raise ValueError(f"the narrower network does not run: {error}; --keep with the row's number helps") from error
    pruned.load_state_dict(state)
    pruned.names = list(model.names)
    return Pruned(pruned.eval(), removed, total)


def widths(model: Model, channels: ChannelMap, lost: Sequence[np.ndarray]) -> list[int]:
    """The channels of each row's output without those that are lost (n,) by family; a row without a map has its own."""
    found = []
    for own, output in zip(model.model.channels, channels.outputs, strict=True):
        if output is None:
            found.append(own)
        else:
            found.append(sum(family < 0 or not lost[family][channel] for family, channel in zip(*output, strict=True)))
    return [int(width) for width in found]


def record_of(model: Model, gone: dict[Axis, np.ndarray], outputs: list[int]) -> dict:
    """Return the record of models/spec/pruned.py: an earlier one with what `gone` changes in it.

    `gone` is True where a channel went.
    """
    old = model.yaml.get("pruned") or {"outputs": {}, "inputs": {}, "gains": {}}
    record: dict = {key: dict(old[key]) for key in ("outputs", "inputs", "gains")}
    modules = dict(model.named_modules())
    for axis, lost in gone.items():
        module = axis.tensor.rpartition(".")[0]
        name, left = module.removeprefix("model."), int((~lost).sum())
        record["inputs" if axis.dim == 1 else "outputs"][name] = left
        owner = modules[module.rpartition(".")[0]]
        if isinstance(owner, NAMChannel) and axis.tensor.endswith(".bn2.weight"):
            record["gains"][name.rpartition(".")[0]] = kept_gain(owner, ~lost)
    return record | {"channels": outputs}


def kept_gain(nam: NAMChannel, kept: np.ndarray) -> float:
    """The gain that gates the channels (C,) that are kept as they were gated among all of them."""
    gamma = nam.bn2.weight.detach().double().abs().cpu().numpy()
    left, whole = gamma[kept].sum(), gamma.sum()
    return float(nam.gain * left / whole) if left > 0 else float(nam.gain)


def prune(model: Model, ratio: float, rule: Rule) -> Pruned:
    """The network of an unfused model without a share `ratio` of its channels; ValueError where it cannot be had."""
    channels = map_channels(model)
    ranked = rank(model, channels, rule)
    return cut(model, channels, [family for family, _ in ranked.families], choose(ranked, ratio, rule))


@torch.no_grad()
def recalibrate(model: Model, batches: Iterable[torch.Tensor]) -> None:
    """Measures the batch norms' statistics anew on images (B, 3, H, W) in 0..1, on the model's device; no weight moves.

    What a channel gave on average is missing from all that read it once it is gone. EagleEye (Li et al. 2020, arXiv
    2007.02491) names this adaptive batch normalization, without which a pruned network is rated far too low.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta, was_training = [norm.momentum for norm in norms], model.training
    model.eval()
    for norm in norms:
        norm.train().reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
    try:
        count = 0
        for images in batches:
            model(images)
            count += 1
        if not count:
            raise ValueError("no images to measure the norms on")
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(was_training)


# Report ---------------------------------------------------------------------------------------------------------------


def kept_whole(model: Model, ranked: Ranked) -> list[str]:
    """A line for each reason why channels that layers give cannot be removed, those of Detect left out."""
    lines: dict[str, list[str]] = {}
    for family, reason in ranked.whole:
        gives = any(axis.dim == 0 and axis.tensor.endswith(".weight") for axis in family.places)
        if gives and family.rows != {len(model.model) - 1}:
            lines.setdefault(reason, []).append(f"{family.name} ({family.size})")
    return [f"{', '.join(names)}: {reason}" for reason, names in lines.items()]
