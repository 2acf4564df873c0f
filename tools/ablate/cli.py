"""Train variants of a detector with several seeds each and test their differences.

    python -m tools.ablate --config data/ablations/nam-shapes.yaml --dry-run  # show the plan and how long it takes
    python -m tools.ablate --config data/ablations/nam-shapes.yaml            # run it; resumes after a kill
    python -m tools.ablate --config data/ablations/nam-shapes.yaml --report   # the report of what is done so far
    python -m tools.ablate --config data/ablations/nam-shapes.yaml --plan     # how many seeds a difference needs
    python -m tools.ablate --runs docs/nam-bccd-runs.csv docs/nam-cards-runs.csv  # tables from committed rows

Needs Optuna (pip install optuna). Several processes may run the same command at the same time, those of several
machines with --storage postgresql://user@host/db: each training is done by one of them. Results go to
<project>/<name>: report.html, report.md, table.tex, CSV and plots.
"""

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from models.experimental import attempt_load
from models.yolo import Model
from tools.ablate.bootstrap import ImageRecorder, ImageStats, drawn_maps, interval
from tools.ablate.effects import effects_of, plot_effects, read_effects, tables_of
from tools.ablate.known import adopt_known
from tools.ablate.plan import Plan, Run, load_plan
from tools.ablate.power import Look, describe, stopped_at
from tools.ablate.queue import RunQueue
from tools.ablate.report import write_reports
from tools.ablate.runs import work
from tools.ablate.stats import smallest_p
from tools.ablate.table import Findings, summary
from tools.costs import measure_costs
from train import parse_opt as parse_train
from utils.cli.arguments import tool_parser
from utils.cli.train_options import TrainOptions
from utils.data.config import DataConfig
from utils.data.labels import LabelRecord, load_split
from utils.datasets import val_loader
from utils.draw.curves import read_results
from utils.evaluation.evaluate import EvalSettings, evaluate
from utils.files.checkpoint import load_checkpoint
from utils.general import LOGGER, ROOT, atomic_write, check_img_size, colorstr, find_file, plural, progress
from utils.metrics import IOU_LEVELS
from utils.ops.size_ap import SIZES
from utils.report.facts import environment
from utils.torch_utils import largest_stride, select_device
from utils.training.fingerprint import fingerprint

LEVEL_75 = int(np.abs(IOU_LEVELS - 0.75).argmin())
PROBES = 3  # batches that are timed for --dry-run
PROBED_IMAGES = 4


@dataclass(frozen=True)
class AblateOptions:
    """Flags of `parse_opt`."""

    config: str
    project: str
    name: str
    dry_run: bool
    report: bool
    retry: bool
    rounds: int
    plan: bool
    sd: float | None
    storage: str
    runs: list[str]
    baseline: str
    figure: str


def parse_opt(arguments: Sequence[str] | None = None) -> AblateOptions:
    """Parse the command line, or `arguments`."""
    parser = tool_parser(
        "ablate", "Train variants x seeds and compare them.", "--config data/ablations/nam-shapes.yaml --dry-run"
    )
    parser.add_argument("--config", default="", help="the ablation's yaml, as data/ablations/nam-shapes.yaml")
    parser.add_argument("--project", default=str(ROOT / "runs" / "ablate"), help="results go to project/name")
    parser.add_argument("--name", default="", help="results go to project/name, which may exist; empty: as the yaml")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and its expected time, train nothing")
    parser.add_argument("--report", action="store_true", help="write the report of the finished runs, train nothing")
    parser.add_argument("--retry", action="store_true", help="run failed trainings again")
    parser.add_argument(
        "--storage",
        default="",
        metavar="URL",
        help="database of the runs' states that several machines share, e.g. postgresql://...; default: a file in name",
    )
    parser.add_argument("--rounds", type=int, default=50, help="measurements of the latency")
    parser.add_argument("--plan", action="store_true", help="print the seeds that a difference needs, train nothing")
    parser.add_argument(
        "--sd", type=float, help="for --plan: sd of a pilot's paired differences in mAP; default: that of runs done"
    )
    parser.add_argument("--runs", nargs="+", default=[], metavar="CSV", help="print the tables of runs.csv files alone")
    parser.add_argument("--baseline", default="plain", help="for --runs: the variant that others are compared with")
    parser.add_argument("--figure", default="", metavar="PNG", help="for --runs: draw the effects into this file")
    options = AblateOptions(**vars(parser.parse_args(arguments)))
    if bool(options.config) == bool(options.runs):
        parser.error("give either --config or --runs")
    return options


def main(opt: AblateOptions) -> Path:
    """Do the open runs and write the report; return its folder."""
    if opt.rounds < 1:
        raise ValueError(f"--rounds {opt.rounds}: must be 1 or more")
    if opt.runs:
        return show_runs(opt.runs, opt.baseline, opt.figure)
    folder = (Path(opt.project) / (opt.name or Path(opt.config).stem)).resolve()
    plan = load_plan(opt.config, folder)
    queue = RunQueue(folder / "queue", opt.storage, folder.name)
    adopt_known(plan, queue)
    show_plan(plan, queue)
    if opt.dry_run:
        show_time(plan, queue)
        return folder
    if opt.plan:
        show_power(plan, queue, opt.sd)
        return folder
    if opt.retry:
        for run in plan.runs:
            queue.retry(run.key)
    data = DataConfig.from_yaml(plan.data)
    data.prepare()
    if not opt.report:
        work(
            queue,
            plan.runs,
            lambda run: measure(run, plan.split, data),
            is_needed=lambda run: is_needed(run, plan, queue),
        )
    findings = find(plan, queue, opt.rounds)
    write_reports(findings, folder)
    for line in (*summary(findings), *findings.notes):
        LOGGER.info(line)
    LOGGER.info(f"Report in {colorstr('bold', str(folder / 'report.html'))}")
    if findings.failed:
        log = queue.log(findings.failed[0])
        raise ValueError(f"{plural(len(findings.failed), 'run')} failed, see {log}; --retry tries again")
    return folder


def show_runs(files: Sequence[str], baseline: str, figure: str) -> Path:
    """Print the tables of runs.csv files and draw their figure; return the last file written or read.

    ValueError or FileNotFoundError names the file at fault.
    """
    effects = read_effects([find_file(file, (".csv",)) for file in files], baseline)
    LOGGER.info(tables_of(effects))
    if not figure:
        return Path(files[-1])
    plot_effects(effects, Path(figure))
    LOGGER.info(f"Effects drawn in {colorstr('bold', figure)}")
    return Path(figure)


# The plan -------------------------------------------------------------------------------------------------------------


def show_plan(plan: Plan, queue: RunQueue) -> None:
    """Log the variants, seeds and states of the runs."""
    states = [queue.state(run.key) for run in plan.runs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("done", "running", "failed", "open"))
    LOGGER.info(
        f"{colorstr('ablate: ')}{plural(len(plan.variants), 'variant')} x {plural(len(plan.seeds), 'seed')} on "
        f"{plan.data}, rated on {plan.split}: {counts}"
    )
    for run, state in zip(plan.runs, states, strict=True):
        LOGGER.debug(f"{run.key}: {state}: train.py {' '.join(run.arguments)}")
    least = smallest_p(len(plan.seeds))
    if least >= plan.alpha:
        LOGGER.warning(
            f"with {plural(len(plan.seeds), 'seed')} the p of an exact test is {least:.3g} or more, so a difference at "
            f"alpha {plan.alpha} rests on Student's t test alone; "
            f"{math.ceil(1 - math.log2(plan.alpha) + 1e-9)} seeds can confirm a single one"
        )


def show_time(plan: Plan, queue: RunQueue) -> None:
    """Log each run and the hours left, estimated from the runs that are done or from a few batches."""
    for run in plan.runs:
        LOGGER.info(f"{queue.state(run.key):>8} {run.key}: train.py {' '.join(run.arguments)}")
    records = [queue.record(run.key) for run in plan.runs if queue.state(run.key) == "done"]
    known = [float(record["train_seconds"]) for record in records if record.get("train_seconds")]
    left = sum(queue.state(run.key) in ("open", "running") for run in plan.runs)
    if known:
        seconds, basis = float(np.mean(known)), f"{plural(len(known), 'run')} that are done"
    else:
        seconds, basis = probe(plan), "a few batches of noise; loading and validation come on top"
    LOGGER.info(f"about {seconds / 60:.1f} minutes a run, {left * seconds / 3600:.2f} hours in all (by {basis})")


def show_power(plan: Plan, queue: RunQueue, sd: float | None) -> None:
    """Log the paired seeds that each difference needs, and the stopping rule.

    The sd of paired differences is given, or that of the runs that are done; ValueError without both.
    """
    records = [queue.record(run.key) for run in plan.runs if queue.state(run.key) == "done"]
    known = [float(record["train_seconds"]) for record in records if record.get("train_seconds")]
    if sd is None:
        sd = pilot_sd(plan, records)
    if not sd > 0:
        raise ValueError(f"--sd {sd:g}: the sd of paired differences in mAP must be above 0, such as 0.01")
    for line in describe(sd, float(np.mean(known)) / 60 if known else None, plan.alpha, plan.looks):
        LOGGER.info(line)


def pilot_sd(plan: Plan, records: Sequence[Mapping[str, object]]) -> float:
    """Return the root mean square of the variants' sd of paired differences, from the runs that are done."""
    pairs = []
    if any(record["variant"] == plan.baseline for record in records):
        pairs = [effect.paired for effect in effects_of(records, plan.baseline) if effect.paired is not None]
    if not pairs:
        raise ValueError("--plan: no pilot; give --sd, or run three seeds of two variants first")
    return math.sqrt(float(np.mean([pair.sd**2 for pair in pairs])))


def is_needed(run: Run, plan: Plan, queue: RunQueue) -> bool:
    """Return False if a planned look has stopped the run's variant, or for the baseline all variants."""
    if not plan.looks:
        return True
    others = [name for name in plan.variants if name != plan.baseline]
    names = others if run.variant == plan.baseline else [run.variant]
    index = plan.seeds.index(run.seed)
    looks = [look_of(name, plan, queue) for name in names]
    return any(look is None or index < look.pairs for look in looks)


def look_of(variant: str, plan: Plan, queue: RunQueue) -> Look | None:
    """Return the planned look at which a variant has stopped, from the runs that are done, or None."""
    values: dict[str, list[float]] = {variant: [], plan.baseline: []}
    keys = {(run.variant, run.seed): run.key for run in plan.runs}
    for seed in plan.seeds:
        pair = {name: keys[name, seed] for name in values}
        if any(queue.state(key) != "done" for key in pair.values()):
            break
        for name, key in pair.items():
            values[name].append(float(queue.record(key)["map"]))
    return stopped_at(np.array(values[variant]) - np.array(values[plan.baseline]), plan.looks)


def probe(plan: Plan) -> float:
    """Estimate the seconds of one training from forward and backward passes of the baseline."""
    run = next(run for run in plan.runs if run.variant == plan.baseline)
    opt = options_of(run)
    device = select_device(opt.device)
    data = DataConfig.from_yaml(plan.data)
    data.prepare()
    count = len(load_split(data, "train", opt.workers, opt.single_cls))
    source = opt.cfg or load_checkpoint(Path(opt.weights)).yaml
    model = Model(source, nc=data.nc, verbose=False).to(device).train()
    images = torch.rand(PROBED_IMAGES, 3, *(check_img_size(opt.imgsz, largest_stride(model)),) * 2, device=device)
    seconds = []
    for _ in range(PROBES):
        start = time.perf_counter()
        sum(raw.square().mean() for raw in model(images)).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds) / PROBED_IMAGES * count * opt.epochs


# A run ----------------------------------------------------------------------------------------------------------------


def measure(run: Run, split: str, data: DataConfig) -> dict[str, object]:
    """Evaluate a trained run on a split, write images.npz into its folder, and return metrics and environment."""
    opt = options_of(run)
    device = select_device(opt.device)
    weights = final_weights(run)
    model = attempt_load(weights, device)
    stride = largest_stride(model)
    rated = data.as_one_class() if opt.single_cls else data
    records = load_split(rated, split, opt.workers, opt.single_cls)
    trained = load_split(rated, "train", opt.workers, opt.single_cls)
    imgsz = check_img_size(opt.imgsz, stride, floor=2 * stride)
    loader = val_loader(records, imgsz, opt.batch_size * 2 if opt.batch_size > 0 else 32, workers=0, stride=stride)
    recorder = ImageRecorder(data.root)
    result = evaluate(
        model,
        loader,
        rated.names,
        device=device,
        settings=EvalSettings(by_size=True),
        on_batch=recorder,
        show_progress=False,
    )
    recorder.result().save(run.folder / "images.npz")
    curve = read_results(run.folder / "results.csv")["metrics/mAP_0.5:0.95"]
    ap = result.stats.ap
    sizes = dict(zip(SIZES, result.sizes.map.tolist(), strict=True))
    facts = {
        "map": result.map,
        "map50": result.map50,
        "map75": float(ap[:, LEVEL_75].mean()) if len(ap) else 0.0,
        "last_map": float(curve[-1]) if len(curve) and math.isfinite(curve[-1]) else None,
        **{f"map_{name}": value if math.isfinite(value) else None for name, value in sizes.items()},
        "epochs": len(curve),
        "weights": weights.name,
        "data": data_hash({split: records, "train": trained}, data),
    }
    return facts | {f"env_{key}": value for key, value in environment(device).items()}


def final_weights(run: Run) -> Path:
    """Return the checkpoint of the best epoch on val, or of the last epoch without validation."""
    best = run.folder / "weights" / "best.pt"
    return best if best.is_file() else best.with_name("last.pt")


def options_of(run: Run) -> TrainOptions:
    """Return the options of a run's training."""
    return parse_train(list(run.arguments))


def data_hash(splits: Mapping[str, Sequence[LabelRecord]], data: DataConfig) -> str:
    """Return a hash (16 hexadecimal digits) of the names, sizes and labels of all images."""
    content = hashlib.sha256()
    for name, records in sorted(splits.items()):
        content.update(name.encode() + fingerprint(records, data.root).numpy().tobytes())
    return content.hexdigest()[:16]


# The report -----------------------------------------------------------------------------------------------------------


def find(plan: Plan, queue: RunQueue, rounds: int) -> Findings:
    """Collect the findings of the runs that are done; raise ValueError if there are none."""
    states = {run.key: queue.state(run.key) for run in plan.runs}
    done = [run for run in plan.runs if states[run.key] == "done"]
    if not done:
        failed = [key for key, state in states.items() if state == "failed"]
        where = f"; {failed[0]} failed, see {queue.log(failed[0])} (--retry)" if failed else ""
        raise ValueError(f"{queue.folder}: no run is done yet{where}")
    for run in done:
        queue.check_digest(run.key, run.digest)
    records = [queue.record(run.key) for run in done]
    notes = [
        f"the runs differ in {what}: {', '.join(map(str, values))}"
        for key, what in (("data", "their data set"), ("env_commit", "the code's commit"), ("env_device", "the device"))
        if len(values := sorted({str(record.get(key)) for record in records})) > 1
    ]
    here = [run for run in done if final_weights(run).is_file()]  # the others are known by their rows alone
    first = {run.variant: run for run in reversed(here)}
    device = select_device(options_of(done[0]).device)
    trained = {name: final_weights(first[name]) for name in plan.variants if name in first}
    models = {name: attempt_load(weights, device, fuse=False) for name, weights in trained.items()}
    costs = {}
    if models:
        costs = measure_costs(models, max(options_of(run).imgsz for run in first.values()), device, rounds)
    curves: dict[str, list[np.ndarray]] = {name: [] for name in first}
    for run in here:
        curves[run.variant].append(read_results(run.folder / "results.csv")["metrics/mAP_0.5:0.95"])
    if len(here) < len(done):
        notes.append(
            f"{plural(len(done) - len(here), 'run')} without files here; curves, costs and draws of the images are of "
            f"the {len(here)} others"
        )
    return Findings(
        title=f"Ablation {plan.file.stem}",
        baseline=plan.baseline,
        variants=plan.variants,
        alpha=plan.alpha,
        records=records,
        costs={name: asdict(cost) for name, cost in costs.items()},
        bootstrap=image_intervals(plan, here),
        curves=curves,
        provenance=provenance(plan, records),
        notes=notes,
        failed=[key for key, state in states.items() if state == "failed"],
        looks=plan.looks,
        open=sum(states[run.key] in ("open", "running") and is_needed(run, plan, queue) for run in plan.runs),
    )


def image_intervals(plan: Plan, done: Sequence[Run]) -> dict[str, tuple[float, float]]:
    """Return the bootstrap interval over images of each variant's difference to the baseline."""
    if not plan.bootstrap:
        return {}
    bar = progress(done, desc="Drawing images", delay=2)
    drawn = {(run.variant, run.seed): bootstrap_maps(run, plan.bootstrap) for run in bar}
    found = {}
    for name in plan.variants:
        seeds = [seed for seed in plan.seeds if {(name, seed), (plan.baseline, seed)} <= drawn.keys()]
        if name != plan.baseline and seeds:
            pairs = ([drawn[variant, seed] for seed in seeds] for variant in (name, plan.baseline))
            found[name] = interval(*pairs, 1 - plan.alpha)
    return found


def bootstrap_maps(run: Run, draws: int) -> np.ndarray:
    """Return a run's mAP (draws,) on bootstrap samples of the images; cached in its folder."""
    path = run.folder / "bootstrap.npy"
    if path.is_file():
        found = np.load(path)
        if found.shape == (draws,):
            return found
    found = drawn_maps(ImageStats.load(run.folder / "images.npz"), draws)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, found)
    return found


def provenance(plan: Plan, records: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """Return plan, data, code and machine as rows of the report."""
    environments = {key.removeprefix("env_"): str(value) for key, value in records[0].items() if key[:4] == "env_"}
    options = {f"--{k.replace('_', '-')}": v for k, v in plan.train.values().items() if k in plan.train.given}
    return {
        "configuration": str(plan.file),
        "data set": plan.data,
        "rated on": plan.split,
        "weights rated": "of the best epoch on val",
        "seeds": ", ".join(map(str, plan.seeds)),
        "alpha": f"{plan.alpha:g}",
        "rule for stopping": stopping_rule(plan),
        "draws of images": str(plan.bootstrap),
        "data fingerprint": str(records[0].get("data")),
        "options of all": json.dumps({k: v for k, v in options.items() if k != "--data"}),
        **environments,
    }


def stopping_rule(plan: Plan) -> str:
    """Describe the stopping rule, which was fixed before the first run."""
    if not plan.looks:
        return f"none: {plural(len(plan.seeds), 'paired seed')}, tested once when all are done"
    limits = ", ".join(f"p <= {look.p:.4f} after {look.pairs} pairs" for look in plan.looks)
    return f"a variant stops at {limits} (alpha spending of Lan and DeMets)"
