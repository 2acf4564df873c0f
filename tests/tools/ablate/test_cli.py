"""tools.ablate as a user runs it: two variants, two seeds, one epoch, and what it says when it cannot."""

import csv
import subprocess
import sys

import pytest
import yaml

from tools.ablate import cli as ablate
from tools.ablate.queue import DIGEST, RunQueue
from utils.general import ROOT

PLAN = {
    "split": "test",
    "seeds": 2,
    "baseline": "plain",
    "bootstrap": 5,
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
        ("plain", "0"),
        ("identity", "0"),
        ("plain", "1"),
        ("identity", "1"),
    ]
    assert len({row["data"] for row in rows}) == 1
    for row in rows:
        images = folder / "runs" / f"{row['variant']}-s{row['seed']}" / "images.npz"
        assert ablate.ImageStats.load(images).map() == pytest.approx(float(row["map"]), abs=1e-9)
        assert float(row["train_seconds"]) > 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "no verdict: 2 paired seeds, 3 or more are needed" in page
    assert "data fingerprint" in page
    assert "exact test is 0.5 or more" in caplog.text

    logs = {path: path.stat().st_mtime_ns for path in folder.glob("queue/*.log")}
    assert len(logs) == 4
    ablate.main(config())  # nothing is left to do
    assert logs == {path: path.stat().st_mtime_ns for path in folder.glob("queue/*.log")}
    ablate.main(config("--dry-run"))
    assert "by 4 runs that are done" in caplog.text
    RunQueue(folder / "queue", name=folder.name).study("plain-s0").set_user_attr(DIGEST, "other")
    with pytest.raises(ValueError, match="plain-s0: begun with other options"):
        ablate.main(config())


def test_a_run_cut_off_after_its_last_epoch_is_rated(config):
    options = config(seeds=1, variants={"plain": {"cfg": "yolov5n.yaml"}, "other": {"weights": "none.pt"}})
    with pytest.raises(ValueError, match="1 run failed"):
        ablate.main(options)
    folder = ablate.Path(options.project) / "plan"
    weights = folder / "runs" / "plain-s0" / "weights"
    (weights / "resume.pt").replace(weights / "last.pt")
    (folder / "runs" / "plain-s0" / "results.json").unlink()
    (folder / "queue" / "queue.db").unlink()
    with pytest.raises(ValueError, match="1 run failed"):
        ablate.main(options)
    record = RunQueue(folder / "queue", name=folder.name).record("plain-s0")
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
    with pytest.raises(ValueError, match=r"plain-s0 failed, see .*plain-s0\.log \(--retry\)"):
        ablate.main(options)


def test_a_mistake_is_one_line(tmp_path):
    command = [sys.executable, "-m", "tools.ablate", "--config", str(tmp_path / "none.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no such file" in done.stderr


def test_plan_says_pairs_by_the_pilot_or_by_sd(config, caplog):
    caplog.set_level("INFO")
    with pytest.raises(ValueError, match="give --sd"):
        ablate.main(config("--plan"))
    ablate.main(config("--plan", "--sd", "0.01", seeds=8, looks=[4, 8]))
    assert "10 pairs for 80% power" in caplog.text
    assert "look after 4 pairs" in caplog.text
    with pytest.raises(ValueError, match="--sd -1"):
        ablate.main(config("--plan", "--sd", "-1"))


def test_a_look_stops_a_variant_and_then_the_baseline(config, monkeypatch):
    """Of eight seeds four are enough, since the variant is better by far in each."""
    done = []

    def fake_do(queue, claim, run, measure, trainer):
        done.append(run.key)
        value = 0.5 + 0.001 * run.seed + (0.2 + 0.001 * (run.seed % 2) if run.variant == "identity" else 0)
        return {"variant": run.variant, "seed": run.seed, "digest": run.digest, "map": value}

    monkeypatch.setattr("tools.ablate.runs.do", fake_do)
    monkeypatch.setattr(ablate, "write_reports", lambda findings, folder: done.append(findings))
    ablate.main(config(seeds=8, looks=[4, 8]))
    *keys, findings = done
    assert keys == [f"{name}-s{seed}" for seed in range(4) for name in ("plain", "identity")]
    assert findings.open == 0
    assert "after 4 pairs" in findings.provenance["rule for stopping"]


def test_tables_of_committed_rows(tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    with (tmp_path / "a-runs.csv").open("w", newline="") as file:
        rows = (("NAM", 0, 0.6), ("plain", 0, 0.5), ("NAM", 1, 0.6), ("plain", 1, 0.51), ("NAM", 2, 0.6))
        csv.writer(file).writerows((("variant", "seed", "map"), *rows, ("plain", 2, 0.49)))
    options = ablate.parse_opt(["--runs", str(tmp_path / "a-runs.csv"), "--figure", str(tmp_path / "a.png")])
    assert ablate.main(options) == tmp_path / "a.png"
    assert "| NAM | 3 | 0.6000 (0.0000) | +0.1000 |" in caplog.text


@pytest.mark.parametrize("words", [[], ["--config", "a.yaml", "--runs", "a.csv"]])
def test_a_config_or_rows(words):
    with pytest.raises(SystemExit):
        ablate.parse_opt(words)
