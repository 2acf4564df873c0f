"""Random splits of images with exact sizes; copies of an image stay in one split; deterministic for a seed."""

import hashlib
import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROBOFLOW_MARK = ".rf."  # dog_jpg.rf.<hash>.jpg: all versions of one picture begin alike


def divide(groups: Sequence[int], shares: Sequence[float], seed: int = 0) -> list[int]:
    """Assign each image (N,) to a part by its group, without dividing a group; return part indices (N,).

    Part i gets shares[i] of the images, rounded so that all are assigned; at least one if its share is above 0 and
    there are enough. If groups do not fit, each part but the largest is short by less than a group.
    """
    sizes = _part_sizes(len(groups), shares)
    members = Counter(groups)
    order = sorted(members)
    random.Random(seed).shuffle(order)
    part_of: dict[int, int] = {}
    largest = max(range(len(sizes)), key=sizes.__getitem__)
    for part in sorted(set(range(len(sizes))) - {largest}, key=sizes.__getitem__):
        room = sizes[part]
        for group in order:
            if group not in part_of and members[group] <= room:
                part_of[group] = part
                room -= members[group]
        left = [group for group in order if group not in part_of]
        if sizes[part] and room == sizes[part] and len(left) > 1:  # all groups are larger than the part should be
            part_of[min(left, key=members.__getitem__)] = part
    return [part_of.get(group, largest) for group in groups]


def _part_sizes(count: int, shares: Sequence[float]) -> list[int]:
    """Round the parts' shares of `count` to sizes that sum to it."""
    exact = [count * share / sum(shares) for share in shares]
    sizes = [int(value + 1e-9) for value in exact]
    by_rest = sorted(range(len(sizes)), key=lambda i: sizes[i] - exact[i])
    for i in by_rest[: count - sum(sizes)]:
        sizes[i] += 1
    for i, share in enumerate(shares):
        largest = max(range(len(sizes)), key=sizes.__getitem__)
        if share > 0 and not sizes[i] and sizes[largest] > 1:
            sizes[i] += 1
            sizes[largest] -= 1
    return sizes


def group_copies(images: Sequence[str | Path]) -> list[int]:
    """Number images (N,) so that copies have one number: files of equal content, and Roboflow's versions of one image.

    Raises:
        OSError: if a file cannot be read.
    """
    sizes = [os.path.getsize(image) for image in images]
    shared = {size for size, count in Counter(sizes).items() if count > 1}
    parents = list(range(len(images)))

    def root(i: int) -> int:
        while parents[i] != i:
            i = parents[i]
        return i

    first: dict[object, int] = {}
    for i, (image, size) in enumerate(zip(images, sizes, strict=True)):
        keys: list[object] = []
        if size in shared:
            with open(image, "rb") as file:
                keys.append(hashlib.file_digest(file, "blake2b").digest())
        original, mark, _ = Path(image).name.rpartition(ROBOFLOW_MARK)
        if mark:
            keys.append(original)
        for key in keys:
            one, other = sorted((root(first.setdefault(key, i)), root(i)))
            parents[other] = one
    return [root(i) for i in range(len(images))]
