"""The batches: order, size, room, failures, cancelled items, the end."""

import threading

import pytest

from tools.serve.batches import Batcher, Busy


@pytest.fixture
def gate():
    """A batcher that doubles numbers when `gate.open` is set; `gate.batches` says what came together."""

    class Gate:
        open, entered, batches = threading.Event(), threading.Event(), []

        def compute(self, items):
            self.batches.append(list(items))
            self.entered.set()
            assert self.open.wait(10)
            if 13 in items:
                raise ValueError("thirteen")
            return [2 * item for item in items]

        def batcher(self, **options):
            self.made = Batcher(self.compute, **{"most": 3, "wait_s": 0, "room": 8, **options})
            return self.made

    gate = Gate()
    yield gate
    gate.open.set()
    gate.made.close()


def first(gate, batcher):
    """Keeps the thread busy with an item."""
    (future,) = batcher.submit([100])
    assert gate.entered.wait(10)
    return future


def test_what_waits_goes_together_in_order(gate):
    batcher = gate.batcher()
    futures = [first(gate, batcher), *batcher.submit([1, 2]), *batcher.submit([3, 4])]
    assert len(batcher) == 4
    gate.open.set()
    assert [future.result(10) for future in futures] == [200, 2, 4, 6, 8]
    assert gate.batches == [[100], [1, 2, 3], [4]]
    assert batcher.submit([]) == []


def test_a_batch_waits_for_more(gate):
    gate.open.set()
    batcher = gate.batcher(most=2, wait_s=10)
    futures = [*batcher.submit([1]), *batcher.submit([2])]
    assert [future.result(5) for future in futures] == [2, 4]
    assert gate.batches == [[1, 2]]


def test_room_is_for_all_items_of_a_request_or_none(gate):
    batcher = gate.batcher(room=3)
    first(gate, batcher)
    batcher.submit([1, 2])
    with pytest.raises(Busy, match="2 of 3 places in the queue are taken; try again"):
        batcher.submit([3, 4])
    assert len(batcher) == 2
    batcher.submit([3])


def test_a_failure_reaches_those_of_its_batch_only(gate):
    batcher = gate.batcher(most=2)
    futures = [first(gate, batcher), *batcher.submit([13, 1, 2])]
    gate.open.set()
    for future in futures[1:3]:
        with pytest.raises(ValueError, match="thirteen"):
            future.result(10)
    assert futures[3].result(10) == 4
    assert batcher.is_alive


def test_cancelled_items_are_not_computed(gate):
    batcher = gate.batcher()
    first(gate, batcher)
    futures = batcher.submit([1, 2])
    lost = batcher.submit([3, 4, 5])
    assert all(future.cancel() for future in [futures[0], *lost])
    gate.open.set()
    assert futures[1].result(10) == 4
    assert batcher.submit([6])[0].result(10) == 12
    assert gate.batches == [[100], [2], [6]]


def test_the_end_finishes_what_waits(gate):
    batcher = gate.batcher(wait_s=10)
    gate.open.set()
    futures = batcher.submit([1, 2])
    batcher.close()
    assert [future.result(0) for future in futures] == [2, 4]
    assert not batcher.is_alive
    with pytest.raises(Busy, match="the server is stopping"):
        batcher.submit([3])
