"""v6.1's changes of pixels that it leaves to Albumentations, and v6.2's of images for classifiers; both by OpenCV."""

import random
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

PROBABILITY = 0.01  # of each change
KERNELS = (3, 5, 7)  # pixels of a blur
CLIP_LIMIT = 4.0  # of CLAHE's contrast, at most
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue


def box_candidates(
    box1: np.ndarray,
    box2: np.ndarray,
    wh_thr: float = 2,
    ar_thr: float = 100,
    area_thr: float = 0.1,
    eps: float = 1e-16,
) -> np.ndarray:
    """Return (n,) bool: the boxes that are still large enough after augmentation.

    Args:
        box1: (4, n) xyxy before augmentation.
        box2: (4, n) xyxy after it.
        wh_thr: Minimum width and height in pixels.
        ar_thr: Maximum aspect ratio.
        area_thr: Minimum ratio of the areas after and before.
        eps: Added to denominators.
    """
    (w1, h1), (w2, h2) = box1[2:] - box1[:2], box2[2:] - box2[:2]
    aspect = np.maximum(w2 / (h2 + eps), h2 / (w2 + eps))
    return (w2 > wh_thr) & (h2 > wh_thr) & (w2 * h2 / (w1 * h1 + eps) > area_thr) & (aspect < ar_thr)


class Albumentations:
    """Blur, median blur, gray and CLAHE, each of one image in a hundred; boxes stay as they are.

    v6.1 has them of the package Albumentations, and nothing without it; here OpenCV does the same.
    """

    def __init__(self) -> None:
        self.transform = (_blurred, _median_blurred, _gray, _equalized)

    def __call__(self, im: np.ndarray, labels: np.ndarray, p: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """The image (h, w, 3) BGR uint8, with probability p perhaps changed, and its labels."""
        if random.random() < p:
            for change in self.transform:
                if random.random() < PROBABILITY:
                    im = change(im)
        return im, labels


def _blurred(image: np.ndarray) -> np.ndarray:
    size = random.choice(KERNELS)
    return cv2.blur(image, (size, size))


def _median_blurred(image: np.ndarray) -> np.ndarray:
    return cv2.medianBlur(image, random.choice(KERNELS))


def _gray(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def _equalized(image: np.ndarray) -> np.ndarray:
    lab = cv2.cvtColor(image, cv2.COLOR_BGR2LAB)
    lightness = cv2.createCLAHE(random.uniform(1, CLIP_LIMIT), (8, 8)).apply(lab[..., 0])
    return cv2.cvtColor(cv2.merge([lightness, lab[..., 1], lab[..., 2]]), cv2.COLOR_LAB2BGR)


def classify_transforms(size: int = 224) -> Callable[[np.ndarray], Tensor]:
    """A function that makes an image (h, w, 3) BGR uint8 a classifier's (3, size, size): the middle square, RGB,
    scaled, by ImageNet's mean and deviation.
    """
    assert isinstance(size, int), f"size {size}: one number of pixels is expected"

    def transform(image: np.ndarray) -> Tensor:
        h, w = image.shape[:2]
        side = min(h, w)
        top, left = (h - side) // 2, (w - side) // 2
        square = cv2.resize(image[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_LINEAR)
        pixels = torch.from_numpy(np.ascontiguousarray(square.transpose(2, 0, 1)[::-1])).float() / 255
        return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)

    return transform
