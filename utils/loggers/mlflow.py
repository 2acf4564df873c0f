"""MLflow: a training's options, numbers, pictures and weights, by way of MLflow's own client (--mlflow).

Where no tracking server is named (MLFLOW_TRACKING_URI) all goes into a database beside the runs, and nothing to a
network.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from utils.files.addresses import without_credentials
from utils.general import LOGGER, colorstr, one_line
from utils.loggers.base import EpochNumbers, Logger, RunEnd, RunStart, store_service, stored_service

MAX_PARAMETER = 500  # characters of an option's value, as older servers take them
# MLflow tells its makers of its use unless this is set before it is imported, and asks a lost server for minutes.
SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}


def import_mlflow() -> ModuleType:
    """The package; ImportError says how to get it."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow
    except ImportError as error:
        raise ImportError(
            f"--mlflow: MLflow is not installed ({one_line(error)}); pip install mlflow, or leave the flag out"
        ) from None
    return mlflow


class MlflowLogger(Logger):
    """Logs to a run of an MLflow experiment; a training that goes on goes on with the same run."""

    name = "MLflow"

    def __init__(self, experiment: str) -> None:
        self.experiment = experiment

    def on_start(self, start: RunStart) -> None:
        """Opens the run and logs options and hyper-parameters; ValueError where the store does not take them."""
        mlflow = import_mlflow()
        project = start.folder.parent.resolve()
        is_local = not mlflow.is_tracking_uri_set()
        self.uri = f"sqlite:///{project / 'mlflow.db'}" if is_local else mlflow.get_tracking_uri()
        self.shown = without_credentials(self.uri)  # a server may be named with a password
        try:
            self.client = mlflow.MlflowClient(tracking_uri=self.uri)
            self.run_id = self.open_run(start, str(project / "mlartifacts") if is_local else None)
        except (ImportError, mlflow.exceptions.MlflowException) as error:
            raise ValueError(
                f"--mlflow: {one_line(error)}; MLFLOW_TRACKING_URI names the store, which is {self.shown}; a database "
                "needs the whole package (pip install mlflow)"
            ) from None
        store_service(start.folder, "mlflow", {"run_id": self.run_id, "uri": self.shown})
        where = f"see it with `mlflow ui --backend-store-uri {self.uri}`" if is_local else self.shown
        LOGGER.info(f"{colorstr('MLflow: ')}run {self.run_id} of {self.experiment}, {where}")
        self.folder = start.folder

    def open_run(self, start: RunStart, artifacts: str | None) -> str:
        """The id of the run that goes on, or of a new one that has the options as its parameters."""
        stored = stored_service(start.folder, "mlflow") if start.start_epoch else {}
        if stored.get("uri") == self.shown:
            self.client.update_run(stored["run_id"], status="RUNNING")
            return stored["run_id"]
        found = self.client.get_experiment_by_name(self.experiment)
        experiment = found.experiment_id if found else self.client.create_experiment(self.experiment, artifacts)
        run_id = self.client.create_run(experiment, run_name=start.folder.name).info.run_id
        values = dict(start.options) | {f"hyp/{name}": value for name, value in start.hyp.items()}
        for name, value in values.items():
            self.client.log_param(run_id, name, str(value)[:MAX_PARAMETER])
        return run_id

    def log(self, numbers: Mapping[str, float], epoch: int) -> None:
        """Logs numbers as metrics, those that are known."""
        for key, value in numbers.items():
            if not math.isnan(value):
                self.client.log_metric(self.run_id, key, float(value), step=epoch)

    def on_epoch(self, record: EpochNumbers) -> None:
        """The numbers as metrics, by the names of results.csv, and the best so far."""
        self.log({**record.numbers, **record.best}, record.epoch)

    def on_pictures(self, epoch: int, paths: Sequence[Path]) -> None:
        """The pictures below pictures/."""
        for path in paths:
            self.client.log_artifact(self.run_id, str(path), "pictures")

    def on_checkpoint(self, epoch: int, path: Path, is_best: bool) -> None:
        """The checkpoint below weights/."""
        self.client.log_artifact(self.run_id, str(path), "weights")

    def on_end(self, end: RunEnd) -> None:
        """The best weights, the run's table and its settings."""
        self.client.log_artifact(self.run_id, str(end.weights), "weights")
        for name in ("results.csv", "opt.yaml", "hyp.yaml"):
            if (self.folder / name).is_file():
                self.client.log_artifact(self.run_id, str(self.folder / name))
        self.log(end.best, end.epoch)

    def close(self, is_complete: bool) -> None:
        """Tells how the run ended."""
        self.client.set_terminated(self.run_id, "FINISHED" if is_complete else "FAILED")
