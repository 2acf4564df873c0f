"""The record of a pruned network, key `pruned` of its yaml, and how it narrows layers built from the yaml.

A pruned network keeps its yaml, so its rows state the widths before pruning. The record holds the remaining widths, by
module name with the row index as prefix:

    pruned:
      outputs: {0.conv: 12, 0.bn: 12, ...}       # output channels of a convolution, norm or linear layer
      inputs: {1.conv: 12, ...}                  # input channels
      gains: {24.Channel_Att: 0.93}              # NAM's gain, see `models.pruning.prune.kept_gain`
      channels: [12, 30, ...]                    # output channels of each row
"""

import math

import torch
from torch import Tensor, nn

from models.blocks.nam import NAMChannel

KEYS = ("outputs", "inputs", "gains", "channels")
MOST_NUMBERS = 2**27  # parameters of a layer before it is narrowed, 0.5 GB; the largest of any shipped yaml has 2**24.3
Narrowable = nn.Conv2d | nn.BatchNorm2d | nn.Linear


def check_pruned(record: object, rows: int, file: str) -> dict | None:
    """Check the record of a yaml with `rows` rows; return None if there is no record. ValueError if it is invalid."""
    if record is None:
        return None
    if not isinstance(record, dict) or sorted(record) != sorted(KEYS):
        raise ValueError(f"{file}: pruned: a mapping with {', '.join(KEYS)} is wanted, as tools.prune writes it")
    for key in KEYS[:3]:
        if not isinstance(record[key], dict):
            raise ValueError(f"{file}: pruned: {key}: a mapping from modules to numbers is wanted")
        for name, value in record[key].items():
            row = str(name).partition(".")[0]
            if not row.isdecimal() or int(row) >= rows:
                raise ValueError(f"{file}: pruned: {key}: {name!r} is in none of the {rows} rows")
            is_number = isinstance(value, float if key == "gains" else int) and not isinstance(value, bool)
            if not is_number or not 0 < value < math.inf:
                raise ValueError(f"{file}: pruned: {key}: {name}: {value!r} is not possible")
    channels = record["channels"]
    fits = isinstance(channels, list) and len(channels) == rows
    if not fits or not all(type(width) is int and width > 0 for width in channels):
        raise ValueError(f"{file}: pruned: channels: {rows} whole numbers are wanted, one for each row")
    return record


def narrow_layer(layer: nn.Module, index: int, record: dict | None) -> None:
    """Narrow a row's layer to the widths of the record, in place. The first weights stay; they are placeholders.

    Raises:
        ValueError: if the record names a module or more channels than the layer has.
    """
    if record is None:
        return
    if sum(parameter.numel() for parameter in layer.parameters()) > MOST_NUMBERS:
        raise ValueError(f"pruned: a layer of more than {MOST_NUMBERS} numbers; the yaml's widths make no sense")
    modules = {f"{index}.{name}" if name else str(index): module for name, module in layer.named_modules()}
    names = {key: [name for name in record[key] if name.partition(".")[0] == str(index)] for key in KEYS[:3]}
    for name in dict.fromkeys((*names["outputs"], *names["inputs"])):
        module = modules.get(name)
        if not isinstance(module, Narrowable):
            raise ValueError(f"pruned: {name} is no convolution, norm or linear layer of this row")
        narrow(module, name, record["outputs"].get(name), record["inputs"].get(name))
    for name in names["gains"]:
        if not isinstance(modules.get(name), NAMChannel):
            raise ValueError(f"pruned: gains: {name} is no NAM of this row")
        modules[name].gain = record["gains"][name]


def set_output_channels(channels: list[int], record: dict | None) -> list[int]:
    """Return each row's output channels, from the record if there is one. A dry run checks them later."""
    return list(record["channels"]) if record else channels


def narrow(module: Narrowable, name: str, outputs: int | None, inputs: int | None) -> None:
    """Keep a module's first output and input channels, in place; None keeps all. ValueError if there are fewer."""
    if isinstance(module, nn.BatchNorm2d):
        full, attributes = (module.num_features, None), ("num_features", "")
    elif isinstance(module, nn.Conv2d):
        is_depthwise = module.groups > 1
        if is_depthwise and not module.groups == module.in_channels == module.out_channels:
            raise ValueError(f"pruned: {name} is a convolution in groups, which cannot be narrowed")
        full = (module.out_channels, None if is_depthwise else module.in_channels)
        attributes = ("out_channels", "in_channels")
    else:
        full, attributes = (module.out_features, module.in_features), ("out_features", "in_features")
    for dim, (count, width, attribute) in enumerate(zip((outputs, inputs), full, attributes, strict=True)):
        if count is None:
            continue
        if width is None or count > width:
            raise ValueError(f"pruned: {name}: {count} of {width or 'no'} channels {('out', 'in')[dim]}")
        _cut(module, dim, count)
        setattr(module, attribute, count)
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.groups = module.in_channels = count


def _cut(module: Narrowable, dim: int, count: int) -> None:
    """Truncate a module's tensors to `count` output (dim 0) or input (dim 1) channels."""
    kept = [(key, value) for key, value in module.named_parameters(recurse=False) if value.ndim > dim]
    for key, value in kept:
        part = value.detach().narrow(dim, 0, count).clone(memory_format=torch.contiguous_format)
        setattr(module, key, nn.Parameter(part, value.requires_grad))
    for key, value in [*module.named_buffers(recurse=False)]:
        if value.ndim > dim:
            setattr(module, key, _part(value, dim, count))


def _part(value: Tensor, dim: int, count: int) -> Tensor:
    return value.narrow(dim, 0, count).clone()
