"""Reading ahead and writing behind: two threads beside the one that computes, each with a bounded queue."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

T = TypeVar("T")
LONGEST_WAIT_S = 2.0  # for a reader that hangs, in a read from standard input for instance; it is a daemon
JOBS = 16  # that may wait to be written: pictures of a few MB each


class End(NamedTuple):
    """What a Prefetcher's thread puts last: the error that ended it, if it was one."""

    error: Exception | None = None


class Prefetcher(Iterator[T]):
    """An iterator run by a thread, up to `depth` items ahead; its exceptions come out where the items do."""

    def __init__(self, items: Iterable[T], depth: int = 2) -> None:
        self._queue: queue.Queue[T | End] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(items,), name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        """The next item; waits for it."""
        if self._stop.is_set():
            raise StopIteration
        item = self._queue.get()
        if not isinstance(item, End):
            return item
        self.close()
        raise item.error or StopIteration

    def close(self) -> None:
        """Ends the thread after the item it works on; what is left is dropped."""
        self._stop.set()
        self._thread.join(LONGEST_WAIT_S)

    def _run(self, items: Iterable[T]) -> None:
        """Puts the items into the queue; runs in the thread."""
        end = End()
        try:
            for item in items:
                if not self._put(item):
                    return
        except Exception as error:  # raised again by __next__
            end = End(error)
        self._put(end)

    def _put(self, item: T | End) -> bool:
        """Whether there was room before the end was asked for."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.05)
            except queue.Full:
                continue
            return True
        return False


class Background:
    """Does jobs in a thread, one after another in the order they came; a context manager that waits for the last.

    The first job that fails is the last one done: its error is raised by the next `submit`, or when the block ends.
    """

    def __init__(self, depth: int = JOBS) -> None:
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(depth)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="background")  # no daemon: what is waiting gets done
        self._thread.start()

    def __enter__(self) -> Self:
        """The queue of jobs."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits until all is done, and raises what went wrong unless the block failed itself."""
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def submit(self, job: Callable[[], None]) -> None:
        """Puts a job into the queue, and waits while it is full."""
        if self._error is not None:
            raise self._error
        self._queue.put(job)

    def _run(self) -> None:
        """Does the jobs; after an error it only takes them, so that nobody waits for room. Runs in the thread."""
        while (job := self._queue.get()) is not None:
            if self._error is None:
                try:
                    job()
                except Exception as error:  # raised again by submit or __exit__
                    self._error = error
