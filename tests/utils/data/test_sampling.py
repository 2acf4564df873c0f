"""The order of epochs: shared by ranks, different in each, by aspect or by weights."""

import numpy as np
import pytest

from utils.data.labels import LabelRecord
from utils.data.sampling import EpochBatches, ImageWeights, SampleKey, numbered_repeats, rectangular_shapes


def test_rectangular_shapes_by_hand():
    hw = np.array([[480, 640], [640, 480], [500, 500], [240, 640], [640, 320], [600, 640]])
    order, shapes = rectangular_shapes(hw, 2, 320, 32, 0.5)
    assert order.tolist() == [3, 0, 5, 2, 1, 4]
    # 3 with 0: 0.75 * 10 + 0.5 = 8 strides high; 5 with 2: square; 1 with 4: 10 / 1.3333 + 0.5 = 8 strides wide
    flat, square, narrow = [256, 352], [352, 352], [352, 256]
    assert shapes.tolist() == [flat, narrow, square, flat, narrow, square]
    assert rectangular_shapes(hw, 6, 320, 32)[1].tolist() == [[320, 320]] * 6
    assert rectangular_shapes(hw[:1], 4, 320, 32)[1].tolist() == [[256, 320]]


@pytest.mark.parametrize("n", [1, 7, 12])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_an_epoch(n, world_size):
    shards = [EpochBatches(n, 2, seed=3, rank=rank, world_size=world_size, epochs=1) for rank in range(world_size)]
    made = [list(shard) for shard in shards]
    assert {len(one) for one in made} == {len(shards[0])}
    indices = [key.indices[0] for one in made for batch in one for key in batch]
    assert set(indices) == set(range(n))
    assert len(indices) == n + -n % world_size


@pytest.mark.parametrize("quad", [False, True])
@pytest.mark.parametrize("n", [1, 5, 8, 13, 24])
def test_ranks_make_the_batches_of_one_process(n, quad):
    """But for the last sample, which may be there twice."""
    options = {"seed": 3, "epochs": 2, "quad": quad}
    alone = list(EpochBatches(n, 16, **options))
    shards = [list(EpochBatches(n, 8, rank=rank, world_size=2, **options)) for rank in range(2)]
    together = [sorted(one + two) for one, two in zip(*shards, strict=True)]
    assert len(together) == len(alone) == 2 * len(EpochBatches(n, 8, world_size=2, **options))
    for batch, expected in zip(together, alone, strict=True):
        assert batch == sorted(expected + expected[-1:] * (len(expected) % 2))


def test_epochs_have_orders_of_their_own():
    keys = [key for batch in EpochBatches(20, 8, seed=1, start_epoch=4, epochs=7) for key in batch]
    assert [key.epoch for key in keys] == [4] * 20 + [5] * 20 + [6] * 20
    orders = [tuple(key.indices[0] for key in keys if key.epoch == epoch) for epoch in (4, 5, 6)]
    assert len(set(orders)) == 3
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert keys == [key for batch in EpochBatches(20, 8, seed=1, start_epoch=4, epochs=7) for key in batch]


# Quads ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "batch_size", "sizes"), [(8, 4, [1, 1]), (9, 8, [2, 1]), (3, 4, [1]), (16, 16, [4])])
@pytest.mark.parametrize("world_size", [1, 2])
def test_quads_hold_each_image(n, batch_size, sizes, world_size):
    options = {"seed": 3, "epochs": 1, "quad": True, "world_size": world_size}
    shards = [EpochBatches(n * world_size, batch_size, rank=rank, **options) for rank in range(world_size)]
    for shard in shards:
        assert [len(batch) for batch in shard] == sizes
        assert len(shard) == len(sizes)
    keys = [key for shard in shards for batch in shard for key in batch]
    assert all(len(key.indices) == 4 and key.epoch == 0 for key in keys)
    assert {index for key in keys for index in key.indices} == set(range(n * world_size))


def test_quads_follow_the_order():
    plain = next(iter(EpochBatches(8, 8, seed=2, epochs=1)))
    quads = next(iter(EpochBatches(8, 8, seed=2, epochs=1, quad=True)))
    assert [index for key in quads for index in key.indices] == [key.indices[0] for key in plain]


# Image weights --------------------------------------------------------------------------------------------------------


def record(*classes):
    boxes = np.array([[c, 0.5, 0.5, 0.1, 0.1] for c in classes], np.float32).reshape(-1, 5)
    return LabelRecord("a.jpg", (10, 10), boxes)


RECORDS = [record(0, 0, 1), record(0), record(), record(1, 0)]  # class 0 four times, 1 twice, 2 never


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        (None, [1 / 4 + 1 / 4 + 1 / 2, 1 / 4, 0, 1 / 2 + 1 / 4]),
        ([0.0, 0.0, 0.0], [1, 1 / 4, 0, 3 / 4]),
        ([1.0, 0.0, 0.3], [1 / 2, 0, 0, 1 / 2]),
        ([0.5, 0.0, 0.0], [1 / 8 + 1 / 2, 1 / 16, 0, 1 / 2 + 1 / 16]),
        ([1.0, 1.0, 0.0], [1, 1, 1, 1]),  # all are found: none is worth more
    ],
)
def test_image_weights_by_hand(maps, expected):
    np.testing.assert_allclose(ImageWeights(RECORDS, 3)(maps), np.array(expected) / sum(expected))


def test_weighted_order():
    weights = np.array([0.7, 0.1, 0.0, 0.2])
    batches = EpochBatches(4, 2, seed=1, weights=weights)
    orders = np.array([batches.order(epoch) % 4 for epoch in range(2000)])
    np.testing.assert_allclose(np.bincount(orders.ravel(), minlength=4) / orders.size, weights, atol=0.02)
    again = EpochBatches(4, 2, seed=1, start_epoch=3, weights=weights)
    np.testing.assert_array_equal(batches.order(7), again.order(7))
    assert any((batches.order(e) != EpochBatches(4, 2, seed=2, weights=weights).order(e)).any() for e in range(20))


def test_repeats_are_told_apart():
    assert numbered_repeats(np.array([2, 0, 2, 2, 0])).tolist() == [2, 0, 7, 12, 5]
    indices = np.random.default_rng(0).integers(50, size=50)
    numbered = numbered_repeats(indices)
    assert len(set(numbered.tolist())) == 50
    np.testing.assert_array_equal(numbered % 50, indices)


def test_a_fixed_order_stays():
    batches = EpochBatches(3, 2, epochs=1, fixed_order=np.array([2, 0, 1]))
    assert list(batches) == [[SampleKey(0, (2,)), SampleKey(0, (0,))], [SampleKey(0, (1,))]]
