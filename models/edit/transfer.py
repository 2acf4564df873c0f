"""Transfer a checkpoint's weights to a model of another yaml: each tensor goes to the corresponding layer.

Rows of two yamls correspond by module, inputs and tensor shapes, never by index. So rows that are inserted, removed or
replaced leave the weights of all others in place.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.spec.rows import read_rows
from models.yolo import Model
from utils.files.checkpoint import Checkpoint
from utils.general import LOGGER

# The score of each in an alignment. The arguments, which are widths before scaling, tell a layer's place best: with
# them a narrower network's stride 8 is not taken for a wider one's stride 4, though all shapes are the same.
SAME_MODULE, SAME_ARGS, SAME_SHAPES, SAME_INPUTS = 100, 300, 300, 200
SAME_PART = {"C3NAM": "C3"}  # a module whose layers hold those of another by the same names
MOST_ROUNDS = 8  # of aligning by the inputs that correspond by the round before; two or three are usual
IMAGE = -1
TENSOR_NAME = re.compile(r"model\.(\d+)\.(.+)")
COLUMNS = (("matched", 8), ("refused", 8), ("new", 5))


@dataclass(frozen=True)
class Layer:
    """A row of a model yaml: its module, the rows it reads, and its tensors by their names within the layer."""

    index: int
    module: str
    args: list
    sources: tuple[int, ...]
    tensors: dict[str, Tensor]

    def full_name(self, name: str) -> str:
        """Return the state dict key of one of its tensors."""
        return f"model.{self.index}.{name}"


@dataclass(frozen=True)
class Entry:
    """A tensor's names in checkpoint and model, the indices of its layer in both, and the layer's module.

    Name and index are empty and None on a side that lacks it; `reason` says why it was not copied.
    """

    source: str
    target: str
    layers: tuple[int | None, int | None]
    module: str
    reason: str = ""


@dataclass
class TransferReport:
    """The fate of each tensor: copied, not copied from the checkpoint, or in the model only."""

    matched: list[Entry] = field(default_factory=list)
    refused: list[Entry] = field(default_factory=list)
    new: list[Entry] = field(default_factory=list)

    @property
    def items(self) -> int:
        """The number of tensors copied."""
        return len(self.matched)

    @property
    def total(self) -> int:
        """The number of tensors in the checkpoint."""
        return len(self.matched) + len(self.refused)

    def check(self, file: str, cfg: str, required: float = 0.0) -> None:
        """Raise ValueError if nothing, or less than the required share of the checkpoint, was copied; warn below half.

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
        """Format a headline and a table of the layers with their indices in checkpoint and model."""
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
def transfer_weights(checkpoint: Checkpoint, model: Model, exclude: Sequence[str] = ()) -> TransferReport:
    """Copy each tensor of the checkpoint whose layer in the model has it in the same shape; report on all.

    Parts of a layer, such as a convolution or a norm, are copied whole or not at all. Tensors with a word of `exclude`
    in their name (`anchors` in model.24.anchors) are not copied.
    """
    source = read_layers(checkpoint.yaml, checkpoint.state)
    target = read_layers(model.yaml, model.state_dict())
    pairs = align(source, target)
    names = match_names(source, target, pairs)
    reasons = find_refused(source, target, pairs, names, exclude)
    copy_tensors(source, target, names, reasons)
    classes = (checkpoint.yaml["nc"], model.yaml["nc"])
    report = make_report(source, target, pairs, names, reasons, classes)
    known = tensors_by_name(source)
    for name in checkpoint.state:
        if name not in known:
            report.refused.append(Entry(name, "", (None, None), "-", "belongs to no row of its yaml"))
    return report


def read_layers(yaml: dict, state: dict[str, Tensor]) -> list[Layer]:
    """Return the rows of a model yaml with their tensors from a state dict."""
    tensors: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if match := TENSOR_NAME.fullmatch(name):
            tensors.setdefault(int(match[1]), {})[match[2]] = value
    return [
        Layer(row.index, row.content[2], row.content[3], row.sources, tensors.get(row.index, {}))
        for row in read_rows(yaml, "the checkpoint's yaml")
    ]


def tensors_by_name(layers: Sequence[Layer]) -> dict[str, Tensor]:
    """Return the tensors of all layers by state dict key."""
    return {layer.full_name(name): value for layer in layers for name, value in layer.tensors.items()}


def match_names(source: Sequence[Layer], target: Sequence[Layer], pairs: dict[int, int]) -> dict[str, str]:
    """Map each of the checkpoint's keys that has a counterpart to its key in the model."""
    levels = match_levels(source, target, pairs)
    names: dict[str, str] = {}
    for layer in source:
        if layer.index not in pairs:
            continue
        counterpart = target[pairs[layer.index]]
        for name in layer.tensors:
            target_name = level_name(name, levels) if layer is source[-1] else name
            if target_name in counterpart.tensors:
                names[layer.full_name(name)] = counterpart.full_name(target_name)
    return names


def find_refused(
    source: Sequence[Layer],
    target: Sequence[Layer],
    pairs: dict[int, int],
    names: dict[str, str],
    exclude: Sequence[str],
) -> dict[str, str]:
    """Return the reasons for tensors of the checkpoint that are not copied, by key."""
    target_tensors = tensors_by_name(target)
    refused: dict[str, str] = {}
    for layer in source:
        if layer.index not in pairs:
            refused.update((layer.full_name(name), "this model has no such layer") for name in layer.tensors)
            continue
        counterparts = {name: target_tensors.get(names.get(layer.full_name(name), "")) for name in layer.tensors}
        reasons = _find_misfits(layer.tensors, counterparts, target[pairs[layer.index]].tensors)
        for name, value in layer.tensors.items():
            is_excluded = not set(name.split(".")).isdisjoint(exclude)
            if name in reasons:
                refused[layer.full_name(name)] = reasons[name]
            elif is_excluded and not torch.equal(value, counterparts[name].to(value)):
                refused[layer.full_name(name)] = "left as the model has it"
    return refused


def copy_tensors(
    source: Sequence[Layer], target: Sequence[Layer], names: dict[str, str], refused: Collection[str]
) -> None:
    """Copy the tensors that have a key in the model and are not refused, in place."""
    target_tensors = tensors_by_name(target)
    for name, value in tensors_by_name(source).items():
        if name not in refused:
            target_tensors[names[name]].copy_(value)


def make_report(
    source: Sequence[Layer],
    target: Sequence[Layer],
    pairs: dict[int, int],
    names: dict[str, str],
    reasons: dict[str, str],
    classes: tuple[int, int],
) -> TransferReport:
    """Report on each layer's tensors; `classes` are the numbers of classes of checkpoint and model."""
    report = TransferReport()
    for layer in source:
        layers = (layer.index, pairs.get(layer.index))
        for name in map(layer.full_name, layer.tensors):
            entry = Entry(name, names.get(name, ""), layers, layer.module, reasons.get(name, ""))
            if not entry.reason:
                report.matched.append(entry)
            elif classes[0] != classes[1]:
                report.refused.append(_with_classes(entry, source[-1].index, classes))
            else:
                report.refused.append(entry)
    counterparts = set(names.values())
    source_indices = {target_index: source_index for source_index, target_index in pairs.items()}
    for layer in target:
        layers = (source_indices.get(layer.index), layer.index)
        for name in map(layer.full_name, layer.tensors):
            if name not in counterparts:
                report.new.append(Entry("", name, layers, layer.module))
    return report


def _find_misfits(
    values: dict[str, Tensor], targets: dict[str, Tensor | None], all_targets: dict[str, Tensor]
) -> dict[str, str]:
    """Return the reasons for tensors of a layer that cannot be copied, by name.

    A part of a layer, such as a norm, is copied whole or not at all.
    """
    reasons: dict[str, str] = {}
    for name, value in values.items():
        target = targets[name]
        if target is None:
            reasons[name] = "nothing here corresponds to it"
        elif target.shape != value.shape:
            reasons[name] = f"{tuple(value.shape)} in the checkpoint, {tuple(target.shape)} here"
    unfit = {_part(name) for name in reasons}
    source_counts = Counter(map(_part, values))
    target_counts = Counter(map(_part, all_targets))
    for name in values:
        part = _part(name)
        if name not in reasons and (part in unfit or source_counts[part] != target_counts[part]):
            reasons[name] = "other tensors of the same part do not fit"
    return reasons


def _part(name: str) -> str:
    return name.rpartition(".")[0]


def _with_classes(entry: Entry, head: int, classes: tuple[int, int]) -> Entry:
    """Add to an entry of the head's convolutions that the numbers of classes differ."""
    if entry.layers[0] != head or not entry.target or ".m." not in entry.target:
        return entry
    reason = f"{entry.reason} ({classes[0]} classes in the checkpoint, {classes[1]} here)"
    return Entry(entry.source, entry.target, entry.layers, entry.module, reason)


# Alignment ------------------------------------------------------------------------------------------------------------


def align(source: Sequence[Layer], target: Sequence[Layer]) -> dict[int, int]:
    """Map rows of `source` to corresponding rows of `target`, in order and of the same module; heads always match.

    The score of two rows is the number of tensors with equal names and shapes, plus a bonus if their inputs
    corresponded in the previous round.
    """
    similarity = {
        (a.index, b.index): _similarity(a, b) for a in source[:-1] for b in target[:-1] if _is_same_part(a, b)
    }
    best: dict[int, int] = {}
    best_score = -1
    pairs: dict[int, int] = {}
    for _ in range(MOST_ROUNDS):
        scores = {
            (a, b): value + _score_inputs(source[a], target[b], source, target, pairs)
            for (a, b), value in similarity.items()
        }
        score = sum(scores[pair] for pair in pairs.items())
        if pairs and score <= best_score:
            break
        best = pairs
        best_score = score if pairs else -1
        pairs = _best_pairs(scores, len(source) - 1, len(target) - 1)
    return {**best, source[-1].index: target[-1].index}


def _is_same_part(source: Layer, target: Layer) -> bool:
    """Return True if two rows may correspond."""
    return SAME_PART.get(source.module, source.module) == SAME_PART.get(target.module, target.module)


def _similarity(source: Layer, target: Layer) -> int:
    """Return the score of two rows of the same module without their inputs."""
    source_shapes = {name: value.shape for name, value in source.tensors.items() if value.ndim}
    target_shapes = {name: value.shape for name, value in target.tensors.items() if value.ndim}
    same = sum(target_shapes.get(name) == shape for name, shape in source_shapes.items())
    share = same / max(len(source_shapes), len(target_shapes)) if source_shapes or target_shapes else 1.0
    score = SAME_MODULE + round(SAME_SHAPES * share)
    if str(source.args) == str(target.args):
        score += SAME_ARGS
    return score


def _score_inputs(
    source_layer: Layer,
    target_layer: Layer,
    source: Sequence[Layer],
    target: Sequence[Layer],
    pairs: dict[int, int],
) -> int:
    """Return the bonus for two rows whose inputs correspond one by one."""
    source_inputs = _origins(source_layer, source, pairs.keys())
    target_inputs = _origins(target_layer, target, set(pairs.values()))
    same = sum(_corresponds(a, b, pairs) for a, b in zip(source_inputs, target_inputs, strict=False))
    return round(SAME_INPUTS * same / max(len(source_inputs), len(target_inputs)))


def _origins(layer: Layer, layers: Sequence[Layer], matched: Collection[int]) -> list[int | None]:
    """Return `origin` for each input of a layer."""
    return [origin(index, layers, matched) for index in layer.sources]


def origin(index: int, layers: Sequence[Layer], matched: Collection[int]) -> int | None:
    """Return the matched row, or the image, that a row's output derives from through unmatched rows.

    None if one of those reads several.
    """
    while index != IMAGE and index not in matched:
        sources = layers[index].sources
        if len(sources) > 1:
            return None
        index = sources[0]
    return index


def _corresponds(a: int | None, b: int | None, pairs: dict[int, int]) -> bool:
    return a is not None and b is not None and (a == b == IMAGE or pairs.get(a) == b)


def _best_pairs(scores: dict[tuple[int, int], int], rows: int, columns: int) -> dict[int, int]:
    """Return the pairs, increasing in both indices, with the highest total score; of equal ones the first."""
    best = [[0] * (columns + 1) for _ in range(rows + 1)]
    for row in range(rows):
        for column in range(columns):
            paired = best[row][column] + scores[row, column] if (row, column) in scores else -1
            best[row + 1][column + 1] = max(best[row][column + 1], best[row + 1][column], paired)
    pairs: dict[int, int] = {}
    row, column = rows, columns
    while row and column:
        if best[row][column] == best[row][column - 1]:
            column -= 1
        elif best[row][column] == best[row - 1][column]:
            row -= 1
        else:
            row -= 1
            column -= 1
            pairs[row] = column
    return pairs


# Head -----------------------------------------------------------------------------------------------------------------


def match_levels(source: Sequence[Layer], target: Sequence[Layer], pairs: dict[int, int]) -> dict[int, int]:
    """Map levels of one head to levels of the other by the correspondence of their inputs."""
    source_inputs = _origins(source[-1], source, pairs.keys())
    target_inputs = _origins(target[-1], target, set(pairs.values()))
    levels: dict[int, int] = {}
    for level, source_input in enumerate(source_inputs):
        # The level of the same number first, where there is one.
        candidates = [other for other in range(len(target_inputs)) if other == level]
        candidates += [other for other in range(len(target_inputs)) if other != level]
        for other in candidates:
            if other not in levels.values() and _corresponds(source_input, target_inputs[other], pairs):
                levels[level] = other
                break
    return levels


def level_name(name: str, levels: dict[int, int]) -> str:
    """Return a tensor's name in the other head; empty if no level corresponds.

    Anchors are one tensor for all levels, so they have a name only if each level keeps its index.
    """
    first, _, rest = name.partition(".")
    if first == "anchors":
        return name if all(level == other for level, other in levels.items()) else ""
    level, _, rest = rest.partition(".")
    if first != "m" or not level.isdecimal():
        return name
    return f"m.{levels[int(level)]}.{rest}" if int(level) in levels else ""
