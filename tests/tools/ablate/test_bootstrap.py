"""Evaluations by image: the same AP as average_precision gives, and what drawing the images again does to it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tools.ablate.bootstrap import ImageRecorder, ImageStats, drawn_maps, interval
from utils.metrics import average_precision


def made(images=6, seed=0, quality=0.6):
    generator = np.random.default_rng(seed)
    owner = np.sort(generator.integers(0, images, 40))
    right = (generator.random((40, 10)) < quality).cumprod(1).astype(bool)
    scores = np.stack((generator.random(40), generator.integers(0, 2, 40)), 1).astype(np.float32)
    label_owner = np.arange(images).repeat(5)
    names = tuple(f"images/{i}.jpg" for i in range(images))
    return ImageStats(names, owner, right, scores, label_owner, generator.integers(0, 2, 5 * images))


def test_all_once_is_the_ap_itself():
    stats = made()
    ap = average_precision(stats.right, stats.scores[:, 0], stats.scores[:, 1], stats.label_class).ap.mean()
    assert stats.map() == stats.map(np.ones(6, int)) == ap > 0


def test_counts_are_copies_of_images():
    stats, counts = made(), np.array([2, 0, 1, 3, 0, 0])
    rows = np.concatenate([np.flatnonzero(stats.owner == i) for i in (0, 0, 2, 3, 3, 3)])
    labels = np.concatenate([np.flatnonzero(stats.label_owner == i) for i in (0, 0, 2, 3, 3, 3)])
    args = stats.right[rows], stats.scores[rows, 0], stats.scores[rows, 1], stats.label_class[labels]
    assert stats.map(counts) == pytest.approx(
        average_precision(*args).ap.mean(), abs=0.02
    )  # copies are ordered otherwise
    assert stats.map(np.zeros(6, int)) == 0


def test_round_trip(tmp_path):
    stats = made()
    stats.save(tmp_path / "images.npz")
    loaded = ImageStats.load(tmp_path / "images.npz")
    assert loaded.images == stats.images
    assert loaded.map() == stats.map()
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    with pytest.raises(ValueError, match=r"other\.npz"):
        ImageStats.load(tmp_path / "other.npz")


def test_draws_are_paired_and_repeatable():
    stats = made()
    drawn = drawn_maps(stats, 50)
    assert drawn.std() > 0
    assert (drawn == drawn_maps(stats, 50)).all()
    assert interval([drawn], [drawn]) == (0, 0)
    low, high = interval([drawn + 0.1, drawn + 0.3], [drawn, drawn])
    assert (low, high) == pytest.approx((0.2, 0.2))
    assert np.isnan(interval([drawn[:0]], [drawn[:0]])).all()


def test_a_difference_that_all_images_share_is_seen():
    better, worse = drawn_maps(made(quality=0.95), 100), drawn_maps(made(quality=0.3), 100)
    low, high = interval([better], [worse])
    assert 0 < low < high


def test_recorder_takes_images_in_any_order(tmp_path):
    box = [10.0, 10.0, 30.0, 30.0]
    hit, miss = torch.tensor([[*box, 0.9, 1.0]]), torch.tensor([[*box, 0.8, 0.0]])
    label, nothing = torch.tensor([[1.0, *box]]), torch.zeros(0, 5)
    paths = [f"{tmp_path}/{name}.jpg" for name in "cab"]
    recorder = ImageRecorder(tmp_path)
    batch = SimpleNamespace(paths=paths)
    recorder(SimpleNamespace(batch=batch, native=[hit, miss, torch.zeros(0, 6)], labels=[label, label, nothing]))
    stats = recorder.result()
    assert stats.images == ("a.jpg", "b.jpg", "c.jpg")
    assert stats.owner.tolist() == [0, 2]
    assert stats.right[:, 0].tolist() == [False, True]
    assert stats.label_owner.tolist() == [0, 2]
    assert stats.label_class.tolist() == [1, 1]


def test_no_images(tmp_path):
    stats = ImageRecorder(tmp_path).result()
    assert stats.map() == 0
    assert drawn_maps(stats, 3).tolist() == [0, 0, 0]
