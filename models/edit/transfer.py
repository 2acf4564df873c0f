"""A checkpoint's weights for a model of another yaml: each tensor goes to the layer that plays its layer's part.

Rows of two yamls correspond by what they are, what they read and the shapes inside them, never by their number: a row
put in, taken out or replaced leaves all others with their weights.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.spec.rows import read_rows
from models.yolo import Model
from utils.files.checkpoint import Checkpoint
from utils.general import LOGGER

# What each is worth in an alignment. The arguments, which are widths before scaling, tell a layer's place best: with
# them a narrower network's stride 8 is not taken for a wider one's stride 4, though all shapes are the same.
SAME_MODULE, SAME_ARGS, SAME_SHAPES, SAME_INPUTS = 100, 300, 300, 200
SAME_PART = {"C3NAM": "C3"}  # a module whose layers hold those of another by the same names
MOST_ROUNDS = 8  # of aligning by the inputs that correspond by the round before; two or three are usual
IMAGE = -1
TENSOR_NAME = re.compile(r"model\.(\d+)\.(.+)")
COLUMNS = (("matched", 8), ("refused", 8), ("new", 5))


@dataclass(frozen=True)
class Layer:
    """A row of a model yaml: what it is, which rows it reads, and its tensors by their names within the layer."""

    index: int
    module: str
    args: list
    sources: tuple[int, ...]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Entry:
    """A tensor's names in the checkpoint and in the model, the layers' numbers there and the layers' module.

    Name and number are empty and None where only the other side has it; `reason` says why it was not copied.
    """

    source: str
    target: str
    layers: tuple[int | None, int | None]
    module: str
    reason: str = ""


@dataclass
class TransferReport:
    """What became of each tensor: copied, not copied from the checkpoint, or had by the model only."""

    matched: list[Entry] = field(default_factory=list)
    refused: list[Entry] = field(default_factory=list)
    new: list[Entry] = field(default_factory=list)

    @property
    def items(self) -> int:
        """The tensors that were copied."""
        return len(self.matched)

    @property
    def total(self) -> int:
        """The tensors of the checkpoint."""
        return len(self.matched) + len(self.refused)

    def check(self, file: str, cfg: str, required: float = 0.0) -> None:
        """ValueError where nothing was copied, or less than this share of the checkpoint; a warning for less than half.

        `file` and `cfg` name the checkpoint and the model.
        """
        share = self.items / self.total if self.total else 0.0
        if not any(entry.source.endswith(".weight") for entry in self.matched):
            raise ValueError(f"{file}: none of it fits {cfg}; to train from scratch name --weights ''")
        if share < required:
            raise ValueError(
                f"{file}: {self.items} of its {self.total} tensors fit, a share of {share:.3f}, and --require-transfer "
                f"asks for {required:g}; the table says which were refused and why"
            )
        if share < 0.5:
            LOGGER.warning(f"{file}: less than half of it fits {cfg}")

    def __str__(self) -> str:
        """A head line, and a table of the layers with their numbers in the checkpoint and in the model."""
        counts: dict[tuple[tuple[int | None, int | None], str], Counter[str]] = {}
        reasons: dict[tuple[tuple[int | None, int | None], str], str] = {}
        for kind, _ in COLUMNS:
            for entry in getattr(self, kind):
                key = (entry.layers, entry.module)
                counts.setdefault(key, Counter())[kind] += 1
                if entry.reason:
                    reasons.setdefault(key, f"{entry.source}: {entry.reason}")
        head = f"{'from':>5}{'to':>5}  {'module':<16}{''.join(f'{kind:>{width}}' for kind, width in COLUMNS)}"
        lines = [f"transferred {self.items}/{self.total} tensors, {len(self.new)} tensors are new", head]
        # In the model's order, then what it has no layer for.
        for key in sorted(counts, key=lambda key: [float("inf") if i is None else i for i in reversed(key[0])]):
            (source, target), module = key
            places = "".join(f"{'-' if i is None else i:>5}" for i in (source, target))
            numbers = "".join(f"{counts[key][kind] or '-':>{width}}" for kind, width in COLUMNS)
            lines.append(f"{places}  {module:<16}{numbers}  {reasons.get(key, '')}".rstrip())
        return "\n".join(lines)


@torch.no_grad()
def transfer_weights(source: Checkpoint, model: Model, exclude: Sequence[str] = ()) -> TransferReport:
    """Copies into the model each tensor of the checkpoint that its layer has in the same shape; what became of all.

    Parts of a layer, such as a convolution or a norm, are copied whole or not at all. A tensor with one of `exclude`
    among the words of its name (`anchors` in model.24.anchors) stays as the model has it.
    """
    there = read_layers(source.yaml, source.state)
    here = read_layers(model.yaml, model.state_dict())
    pairs = align(there, here)
    levels = match_levels(there, here, pairs)
    classes = (source.yaml["nc"], model.yaml["nc"])
    report = TransferReport()
    for layer in there:
        rename = (lambda name: level_name(name, levels)) if layer is there[-1] else str
        _transfer_layer(layer, here[pairs[layer.index]] if layer.index in pairs else None, rename, exclude, report)
    if classes[0] != classes[1]:
        report.refused = [_with_classes(entry, there[-1].index, classes) for entry in report.refused]
    counterparts = {entry.target for entry in report.matched + report.refused}
    pairs_back = {t: s for s, t in pairs.items()}
    for layer in here:
        names = {name: f"model.{layer.index}.{name}" for name in layer.tensors}
        layers = (pairs_back.get(layer.index), layer.index)
        report.new += [Entry("", name, layers, layer.module) for name in names.values() if name not in counterparts]
    known = {f"model.{layer.index}.{name}" for layer in there for name in layer.tensors}
    strangers = [name for name in source.state if name not in known]
    report.refused += [Entry(name, "", (None, None), "-", "belongs to no row of its yaml") for name in strangers]
    return report


def read_layers(yaml: dict, state: dict[str, Tensor]) -> list[Layer]:
    """The rows of a model yaml with their tensors out of a state dict."""
    tensors: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if match := TENSOR_NAME.fullmatch(name):
            tensors.setdefault(int(match[1]), {})[match[2]] = value
    return [
        Layer(row.index, row.content[2], row.content[3], row.sources, tensors.get(row.index, {}))
        for row in read_rows(yaml, "the checkpoint's yaml")
    ]


def _transfer_layer(
    layer: Layer,
    counterpart: Layer | None,
    rename: Callable[[str], str],
    exclude: Sequence[str],
    report: TransferReport,
) -> None:
    """Copies one layer's tensors, and enters each into the report."""
    index = None if counterpart is None else counterpart.index
    tensors = {} if counterpart is None else counterpart.tensors
    reasons = _reasons(layer.tensors, {name: tensors.get(rename(name)) for name in layer.tensors}, tensors)
    for name, value in layer.tensors.items():
        target = tensors.get(rename(name))
        reason = "this model has no such layer" if counterpart is None else reasons.get(name, "")
        is_excluded = not set(name.split(".")).isdisjoint(exclude)
        if not reason and is_excluded and not torch.equal(value, target.to(value)):
            reason = "left as the model has it"
        full_name = "" if target is None else f"model.{index}.{rename(name)}"
        entry = Entry(f"model.{layer.index}.{name}", full_name, (layer.index, index), layer.module, reason)
        if reason:
            report.refused.append(entry)
        else:
            target.copy_(value)
            report.matched.append(entry)


def _reasons(
    values: dict[str, Tensor], targets: dict[str, Tensor | None], all_targets: dict[str, Tensor]
) -> dict[str, str]:
    """Why tensors of a layer cannot be copied, by name: a part, such as a norm, is copied whole or not at all."""
    reasons: dict[str, str] = {}
    for name, value in values.items():
        target = targets[name]
        if target is None:
            reasons[name] = "nothing here corresponds to it"
        elif target.shape != value.shape:
            reasons[name] = f"{tuple(value.shape)} in the checkpoint, {tuple(target.shape)} here"
    unfit = {_part(name) for name in reasons}
    has, wanted = (Counter(map(_part, names)) for names in (values, all_targets))
    for name in values:
        part = _part(name)
        if name not in reasons and (part in unfit or has[part] != wanted[part]):
            reasons[name] = "other tensors of the same part do not fit"
    return reasons


def _part(name: str) -> str:
    return name.rpartition(".")[0]


def _with_classes(entry: Entry, head: int, classes: tuple[int, int]) -> Entry:
    """The entry; that of the head's convolutions says that the classes differ."""
    if entry.layers[0] != head or not entry.target or ".m." not in entry.target:
        return entry
    reason = f"{entry.reason} ({classes[0]} classes in the checkpoint, {classes[1]} here)"
    return Entry(entry.source, entry.target, entry.layers, entry.module, reason)


# Alignment ------------------------------------------------------------------------------------------------------------


def align(there: Sequence[Layer], here: Sequence[Layer]) -> dict[int, int]:
    """Which row of the second yaml plays the part of which of the first, in order and of the same module; heads do.

    Rows are worth more together the more tensors have the same names and shapes, and if what they read corresponds
    too, by the alignment of the round before.
    """
    likeness = {(s.index, t.index): _likeness(s, t) for s in there[:-1] for t in here[:-1] if _same_part(s, t)}
    best, best_worth, pairs = {}, -1, {}
    for _ in range(MOST_ROUNDS):
        inputs = {key: _same_inputs(there[key[0]], here[key[1]], there, here, pairs) for key in likeness}
        worth = sum(likeness[key] + inputs[key] for key in pairs.items())
        if pairs and worth <= best_worth:
            break
        best, best_worth = pairs, worth if pairs else -1
        pairs = _longest({key: likeness[key] + inputs[key] for key in likeness}, len(there) - 1, len(here) - 1)
    return {**best, there[-1].index: here[-1].index}


def _same_part(s: Layer, t: Layer) -> bool:
    """Whether two rows can play the same part."""
    return SAME_PART.get(s.module, s.module) == SAME_PART.get(t.module, t.module)


def _likeness(s: Layer, t: Layer) -> int:
    """What two rows of the same module are worth together, whatever they read."""
    shaped = {name: value.shape for name, value in s.tensors.items() if value.ndim}
    others = {name: value.shape for name, value in t.tensors.items() if value.ndim}
    same = sum(others.get(name) == shape for name, shape in shaped.items())
    share = same / max(len(shaped), len(others)) if shaped or others else 1.0
    return SAME_MODULE + SAME_ARGS * (str(s.args) == str(t.args)) + round(SAME_SHAPES * share)


def _same_inputs(s: Layer, t: Layer, there: Sequence[Layer], here: Sequence[Layer], pairs: dict[int, int]) -> int:
    """What it adds to two rows' worth that they read rows which correspond, one by one."""
    matched = set(pairs.values())
    reads = [origin(i, there, pairs.keys()) for i in s.sources]
    reads_here = [origin(i, here, matched) for i in t.sources]
    same = sum(_corresponds(a, b, pairs) for a, b in zip(reads, reads_here, strict=False))
    return round(SAME_INPUTS * same / max(len(reads), len(reads_here)))


def origin(index: int, layers: Sequence[Layer], matched: Collection[int]) -> int | None:
    """The matched row, or the image, whose output comes in through rows that are not; None where these read several."""
    while index != IMAGE and index not in matched:
        sources = layers[index].sources
        if len(sources) > 1:
            return None
        index = sources[0]
    return index


def _corresponds(a: int | None, b: int | None, pairs: dict[int, int]) -> bool:
    return a is not None and b is not None and (a == b == IMAGE or pairs.get(a) == b)


def _longest(worth: dict[tuple[int, int], int], rows: int, columns: int) -> dict[int, int]:
    """The pairs, rising in both numbers, that are worth most together; of equal ones those that come first."""
    best = [[0] * (columns + 1) for _ in range(rows + 1)]
    for s in range(rows):
        for t in range(columns):
            paired = best[s][t] + worth[s, t] if (s, t) in worth else -1
            best[s + 1][t + 1] = max(best[s][t + 1], best[s + 1][t], paired)
    pairs: dict[int, int] = {}
    s, t = rows, columns
    while s and t:
        if best[s][t] == best[s][t - 1]:
            t -= 1
        elif best[s][t] == best[s - 1][t]:
            s -= 1
        else:
            s, t = s - 1, t - 1
            pairs[s] = t
    return pairs


# Head -----------------------------------------------------------------------------------------------------------------


def match_levels(there: Sequence[Layer], here: Sequence[Layer], pairs: dict[int, int]) -> dict[int, int]:
    """Which level of the one head is which of the other: those whose inputs come from rows that correspond."""
    matched = set(pairs.values())
    reads = [origin(i, there, pairs.keys()) for i in there[-1].sources]
    reads_here = [origin(i, here, matched) for i in here[-1].sources]
    levels: dict[int, int] = {}
    for level, a in enumerate(reads):
        likely = sorted(range(len(reads_here)), key=lambda other, level=level: other != level)
        fit = (other for other in likely if other not in levels.values() and _corresponds(a, reads_here[other], pairs))
        if (found := next(fit, None)) is not None:
            levels[level] = found
    return levels


def level_name(name: str, levels: dict[int, int]) -> str:
    """The name in the other head of a tensor of this one; empty where no level is this one.

    Anchors are one tensor for all levels, so they have a name only where each level stays in its place.
    """
    first, _, rest = name.partition(".")
    if first == "anchors":
        return name if all(level == other for level, other in levels.items()) else ""
    level, _, rest = rest.partition(".")
    if first != "m" or not level.isdecimal():
        return name
    return f"m.{levels[int(level)]}.{rest}" if int(level) in levels else ""
