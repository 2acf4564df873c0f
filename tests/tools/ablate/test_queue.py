"""The queue of runs: one owner at a time, takeover from the dead, records that stay; with real processes."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial

import optuna
import pytest

from tools.ablate.queue import RunFailedError, RunQueue, RunReleasedError
from utils.evolve.study import GRACE_S, WORKER
from utils.general import ROOT

# Does each run that it gets: adds a line to <key>.txt, waits for the file `go`, and gives its PID as the record.
WORKER_CODE = """
import os, sys, time
from pathlib import Path
from tools.ablate.queue import RunQueue

place, storage, keys = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
queue = RunQueue(place / "queue", storage)

def train(key):
    def function(claim):
        with (place / f"{key}.txt").open("a") as file:
            file.write(f"{os.getpid()}\\n")
        while not (place / "go").exists():
            time.sleep(0.02)
        return {"map": 0.5, "pid": os.getpid()}
    return function

for key in keys:
    queue.do(key, train(key))
"""


def start(place, keys, storage=""):
    command = [sys.executable, "-c", WORKER_CODE, str(place), storage, *keys]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for(condition):
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come")


@pytest.fixture
def queue(tmp_path):
    return RunQueue(tmp_path / "queue")


def fail(claim):
    raise RunFailedError({"status": 1})


def test_a_run_is_done_once(queue, tmp_path):
    queue.do("a", lambda claim: {"map": 0.25, "peak_mb": None})
    queue.do("a", lambda claim: pytest.fail("done before"))
    for reader in (queue, RunQueue(tmp_path / "queue")):
        assert reader.state("a") == "done"
        assert reader.record("a") == {"map": 0.25, "peak_mb": None}
        assert reader.state("b") == "open"


def test_queues_of_one_database_are_apart(queue, tmp_path):
    other = RunQueue(tmp_path / "queue", name="other")
    queue.do("a", lambda claim: {"map": 0.25})
    assert other.state("a") == "open"


def test_a_running_run_is_left_alone(queue, tmp_path):
    def function(claim):
        other = RunQueue(tmp_path / "queue")
        assert other.state("a") == "running"
        other.do("a", lambda claim: pytest.fail("another worker does it"))
        assert claim.is_held()
        return {"map": 0.5}

    queue.do("a", function)
    assert queue.state("a") == "done"


def test_the_second_of_two_that_begin_at_once_lets_go(queue, monkeypatch):
    def function(claim):
        monkeypatch.setattr(queue, "state", lambda key: "open")  # as read before the first one began
        queue.studies["a"] = optuna.load_study(study_name="ablate/a", storage=queue.storage)
        queue.do("a", lambda claim: pytest.fail("the first one does it"))
        monkeypatch.undo()
        return {"map": 0.5}

    queue.do("a", function)
    assert [trial.state.name for trial in queue.study("a").trials] == ["COMPLETE", "PRUNED"]
    assert queue.state("a") == "done"


def test_a_failure_stays_until_it_is_retried(queue):
    queue.do("a", fail)
    assert queue.state("a") == "failed"
    assert queue.record("a") == {"status": 1}
    queue.do("a", lambda claim: pytest.fail("not before a retry"))
    queue.retry("a")
    assert queue.state("a") == "open"
    queue.do("a", lambda claim: {"map": 0.5})
    queue.retry("a")
    assert queue.state("a") == "done"


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("no image")])
def test_other_errors_give_the_run_back(queue, error):
    def function(claim):
        raise error

    with pytest.raises(type(error), match=str(error)):
        queue.do("a", function)
    assert queue.state("a") == "open"


def test_a_released_run_is_open(queue):
    def function(claim):
        raise RunReleasedError

    queue.do("a", function)
    assert queue.state("a") == "open"


def test_a_worker_that_was_taken_for_lost_changes_nothing(queue, tmp_path):
    def function(claim):
        claim.study.tell(claim.number, state=optuna.trial.TrialState.FAIL)
        assert not claim.is_held()
        RunQueue(tmp_path / "queue").do("a", lambda claim: {"map": 0.75})
        return {"map": 0.5}

    queue.do("a", function)
    assert queue.record("a") == {"map": 0.75}


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_a_worker_killed_before_it_wrote_its_name_is_lost_after_a_while(queue, monkeypatch):
    queue.study("a").ask()
    queue.do("a", lambda claim: pytest.fail("it may be about to write its name"))
    monkeypatch.setattr("utils.evolve.study.GRACE_S", -1)
    queue.do("a", lambda claim: {"map": 0.5})
    assert queue.state("a") == "done"
    assert GRACE_S > 0


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_another_machines_worker_is_lost_without_a_heartbeat(queue, monkeypatch):
    trial = queue.study("a").ask()
    trial.set_user_attr(WORKER, "elsewhere:1")
    queue.storage.record_heartbeat(trial._trial_id)
    queue.do("a", lambda claim: pytest.fail("its heartbeat is new"))
    monkeypatch.setattr(queue.storage, "grace_period", -5)
    queue.do("a", lambda claim: {"map": 0.5})
    assert queue.state("a") == "done"


def check_workers(place, storage=""):
    """Two workers begin at the same moment; the first run's is killed, and the other does all further runs, once."""
    keys = [f"r{i}" for i in range(4)]
    queue = RunQueue(place / "queue", storage)
    workers = [start(place, keys, storage) for _ in range(2)]
    try:
        wait_for(lambda: len(list(place.glob("r*.txt"))) == 2)
        begun = sorted(path.stem for path in place.glob("r*.txt"))
        assert begun == ["r0", "r1"]
        assert [queue.state(key) for key in keys] == ["running", "running", "open", "open"]
        owners = {(place / f"{key}.txt").read_text().strip(): key for key in begun}
        assert owners.keys() == {str(worker.pid) for worker in workers}
        workers.sort(key=lambda worker: owners[str(worker.pid)])
        workers[0].send_signal(signal.SIGKILL)
        workers[0].wait()
        (place / "go").touch()
        assert workers[1].wait(60) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert queue.state("r0") != "done"
    for key in keys[1:]:
        assert (place / f"{key}.txt").read_text() == f"{workers[1].pid}\n"
        assert queue.record(key) == {"map": 0.5, "pid": workers[1].pid}
    return queue


def test_two_processes_do_no_run_twice_and_the_killed_ones_run_is_resumed(tmp_path):
    queue = check_workers(tmp_path)
    queue.do("r0", lambda claim: {"map": 0.25})
    assert queue.record("r0") == {"map": 0.25}


@pytest.fixture
def postgresql():
    """The address of a PostgreSQL server of its own, which does not run as root."""
    pytest.importorskip("psycopg")
    if not shutil.which("initdb") or not shutil.which("pg_ctl"):
        pytest.skip("no PostgreSQL server")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a short path, as sockets need it
        owner = []
        if os.getuid() == 0:
            owner = ["runuser", "-u", "postgres", "--"]
            shutil.chown(folder, "postgres")
        run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL, cwd="/")
        run([*owner, "initdb", "-D", f"{folder}/data", "-U", "me", "--auth=trust", "--no-sync"])
        control = [*owner, "pg_ctl", "-D", f"{folder}/data"]
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        run([*control, "-w", "-l", f"{folder}/log", "-o", options, "start"])
        try:
            yield f"postgresql://me@/postgres?host={folder}"
        finally:
            run([*control, "-m", "immediate", "stop"])


def test_workers_share_a_postgresql_server(tmp_path, postgresql, monkeypatch):
    queue = check_workers(tmp_path, postgresql)
    queue.do("r0", lambda claim: pytest.fail("its last heartbeat is not old enough"))
    monkeypatch.setattr(queue.storage, "grace_period", -5)
    queue.do("r0", lambda claim: {"map": 0.25})
    assert queue.record("r0") == {"map": 0.25}


def test_the_digest_of_a_run_stays(queue):
    queue.check_digest("a", "d1")
    queue.check_digest("a", "d1")
    with pytest.raises(ValueError, match=r"^a: .*--name"):
        queue.check_digest("a", "d2")


@pytest.mark.parametrize(
    ("storage", "message"), [("no address", "--storage"), ("sqlite:////no/such/folder/a.db", "/no/such/folder/a.db")]
)
def test_a_wrong_address_is_named(tmp_path, storage, message):
    with pytest.raises(ValueError, match=message):
        RunQueue(tmp_path, storage)


def test_missing_optuna(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match="pip install optuna"):
        RunQueue(tmp_path)
