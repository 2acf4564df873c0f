"""An MLflow run in a local database, read back with MLflow's own client; the run again on resume."""

import os
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
import torch
from torch import nn

from train import parse_opt
from utils.files.images import write_image
from utils.loggers import RunLogger
from utils.loggers.base import BEST_KEYS, KEYS, RunStart, stored_service
from utils.loggers.mlflow import MlflowLogger, import_mlflow

pytestmark = pytest.mark.usefixtures("offline")
LOSSES, RATES = torch.tensor([1.0, 2.0, 3.0]), [0.01, 0.01, 0.1]
RESULT = SimpleNamespace(mp=0.5, mr=0.25, map50=0.125, map=0.1, losses=(0.1, 0.2, 0.3))


def start_of(folder, start_epoch=0):
    options = {**parse_opt([]).values(), "cfg": "c" * 900}
    return RunStart(folder, options, {"lr0": 0.01}, start_epoch, ("a",), nn.Identity(), 64)


def test_a_run_and_its_continuation(tmp_path):
    folder = tmp_path / "exp"
    folder.mkdir()
    for name in ("best.pt", "epoch1.pt", "opt.yaml", "results.csv"):
        (folder / name).write_text("a")
    write_image(folder / "labels.jpg", np.zeros((8, 8, 3), np.uint8))
    interrupted = RunLogger([MlflowLogger("birds")], start_of(folder)).__enter__()
    interrupted.log_epoch(0, LOSSES, RESULT, RATES, 0)
    interrupted.log_checkpoint(1, folder / "epoch1.pt", is_best=True)
    interrupted.close(is_complete=False)
    stored = stored_service(folder, "mlflow")
    assert stored["uri"] == f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(stored["uri"])
    assert client.get_run(stored["run_id"]).info.status == "FAILED"
    with RunLogger([MlflowLogger("birds")], start_of(folder, 1)) as logger:
        assert client.get_run(stored["run_id"]).info.status == "RUNNING"
        logger.log_epoch(1, LOSSES, None, RATES, 0)
        logger.log_end(1, folder / "best.pt", RESULT)
    run = client.get_run(stored["run_id"])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "exp")
    assert run.data.params["hyp/lr0"] == "0.01"
    assert run.data.params["epochs"] == "300"
    assert run.data.params["cfg"] == "c" * 500
    assert run.data.metrics.keys() == {"best/epoch", *BEST_KEYS, *KEYS}
    assert [metric.value for metric in client.get_metric_history(run.info.run_id, "metrics/mAP_0.5")] == [0.125]
    found = {
        item.path for place in (None, "weights", "pictures") for item in client.list_artifacts(stored["run_id"], place)
    }
    assert found >= {"weights/best.pt", "weights/epoch1.pt", "pictures/labels.jpg", "opt.yaml", "results.csv"}
    assert len(client.search_runs([run.info.experiment_id])) == 1
    with RunLogger([MlflowLogger("birds")], start_of(folder)):
        assert stored_service(folder, "mlflow")["run_id"] != run.info.run_id  # a new run in an old folder


def test_a_server_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://x")
    with pytest.raises(ValueError, match=r"--mlflow: .*; MLFLOW_TRACKING_URI names the store, which is nowhere://x"):
        MlflowLogger("birds").on_start(start_of(tmp_path))


def test_mlflow_does_not_tell_of_its_use():
    import_mlflow()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
