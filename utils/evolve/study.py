"""The study of a search for hyper-parameters: its database, its trials, and which of them count.

Workers on many machines may share one; a worker that is killed or lost leaves a trial that is marked as failed.
"""

import math
import platform
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from utils.evolve.files import RESULT_KEYS, Generation
from utils.evolve.sampler import HYP, bounded, search_space
from utils.general import LOGGER, is_running, one_line

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.storages import RDBStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial

RESULTS = "results"  # the trial's attribute with P, R, mAP@.5, mAP@.5:.95 and the three losses of the validation
WORKER = "worker"  # the trial's attribute with the machine and the process that trains it
SEARCH = "search"  # the study's attribute with what all its trainings have in common
OPENING_WAITS_S = (0.2, 0.5, 1.0)
HEARTBEAT_S, GRACE_S = 30, 120  # how often a worker shows that it lives, and when it counts as lost
# A trial is pruned where its best epoch so far is among the worst quarter of those that have ended, at the same epoch:
# most children are worse than their parents, so the median would end every second one.
PRUNED_PERCENT, TRIALS_BEFORE_PRUNING = 25.0, 10
LEAST_EPOCHS = 5  # before pruning: the longest warm-up that can be tried


@contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Turns what a database says that is not there or not as it should be into a ValueError without its password."""
    import optuna
    import sqlalchemy

    try:
        yield
    except sqlalchemy.exc.ArgumentError:
        raise ValueError(
            "--evolve-storage: a database's address is wanted, as in sqlite:///evolve.db or postgresql://user@host/name"
        ) from None
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = one_line(error.__cause__ or error).partition(" [SQL: ")[0]
        raise ValueError(f"--evolve-storage {shown(url)}: {reason}") from error


def shown(url: str) -> str:
    """The database's address without its password."""
    import sqlalchemy

    return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)


def open_study(url: str, name: str, common: Mapping[str, object], epochs: int) -> "Study":
    """The study of this name in the database, a new one where there is none.

    common: what all its trainings have in common, as plain values; ValueError where those of the study had another.
    """
    import optuna

    storage = open_storage(url)
    study = optuna.create_study(
        study_name=name, storage=storage, direction="maximize", pruner=make_pruner(epochs), load_if_exists=True
    )
    before = study.user_attrs.get(SEARCH)
    if before is None:
        study.set_user_attr(SEARCH, dict(common))
        return study
    for key, value in common.items():
        if before.get(key) != value:
            raise ValueError(
                f"{shown(url)}: the study {name!r} has {key} {before.get(key)!r}, not {value!r}; go on with the same "
                "options, or begin another study with another --name"
            )
    return study


def open_storage(url: str) -> "RDBStorage":
    """The database, with its tables; it is tried again where another worker makes them at the same moment."""
    import optuna
    import sqlalchemy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the heartbeat
        for wait_s in (*OPENING_WAITS_S, None):
            try:
                return optuna.storages.RDBStorage(url, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S)
            except ImportError as error:  # the database's driver
                missing = getattr(error.__cause__, "name", None) or "its driver"
                raise ImportError(
                    f"--evolve-storage {shown(url)} needs another package: pip install {missing}"
                ) from None
            except sqlalchemy.exc.DBAPIError:
                if wait_s is None:
                    raise
                time.sleep(wait_s)
    raise AssertionError("the last try returns or raises")


def make_pruner(epochs: int) -> "BasePruner":
    """Ends hopeless trainings of so many epochs; never in the first third nor before the warm-up can be over."""
    import optuna

    warmup = max(math.ceil(epochs / 3), LEAST_EPOCHS)
    return optuna.pruners.PercentilePruner(PRUNED_PERCENT, TRIALS_BEFORE_PRUNING, warmup, n_min_trials=5)


def within(hyp: Mapping[str, float]) -> dict[str, float]:
    """What Optuna holds of these values: those that it may change, within their bounds."""
    space = search_space(hyp)
    return {name: value for name, value in bounded(hyp).items() if name in space}


def add_generations(study: "Study", generations: list[Generation]) -> None:
    """Takes over generations that were trained without a study, by v6.1."""
    import optuna

    for generation in generations:
        study.add_trial(
            optuna.trial.create_trial(
                value=generation.fitness,
                params=within(generation.hyp),
                distributions=search_space(generation.hyp),
                user_attrs={HYP: dict(generation.hyp), RESULTS: list(generation.results)},
            )
        )


# Trials ---------------------------------------------------------------------------------------------------------------


def counted(study: "Study") -> "list[FrozenTrial]":
    """The trials that are generations: those that are over or running, but none that failed, as when it was killed."""
    import optuna

    state = optuna.trial.TrialState
    return study.get_trials(deepcopy=False, states=(state.COMPLETE, state.PRUNED, state.RUNNING))


def ended(study: "Study") -> list[Generation]:
    """The generations that ended well, in their order."""
    import optuna

    trials = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    return [Generation(trial.user_attrs[HYP], trial.user_attrs[RESULTS]) for trial in trials if _is_whole(trial)]


def _is_whole(trial: "FrozenTrial") -> bool:
    """Whether a trial has what it trained with, and seven results; else it is dropped, as a damaged one."""
    hyp, results = trial.user_attrs.get(HYP), trial.user_attrs.get(RESULTS)
    fits = isinstance(hyp, dict) and isinstance(results, list) and len(results) == len(RESULT_KEYS)
    if fits and all(isinstance(value, int | float) for value in (*hyp.values(), *results)):
        return True
    LOGGER.warning(f"generation {trial.number} is damaged in the database; it is left out")
    return False


def running(study: "Study") -> "list[FrozenTrial]":
    """The trials that a worker trains just now, or has left without a word."""
    import optuna

    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))


def add_first(study: "Study", start: dict[str, float]) -> None:
    """Sees to it that the first generation has the values to start from, just as they are."""
    import optuna

    states = {trial.state for trial in study.get_trials(deepcopy=False)}
    if states <= {optuna.trial.TrialState.FAIL}:
        study.enqueue_trial(within(start), user_attrs={HYP: start})


def fail_lost(study: "Study", here: bool) -> None:
    """Marks as failed what was being trained by a worker that is gone: it has shown no life for two minutes.

    here: all workers are processes of this machine, of which it can be seen at once.
    """
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    if not here:
        return
    for trial in running(study):
        machine, _, process = str(trial.user_attrs.get(WORKER, "")).rpartition(":")
        if machine == platform.node() and not (process.isdecimal() and is_running(int(process[:9]))):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
            LOGGER.warning("a generation was cut off: it does not count, and another one is trained in its place")
