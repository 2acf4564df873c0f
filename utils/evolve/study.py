"""The Optuna study of a search for hyper-parameters: its database, its trials, and which of them count.

Workers on many machines may share one. The trial of a worker that was killed or lost is marked as failed.
`tools.ablate` opens its database and marks its lost trials with the same functions.
"""

import math
import os
import platform
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from utils.evolve.files import RESULT_KEYS, Generation
from utils.evolve.sampler import HYP, bounded, search_space
from utils.general import LOGGER, is_running, one_line

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.storages import RDBStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial

RESULTS = "results"  # trial attribute: P, R, mAP@.5, mAP@.5:.95 and the three losses of the validation
WORKER = "worker"  # trial attribute: the machine and the process that trains it
SEARCH = "search"  # study attribute: the options that all trainings share
EVOLVE_FLAG = "--evolve-storage"
OPENING_WAITS_S = (0.2, 0.5, 1.0)
HEARTBEAT_S, GRACE_S = 30, 120  # interval of heartbeats, and the silence after which a worker is lost
# A trial is pruned if its best epoch so far is among the worst quarter of the ended trials at the same epoch: most
# children are worse than their parents, so the median would end every second one.
PRUNED_PERCENT, TRIALS_BEFORE_PRUNING = 25.0, 10
MIN_EPOCHS = 5  # before pruning: the longest warm-up in the search space


@contextmanager
def database_errors(url: str, flag: str = EVOLVE_FLAG) -> Iterator[None]:
    """Raise a database's errors as a ValueError that names the flag and the address without its password."""
    import optuna
    import sqlalchemy

    try:
        yield
    except sqlalchemy.exc.ArgumentError:
        raise ValueError(
            f"{flag}: not a database address; give one such as sqlite:///study.db or postgresql://user@host/name"
        ) from None
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = one_line(error.__cause__ or error).partition(" [SQL: ")[0]
        raise ValueError(f"{flag} {shown(url)}: {reason}") from error


def shown(url: str) -> str:
    """Return a database address without its password."""
    import sqlalchemy

    return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)


def open_study(url: str, name: str, common: Mapping[str, object], epochs: int) -> "Study":
    """Open a study of a database, or create it.

    Args:
        common: options that all trainings share, as plain values

    Raises:
        ValueError: the study was created with other options
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
                f"{shown(url)}: the study {name!r} has {key} {before.get(key)!r}, not {value!r}; use the same "
                "options, or start another study with another --name"
            )
    return study


# SQLAlchemy 2.1 takes psycopg for postgresql://, earlier versions psycopg2; by these names neither needs a compiler.
BINARY_DRIVERS = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary"}


def open_storage(url: str, flag: str = EVOLVE_FLAG) -> "RDBStorage":
    """Open a database and create its tables; try again if another worker creates them at the same moment."""
    import optuna
    import sqlalchemy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the heartbeat
        for wait_s in (*OPENING_WAITS_S, None):
            try:
                return optuna.storages.RDBStorage(url, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S)
            except ImportError as error:  # the database's driver
                missing = getattr(error.__cause__, "name", None) or "its driver"
                missing = BINARY_DRIVERS.get(missing, missing)
                raise ImportError(f"{flag} {shown(url)} needs another package: pip install {missing}") from None
            except sqlalchemy.exc.DBAPIError:
                if wait_s is None:
                    raise
                time.sleep(wait_s)
    raise AssertionError("the last try returns or raises")


def make_pruner(epochs: int) -> "BasePruner":
    """Return a pruner of hopeless trainings, idle in their first third and until every warm-up is over."""
    import optuna

    warmup = max(math.ceil(epochs / 3), MIN_EPOCHS)
    return optuna.pruners.PercentilePruner(PRUNED_PERCENT, TRIALS_BEFORE_PRUNING, warmup, n_min_trials=5)


def within(hyp: Mapping[str, float]) -> dict[str, float]:
    """Return the values that Optuna may change, within their bounds."""
    space = search_space(hyp)
    return {name: value for name, value in bounded(hyp).items() if name in space}


def add_generations(study: "Study", generations: list[Generation]) -> None:
    """Add generations that v6.1 trained without a study."""
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
    """Return the trials that are generations: complete, pruned or running, but not failed."""
    import optuna

    state = optuna.trial.TrialState
    return study.get_trials(deepcopy=False, states=(state.COMPLETE, state.PRUNED, state.RUNNING))


def ended(study: "Study") -> list[Generation]:
    """Return the complete generations in their order."""
    import optuna

    trials = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    return [Generation(trial.user_attrs[HYP], trial.user_attrs[RESULTS]) for trial in trials if _is_whole(trial)]


def _is_whole(trial: "FrozenTrial") -> bool:
    """Return whether a trial has its hyper-parameters and seven results; warn if not."""
    hyp, results = trial.user_attrs.get(HYP), trial.user_attrs.get(RESULTS)
    fits = isinstance(hyp, dict) and isinstance(results, list) and len(results) == len(RESULT_KEYS)
    if fits and all(isinstance(value, int | float) for value in (*hyp.values(), *results)):
        return True
    LOGGER.warning(f"generation {trial.number} is damaged in the database and is left out")
    return False


def running(study: "Study") -> "list[FrozenTrial]":
    """Return the trials that are marked as running; their workers may be lost."""
    import optuna

    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))


def add_first(study: "Study", start: dict[str, float]) -> None:
    """Enqueue the start values, unclipped, unless a generation has ended or is running."""
    import optuna

    states = {trial.state for trial in study.get_trials(deepcopy=False)}
    if states <= {optuna.trial.TrialState.FAIL}:
        study.enqueue_trial(within(start), user_attrs={HYP: start})


def worker_id() -> str:
    """Return `<machine> <boot> <PID namespace>:<PID>`, which tells processes of containers with one name apart."""
    parts = [platform.node()]
    with suppress(OSError):  # not Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return f"{' '.join(parts)}:{os.getpid()}"


def fail_lost(study: "Study", here: bool) -> int:
    """Mark the trials of lost workers as failed: those without a heartbeat for GRACE_S; return their number.

    here: all workers are processes of this machine, so a dead one is seen at once.
    """
    import optuna

    before = len(running(study))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    place = worker_id().rpartition(":")[0]
    for trial in running(study) if here else ():
        owner, _, process = str(trial.user_attrs.get(WORKER, "")).rpartition(":")
        if owner:
            is_lost = owner == place and not (process.isdecimal() and is_running(int(process[:9])))
        else:  # killed before it wrote its name, or about to write it
            is_lost = (datetime.now() - trial.datetime_start).total_seconds() > GRACE_S
        if is_lost:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
    return max(0, before - len(running(study)))
