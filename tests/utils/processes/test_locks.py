"""Locks keep other processes out, and end with their owner."""

import os
import signal
import subprocess
import sys

import pytest

from utils.general import ROOT
from utils.processes.locks import FOLDER_LOCK, InUseError, Lock, is_abandoned, sign_of_life

OWNER = """
import os, sys, time
from pathlib import Path
from utils.processes.locks import Lock
lock = Lock()
lock.take_{kind}(Path(sys.argv[1]))
if os.fork() == 0:
    time.sleep(100)  # a child of the owner, which lives on
print(os.getpid(), flush=True)
sys.stdin.read()
lock.release()
"""


@pytest.fixture(params=["folder", "file"])
def owned(request, tmp_path):
    """A path that another process has locked, that process, and the method that takes its lock."""
    path = tmp_path / "place"
    path.mkdir()
    code = OWNER.format(kind=request.param)
    owner = subprocess.Popen(
        [sys.executable, "-c", code, path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert owner.stdout.readline() == f"{owner.pid}\n"
    yield path, owner, getattr(Lock, f"take_{request.param}")
    os.killpg(owner.pid, signal.SIGKILL)
    owner.stdin.close()
    owner.wait()


def test_the_owner_is_named_and_its_end_frees_the_lock(owned):
    path, owner, take = owned
    with Lock() as lock:
        with pytest.raises(InUseError, match=f"{path}: process {owner.pid} on"):
            take(lock, path)
        owner.kill()  # its child lives on
        owner.wait()
        take(lock, path)
        take(lock, path)  # again by the same lock
    assert not [*path.parent.glob(".*"), *path.glob(".*")]


def test_a_lock_that_is_released_leaves_nothing(tmp_path):
    with Lock() as lock:
        lock.take_folder(tmp_path)
        assert (tmp_path / FOLDER_LOCK).is_file()
    assert not list(tmp_path.iterdir())
    with Lock() as lock:
        lock.take_folder(tmp_path)


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("utils.processes.locks.fcntl.lockf", refuse)
    with Lock() as lock:
        lock.take_folder(tmp_path)


def test_signs_of_life(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path in (file, tmp_path):
        assert is_abandoned(path)
        with sign_of_life(path):
            assert is_abandoned(path) is False
        assert is_abandoned(path)
