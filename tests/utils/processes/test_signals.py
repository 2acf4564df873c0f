"""Signals that ask to stop raise Stopped, at once or when it suits; their names and statuses."""

import os
import signal
import subprocess
import sys
import time

import pytest

from utils.general import ROOT
from utils.processes.signals import Stopped, exit_status, stop_name, stop_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_raised_once_and_handlers_are_put_back(number):
    before = signal.getsignal(number)
    with stop_signals() as signals:
        with pytest.raises(Stopped, match=stop_name(number)) as stopped:
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # the same request again
        assert signals.number == number
    assert exit_status(stopped.value) == 128 + number
    assert signal.getsignal(number) == before


def test_deferred():
    with stop_signals(is_deferred=True) as signals:
        signals.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="SIGTERM"):
            signals.check()
        with pytest.raises(Stopped), signals.at_once():
            pytest.fail("the block must not run")
    with stop_signals(is_deferred=True) as signals:
        with pytest.raises(Stopped), signals.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signals.is_deferred


def test_what_is_ignored_stays_ignored():
    """As SIGHUP is under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_plain_interrupt():
    assert exit_status(KeyboardInterrupt()) == 130
    assert stop_name(signal.SIGINT) == "Ctrl-C"


SCRIPT = """
import os, signal, sys, time
from utils.processes import signals
from utils.processes.signals import StopSignals, Stopped
signals.PATIENCE_S = 0.1
StopSignals().install()
try:
    os.kill(os.getpid(), signal.SIGINT)
except Stopped:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.3)
    print("cleaning up", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still at it", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("too late", flush=True)
"""


def test_a_second_ctrl_c_ends_at_once_without_a_traceback():
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stdout.split("\n") == ["cleaning up", "still at it", ""]
    assert not done.stderr


def test_raised_again_where_python_drops_it():
    """In a finalizer, for instance, whose errors are only shown."""

    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            len("a call, after which a handler may run")

    def drop_and_sleep():
        made = Finalized()
        del made
        time.sleep(5)

    with stop_signals(), pytest.raises(Stopped, match="SIGTERM"):
        drop_and_sleep()
