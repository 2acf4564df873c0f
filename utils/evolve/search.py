"""The search for hyper-parameters, `train.py --evolve`: a study of Optuna whose trials are trainings.

The study is in a database, so that a search that was cut off goes on and workers on many machines share one. A training
comes as a function, since this layer knows no models.
"""

import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from utils.cli.train_options import DEFAULT_PROJECT, TrainOptions
from utils.data.config import Hyp
from utils.dist import find_ranks
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
)
from utils.files.names import run_folder
from utils.general import LOGGER, ROOT, colorstr, one_line, plural
from utils.metrics import fitness
from utils.training.engine import TrainingDiverged

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial

ANCHORS = 3.0  # per level, where --hyp does not say how many
PREFIX = "evolve: "
OWN_STUDY = "evolve"  # the study's name in the folder's own database
# What makes trainings comparable: workers and searches that go on must have the same. Files by their names alone, since
# they may lie elsewhere on other machines.
COMMON = (
    "epochs",
    "imgsz",
    "batch_size",
    "optimizer",
    "seed",
    "cos_lr",
    "label_smoothing",
    "freeze",
    "single_cls",
    "rect",
    "quad",
    "multi_scale",
    "image_weights",
    "close_mosaic",
    "noautoanchor",
    "noval",
    "patience",
    "insert",
)
COMMON_FILES = ("data", "cfg", "weights")

Report = Callable[[int, float], None]  # called with each epoch and its fitness; raises where the trial is to end
TrainOne = Callable[[dict[str, float], Report], Sequence[float]]  # a training: its values in, its seven results out


class Surplus(Exception):
    """Another worker has begun this generation first."""


def find_hyp(opt: TrainOptions, train_one: TrainOne) -> Path:
    """Searches as --evolve says and writes what is found; the folder of the files.

    train_one(hyp, report) trains once; after each validation it calls report(epoch, fitness), which may raise.
    """
    try:
        import optuna
    except ImportError:
        raise ImportError("--evolve needs Optuna: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what happens is told here
    opt, start = evolve_options(opt), start_values(opt)
    common = {
        **{name: getattr(opt, name) for name in COMMON},
        **{name: Path(getattr(opt, name)).name for name in COMMON_FILES},
        "hyp": start,
    }
    with run_folder(Path(opt.project) / opt.name, opt.exist_ok, is_shared=True) as folder:
        files = EvolveFiles(folder, tuple(start), not opt.noplots)
        url = opt.evolve_storage or f"sqlite:///{(folder / 'evolve.db').resolve()}"
        with database_errors(url):
            study = open_study(url, opt.name if opt.evolve_storage else OWN_STUDY, common, opt.epochs)
            if not study.get_trials(deepcopy=False):
                add_generations(study, files.read())
            LOGGER.info(f"{colorstr(PREFIX)}{opt.evolve} generations, {opt.evolve_sampler}; results go to {folder}")
            search = Search(start, opt.evolve, opt.evolve_sampler, opt.seed, is_local=not opt.evolve_storage)
            try:
                search.run(study, train_one, lambda study: files.write(ended(study)))
            except KeyboardInterrupt:
                where = "" if opt.evolve_storage else f" with --name {folder.name} --exist-ok"
                LOGGER.info(f"\nto go on: the same command{where}")
                raise
            finish(study, files)
    return folder


def finish(study: "Study", files: EvolveFiles) -> None:
    """Writes the files and says what was found."""
    generations = ended(study)
    if len(files.read()) != len(generations):  # the last was another worker's
        files.write(generations)
    if left := running(study):
        LOGGER.info(f"{plural(len(left), 'generation')} more may still be trained by other workers")
    if not generations:
        raise ValueError("--evolve: no training has come to its end; begin with a lower lr0 in --hyp")
    best = generations[best_index(generations)]
    LOGGER.info(
        f"{colorstr(PREFIX)}the best of {plural(len(generations), 'generation')} has the fitness {best.fitness:.4g}, "
        f"the first one {generations[0].fitness:.4g}; train with --hyp {files.best}\n"
        f"Results saved to {colorstr('bold', str(files.folder))}"
    )


# Search ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Search:
    """How hyper-parameters are searched: from `start` on, until the study has so many generations.

    is_local: all workers are processes of this machine.
    """

    start: dict[str, float]
    generations: int
    sampler: str
    seed: int
    is_local: bool = True

    def run(self, study: "Study", train_one: TrainOne, on_generation: "Callable[[Study], None]") -> None:
        """Trains until the generations are complete; on_generation(study) after each of them.

        What was pruned or diverged is a generation, too; what was killed is none, and another is trained in its place.
        """
        while True:
            fail_lost(study, self.is_local)
            if len(counted(study)) >= self.generations:
                return
            add_first(study, self.start)
            study.sampler = make_sampler(self.sampler, self.start, self.seed, len(study.get_trials(deepcopy=False)))
            study.optimize(lambda trial: self.train_trial(study, trial, train_one), n_trials=1, catch=(Surplus,))
            on_generation(study)

    def train_trial(self, study: "Study", trial: "Trial", train_one: TrainOne) -> float:
        """One generation: its fitness, kept with what it trained with and its seven results."""
        import optuna

        before = sum(other.number < trial.number for other in counted(study))
        if before >= self.generations or (before and HYP in trial.user_attrs):
            raise Surplus
        trial.set_user_attr(WORKER, f"{platform.node()}:{os.getpid()}")
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
        value = float(fitness(results))
        return value if math.isfinite(value) else 0.0


# Options --------------------------------------------------------------------------------------------------------------


def evolve_options(opt: TrainOptions) -> TrainOptions:
    """The options as they are meant here: runs/evolve for the default project, and --resume means --exist-ok."""
    if isinstance(opt.resume, str):
        raise ValueError(
            f"--resume {opt.resume}: a search goes on with --evolve N --project ... --name ... --resume, without a path"
        )
    if find_ranks().size > 1:
        raise ValueError(
            "--evolve runs in one process; for more start several commands with the same --evolve-storage, each with "
            "its own --device"
        )
    is_default = Path(opt.project) == Path(DEFAULT_PROJECT)
    project = str(ROOT / "runs" / "evolve") if is_default else opt.project
    return replace(opt, project=project, exist_ok=opt.exist_ok or bool(opt.resume), resume=False)


def start_values(opt: TrainOptions) -> dict[str, float]:
    """The values to start from, those of --hyp; with a number of anchors, as in v6.1, unless --noautoanchor stands."""
    start = Hyp.from_yaml(opt.hyp).to_dict()
    if not opt.noautoanchor:
        start.setdefault("anchors", ANCHORS)
    if far := outside(start):
        LOGGER.warning(
            f"{opt.hyp}: {', '.join(far)} beyond the bounds of the search: only the first generation has the values"
        )
    return start
