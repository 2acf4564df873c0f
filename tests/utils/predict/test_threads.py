"""Reading ahead and writing behind: order, errors, ends."""

import threading
import time
from functools import partial

import pytest

from utils.predict.threads import Background, Prefetcher


@pytest.mark.parametrize("count", [0, 1, 7])
def test_prefetcher_keeps_order(count):
    assert list(Prefetcher(range(count))) == list(range(count))


def test_prefetcher_passes_errors_on():
    def items():
        yield 1
        raise ValueError("broken")

    ahead = Prefetcher(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="broken"):
        next(ahead)
    with pytest.raises(StopIteration):
        next(ahead)


@pytest.mark.parametrize("depth", [1, 100])
def test_jobs_are_done_in_order_before_the_block_ends(depth):
    done = []
    with Background(depth) as background:
        for i in range(20):
            background.submit(partial(done.append, i))
    assert done == list(range(20))
    assert "background" not in {thread.name for thread in threading.enumerate()}


def test_a_failed_job_is_the_last_and_its_error_comes_out():
    done, failed = [], threading.Event()

    def fail():
        failed.set()
        raise OSError(28, "No space left on device")

    def work():
        with Background(1) as background:
            background.submit(fail)
            for i in range(1000):
                background.submit(partial(done.append, i))
                failed.wait(5)
                time.sleep(0.001)

    with pytest.raises(OSError, match="No space left"):
        work()
    assert failed.is_set()
    assert not done


def test_the_last_jobs_error_comes_out_at_the_end():
    with pytest.raises(ZeroDivisionError), Background() as background:
        background.submit(lambda: 1 // 0)


def test_the_blocks_own_error_goes_first_and_jobs_are_finished():
    done = []

    def work():
        with Background() as background:
            background.submit(partial(done.append, 1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1]
