"""A training that logs to W&B (offline) and MLflow (a local database), read back; it is as one that does not."""

import csv
import sys

import mlflow
import pytest
import torch

import train
from tests.utils.loggers.offline_runs import OfflineRun
from utils import general
from utils.files.checkpoint import load_checkpoint
from utils.files.yamls import read_yaml
from utils.loggers.base import BEST_KEYS, KEYS

LOGGED = {"wandb": "birds", "mlflow": "birds", "save_period": 1, "bbox_interval": 1}
RUN = {
    "imgsz": 64,
    "batch_size": 4,
    "workers": 0,
    "device": "cpu",
    "weights": "",
    "cfg": "yolov5n-NAM.yaml",
    "noplots": True,
    "epochs": 2,
}


def rows(folder):
    with (folder / "results.csv").open(newline="") as file:
        return [{key.strip(): float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def wandb_runs(folder):
    return [OfflineRun(path) for path in sorted(folder.glob("wandb/offline-run-*"))]


@pytest.mark.usefixtures("offline")
def test_all_services_and_the_same_weights_as_without(data, tmp_path, monkeypatch):
    options = {**RUN, "data": data, "project": str(tmp_path / "runs")}
    with monkeypatch.context() as patched:
        patched.setattr("utils.loggers.summary_writer", lambda: None)
        plain = train.run(**options, name="plain")
    assert not list(plain.glob("events*"))

    save = train.RunFiles.save

    def cut_off(run, epoch, *rest):
        save(run, epoch, *rest)
        if epoch == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(train.RunFiles, "save", cut_off)
        with pytest.raises(KeyboardInterrupt):
            train.run(**options, **LOGGED, name="logged")
    folder = train.run(resume=str(tmp_path / "runs" / "logged" / "weights" / "last.pt"))
    ours, theirs = (load_checkpoint(run / "weights" / "last.pt").state for run in (folder, plain))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert rows(folder) == rows(plain)
    assert len(list(folder.glob("events*"))) == 2

    first, second = wandb_runs(folder)
    stored = read_yaml(folder / "services.yaml")
    assert first.run.run_id == second.run.run_id == stored["wandb"]["id"]
    assert (first.exit_code, second.exit_code) == (1, 0)
    for run, row in zip((first, second), rows(folder), strict=True):
        for key in KEYS:
            ((epoch, value),) = run.values(key)
            assert (epoch, value) == (row["epoch"], pytest.approx(row[key], rel=1e-4))
        assert len(run.values("BoundingBoxDebugger/count")) == 1
    assert [set(artifact.aliases) for artifact in second.artifacts][-1] == {"latest", "best", "stripped"}
    assert "epoch 1" in second.artifacts[0].aliases

    client = mlflow.MlflowClient(tracking_uri=stored["mlflow"]["uri"])
    run = client.get_run(stored["mlflow"]["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["batch_size"] == "4"
    assert {"best/epoch", *BEST_KEYS, *KEYS} == run.data.metrics.keys()
    history = client.get_metric_history(run.info.run_id, KEYS[0])
    assert [metric.step for metric in history] == [0, 1]
    assert second.summary["best/epoch"] == run.data.metrics["best/epoch"]
    assert (folder.parent / "mlflow.db").is_file()
    kept = [item.path for item in client.list_artifacts(run.info.run_id, "weights")]
    assert kept == ["weights/best.pt", "weights/epoch1.pt"]


def test_a_save_period_of_nought_keeps_no_checkpoint(tmp_path):
    run = train.RunFiles(tmp_path, {}, {}, {}, [], save_period=0)
    assert [run.epoch_checkpoint(epoch) for epoch in range(3)] == [None] * 3
    run = train.RunFiles(tmp_path, {}, {}, {}, [], save_period=2)
    assert [bool(run.epoch_checkpoint(epoch)) for epoch in range(5)] == [False, False, True, False, True]


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_missing_package_is_said_before_anything_is_done(package, monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit):
        general.run_script(train.main, train.parse_opt([f"--{package}", "--project", str(tmp_path / "runs")]))
    assert len(caplog.messages) == 1
    assert f"pip install {package}" in caplog.messages[0]
    assert not list(tmp_path.iterdir())
