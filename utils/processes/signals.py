"""Signals that ask a process to stop: Ctrl-C, SIGTERM of schedulers, SIGHUP of a terminal that is closed.

All of them end a program as Ctrl-C does in Python: by a KeyboardInterrupt, so that `finally` blocks are run.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # as far as the system has them
ON_REQUEST = ("SIGUSR1",)  # sent by a scheduler that is told to warn a job some time before its end
PATIENCE_S = 1.0  # within which a second Ctrl-C is taken for a repetition of the first
RAISED_AGAIN_S = 0.02  # when Python is likely to be out of what has dropped the exception
WORKER_GRACE_S = 5
SET_PARENT_DEATH_SIGNAL = 1  # Linux: prctl's PR_SET_PDEATHSIG
Handler = Any  # what `signal.getsignal` returns: a function, or a constant


class Stopped(KeyboardInterrupt):
    """Raised in the main thread by a signal that asks the process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(stop_name(number))
        self.number = number


def stop_name(number: int) -> str:
    """Return `Ctrl-C` for SIGINT, `SIGTERM` for SIGTERM."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def exit_status(error: KeyboardInterrupt) -> int:
    """Return the exit status that shells expect: 128 and the number of the signal."""
    return 128 + (error.number if isinstance(error, Stopped) else signal.SIGINT)


class StopSignals:
    """Handle the signals that ask this process to stop, between `install` and `restore`.

    The first one raises Stopped, at once or if `is_deferred` by the next `check`. Later ones are ignored, but a second
    Ctrl-C ends the process without further ado if the end takes longer than PATIENCE_S. A signal that the process
    ignores, as SIGHUP under nohup, stays ignored. Does nothing outside the main thread, which alone may handle signals.
    """

    def __init__(self, is_deferred: bool = False, names: tuple[str, ...] = STOPPING) -> None:
        self.is_deferred, self.names = is_deferred, names
        self.number: int | None = None  # of the first signal that came
        self.since = 0.0  # when it came
        self.previous: dict[int, Handler] = {}
        self.previous_hook: Callable[[Any], object] | None = None
        self.terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def install(self) -> None:
        """Begin to handle the signals."""
        if threading.current_thread() is not threading.main_thread():
            return
        self.previous_hook, sys.unraisablehook = sys.unraisablehook, self._handle_ignored
        for name in self.names:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                self.previous[number] = signal.signal(number, self._handle)

    def restore(self) -> None:
        """Leave the signals to those that handled them before."""
        if self.previous_hook is not None:
            sys.unraisablehook, self.previous_hook = self.previous_hook, None
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()

    def check(self) -> None:
        """Raise Stopped if a signal has come."""
        if self.number is not None:
            raise Stopped(self.number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal raise Stopped wherever the block is, and if it has come before the block begins."""
        deferred, self.is_deferred = self.is_deferred, False
        try:
            self.check()
            yield
        finally:
            self.is_deferred = deferred

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == getattr(signal, "SIGHUP", None):
            self._leave_closed_terminals()
        if self.number is None:
            self.number, self.since = number, time.monotonic()
            if not self.is_deferred:
                raise Stopped(number)
        elif number == signal.SIGINT and time.monotonic() - self.since > PATIENCE_S:
            os._exit(128 + number)

    def _handle_ignored(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Raise Stopped again if Python has dropped it, as it does in finalizers and in what it calls at a fork."""
        if isinstance(unraisable.exc_value, Stopped) and unraisable.exc_value.number == self.number:
            self.number = None
            threading.Timer(RAISED_AGAIN_S, _signal_main_thread, [unraisable.exc_value.number]).start()
        elif self.previous_hook is not None:
            self.previous_hook(unraisable)

    def _leave_closed_terminals(self) -> None:
        """Send what is written to a closed terminal to nowhere: each write would be an error."""
        for descriptor in self.terminals:
            if not os.isatty(descriptor):
                with open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), descriptor)


def _signal_main_thread(number: int) -> None:
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, number)  # so that it leaves a system call, too
    else:
        signal.raise_signal(number)


@contextmanager
def stop_signals(is_deferred: bool = False, names: tuple[str, ...] = STOPPING) -> Iterator[StopSignals]:
    """Handle the signals while the block runs, see StopSignals."""
    signals = StopSignals(is_deferred, names)
    signals.install()
    try:
        yield signals
    finally:
        signals.restore()


# Child processes ------------------------------------------------------------------------------------------------------


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, however that ends (Linux only).

    The parent is the thread that started this process.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def leave_stopping_to_parent() -> None:
    """Survive signals sent to a whole group of processes: the parent ends this one, or its death does.

    After SIGTERM, with which the parent ends a child that hangs, the process has WORKER_GRACE_S seconds. Connections
    that the parent breaks off as it stops are no errors to show.
    """
    die_with_parent()
    sys.excepthook = _show_unless_broken_off
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE_S))


def _show_unless_broken_off(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)
