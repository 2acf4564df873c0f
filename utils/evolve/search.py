"""Search hyper-parameters for `train.py --evolve`: an Optuna study whose trials are trainings.

The study is in a database, so a search can be resumed and workers on many machines can share one. A training is passed
as a function, because `utils` does not import `models`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.data.config import Hyp
from utils.evolve.files import EvolveFiles, best_index
from utils.evolve.sampler import HYP, bounded, make_sampler, outside, search_space
from utils.evolve.study import (
    RESULTS,
    WORKER,
    add_first,
    add_generations,
    counted,
    database_errors,
    ended,
    fail_lost,
    open_study,
    running,
    worker_id,
)
from utils.files.names import run_folder
from utils.general import LOGGER, colorstr, one_line, plural
from utils.metrics import fitness
from utils.training.engine import TrainingDiverged

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial

ANCHORS = 3.0  # per level, where --hyp does not say how many
PREFIX = "evolve: "
OWN_STUDY = "evolve"  # the study's name in the folder's own database
Report = Callable[[int, float], None]  # called with each epoch and its fitness; raises where the trial is to end
TrainOne = Callable[[dict[str, float], Report], Sequence[float]]  # a training: its values in, its seven results out


class Surplus(Exception):
    """Another worker has started this generation first."""


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search, and the folder of its files.

    start: the values to begin with. common: what all trainings of the search must have in common, epochs among it.
    folder: of the files; a number is added where it exists, unless exist_ok. storage: the address of a database that
    several workers share, in which the study has the folder's name; empty takes a file in the folder.
    """

    start: dict[str, float]
    generations: int
    sampler: str
    seed: int
    epochs: int
    common: dict[str, object]
    folder: Path
    exist_ok: bool = False
    storage: str = ""
    plots: bool = True


def find_hyp(settings: SearchSettings, train_one: TrainOne) -> Path:
    """Search hyper-parameters and write the files; return their folder.

    train_one(hyp, report) trains once; after each validation it calls report(epoch, fitness), which may raise.
    """
    try:
        import optuna
    except ImportError:
        raise ImportError("--evolve needs Optuna: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what happens is told here
    start, generations, name = settings.start, settings.generations, settings.folder.name
    common = settings.common | {"hyp": start}
    with run_folder(settings.folder, settings.exist_ok, is_shared=True) as folder:
        files = EvolveFiles(folder, tuple(start), settings.plots)
        url = settings.storage or f"sqlite:///{(folder / 'evolve.db').resolve()}"
        with database_errors(url):
            study = open_study(url, name if settings.storage else OWN_STUDY, common, settings.epochs)
            if not study.get_trials(deepcopy=False):
                add_generations(study, files.read())
            LOGGER.info(f"{colorstr(PREFIX)}{generations} generations, {settings.sampler}; results go to {folder}")
            search = Search(start, generations, settings.sampler, settings.seed, is_local=not settings.storage)
            try:
                search.run(study, train_one, lambda study: files.write(ended(study)))
            except KeyboardInterrupt:
                where = "" if settings.storage else f" with --name {folder.name} --exist-ok"
                LOGGER.info(f"\nto go on: the same command{where}")
                raise
            finish(study, files)
    return folder


def finish(study: "Study", files: EvolveFiles) -> None:
    """Write the files and log the best generation."""
    generations = ended(study)
    if len(files.read()) != len(generations):  # the last was another worker's
        files.write(generations)
    if left := running(study):
        LOGGER.info(f"{plural(len(left), 'generation')} more may still be trained by other workers")
    if not generations:
        raise ValueError("--evolve: all trainings diverged or failed; start with a lower lr0 in --hyp")
    best = generations[best_index(generations)]
    LOGGER.info(
        f"{colorstr(PREFIX)}the best of {plural(len(generations), 'generation')} has the fitness {best.fitness:.4g}, "
        f"the first one {generations[0].fitness:.4g}; train with --hyp {files.best}\n"
        f"Results saved to {colorstr('bold', str(files.folder))}"
    )


# Search ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Search:
    """A search from `start` until the study has a number of generations.

    is_local: all workers are processes of this machine.
    """

    start: dict[str, float]
    generations: int
    sampler: str
    seed: int
    is_local: bool = True

    def run(self, study: "Study", train_one: TrainOne, on_generation: "Callable[[Study], None]") -> None:
        """Train until the generations are complete; call on_generation(study) after each.

        Pruned and diverged trainings count as generations. Killed ones do not; another is trained in their place.
        """
        while True:
            if lost := fail_lost(study, self.is_local):
                LOGGER.warning(f"{plural(lost, 'generation')} of a killed worker left out; another one is trained")
            if len(counted(study)) >= self.generations:
                return
            add_first(study, self.start)
            study.sampler = make_sampler(self.sampler, self.start, self.seed, len(study.get_trials(deepcopy=False)))
            study.optimize(lambda trial: self.train_trial(study, trial, train_one), n_trials=1, catch=(Surplus,))
            on_generation(study)

    def train_trial(self, study: "Study", trial: "Trial", train_one: TrainOne) -> float:
        """Train one generation, store its values and results, and return its fitness."""
        import optuna

        before = sum(other.number < trial.number for other in counted(study))
        if before >= self.generations or (before and HYP in trial.user_attrs):
            raise Surplus
        trial.set_user_attr(WORKER, worker_id())
        space = search_space(self.start)
        drawn = {name: trial.suggest_float(name, of.low, of.high, log=of.log) for name, of in space.items()}
        hyp = trial.user_attrs.get(HYP) or bounded(self.start | drawn)
        trial.set_user_attr(HYP, hyp)
        LOGGER.info(f"\n{colorstr(PREFIX)}generation {before + 1} of {self.generations}")

        def report(epoch: int, value: float) -> None:
            trial.report(value, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned(f"generation {before + 1} is hopeless after epoch {epoch}: ended")

        try:
            results = [float(value) for value in train_one(dict(hyp), report)]
        except TrainingDiverged as error:
            LOGGER.warning(f"generation {before + 1} counts as one of the worst: {one_line(error)}")
            raise optuna.TrialPruned("diverged") from None
        except optuna.TrialPruned as pruned:
            LOGGER.info(f"{colorstr(PREFIX)}{pruned}")
            raise
        trial.set_user_attr(RESULTS, results)
        value = float(fitness(np.array([results]))[0])
        return value if math.isfinite(value) else 0.0


# Start ----------------------------------------------------------------------------------------------------------------


def start_values(hyp_file: str, with_anchors: bool) -> dict[str, float]:
    """Return the values to start from, those of a file; with_anchors: with a number of anchors, as in v6.1."""
    start = Hyp.from_yaml(hyp_file).to_dict()
    if with_anchors:
        start.setdefault("anchors", ANCHORS)
    if far := outside(start):
        LOGGER.warning(
            f"{hyp_file}: {', '.join(far)} outside of the search bounds; only the first generation uses these values"
        )
    return start
