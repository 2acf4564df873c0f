"""Augmentations as training calls them: ours, or v6.1's if a user has pasted one into utils/augmentations.py.

Ours take a generator, `rng`, and scenes that are not rendered yet. One without `rng` is written for v6.1: it takes
images and draws from the global generators, which are seeded from ours, so that a sample stays the same on every run.

Legend: n labels, h and w in pixels. Labels are (n, 5) float32 rows class, x1, y1, x2, y2 in pixels of the image.
"""

import inspect
import random
from collections.abc import Callable
from functools import cache

import numpy as np

from utils import augmentations
from utils.augmentations import Scene, Tile, paint
from utils.base.pasted import pasted_function
from utils.ops.boxes import xywhn2xyxy, xyxy2xywhn

IDENTITY = np.eye(3)
SEEDS = 2**32


@cache
def is_for_v61(function: Callable) -> bool:
    """Return True if an augmentation does not take our generator; add v6.1's names that it uses to its module."""
    if "rng" in inspect.signature(function).parameters:
        return False
    pasted_function(augmentations.__name__, function.__name__)
    return True


def seed_global(rng: np.random.Generator) -> None:
    """Seed the generators that v6.1's functions draw from."""
    seed = int(rng.integers(SEEDS))
    random.seed(seed)
    np.random.seed(seed)


def segments_of(scene: Scene) -> list[np.ndarray]:
    """Return a polygon (k, 2) for each label, or none at all unless every label has one."""
    polygons = [points for points in scene.polygons if points is not None]
    return polygons if len(polygons) == len(scene.labels) else []


def warped(
    scene: Scene, out_hw: tuple[int, int], ranges: dict[str, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Warp a scene by `random_perspective`; return the image (h, w, 3) and the labels that are left, (m, 5)."""
    warp = augmentations.random_perspective
    if not is_for_v61(warp):
        return warp(scene, out_hw, **ranges, rng=rng)
    seed_global(rng)
    border = tuple((after - before) // 2 for after, before in zip(out_hw, scene.hw, strict=True))
    image = paint(scene, IDENTITY, scene.hw)
    return warp(image, scene.labels.copy(), segments_of(scene), **ranges, border=border)


def with_copies(scene: Scene, probability: float, rng: np.random.Generator) -> Scene:
    """Return the scene after `copy_paste`."""
    paste = augmentations.copy_paste
    if not is_for_v61(paste):
        return paste(scene, probability, rng)
    seed_global(rng)
    image, labels, segments = paste(
        paint(scene, IDENTITY, scene.hw), scene.labels.copy(), segments_of(scene), p=probability
    )
    return Scene(scene.hw, (Tile(image, IDENTITY),), np.asarray(labels, np.float32), segments)


def mixed(
    image: np.ndarray, labels: np.ndarray, other: np.ndarray, other_labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return both images, each (h, w, 3), as one by `mixup`, with the labels of both."""
    mix = augmentations.mixup
    if not is_for_v61(mix):
        return mix(image, labels, other, other_labels, rng)
    seed_global(rng)
    return mix(image, labels, other, other_labels)


def recoloured(image: np.ndarray, gains: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """Return the image (h, w, 3) after `augment_hsv`; v6.1's changes it in place and returns nothing."""
    change = augmentations.augment_hsv
    if not is_for_v61(change):
        return change(image, *gains, rng)
    seed_global(rng)
    image = np.require(image, requirements=["C", "W"])
    changed = change(image, *gains)
    return image if changed is None else changed


def by_albumentations(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return image (h, w, 3) and labels (n, 5) after a pasted class `Albumentations`, unchanged if there is none.

    The class gets class, cx, cy, w, h in 0..1, as in v6.1.
    """
    kind = vars(augmentations).get("Albumentations")
    if kind is None:
        return image, labels
    seed_global(rng)
    h, w = image.shape[:2]
    shares = np.concatenate((labels[:, :1], xyxy2xywhn(labels[:, 1:], w=w, h=h, clip=True, eps=1e-3)), 1)
    image, shares = only(kind)(image, shares)
    h, w = image.shape[:2]
    shares = np.asarray(shares, np.float32).reshape(-1, 5)
    return image, np.concatenate((shares[:, :1], xywhn2xyxy(shares[:, 1:], w, h)), 1)


@cache
def only(kind: Callable) -> Callable:
    """Return the one object of a class in this process."""
    return kind()
