"""The runs of an ablation as Optuna studies in a database, shared by any number of processes.

Each run has a study, and each attempt at it is a trial. Optuna numbers trials one by one, so of several workers that
begin a run at the same moment the one with the lowest number owns it, and the others let go. The owner sends
heartbeats; the trial of a lost worker is marked as failed, and the run is open again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from utils.evolve.study import WORKER, database_errors, fail_lost, open_storage, worker_id
from utils.general import LOGGER

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

FLAG = "--storage"
DIGEST = "digest"  # study attribute: Run.digest
RECORD, FAILURE = "record", "failure"  # trial attributes: the record of a run that is done, or that failed


class RunFailedError(Exception):
    """A training ended with an error; `record` has its status and the end of its log."""

    def __init__(self, record: Mapping[str, object]) -> None:
        super().__init__(str(record))
        self.record = dict(record)


class RunReleasedError(Exception):
    """The worker gives a run back, which stays open."""


@dataclass(frozen=True)
class Claim:
    """A worker's right to do a run."""

    study: "Study"
    number: int

    def is_held(self) -> bool:
        """Return False once another worker may take the run over, as after heartbeats that failed to come."""
        return not self.study.get_trials(deepcopy=False)[self.number].state.is_finished()


class RunQueue:
    """The states and records of runs by key.

    Args:
        folder: of the database and of the trainings' logs
        storage: address of a database that several machines share; empty uses queue.db in the folder
        name: prefix of the studies' names, for several queues in one database
    """

    def __init__(self, folder: Path, storage: str = "", name: str = "ablate") -> None:
        try:
            import optuna
        except ImportError:
            raise ImportError("tools.ablate and tools.place need Optuna: pip install optuna") from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name, self.is_local = folder, name, not storage
        self.url = storage or f"sqlite:///{(folder / 'queue.db').resolve()}"
        self.studies: dict[str, Study] = {}
        with database_errors(self.url, FLAG):
            self.storage = open_storage(self.url, FLAG)

    def study(self, key: str) -> "Study":
        """Return the study of a run; create it if it is new."""
        import optuna

        if key not in self.studies:
            with database_errors(self.url, FLAG):
                self.studies[key] = optuna.create_study(
                    storage=self.storage, study_name=f"{self.name}/{key}", direction="maximize", load_if_exists=True
                )
        return self.studies[key]

    def log(self, key: str) -> Path:
        """Return the path of a training's log."""
        return self.folder / f"{key}.log"

    def state(self, key: str) -> str:
        """Return `open`, `running`, `done` or `failed`."""
        attempts = self._attempts(key)
        states = {trial.state.name for trial in attempts}
        if "COMPLETE" in states:
            return "done"
        if "RUNNING" in states:
            return "running"
        return "failed" if attempts and FAILURE in attempts[-1].user_attrs else "open"

    def record(self, key: str) -> dict[str, object]:
        """Return the record of a run that is done or failed."""
        attempts = self._attempts(key)
        trial = next((trial for trial in attempts if trial.state.name == "COMPLETE"), attempts[-1])
        return dict(trial.user_attrs.get(RECORD) or trial.user_attrs[FAILURE])

    def retry(self, key: str) -> None:
        """Reopen a run that failed."""
        if self.state(key) == "failed":
            self.study(key).enqueue_trial({})

    def check_digest(self, key: str, digest: str) -> None:
        """Store a run's digest; raise ValueError if the run was begun with another one."""
        study = self.study(key)
        known = study.user_attrs.get(DIGEST)
        if known is None:
            study.set_user_attr(DIGEST, digest)
        elif known != digest:
            raise ValueError(f"{key}: begun with other options or files than now; choose another --name")

    def add(self, key: str, digest: str, record: Mapping[str, object]) -> None:
        """Add a run that was done elsewhere."""
        import optuna

        self.check_digest(key, digest)
        value = float(record.get("map") or 0.0)
        self.study(key).add_trial(optuna.trial.create_trial(value=value, user_attrs={RECORD: dict(record)}))

    def do(self, key: str, function: Callable[[Claim], Mapping[str, object]]) -> None:
        """Do a run if it is open, as its only worker, and store the record that function(claim) returns.

        RunFailedError of the function is stored, too; any other exception leaves the run open and is raised.
        """
        import optuna

        study = self.study(key)
        if fail_lost(study, self.is_local):
            LOGGER.warning(f"{key}: its worker was killed or lost; the run is resumed")
        if self.state(key) != "open":
            return

        raised: list[Exception] = []

        def objective(trial: "Trial") -> float:
            try:
                return attempt(trial)
            except Exception as error:
                raised.append(error)
                raise

        def attempt(trial: "Trial") -> float:
            trial.set_user_attr(WORKER, worker_id())
            earlier = study.get_trials(deepcopy=False)[: trial.number]
            if any(other.state.name in ("RUNNING", "COMPLETE") for other in earlier):
                raise optuna.TrialPruned("another worker has begun this run first")
            claim = Claim(study, trial.number)
            try:
                record = function(claim)
            except RunFailedError as error:
                trial.set_user_attr(FAILURE, error.record)
                raise
            trial.set_user_attr(RECORD, dict(record))
            return float(record["map"])

        try:
            with database_errors(self.url, FLAG):
                study.optimize(objective, n_trials=1, catch=(RunFailedError, RunReleasedError))
        except ValueError as error:
            if error in raised or isinstance(error.__cause__, Exception):
                raise
            # Optuna refuses the end of a trial that another worker has marked as failed.
            LOGGER.warning(f"{key}: another worker has taken the run over; the result of this one is dropped")

    def _attempts(self, key: str) -> "list[FrozenTrial]":
        """Return the trials of a run, without those of workers that came second."""
        study = self.study(key)
        with database_errors(self.url, FLAG):
            return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name != "PRUNED"]
