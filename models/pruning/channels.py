"""Which channels of a network belong together: what may be taken out only as one, and what must stay as it is.

The network runs once, and each operation of torch's is seen on its way (a dispatch mode). Every axis of a weight that
counts channels gets labels, one for each channel, which follow the tensors through the operations. Where two meet,
as in the sum of a residual, in a norm behind a convolution or in a convolution that reads a concatenation, they are
united (union-find). An operation that is not known to leave channels apart freezes those that it gets, so that a
user's own block is never cut wrongly: at worst it is kept whole.

Legend: n channels of a family, k places of a channel along one axis.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.pruning.rules import ChannelTracker, Labels, tensors_in
from models.yolo import Model


class Axis(NamedTuple):
    """An axis of a tensor of a network's state dict."""

    tensor: str
    dim: int


@dataclass(frozen=True)
class Family:
    """n channels that play the same part: each has its places on the same axes.

    `places` (n, k) are by axis; `reason` says why none may be removed, empty where they may.
    """

    places: dict[Axis, np.ndarray]
    reason: str

    @property
    def size(self) -> int:
        """Its channels, n."""
        return len(next(iter(self.places.values())))

    @property
    def name(self) -> str:
        """The first module that gives them, as 4.cv1.conv."""
        giving = [axis.tensor for axis in self.places if axis.dim == 0]
        return (giving or [next(iter(self.places)).tensor])[0].removeprefix("model.").rpartition(".")[0]

    @property
    def rows(self) -> set[int]:
        """The numbers of the rows whose weights have a part in them."""
        return {int(axis.tensor.split(".")[1]) for axis in self.places}


@dataclass(frozen=True)
class ChannelMap:
    """The families of a network, and for each row's output (C,) the family's number and the channel's in it.

    `outputs` has -1 for channels of no family, and None for a row that gives no map.
    """

    families: list[Family]
    outputs: list[tuple[np.ndarray, np.ndarray] | None]


def map_channels(model: Model) -> ChannelMap:
    """The families of an unfused network, found by one run on an empty image; the network stays as it is."""
    trace = _Trace(model)
    was_training = model.training
    side = 2 * int(model.stride.max())
    weight = next(model.parameters())
    hooks = [hook for layer in model.model for hook in trace.hooks(layer)]
    model.eval().head.train()  # for its raw maps alone
    try:
        with torch.no_grad(), trace:
            raw = model(torch.zeros(1, model.yaml["ch"], side, side).to(weight))
            trace.tracker.freeze_all(raw, "it is what the network gives")
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return trace.result()


def channel_axes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """By name the tensors of a network whose channels can be taken out, and the axes that count them."""
    axes: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            axes[f"{name}.weight"] = (0, 1) if module.groups == 1 else (0,)
        elif type(module) is nn.Linear:  # that of multi-head attention belongs to a whole
            axes[f"{name}.weight"] = (0, 1)
        elif isinstance(module, nn.BatchNorm2d):
            axes |= {f"{name}.{key}": (0,) for key in ("weight", "running_mean", "running_var")}
        else:
            continue
        axes[f"{name}.bias"] = (0,)
    return {name: dims for name, dims in axes.items() if name in model.state_dict()}


class _Trace(TorchDispatchMode):
    """Follows labels through a run, in its `tracker`; `result` says what came out."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        dims = channel_axes(model)
        self.axes: dict[Axis, np.ndarray] = {}
        self.tracker = ChannelTracker()
        self.used: set[int] = set()
        self.outputs: list[np.ndarray | None] = [None] * len(model.model)
        tensors = dict((*model.named_parameters(), *model.named_buffers()))
        for name, axes in dims.items():
            tensor = tensors[name]
            labels: Labels = [None] * tensor.ndim
            for dim in axes:
                labels[dim] = self.axes[Axis(name, dim)] = self.tracker.new(tensor.shape[dim])
            self.tracker.set(tensor, labels)

    def hooks(self, layer: nn.Module) -> Iterator[torch.utils.hooks.RemovableHandle]:
        """Hooks that note which row is running and what it gives."""

        def enter(module: nn.Module, _inputs: object) -> None:
            self.tracker.place = f"row {module.i} {module.type.rpartition('.')[2]}: "

        def leave(module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                labels = self.tracker.get(output)[1]
                self.outputs[module.i] = np.full(output.shape[1], -1) if labels is None else labels

        yield layer.register_forward_pre_hook(enter)
        yield layer.register_forward_hook(leave)

    def __torch_dispatch__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> object:
        """Runs one operation and follows the labels through it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        inputs = [*tensors_in(args), *tensors_in(kwargs)]
        for tensor in inputs:
            for label in self.tracker.get(tensor):
                if label is not None:
                    self.used.update(label.tolist())
        if all(label is None for tensor in inputs for label in self.tracker.get(tensor)):
            return out
        self.tracker.propagate(func, args, kwargs, out)
        return out

    def result(self) -> ChannelMap:
        """The families of what was seen."""
        places: dict[int, list[tuple[Axis, int]]] = defaultdict(list)
        unused = set()
        for axis, labels in self.axes.items():
            for index, label in enumerate(labels.tolist()):
                root = self.tracker.root(label)
                places[root].append((axis, index))
                if label not in self.used:
                    unused.add(root)
        groups: dict[tuple, list[int]] = defaultdict(list)
        for root, found in places.items():
            reason = self.tracker.reasons.get(root, "it is not used" if root in unused else "")
            if not reason and all(axis.dim == 1 for axis, _ in found):
                reason = "nothing that is cut gives it"
            groups[tuple(axis for axis, _ in found), reason].append(root)
        families, where = [], {}
        for (axes, reason), roots in groups.items():
            columns = np.array([[index for _, index in places[root]] for root in roots])  # (n, places of a channel)
            by_axis = {axis: columns[:, [i for i, other in enumerate(axes) if other == axis]] for axis in axes}
            where |= {root: (len(families), channel) for channel, root in enumerate(roots)}
            families.append(Family(by_axis, reason))
        outputs: list[tuple[np.ndarray, np.ndarray] | None] = []
        for labels in self.outputs:
            found = (
                None
                if labels is None
                else [where.get(self.tracker.root(x), (-1, -1)) if x >= 0 else (-1, -1) for x in labels]
            )
            outputs.append(None if found is None else tuple(np.array(found).T))
        return ChannelMap(families, outputs)
