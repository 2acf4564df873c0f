"""The search: its count, its repeatability, several workers, what is cut off, pruned or diverges, and user errors.

Trainings are functions here; those of a network are in tests/test_train_evolve.py.
"""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import optuna
import pytest
import yaml

from train import parse_opt, search_settings
from utils.data.config import Hyp
from utils.evolve.sampler import HYP
from utils.evolve.search import OWN_STUDY, Search, find_hyp
from utils.evolve.study import WORKER, counted, ended, fail_lost, make_pruner, worker_id
from utils.general import ROOT, is_running
from utils.training.engine import TrainingDiverged

WORKER_CODE = """
import sys, time
from pathlib import Path
import train
from utils.evolve.search import find_hyp

marks, own, wanted, arguments = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]
def train_one(hyp, report):
    (marks / own).touch()
    while len(list(marks.iterdir())) < wanted:
        time.sleep(0.02)
    return [hyp["lr0"]] * 7
find_hyp(train.search_settings(train.parse_opt(arguments).for_search(1)), train_one)
"""


START = Hyp.from_yaml("hyp.scratch-low.yaml").to_dict() | {"anchors": 3.0}


def quality(hyp):
    """Seven results, the better the nearer lr0 is to 0.02 and translate to 0.2."""
    value = 1 / (1 + 100 * abs(hyp["lr0"] - 0.02) + abs(hyp["translate"] - 0.2))
    return [value] * 4 + [1, 2, 3]


def train_one(hyp, report):
    return quality(hyp)


def search(opt, train_one):
    """Searches as train.py does."""
    return find_hyp(search_settings(opt.for_search(1)), train_one)


@pytest.fixture
def options(tmp_path):
    """Options of a search in tmp_path."""

    def call(*arguments):
        return parse_opt(["--project", str(tmp_path / "evolve"), "--noplots", *map(str, arguments)])

    return call


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def rows(folder):
    with (folder / "evolve.csv").open(newline="") as file:
        return [[cell.strip() for cell in row] for row in csv.reader(file)]


def study_of(folder):
    return optuna.load_study(study_name=OWN_STUDY, storage=f"sqlite:///{folder / 'evolve.db'}")


def search_in_memory(generations, kind="ga", seed=0, train_one=train_one, pruner=None):
    """A search's study; there is none of a database's waiting for the disk."""
    study = optuna.create_study(direction="maximize", pruner=pruner)
    Search(START, generations, kind, seed).run(study, train_one, lambda study: None)
    return study


def start_worker(marks, own, wanted, *arguments):
    command = [sys.executable, "-c", WORKER_CODE, str(marks), own, str(wanted), "--noplots", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


# The search -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ga", "tpe"])
def test_search(options, sampler):
    folder = search(options("--evolve", 4, "--evolve-sampler", sampler), train_one)
    found = ended(study_of(folder))
    assert [trial.number for trial in counted(study_of(folder))] == [*range(4)]
    assert found[0].hyp == START
    assert len({generation.hyp["lr0"] for generation in found}) > 2
    table = rows(folder)
    assert table[0][7:] == list(START)
    assert len(table) == 5
    best = max(found, key=lambda generation: generation.fitness)
    assert Hyp.from_yaml(folder / "hyp_evolve.yaml").to_dict() == best.hyp
    assert best.results == quality(best.hyp)


def test_same_seed_same_search():
    found = [
        [generation.hyp for generation in ended(search_in_memory(5, kind, seed))]
        for kind in ("ga", "tpe")
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]
    assert found[3] == found[4] != found[5]


@pytest.mark.parametrize("again", ["--exist-ok", "--resume"])
def test_a_search_goes_on_as_if_it_had_not_ended(options, again):
    whole = search(options("--evolve", 4), train_one)
    part = search(options("--evolve", 2), train_one)
    assert (whole.name, part.name) == ("exp", "exp2")
    assert search(options("--evolve", 4, "--name", "exp2", again), train_one) == part
    assert rows(part) == rows(whole)
    assert search(options("--evolve", 4, "--name", "exp2", again), None) == part, "it is complete"


def test_noautoanchor_searches_no_anchors(options):
    folder = search(options("--evolve", 2, "--noautoanchor"), train_one)
    assert "anchors" not in rows(folder)[0]


def test_anchors_of_the_hyp_file_are_the_start(options):
    folder = search(options("--evolve", 2, "--hyp", "hyp.Objects365.yaml"), train_one)
    assert ended(study_of(folder))[0].hyp["anchors"] == 3.2


def test_start_beyond_the_bounds_is_trained_as_it_is(options, caplog):
    folder = search(options("--evolve", 3, "--hyp", "hyp.shapes.yaml"), train_one)
    values = [generation.hyp["obj"] for generation in ended(study_of(folder))]
    assert values[0] == 8
    assert max(values[1:]) <= 4
    assert "weight_decay" in caplog.text


def test_generations_of_v61_are_gone_on_with(options, tmp_path):
    first = search(options("--evolve", 3), train_one)
    folder = tmp_path / "evolve" / "old"
    folder.mkdir()
    (first / "evolve.csv").rename(folder / "evolve.csv")
    before = rows(folder)
    search(options("--evolve", 4, "--name", "old", "--exist-ok"), train_one)
    assert rows(folder)[:4] == before
    assert len(rows(folder)) == 5


# What ends early ------------------------------------------------------------------------------------------------------


def test_divergence_is_one_of_the_worst(options):
    def diverging(hyp, report):
        calls.append(hyp)
        if len(calls) == 2:
            raise TrainingDiverged("training diverged in epoch 0")
        return quality(hyp)

    calls = []
    folder = search(options("--evolve", 3), diverging)
    assert [trial.state.name for trial in counted(study_of(folder))] == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert len(rows(folder)) == 3


def test_all_diverge(options):
    def diverging(hyp, report):
        raise TrainingDiverged("training diverged in epoch 0")

    with pytest.raises(ValueError, match="lr0"):
        search(options("--evolve", 2), diverging)


def test_user_errors_end_the_search(options, tmp_path):
    def failing(hyp, report):
        raise FileNotFoundError("images/train: no such folder")

    with pytest.raises(FileNotFoundError, match="no such folder"):
        search(options("--evolve", 4), failing)
    folder = tmp_path / "evolve" / "exp"
    assert [trial.state.name for trial in study_of(folder).trials] == ["FAIL"]
    search(options("--evolve", 2, "--exist-ok"), train_one)
    assert ended(study_of(folder))[0].hyp["lr0"] == 0.01, "the start, which failed, comes first again"
    assert len(rows(folder)) == 3


def test_hopeless_trainings_are_pruned_and_no_others():
    """The 13th has a bad epoch 0, as all, and stays bad; the 14th has a worse epoch 0 and then is good."""

    def training(hyp, report):
        number = len(epochs)
        epochs.append([])
        for epoch in range(12):
            epochs[-1].append(epoch)
            bad = number == 12 or (number < 5 and epoch > 3) or (number == 13 and epoch < 5)
            report(epoch, 0.001 if bad else 0.1 + 0.01 * epoch + 0.001 * number)
        return quality(hyp)

    epochs = []
    study = search_in_memory(14, train_one=training, pruner=make_pruner(12))
    assert [len(done) for done in epochs] == [12] * 12 + [6, 12]
    assert [trial.state.name for trial in counted(study)] == ["COMPLETE"] * 12 + ["PRUNED", "COMPLETE"]
    assert len(ended(study)) == 13


@pytest.mark.parametrize(("epochs", "first"), [(1, 5), (12, 5), (16, 6), (300, 100)])
def test_the_first_epochs_prune_nothing(epochs, first):
    study = optuna.create_study(direction="maximize", pruner=make_pruner(epochs))
    for _ in range(10):
        trial = study.ask()
        for epoch in range(first + 1):
            trial.report(1.0, epoch)
        study.tell(trial, 1.0)
    trial = study.ask()
    pruned = []
    for epoch in range(first + 1):
        trial.report(0.0, epoch)
        pruned.append(trial.should_prune())
    assert pruned == [False] * first + [True]


def test_a_killed_training_does_not_count(options, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    worker = start_worker(marks, "a", 9, "--evolve", 2, "--project", tmp_path / "evolve")
    try:
        while not (marks / "a").exists():
            assert worker.poll() is None
            time.sleep(0.05)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    folder = tmp_path / "evolve" / "exp"
    assert [trial.state.name for trial in study_of(folder).trials] == ["RUNNING"]
    search(options("--evolve", 2, "--resume"), train_one)
    assert [trial.state.name for trial in study_of(folder).trials] == ["FAIL", *["COMPLETE"] * 2]
    assert ended(study_of(folder))[0].hyp["lr0"] == 0.01
    assert len(rows(folder)) == 3


def test_a_living_worker_is_left_alone():
    study = optuna.create_study()
    study.ask().set_user_attr(WORKER, f"another machine:{os.getpid()}")
    study.ask().set_user_attr(WORKER, worker_id())
    study.ask()  # has not said yet whose it is
    assert fail_lost(study, here=True) == 0
    assert [trial.state.name for trial in study.trials] == ["RUNNING"] * 3
    assert is_running(os.getpid())


def test_two_workers_share_a_study(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    shared = ("--evolve", 4, "--evolve-storage", url, "--project", tmp_path / "evolve")
    workers = [start_worker(marks, own, 2, *shared) for own in "ab"]
    try:
        assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    study = optuna.load_study(study_name="exp", storage=url)
    trials = counted(study)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    assert len({trial.user_attrs[WORKER] for trial in trials}) == 2
    assert trials[0].user_attrs[HYP]["lr0"] == 0.01
    tables = [rows(tmp_path / "evolve" / name) for name in ("exp", "exp2")]
    assert max(len(table) for table in tables) == 5


# User errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--resume", "runs/exp/weights/last.pt"], "--resume runs/exp/weights/last.pt"),
        (["--evolve-storage", "no address"], "sqlite:///"),
        (["--evolve-storage", "sqlite:////no/such/folder/evolve.db"], "/no/such/folder/evolve.db: .*unable to open"),
    ],
)
def test_user_errors(options, arguments, says):
    with pytest.raises(ValueError, match=says):
        search(options("--evolve", 2, *arguments), train_one)


def test_a_missing_driver_is_named_and_no_password_told(options):
    with pytest.raises(ImportError, match="pip install") as caught:
        search(options("--evolve", 2, "--evolve-storage", "mysql+pymysql://me:secret@host/db"), train_one)
    assert "secret" not in str(caught.value)
    assert "pymysql" in str(caught.value)


def test_missing_optuna(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match="pip install optuna"):
        search(options("--evolve", 2), train_one)


def test_several_processes_are_refused(options):
    with pytest.raises(ValueError, match="--evolve-storage"):
        options("--evolve", 2).for_search(2)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"lr9": 1.0}, "unknown hyper-parameter lr9"), ({"mosaic": None}, "mosaic"), ({"shear": "x"}, "shear")],
)
def test_hyp_files_with_other_keys_are_refused(options, tmp_path, change, says):
    file = tmp_path / "hyp.yaml"
    file.write_text(yaml.safe_dump(Hyp.from_yaml(options().hyp).to_dict() | change))
    with pytest.raises(ValueError, match=says):
        search(options("--evolve", 2, "--hyp", file), train_one)


def test_another_search_is_not_mixed_in(options, tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    first = options("--evolve", 2, "--evolve-storage", url)
    search(first, train_one)
    with pytest.raises(ValueError, match=r"'exp' has epochs 300, not 10; .* another --name"):
        search(replace(first, epochs=10), train_one)
    search(replace(first, epochs=10, name="other"), train_one)
