"""The worker of an ablation with a trainer that writes what a training does, but learns nothing."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.ablate.plan import Run
from tools.ablate.queue import Claim, RunQueue
from tools.ablate.runs import work
from utils.general import ROOT

FAKE = """
import sys, time
from pathlib import Path
words = sys.argv[1:]
if "--resume" in words:
    folder = Path(words[words.index("--resume") + 1]).parents[1]
else:
    folder = Path(words[words.index("--folder") + 1])
    (folder / "weights").mkdir(parents=True, exist_ok=True)
with (folder / "story.txt").open("a") as story:
    story.write("resumed " if "--resume" in words else "began ")
(folder / "weights" / "last.pt").touch()
if "--fail" in words:
    sys.exit("no such weights")
while not (folder.parent / "go").exists():
    time.sleep(0.02)
(folder / "results.json").touch()
"""
WORKER = """
import sys
from pathlib import Path
from tools.ablate.plan import Run
from tools.ablate.runs import work
from tools.ablate.queue import RunQueue
place = Path(sys.argv[1])
runs = [Run(name, 0, place / name, ("--folder", str(place / name)), "d1") for name in ("a", "b")]
work(RunQueue(place / "queue"), runs, lambda run: {"map": 0.5}, (sys.executable, str(place / "fake.py")))
"""


def runs_in(place, names=("a", "b"), words=()):
    return [Run(name, 0, place / name, ("--folder", str(place / name), *words), "d1") for name in names]


def measure(run):
    return {"map": 0.5}


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / "fake.py").write_text(FAKE)
    return tmp_path


def trainer(place):
    return sys.executable, str(place / "fake.py")


def start(place):
    return subprocess.Popen([sys.executable, "-c", WORKER, str(place)], cwd=ROOT)


def wait_for(path):
    for _ in range(1500):
        if path.exists():
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} did not come")


def test_runs_are_done_once(place):
    (place / "go").touch()
    queue = RunQueue(place / "queue")
    for _ in range(2):
        work(queue, runs_in(place), measure, trainer(place))
    record = queue.record("b")
    assert record["map"] == 0.5
    assert record["train_seconds"] > 0
    assert record["peak_mb"] is None or record["peak_mb"] > 1
    assert (place / "a" / "story.txt").read_text() == "began "


def test_a_killed_workers_training_is_resumed(place):
    queue = RunQueue(place / "queue")
    worker = start(place)
    try:
        wait_for(place / "a" / "weights" / "last.pt")
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    time.sleep(0.2)
    assert not (place / "a" / "results.json").exists()
    (place / "go").touch()
    work(queue, runs_in(place), measure, trainer(place))
    assert (place / "a" / "story.txt").read_text() == "began resumed "
    assert [queue.state(key) for key in ("a", "b")] == ["done", "done"]
    assert queue.record("a")["train_seconds"] is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a killed worker's training runs on")
def test_a_killed_worker_takes_its_training_with_it(place):
    worker = start(place)
    wait_for(place / "a" / "weights" / "last.pt")
    worker.kill()
    worker.wait()
    time.sleep(0.3)
    (place / "go").touch()
    time.sleep(0.3)
    assert not (place / "a" / "results.json").exists()


def test_a_failure_is_kept_and_the_next_run_is_begun(place):
    (place / "go").touch()
    queue = RunQueue(place / "queue")
    work(queue, [*runs_in(place, ["a"], ["--fail"]), *runs_in(place, ["b"])], measure, trainer(place))
    assert queue.state("a") == "failed"
    assert queue.record("a")["log"] == ["no such weights"]
    assert queue.state("b") == "done"


def test_what_is_trained_is_only_measured(place, small_weights):
    (place / "a" / "weights").mkdir(parents=True)
    shutil.copy(small_weights, place / "a" / "weights" / "last.pt")  # stripped: the last act of a training
    (place / "a" / "results.json").touch()
    queue = RunQueue(place / "queue")
    work(queue, runs_in(place, ["a"]), measure, (sys.executable, "-c", "raise SystemExit(3)"))
    assert queue.state("a") == "done"


def test_an_error_in_the_measure_gives_the_run_back(place):
    (place / "go").touch()
    queue = RunQueue(place / "queue")

    def fail(run):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        work(queue, runs_in(place), fail, trainer(place))
    assert queue.state("a") == "open"


def test_a_lost_claim_ends_the_training(place, monkeypatch):
    monkeypatch.setattr("tools.subprocesses.BEAT_S", 0.0)
    monkeypatch.setattr(Claim, "is_held", lambda claim: False)
    queue = RunQueue(place / "queue")
    work(queue, runs_in(place, ["a"]), measure, trainer(place))
    assert queue.state("a") == "open"
    assert not (place / "a" / "results.json").exists()


def test_other_settings_are_refused(place):
    (place / "go").touch()
    queue, run = RunQueue(place / "queue"), runs_in(place)[0]
    queue.check_digest("a", "d2")
    with pytest.raises(ValueError, match="other options or files"):
        work(queue, [run], measure, trainer(place))


def test_a_folder_that_is_trained_in_is_left_alone(place, caplog):
    """By the training of a worker that was taken for lost, say; the run stays open."""
    (place / "a").mkdir(parents=True)
    queue = RunQueue(place / "queue")
    code = "import sys; from pathlib import Path; from utils.processes.locks import Lock\n"
    code += "Lock().take_folder(Path(sys.argv[1])); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, place / "a"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        owner.stdout.readline()
        work(queue, runs_in(place, ["a"]), measure, (sys.executable, "-c", "raise SystemExit(3)"))
        assert queue.state("a") == "open"
        assert f"process {owner.pid}" in caplog.text
        owner.stdin.close()
