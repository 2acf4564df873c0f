"""tools.ablate as a user runs it: two variants, two seeds, one epoch, and what it says when it cannot."""

import csv
import json
import subprocess
import sys

import pytest
import yaml

from tools.ablate import cli as ablate
from utils.general import ROOT

PLAN = {
    **{"split": "test", "seeds": 2, "baseline": "plain", "bootstrap": 5},
    "train": {"weights": "", "imgsz": 64, "epochs": 1, "batch_size": 4, "workers": 0, "device": "cpu", "noplots": True},
    "variants": {
        "plain": {"cfg": "yolov5n.yaml"},
        "identity": {"cfg": "yolov5n-NAM.yaml", "replace": {"NAMAttention": "IdentityControl"}},
    },
}


@pytest.fixture
def config(data, tmp_path):
    """Writes PLAN with changes, and gives the options for it."""

    def call(*flags, **changes):
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**PLAN, "data": data, **changes}, sort_keys=False))
        place = ["--config", str(tmp_path / "plan.yaml"), "--project", str(tmp_path / "out"), "--rounds", "2"]
        return ablate.parse_opt([*place, *flags])

    return call


def test_end_to_end(config, caplog):
    caplog.set_level("INFO")
    folder = ablate.main(config())
    with (folder / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["seed"]) for row in rows] == [
        *(("plain", "0"), ("identity", "0"), ("plain", "1"), ("identity", "1"))
    ]
    assert len({row["data"] for row in rows}) == 1
    for row in rows:
        images = folder / "runs" / f"{row['variant']}-s{row['seed']}" / "images.npz"
        assert ablate.ImageStats.load(images).map() == pytest.approx(float(row["map"]), abs=1e-9)
        assert float(row["train_seconds"]) > 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "no verdict: 2 paired seeds, 3 or more are needed" in page
    assert "data fingerprint" in page
    assert "an exact test cannot give a p below 0.5" in caplog.text

    ends = {path: path.stat().st_mtime_ns for path in folder.glob("queue/*/done.json")}
    assert len(ends) == 4
    ablate.main(config())  # nothing is left to do
    assert ends == {path: path.stat().st_mtime_ns for path in folder.glob("queue/*/done.json")}
    ablate.main(config("--dry-run"))
    assert "by 4 runs that are done" in caplog.text
    (folder / "queue" / "plain-s0" / "run.json").write_text(json.dumps({"digest": "other"}))
    with pytest.raises(ValueError, match="plain-s0 was begun with other options"):
        ablate.main(config())


def test_a_run_cut_off_after_its_last_epoch_is_rated(config):
    options = config(seeds=1, variants={"plain": {"cfg": "yolov5n.yaml"}, "other": {"weights": "none.pt"}})
    with pytest.raises(ValueError, match="1 run failed"):
        ablate.main(options)
    folder = ablate.Path(options.project) / "plan"
    weights = folder / "runs" / "plain-s0" / "weights"
    (weights / "resume.pt").replace(weights / "last.pt")
    (folder / "runs" / "plain-s0" / "results.json").unlink()
    (folder / "queue" / "plain-s0" / "done.json").unlink()
    with pytest.raises(ValueError, match="1 run failed"):
        ablate.main(options)
    record = json.loads((folder / "queue" / "plain-s0" / "done.json").read_text())
    assert record["train_seconds"] is None
    assert record["epochs"] == 1


def test_dry_run_trains_nothing(config, caplog):
    caplog.set_level("INFO")
    folder = ablate.main(config("--dry-run"))
    assert "open identity-s1: train.py --weights" in caplog.text
    assert "minutes a run" in caplog.text
    assert not (folder / "runs").exists()


def test_nothing_to_report(config):
    with pytest.raises(ValueError, match="no run is done yet"):
        ablate.main(config("--report"))
    with pytest.raises(ValueError, match="--rounds 0"):
        ablate.main(config("--rounds", "0"))


def test_a_failing_training_is_told_with_its_log(config):
    options = config(seeds=1, variants={"plain": {"weights": "none.pt"}, "other": {"weights": "none.pt"}})
    with pytest.raises(ValueError, match=r"plain-s0 failed, see .*log\.txt \(--retry\)"):
        ablate.main(options)


def test_a_mistake_is_one_line(tmp_path):
    command = [sys.executable, "-m", "tools.ablate", "--config", str(tmp_path / "none.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no such file" in done.stderr
