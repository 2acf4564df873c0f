"""A YOLOv5 fork with attention, looked over from its files alone: is it wired as meant, and which attention is it?

    python -m tools.gates --fork models/yolov5s-NAM.yaml runs/best.pt --data custom.yaml

The yaml is read as rows, so that modules which only the fork has are no obstacle; the checkpoint is read as data, and
none of its classes is made. What a block computes stands in the fork's code: of that the files tell which parts it has
and what they have learnt, not whether the gradient passes through NAM's weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.spec.rows import Row, load_model_yaml, read_rows
from models.spec.wiring import check_rows
from utils.files.checkpoint import load_checkpoint

PLAIN = {  # v6.1's own, beside nn.X
    "Bottleneck",
    "BottleneckCSP",
    "C3",
    "C3Ghost",
    "C3SPP",
    "C3TR",
    "Concat",
    "Contract",
    "Conv",
    "CrossConv",
    "DWConv",
    "Detect",
    "Expand",
    "Focus",
    "GhostBottleneck",
    "GhostConv",
    "MixConv2d",
    "SPP",
    "SPPF",
    "Sum",
}
NAM_GAMMA = "Channel_Att.bn2.weight"  # as the published code names it
NAM_LAMBDA = "Spatial_Att.bn.weight"  # of this project; code with one lambda a pixel names it bn2
NAM_LAMBDA_PIXELS = "Spatial_Att.bn2.weight"
PUBLISHED_REST = 0.5


@dataclass(frozen=True)
class Fork:
    """What a fork's files say: rows with modules that v6.1 has not, what is odd about the wiring, and its NAM."""

    file: str
    added: tuple[Row, ...]
    warnings: tuple[str, ...]
    variants: tuple[str, ...]  # a sentence for each NAM block of the checkpoint, or for each row without one


def inspect_fork(cfg: str | Path, weights: str | Path | None = None) -> Fork:
    """Look over a fork's model yaml and, where it is given, its checkpoint.

    Raises:
        ValueError: the yaml has no rows, the checkpoint is refused, or the two are not of one network.
        FileNotFoundError: one of them is not there.
    """
    content, file = load_model_yaml(cfg)
    rows = read_rows(content, file)
    added = tuple(row for row in rows if str(row.content[2]) not in PLAIN and not str(row.content[2]).startswith("nn."))
    warnings = tuple(check_rows(rows, content))
    if weights is None:
        variants = tuple(_variant_of_row(row) for row in added if "NAM" in str(row.content[2]).upper())
        return Fork(file, added, warnings, variants)
    checkpoint = load_checkpoint(weights)
    _check_same_rows(rows, checkpoint.yaml, file, weights)
    return Fork(file, added, warnings, tuple(variants_in(checkpoint.state)))


def _check_same_rows(rows: Sequence[Row], content: Mapping[str, object], file: str, weights: str | Path) -> None:
    """ValueError where the checkpoint was trained with other rows than the yaml has now."""
    trained = read_rows(dict(content), str(weights))
    for mine, theirs in zip(rows, trained, strict=False):
        if mine.content[:3] != theirs.content[:3]:
            raise ValueError(f"{mine.where}: {weights} was trained with {theirs.text} there; give the yaml of its run")
    if len(rows) != len(trained):
        raise ValueError(f"{file}: has {len(rows)} rows, {weights} was trained with {len(trained)}")


def _variant_of_row(row: Row) -> str:
    """Which NAM a row asks for by its arguments, of which the published code has the channels alone."""
    arguments = row.content[3]
    named = arguments[-1] if arguments and isinstance(arguments[-1], dict) else {}
    if named:
        return f"{row.where}: NAM with {', '.join(f'{key} {value}' for key, value in named.items())}"
    has_pixels = False in arguments[2:]
    parts = "channels and pixels" if has_pixels else "channels alone, as the published code has it"
    return f"{row.where}: NAM of {parts}; its checkpoint tells more"


def variants_in(state: Mapping[str, Tensor]) -> list[str]:
    """A sentence for each NAM block among the tensors of a network: its parts, and how far its gate can move."""
    found = []
    for name, gamma in state.items():
        if not name.endswith(NAM_GAMMA):
            continue
        block = name.removesuffix(NAM_GAMMA).rstrip(".")
        parts = "channels alone, as the published code has it"
        if f"{block}.{NAM_LAMBDA}" in state:
            parts = "channels and pixels, on a grid that fits any size"
        elif f"{block}.{NAM_LAMBDA_PIXELS}" in state:
            count = state[f"{block}.{NAM_LAMBDA_PIXELS}"].numel()
            parts = f"channels and pixels, with {count} lambdas: the network takes images of one size only"
        reach = _reach(gamma.float(), state.get(f"{block}.Channel_Att.bn2.bias"))
        found.append(f"{block}: NAM of {parts}; {reach}")
    return found


def _reach(gamma: Tensor, beta: Tensor | None) -> str:
    """How far the published gate, sigmoid(w (gamma z + beta)), is from a half where z, a normed input, is -1 or 1."""
    sizes = gamma.abs()
    if not bool(sizes.any()):
        return "all gammas are 0, so that its gate is a constant half"
    shift = torch.zeros_like(gamma) if beta is None else beta.float()
    w = sizes / sizes.sum()
    low, high = (torch.sigmoid(w * (gamma * z + shift)) for z in (-1.0, 1.0))
    most = max(float((gate - PUBLISHED_REST).abs().max()) for gate in (low, high))
    words = "hardly a gate: in effect the block halves its input" if most < 0.05 else "a gate that moves"
    return f"|gamma| {float(sizes.min()):.3f} to {float(sizes.max()):.3f}, gates within 0.5 +- {most:.4f}: {words}"


def sentences(fork: Fork) -> list[str]:
    """What is to be said of a fork, its verdict last."""
    added = [f"{row.where}: a module that v6.1 has not" for row in fork.added]
    lines = [*(added or [f"{fork.file}: no row with a module that v6.1 has not"]), *fork.variants, *fork.warnings]
    if fork.warnings:
        count = len(fork.warnings)
        return [*lines, f"verdict: wired otherwise than meant ({count} finding{'s' if count > 1 else ''} above)"]
    return [*lines, "verdict: the wiring is right"]
