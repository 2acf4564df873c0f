"""The queue of runs: one owner at a time, takeover from the dead, ends that stay."""

import os
import subprocess
import sys
import time

import pytest

from tools.ablate import queue as run_queue
from tools.ablate.queue import RunQueue
from utils.general import ROOT

CLAIM = "import sys; from pathlib import Path; from tools.ablate.queue import RunQueue\n"
CLAIM += "queue = RunQueue(Path(sys.argv[1]))\n"
CLAIM += "print([key for key in map(str, range(40)) if queue.claim(key)], flush=True); sys.stdin.read()"


def test_a_run_has_one_owner(tmp_path):
    first, second = RunQueue(tmp_path), RunQueue(tmp_path)
    claim = first.claim("a")
    assert claim.number == 0
    assert second.claim("a") is None
    assert first.claim("a") is None
    assert second.state("a") == "running"
    assert second.claim("b") is not None


@pytest.mark.parametrize("state", ["done", "failed"])
def test_an_end_stays(tmp_path, state):
    queue = RunQueue(tmp_path)
    claim = queue.claim("a")
    claim.end(state, {"map": 0.5})
    claim.release()
    assert queue.state("a") == state
    assert queue.record("a") == {"map": 0.5}
    assert queue.claim("a") is None
    queue.retry("a")
    assert queue.state("a") == ("done" if state == "done" else "open")


def test_what_is_released_or_silent_is_taken_over_once(tmp_path):
    queue = RunQueue(tmp_path)
    queue.claim("a").release()
    assert queue.state("a") == "open"
    second = queue.claim("a")
    assert second.number == 1
    assert second.beat()
    os.utime(second.path, (1, 1))  # silent for long
    third = queue.claim("a")
    assert third.number == 2
    assert not second.beat()
    assert third.beat()


def test_another_machines_claim_holds_while_it_is_touched(tmp_path, monkeypatch):
    queue = RunQueue(tmp_path)
    monkeypatch.setattr(run_queue, "this_place", lambda: "elsewhere")
    monkeypatch.setattr(run_queue.os, "getpid", lambda: 2**22 + 1)  # no process here has it
    claim = queue.claim("a")
    monkeypatch.undo()
    assert queue.claim("a") is None
    long_ago = time.time() - queue.lost_after_s - 5
    os.utime(claim.path, (long_ago, long_ago))
    assert queue.claim("a").number == 1


def test_a_claim_that_is_being_written_holds(tmp_path):
    queue = RunQueue(tmp_path)
    queue.claim("a").path.write_text("")
    assert queue.claim("a") is None


def test_two_processes_share_and_the_dead_ones_part_is_taken_over(tmp_path):
    command = [sys.executable, "-c", CLAIM, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    workers = [subprocess.Popen(command, **pipes) for _ in range(2)]
    try:
        shares = [set(worker.stdout.readline().strip("[]\n").replace("'", "").split(", ")) for worker in workers]
        shares = [share - {""} for share in shares]
        assert not shares[0] & shares[1]
        assert shares[0] | shares[1] == {str(i) for i in range(40)}
        queue = RunQueue(tmp_path)
        assert not [key for key in map(str, range(40)) if queue.claim(key)]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert len([key for key in map(str, range(40)) if queue.claim(key)]) == 40


def test_a_damaged_record_is_named(tmp_path):
    queue = RunQueue(tmp_path)
    queue.claim("a").end("done", {})
    (tmp_path / "a" / "done.json").write_text("[")
    with pytest.raises(ValueError, match=r"done\.json: damaged"):
        queue.record("a")
