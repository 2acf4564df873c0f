"""Requests that come one by one, computed several at a time by one thread, with a bound on how many may wait."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, NamedTuple, TypeVar

from utils.general import LOGGER, plural

Item = TypeVar("Item")
Result = TypeVar("Result")


class Busy(Exception):
    """There is no room for another item, or none is taken any more."""


class Job(NamedTuple, Generic[Item, Result]):
    """An item that waits, and what its sender holds."""

    item: Item
    future: "Future[Result]"


class Batcher(Generic[Item, Result]):
    """Gives `compute` up to `most` items at a time, in the order they came in; `room` items may wait at most.

    A batch that is not full waits for more until wait_s have passed since its first item was looked at.
    """

    def __init__(
        self, compute: Callable[[Sequence[Item]], Sequence[Result]], most: int, wait_s: float, room: int
    ) -> None:
        self.compute, self.most, self.wait_s, self.room = compute, most, wait_s, room
        self._waiting: deque[Job[Item, Result]] = deque()
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        """Whether items are still taken and computed."""
        return self._thread.is_alive() and not self._is_closed

    def submit(self, items: Sequence[Item]) -> list["Future[Result]"]:
        """A future for each of the items; Busy where there is no room for all of them, and then none is taken."""
        with self._changed:
            if self._is_closed:
                raise Busy("the server is stopping")
            if len(self._waiting) + len(items) > self.room:
                taken = f"{len(self._waiting)} of {self.room} places in the queue are taken"
                raise Busy(f"{taken}; try again")
            jobs = [Job(item, Future()) for item in items]
            self._waiting.extend(jobs)
            self._changed.notify_all()
        return [job.future for job in jobs]

    def close(self, longest_s: float = 30.0) -> None:
        """Takes no more, finishes what waits, and ends the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(longest_s)

    def _collect(self) -> list[Job[Item, Result]]:
        """The next jobs; none at the end."""
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            end = time.monotonic() + self.wait_s
            while 0 < len(self._waiting) < self.most and not self._is_closed and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            return [self._waiting.popleft() for _ in range(min(self.most, len(self._waiting)))]

    def _run(self) -> None:
        """Computes until the end; runs in the thread. What `compute` raises goes to those who wait for it."""
        while jobs := self._collect():
            live = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if not live:
                continue
            try:
                results = self.compute([job.item for job in live])
                assert len(results) == len(live), "a result for each item"
            except Exception as error:  # the next batch may well be computed
                LOGGER.error(f"a batch of {plural(len(live), 'image')} failed: {type(error).__name__}: {error}")
                for job in live:
                    job.future.set_exception(error)
            else:
                for job, result in zip(live, results, strict=True):
                    job.future.set_result(result)
