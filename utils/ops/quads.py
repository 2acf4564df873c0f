"""v6.1's quad batches: one sample of twice the size from one or four, for large objects at low cost."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))  # column, row of each of four: the first two are on the left


def join_quad(images: Sequence[Tensor], targets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Join images (3, H, W) into one (3, 2H, 2W) uint8: one image enlarged, or four as a square; with targets (n, 6).

    Targets are rows of image index, class, cx, cy, w, h in 0..1; the image index is unchanged.
    """
    if len(images) == 1:
        larger = F.interpolate(images[0][None].float(), scale_factor=2, mode="bilinear", align_corners=False)
        return larger[0].round_().to(torch.uint8), targets[0]
    assert len(images) == len(targets) == len(PLACES)
    columns = [torch.cat(tuple(images[i : i + 2]), 1) for i in (0, 2)]  # 2 of (3, 2H, W)
    moved = []
    for rows, place in zip(targets, PLACES, strict=True):
        centre = (rows[:, 2:4] + torch.tensor(place)) / 2
        moved.append(torch.cat((rows[:, :2], centre, rows[:, 4:6] / 2), 1))
    return torch.cat(columns, 2), torch.cat(moved)
