"""How torch's operations treat channels: labels of channels, what ties and freezes them, and a rule for each operation.

Legend: D axes of a tensor.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

PARTED = "its channels are parted into groups"
Labels = list[np.ndarray | None]  # of D axes: labels (size,) int, None where the axis has no channels to remove


class ChannelTracker:
    """The labels of tensors' axes and how they are tied (union-find); `place` is put in front of reasons."""

    def __init__(self) -> None:
        self.parents: list[int] = []
        self.reasons: dict[int, str] = {}  # why a root's channels must stay
        self.known: dict[int, tuple[Tensor, Labels]] = {}  # by id; the tensor is held, so that no id comes twice
        self.place = ""

    def new(self, count: int) -> np.ndarray:
        """(count,) labels that belong to nothing yet."""
        start = len(self.parents)
        self.parents += range(start, start + count)
        return np.arange(start, start + count)

    def root(self, label: int) -> int:
        """What all labels that are united with this one have in common."""
        while self.parents[label] != label:
            self.parents[label] = label = self.parents[self.parents[label]]
        return label

    def unite(self, a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
        """Ties two axes channel by channel; where only one has labels, its channels must stay."""
        if a is None or b is None:
            found = b if a is None else a
            self.freeze(found, "it meets numbers that are not cut")
            return found
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            x, y = self.root(x), self.root(y)
            if x != y:
                self.parents[y] = x
                if y in self.reasons:
                    self.reasons.setdefault(x, self.reasons.pop(y))
        return a

    def freeze(self, labels: np.ndarray | None, reason: str) -> None:
        """Keeps channels from being removed."""
        if labels is None:
            return
        for label in labels.tolist():
            self.reasons.setdefault(self.root(label), f"{self.place}{reason}")

    def get(self, tensor: Tensor) -> Labels:
        """Return the labels (size,) of a tensor's D axes."""
        return self.known[id(tensor)][1] if id(tensor) in self.known else [None] * tensor.ndim

    def set(self, tensor: Tensor, labels: Labels) -> None:
        """Set the labels (size,) of a tensor's D axes."""
        assert [tensor.shape[i] if label is None else len(label) for i, label in enumerate(labels)] == [*tensor.shape]
        self.known[id(tensor)] = (tensor, labels)

    def freeze_all(self, value: object, reason: str) -> None:
        """Keeps all channels of the tensors in a value."""
        for tensor in tensors_in(value):
            for label in self.get(tensor):
                self.freeze(label, reason)

    def propagate(self, func: Callable, args: tuple, kwargs: dict, out: object) -> None:
        """Propagate the labels through one operation that has run."""
        name = func._overloadpacket.__name__.removesuffix("_")
        rule = RULES.get(name, pointwise if torch.Tag.pointwise in func.tags else unknown)
        rule(self, name, [*args, *kwargs.values()], out)


def tensors_in(value: object) -> list[Tensor]:
    """The tensors in nested lists, tuples and mappings."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for part in value for tensor in tensors_in(part)] if isinstance(value, list | tuple) else []


# Rules --------------------------------------------------------------------------------------------------------------


def unknown(tracker: ChannelTracker, name: str, args: list, out: object) -> None:
    """An operation that may do anything: what it gets stays whole, what it gives has no labels."""
    tracker.freeze_all(args, name)


def pointwise(tracker: ChannelTracker, name: str, args: list, out: Tensor) -> None:
    """Number by number, with broadcasting: axes that meet are tied."""
    given = [(tensor, tracker.get(tensor)) for tensor in tensors_in(args)]
    tracker.set(out, [_met(tracker, given, out, dim) for dim in range(out.ndim)])


def _met(tracker: ChannelTracker, given: list[tuple[Tensor, Labels]], out: Tensor, dim: int) -> np.ndarray | None:
    """The labels of an axis of `out`, where those of the tensors meet that are broadcast to it."""
    size, found, has_bare = out.shape[dim], None, False
    for tensor, labels in given:
        own = dim - out.ndim + tensor.ndim
        if own < 0:
            continue
        if tensor.shape[own] != size:
            tracker.freeze(labels[own], "one channel is spread over others")
        elif labels[own] is None:
            has_bare |= size > 1
        else:
            found = labels[own] if found is None else tracker.unite(found, labels[own])
    if has_bare:
        tracker.freeze(found, "it meets numbers that are not cut")
    return found


def convolution(tracker: ChannelTracker, name: str, args: list, out: Tensor) -> None:
    """Ties what it reads to its weights' inputs; depthwise ones pass channels on; those in other groups stay whole."""
    x, weight, bias = args[:3]
    is_transposed, groups = args[6], args[8]
    (batch, read, *places), (given, taken, *_) = tracker.get(x), tracker.get(weight)
    for label in places:
        tracker.freeze(label, "its neighbours are convolved")
    if groups == 1 and not is_transposed:
        tracker.unite(read, taken)
    elif groups == x.shape[1] == weight.shape[0] and not is_transposed:
        tracker.unite(read, given)
    else:
        for label in (read, given, taken):
            tracker.freeze(label, "a convolution in groups")
    if bias is not None:
        tracker.unite(given, tracker.get(bias)[0])
    tracker.set(out, [batch, None if is_transposed else given, *[None] * (out.ndim - 2)])


def batch_norm(tracker: ChannelTracker, name: str, args: list, out: Sequence[Tensor]) -> None:
    """Ties its scales, shifts and statistics to what it normalises."""
    labels = tracker.get(args[0])
    for tensor in args[1:5]:
        if tensor is not None:
            tracker.unite(labels[1], tracker.get(tensor)[0])
    tracker.set(out[0], labels)


def matrix_product(tracker: ChannelTracker, name: str, args: list, out: Tensor) -> None:
    """mm(a, b), or addmm(bias, a, b): ties the columns of a to the rows of b."""
    *bias, a, b = [arg for arg in args if isinstance(arg, Tensor)]
    (rows, inner), (other, columns) = tracker.get(a), tracker.get(b)
    if inner is not None or other is not None:
        tracker.unite(inner, other)
    for tensor in bias:
        tracker.unite(columns, tracker.get(tensor)[-1])
    tracker.set(out, [rows, columns])


def over_places(tracker: ChannelTracker, name: str, args: list, out: Tensor | Sequence[Tensor]) -> None:
    """Pooling, resizing and padding of maps (B, C, H, W): channels pass as they are."""
    batch, channels, *places = tracker.get(args[0])
    out = tensors_in(out)[0]
    for label in places:
        tracker.freeze(label, name)
    if args[0].shape[:2] != out.shape[:2]:
        unknown(tracker, name, args, out)
    else:
        tracker.set(out, [batch, channels, *[None] * (out.ndim - 2)])


def reduction(tracker: ChannelTracker, name: str, args: list, out: Tensor | Sequence[Tensor]) -> None:
    """Sums leave a channel out as if it were 0; means and maxima over channels would change, so those stay whole."""
    labels, ndim = tracker.get(args[0]), args[0].ndim
    dims = args[1] if len(args) > 1 and isinstance(args[1], int | list | tuple) else None
    dims = {dim % ndim for dim in ([dims] if isinstance(dims, int) else dims or range(ndim))}
    if name != "sum":
        for dim in dims:
            tracker.freeze(labels[dim], f"{name} over channels")
    out = tensors_in(out)[0]
    is_kept = out.ndim == ndim
    tracker.set(out, [None if dim in dims else label for dim, label in enumerate(labels) if is_kept or dim not in dims])


def softmax(tracker: ChannelTracker, name: str, args: list, out: Tensor) -> None:
    """Channels beside each other pass; those that share one sum stay whole."""
    labels = tracker.get(args[0])
    tracker.freeze(labels[args[1]], "a softmax over channels")
    tracker.set(out, labels)


def concatenation(tracker: ChannelTracker, name: str, args: list, out: Tensor) -> None:
    """Labels one behind the other along the axis, those of all other axes tied."""
    parts = list(args[0])
    axis = (args[1] if len(args) > 1 else 0) % out.ndim
    given = [(tensor, tracker.get(tensor)) for tensor in parts]
    labels = [None if dim == axis else _met(tracker, given, out, dim) for dim in range(out.ndim)]
    pieces = [own[axis] for _, own in given]
    if any(piece is not None for piece in pieces):
        for i, tensor in enumerate(parts):
            if pieces[i] is None:
                pieces[i] = tracker.new(tensor.shape[axis])
                tracker.freeze(pieces[i], "it is joined to numbers that are not cut")
        labels[axis] = np.concatenate(pieces)
    tracker.set(out, labels)


def permutation(tracker: ChannelTracker, name: str, args: list, out: Tensor) -> None:
    """Other order of axes."""
    labels = tracker.get(args[0])
    order = list(range(len(labels)))
    if name == "permute":
        order = [dim % len(labels) for dim in args[1]]
    else:
        a, b = (args[1:3] if name == "transpose" else (0, -1)) if len(labels) > 1 else (0, 0)
        order[a], order[b] = order[b], order[a]
    tracker.set(out, [labels[dim] for dim in order])


def slicing(tracker: ChannelTracker, name: str, args: list, out: Tensor) -> None:
    """x[..., start:end:step] along one axis: which channels are meant is told by number, so all must stay."""
    labels = list(tracker.get(args[0]))
    defaults = [0, None, None, 1]
    dim, start, end, step = list(args[1:]) + defaults[len(args) - 1 :]
    if labels[dim] is not None and out.shape[dim] < len(labels[dim]):
        tracker.freeze(labels[dim], PARTED)
        labels[dim] = labels[dim][start : None if end is None else min(end, len(labels[dim])) : step]
    tracker.set(out, labels)


def splitting(tracker: ChannelTracker, name: str, args: list, out: Sequence[Tensor]) -> None:
    """Pieces along one axis: where one ends is told by number, so the channels of several must stay."""
    labels, dim, start = tracker.get(args[0]), args[2] if len(args) > 2 else 0, 0
    if len(out) > 1:
        tracker.freeze(labels[dim], PARTED)
    for piece in out:
        own, size = list(labels), piece.shape[dim]
        own[dim] = None if own[dim] is None else own[dim][start : start + size]
        start += size
        tracker.set(piece, own)


def picking(tracker: ChannelTracker, name: str, args: list, out: Tensor | Sequence[Tensor]) -> None:
    """One index of an axis, or each by itself: an axis of channels must keep its numbering."""
    labels, dim = list(tracker.get(args[0])), args[1] if len(args) > 1 else 0
    tracker.freeze(labels.pop(dim), name)
    for piece in tensors_in(out):
        tracker.set(piece, labels)


def reshaping(tracker: ChannelTracker, name: str, args: list, out: Tensor) -> None:
    """Axes that stay keep their labels, one that is joined to others repeats them; one that is parted stays whole."""
    x, labels = args[0], tracker.get(args[0])
    found: Labels = [None] * out.ndim
    for dims_in, dims_out in blocks(x.shape, out.shape):
        kept = [dim for dim in dims_in if labels[dim] is not None]
        large = [dim for dim in dims_out if out.shape[dim] > 1] or dims_out[:1]
        if len(kept) == 1 and len(large) == 1:
            shape = [x.shape[dim] if dim == kept[0] else 1 for dim in dims_in]
            spread = np.broadcast_to(labels[kept[0]].reshape(shape), [x.shape[dim] for dim in dims_in])
            found[large[0]] = spread.reshape(-1)
        else:
            for dim in kept:
                tracker.freeze(labels[dim], PARTED)
    tracker.set(out, found)


def blocks(shape: Sequence[int], other: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes of two shapes of one size that have the same product."""
    found, i, j = [], 0, 0
    while i < len(shape) or j < len(other):
        a, b = [i] if i < len(shape) else [], [j] if j < len(other) else []
        i, j = i + len(a), j + len(b)
        while (x := int(np.prod([shape[k] for k in a]))) != (y := int(np.prod([other[k] for k in b]))):
            if x < y:
                a.append(i)
                i += 1
            else:
                b.append(j)
                j += 1
        found.append((a, b))
    return found


def broadcasting(tracker: ChannelTracker, name: str, args: list, out: Tensor) -> None:
    """expand, squeeze and unsqueeze: axes of size 1 come, go or are repeated."""
    x, labels = args[0], tracker.get(args[0])
    if name == "expand":
        pointwise(tracker, name, [x], out)
        return
    if name == "unsqueeze":
        found = list(labels)
        found.insert(args[1] % out.ndim, None)
    else:
        dims = range(x.ndim) if len(args) == 1 else [args[1]] if isinstance(args[1], int) else args[1]
        gone = {dim % x.ndim for dim in dims if x.shape[dim] == 1}
        for dim in gone:
            tracker.freeze(labels[dim], name)
        found = [label for dim, label in enumerate(labels) if dim not in gone]
    tracker.set(out, found)


RULES: dict[str, Callable[[ChannelTracker, str, list, object], None]] = {
    "convolution": convolution,
    "mm": matrix_product,
    "addmm": matrix_product,
    "cat": concatenation,
    "native_batch_norm": batch_norm,
    "cudnn_batch_norm": batch_norm,
    "_native_batch_norm_legit_no_training": batch_norm,
    "_to_copy": pointwise,
    "clone": pointwise,
    "detach": pointwise,
    "alias": pointwise,
    "lift_fresh": pointwise,
    "copy": pointwise,
    "contiguous": pointwise,
    "hardswish": pointwise,
    "hardsigmoid": pointwise,
    "hardtanh": pointwise,
    "gelu": pointwise,
    "elu": pointwise,
    "mish": pointwise,
    "softplus": pointwise,
    "max_pool2d_with_indices": over_places,
    "avg_pool2d": over_places,
    "_adaptive_avg_pool2d": over_places,
    "constant_pad_nd": over_places,
    "upsample_nearest2d": over_places,
    "upsample_bilinear2d": over_places,
    "upsample_bicubic2d": over_places,
    "sum": reduction,
    "mean": reduction,
    "amax": reduction,
    "amin": reduction,
    "max": reduction,
    "min": reduction,
    "permute": permutation,
    "transpose": permutation,
    "t": permutation,
    "view": reshaping,
    "_unsafe_view": reshaping,
    "reshape": reshaping,
    "_reshape_alias": reshaping,
    "expand": broadcasting,
    "squeeze": broadcasting,
    "unsqueeze": broadcasting,
    "split": splitting,
    "split_with_sizes": splitting,
    "select": picking,
    "unbind": picking,
    "slice": slicing,
    "_softmax": softmax,
}
