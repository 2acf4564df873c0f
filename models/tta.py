"""Test-time augmentation: merge the boxes of scaled and flipped views of an image."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

VIEWS = ((1.0, False), (0.83, True), (0.67, False))  # scale, mirrored left to right; the first and the last are trimmed
GRAY = 0.447  # what is added to reach a multiple of the stride: ImageNet's mean

Predict = Callable[[Tensor], tuple[Tensor, list[Tensor]]]  # images to decoded (B, N, no) and raw maps (B, A, H, W, no)


def predict_augmented(predict: Predict, images: Tensor, stride: int) -> Tensor:
    """Predict boxes (B, N, no) on all views of images (B, C, H, W); xywh in pixels of the given images.

    Each view drops the level that another view covers better: the full size its coarsest, the smallest its finest.
    """
    found = []
    for i, (scale, mirrored) in enumerate(VIEWS):
        view, (ratio_h, ratio_w) = scale_images(images.flip(3) if mirrored else images, scale, stride)
        decoded, raw = predict(view)
        levels = list(decoded.split([level[0, ..., 0].numel() for level in raw], 1))
        if len(levels) > 1 and i in (0, len(VIEWS) - 1):
            levels.pop(-1 if i == 0 else 0)
        boxes = torch.cat(levels, 1)
        x, y, w, h, scores = boxes.tensor_split((1, 2, 3, 4), -1)
        x = x / ratio_w
        x = images.shape[3] - x if mirrored else x
        found.append(torch.cat((x, y / ratio_h, w / ratio_w, h / ratio_h, scores), -1))
    return torch.cat(found, 1)


def scale_images(images: Tensor, scale: float, stride: int) -> tuple[Tensor, tuple[float, float]]:
    """Scale images (B, C, H, W), pad them to multiples of the stride; return ratios (height, width) too.

    Padding is at the right and bottom. The ratios are those of the rounded sizes, so that boxes map back exactly.
    """
    if scale == 1:
        return images, (1.0, 1.0)
    h, w = images.shape[2:]
    small_h, small_w = max(int(h * scale), 1), max(int(w * scale), 1)
    scaled = F.interpolate(images, (small_h, small_w), mode="bilinear", align_corners=False)
    full_h, full_w = (math.ceil(side * scale / stride) * stride for side in (h, w))
    padding = (0, full_w - small_w, 0, full_h - small_h)
    return F.pad(scaled, padding, value=GRAY), (small_h / h, small_w / w)
