"""Runs known by their rows alone: read with their types, taken for done where they are the plan's, done again else."""

import csv

import pytest
import yaml

from tools.ablate.known import adopt_known, read_runs
from tools.ablate.plan import load_plan
from tools.ablate.queue import RunQueue

CONTENT = {
    "data": "shapes.yaml",
    "seeds": 2,
    "baseline": "plain",
    "train": {"weights": "", "imgsz": 64},
    "variants": {"plain": {"cfg": "yolov5n.yaml"}, "NAM": {"cfg": "yolov5n-NAM.yaml"}},
    "known": "runs.csv",
}
HEAD = ("variant", "seed", "digest", "map", "peak_mb", "epochs", "env_commit")


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(CONTENT))
    (tmp_path / "runs.csv").touch()
    return load_plan(str(tmp_path / "plan.yaml"), tmp_path / "out")


def write(path, *rows, head=HEAD):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows((head, *rows))


def row_of(run, value=0.5, digest=None):
    return run.variant, run.seed, digest or run.digest, value, "", 3, "0123"


def test_rows_are_read_with_their_types(plan, tmp_path):
    write(tmp_path / "runs.csv", row_of(plan.runs[0], 0.25))
    (record,) = read_runs(tmp_path / "runs.csv")
    assert record == {
        "variant": "NAM",
        "seed": 0,
        "digest": plan.runs[0].digest,
        "map": 0.25,
        "peak_mb": None,
        "epochs": 3,
        "env_commit": "0123",
    }


def test_known_runs_are_done_and_others_are_not(plan, tmp_path, caplog):
    write(tmp_path / "runs.csv", row_of(plan.runs[0]), row_of(plan.runs[1], digest="other"))
    queue = RunQueue(tmp_path / "queue")
    assert adopt_known(plan, queue) == 1
    assert [queue.state(run.key) for run in plan.runs] == ["done", "open", "open", "open"]
    assert queue.record(plan.runs[0].key)["map"] == 0.5
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert adopt_known(plan, queue) == 0  # once
    queue.check_digest(plan.runs[0].key, plan.runs[0].digest)


def test_a_file_that_is_not_there_yet_knows_nothing(plan, tmp_path):
    (tmp_path / "runs.csv").unlink()
    assert adopt_known(plan, RunQueue(tmp_path / "queue")) == 0


@pytest.mark.parametrize(
    ("row", "message"), [(("NAM", "x", "d", 0.5, "", 3, "0"), r"runs.csv:2: seed 'x'"), (("NAM", 1), r"runs.csv:2: ")]
)
def test_damaged_rows_are_named(tmp_path, row, message):
    write(tmp_path / "runs.csv", row)
    with pytest.raises(ValueError, match=message):
        read_runs(tmp_path / "runs.csv")


def test_a_csv_of_something_else(tmp_path):
    write(tmp_path / "runs.csv", (1, 2), head=("epoch", "loss"))
    with pytest.raises(ValueError, match=r"runs.csv: no column variant"):
        read_runs(tmp_path / "runs.csv")
