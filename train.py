"""Trains a detector: from a model yaml, from a checkpoint, or going on with a run that was cut off.

python train.py --cfg yolov5s-NAM.yaml                                  # the generated shapes, from scratch
python train.py --data bccd.yaml --cfg yolov5n-NAM.yaml --weights yolov5n.pt --imgsz 320 --epochs 30
python train.py --data custom.yaml --weights yolov5s.pt                 # the checkpoint's own architecture
python train.py --data custom.yaml --weights yolov5s.pt --insert NAMAttention@p5    # the same with NAM put in
python train.py --resume                                                # the newest run, or --resume path/last.pt
python train.py --epochs 10 --evolve 300                                # searches better values for --hyp
python train.py --resume runs/train/exp --epochs 400                    # a finished run, with more epochs
"""

import argparse
import copy
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import get_type_hints

from utils.base.constants import AMP_CHOICES, QUAD, ROOT, SERVICE_PROJECT
from utils.cli.arguments import given_names, normalized, read_options, thread_count
from utils.cli.train_options import AUTO_BATCH, CHANGEABLE, EVOLVE_SAMPLERS, LOCATING, SEVERAL, TrainOptions


def parse_opt(arguments: Sequence[str] | None = None) -> TrainOptions:
    """The options of the command line, or of `arguments`."""
    parser = argparse.ArgumentParser(
        description="Train a detector.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--weights",
        default=str(ROOT / "yolov5s.pt"),
        help="checkpoint to start from; '' = from scratch, as where the default is absent (nothing is downloaded)",
    )
    parser.add_argument(
        "--cfg", default="", help="model yaml, e.g. yolov5s-NAM.yaml; empty takes the checkpoint's own architecture"
    )
    parser.add_argument(
        "--insert",
        action="append",
        default=[],
        metavar="BLOCK@PLACE",
        help="put a block into the architecture: NAMAttention@p5, NAMAttention@p3,p4,p5, NAMAttention@detect, "
        "C3[c,False]@backbone; places as in python -m tools.insert --help, before:PLACE for a row's inputs",
    )
    parser.add_argument(
        "--require-transfer",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="end where less than this share of the checkpoint's tensors fits the architecture, e.g. 0.95",
    )
    parser.add_argument(
        "--data",
        default=str(ROOT / "data" / "shapes.yaml"),
        help="data set yaml; the default one is drawn on first use",
    )
    parser.add_argument(
        "--hyp",
        default=str(ROOT / "data" / "hyps" / "hyp.scratch-low.yaml"),
        help="hyper-parameter yaml: learning rate, loss gains, augmentation",
    )
    parser.add_argument("--epochs", type=int, default=300, help="passes over the training images")
    parser.add_argument(
        "--batch-size", type=int, default=16, help="images of a step, over all devices; -1 = most that fit"
    )
    parser.add_argument(
        "--imgsz", "--img", "--img-size", type=int, default=640, help="side of the network's image, in pixels"
    )
    parser.add_argument(
        "--rect", action="store_true", help="batches of images of like aspect: less padding, but no mosaics"
    )
    parser.add_argument(
        "--resume", nargs="?", const=True, default=False, help="go on with the newest run, or this one or its last.pt"
    )
    parser.add_argument("--nosave", action="store_true", help="write checkpoints after the last epoch only")
    parser.add_argument("--noval", action="store_true", help="validate after the last epoch only")
    parser.add_argument(
        "--noautoanchor", action="store_true", help="keep the anchors, however badly they fit the labels"
    )
    parser.add_argument(
        "--cache", nargs="?", const="ram", help="keep decoded images: ram, disk, or val (only those of val, in RAM)"
    )
    parser.add_argument("--device", default="", help="0, 0,1 or cpu; empty takes the first GPU if there is one")
    parser.add_argument(
        "--optimizer", choices=("SGD", "Adam", "AdamW"), default="SGD", help="Adam and AdamW want a smaller lr0"
    )
    parser.add_argument(
        "--workers", type=int, default=8, help="most processes that load images; 0 loads them in this one"
    )
    parser.add_argument(
        "--threads",
        type=thread_count,
        default=0,
        metavar="N|auto",
        help="threads that a CPU computes with; 0: as torch likes; auto: as many as cores are free at each epoch",
    )
    parser.add_argument("--project", default=str(ROOT / "runs" / "train"), help="results go to project/name")
    parser.add_argument("--name", default="exp", help="results go to project/name; a number is added where that exists")
    parser.add_argument(
        "--exist-ok", action="store_true", help="write into an existing project/name, replacing files of the same names"
    )
    parser.add_argument(
        "--cos-lr", action="store_true", help="let the learning rate fall along a cosine, not a straight line"
    )
    parser.add_argument("--label-smoothing", type=float, default=0.0, help="epsilon of the class targets, e.g. 0.1")
    parser.add_argument(
        "--patience", type=int, default=100, help="stop after so many epochs without a better one; 0 = never"
    )
    parser.add_argument(
        "--freeze", nargs="+", type=int, default=[0], help="one n freezes layers 0 to n-1, several freeze just those"
    )
    parser.add_argument(
        "--save-period", type=int, default=-1, help="also keep epoch<N>.pt every so many epochs; below 1 = never"
    )
    parser.add_argument(
        "--save-on-signal",
        action="store_true",
        help="at Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 write last.pt after the current batch; --resume takes the next one",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the weights, the order and the augmentation: same seed, same run"
    )
    parser.add_argument(
        "--amp",
        choices=AMP_CHOICES,
        default="auto",
        help="numbers of half the size where the hardware computes them fast and safely (auto), or as named",
    )
    parser.add_argument("--noplots", action="store_true", help="draw no pictures: no curves, no batches, no labels")
    parser.add_argument("--single-cls", action="store_true", help="take all classes as one, called item")
    parser.add_argument(
        "--multi-scale", action="store_true", help="give each batch another size, from a half to one and a half"
    )
    parser.add_argument(
        "--quad", action="store_true", help="join four images to one of twice the size, or enlarge one of them"
    )
    parser.add_argument(
        "--image-weights", action="store_true", help="show images with rare and badly found classes more often"
    )
    parser.add_argument(
        "--close-mosaic", type=int, default=0, help="train the last so many epochs without mosaic and mixup"
    )
    parser.add_argument(
        "--deterministic", action="store_true", help="same seed, same weights to the last bit, or an error; slower"
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the network by torch.compile, which takes minutes at first"
    )
    parser.add_argument(
        "--sync-bn", action="store_true", help="under torchrun: batch statistics over the images of all processes"
    )
    parser.add_argument(
        "--evolve",
        type=int,
        nargs="?",
        const=300,
        help="search hyper-parameters: train so many times, 300 without a number",
    )
    parser.add_argument(
        "--evolve-sampler", choices=EVOLVE_SAMPLERS, default="ga", help="v6.1's genetic search, or Optuna's TPE"
    )
    parser.add_argument(
        "--evolve-storage",
        default="",
        help="address of a database that several workers draw from, e.g. sqlite:///evolve.db or postgresql://...; "
        "--name says which study in it; empty takes a file in the search's folder",
    )
    parser.add_argument("--verbose", action="store_true", help="log all options at the start")
    parser.add_argument("--bucket", default="", help="v6.1's Google bucket for --evolve: use --evolve-storage instead")
    services = parser.add_argument_group("experiment services")
    services.add_argument(
        "--wandb", nargs="?", const=SERVICE_PROJECT, metavar="PROJECT", help="log to W&B (pip install wandb)"
    )
    services.add_argument(
        "--mlflow", nargs="?", const=SERVICE_PROJECT, metavar="EXPERIMENT", help="log to MLflow (pip install mlflow)"
    )
    services.add_argument("--entity", help="W&B: the user or team that the run belongs to")
    services.add_argument(
        "--upload_dataset", nargs="?", const=True, default=False, help="W&B: upload the data set; val = only its val"
    )
    services.add_argument(
        "--bbox_interval", type=int, default=-1, help="W&B: log drawn images every so many epochs; -1 = ten times"
    )
    services.add_argument(
        "--artifact_alias", default="latest", help="W&B: version of a --data wandb-artifact://... to train on"
    )
    parser.add_argument(
        "--local_rank", type=int, default=-1, help=argparse.SUPPRESS
    )  # of old launchers; torchrun's is in its variables
    options = read_options(TrainOptions, parser, arguments, several=SEVERAL)
    return replace(options, given=given_names(parser, arguments))


if __name__ == "__main__":
    OPTIONS = parse_opt()  # before the imports below, which take seconds: --help and errors in flags need none of them

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from models.blocks.sparsity import nam_penalty
from models.edit.insertion import parse_insertions, with_insertions
from models.edit.transfer import transfer_weights
from models.experimental import as_stripped, attempt_load
from models.yolo import Model
from utils.autoanchor import adapt_anchors
from utils.autobatch import auto_batch
from utils.data.config import DataConfig, Hyp
from utils.data.labels import LabelRecord, load_split
from utils.data.sampling import ImageWeights
from utils.datasets import Batch, TrainLoader, train_loader, val_loader
from utils.dist import SINGLE, DistEnv, process_group
from utils.draw.curves import plot_results
from utils.evaluation.evaluate import EvalSettings, Observer, evaluate, log_speed, log_table
from utils.evaluation.files import EvalPlots, write_results, write_thresholds
from utils.evolve.search import SearchSettings, find_hyp, start_values
from utils.files.addresses import log_options
from utils.files.checkpoint import Checkpoint, load_checkpoint
from utils.files.weights import initial_weights
from utils.files.yamls import YAML_SUFFIXES
from utils.general import (
    LOGGER,
    check_img_size,
    colorstr,
    duration,
    find_file,
    init_seeds,
    make_divisible,
    plural,
    run_script,
    set_logging,
)
from utils.loggers import EpochBar, check_services, open_loggers
from utils.loggers.wandb import WandbFlags
from utils.loggers.wandb_data import local_data
from utils.loss import ComputeLoss
from utils.metrics import EvalResult
from utils.plots import plot_batch
from utils.processes.locks import Lock
from utils.processes.signals import ON_REQUEST, STOPPING, StopSignals, stop_signals
from utils.report.page import PAGE, write_report
from utils.torch_utils import EarlyStopping, ModelEMA, ThreadLimit, compile_network, largest_stride, select_device
from utils.training.advice import loss_warning, next_commands, setting_warnings
from utils.training.engine import MultiScale, Trainer, memory_text, select_amp
from utils.training.optim import Schedule, build_optimizer, freeze_layers
from utils.training.resume import check_same_data, data_record, find_run, load_run, telling_of_moved_data, why_finished
from utils.training.resumed_options import resumed_options
from utils.training.run_files import RunFiles, log_resume_hint
from utils.training.sync_norm import synchronized

DEFAULT_CFG = "yolov5s.yaml"  # what the default weights are of
PLOTTED_BATCHES = 3


@dataclass
class Training:
    """A training put together: what `build_training` makes of options, data and weights."""

    opt: TrainOptions
    hyp: Hyp
    data: DataConfig
    splits: dict[str, list[LabelRecord]]  # those of train and val
    imgsz: int
    trainer: Trainer
    stopper: EarlyStopping
    batches: TrainLoader
    val_batches: DataLoader
    weigh: ImageWeights | None
    start_epoch: int
    maps: list[float] | None  # the classes' mAPs at the latest validation

    def epochs_left(self, checkpoint: Checkpoint | None) -> range:
        """The epochs to train: none if only the end of the run is left to do."""
        if checkpoint and why_finished(Path(str(self.opt.resume)), checkpoint, self.opt.epochs, self.opt.patience):
            return range(0)
        return range(self.start_epoch, self.opt.epochs)

    def validate(self, epoch: int, observer: Observer | None = None) -> EvalResult | None:
        """How good the moving average is after an epoch; None where the options leave it out.

        It is rated as the checkpoint of this epoch will be, in FP32 and with its weights as they are stored there, so
        that val.py gives the same numbers. `trainer.amp_dtype` is for training alone.
        """
        if self.opt.noval and epoch + 1 < self.opt.epochs:
            return None
        trainer = self.trainer
        criterion = copy.copy(trainer.criterion)
        criterion.ranks = SINGLE  # each process measures images of its own
        result = evaluate(
            as_stripped(trainer.ema.ema),
            self.val_batches,
            self.data.names,
            device=trainer.device,
            compute_loss=criterion,
            on_batch=observer,
            ranks=trainer.ranks,
        )
        log_table(result)
        if warning := loss_warning(result.losses):
            LOGGER.warning(warning)
        self.maps = result.maps.tolist()
        if self.weigh:
            self.batches.set_weights(self.weigh(self.maps))
        return result


def main(opt: TrainOptions) -> Path:
    """Trains as the options say; the folder of the run."""
    with process_group() as ranks, Lock() as lock:
        checkpoint = None
        if opt.resume and opt.evolve is None:
            opt, checkpoint = resumed(opt, lock if ranks.is_main else None)
        opt.check()
        check_services(wandb_flags(opt), opt.mlflow)
        parse_insertions(opt.insert)  # what is wrong in it is said at once
        opt.check_shares(ranks.size)
        with ranks.main_first():
            opt = replace(opt, data=local_data(opt.data, opt.artifact_alias))
        if opt.verbose:
            log_options("train", opt.values())
        if opt.evolve is not None:
            return evolve(opt.for_search(ranks.size))
        return train(opt, checkpoint, ranks, lock)


def train(opt: TrainOptions, checkpoint: Checkpoint | None, ranks: DistEnv, lock: Lock) -> Path:
    """The story of a run, of which each rank does its share; with a checkpoint it goes on after its epoch.

    lock: is to hold the run's folder.
    """
    hyp = Hyp.from_dict(checkpoint.training["hyp"], str(opt.resume)) if checkpoint else Hyp.from_yaml(opt.hyp)
    threads = ThreadLimit(opt.threads)
    threads.apply()
    parts = build_training(opt, load_data(opt), hyp, checkpoint, ranks)
    run = open_run(parts, checkpoint, lock)
    trainer, stopper, model, names = parts.trainer, parts.stopper, parts.trainer.model, parts.data.names
    loggers = open_loggers(
        run,
        parts.start_epoch,
        model,
        parts.imgsz,
        names,
        parts.splits,
        epochs=opt.epochs,
        data_file=parts.data.file.resolve(),
        wandb=wandb_flags(opt),
        experiment=opt.mlflow,
        is_main=ranks.is_main,
    )
    began = time.time()
    epoch = parts.start_epoch - 1  # of a run whose end alone is left
    with loggers as logger, closing(parts.batches), stopping(run, parts) as signals:
        for epoch in parts.epochs_left(checkpoint):
            threads.apply()
            losses = train_epoch(trainer, parts.batches, epoch, opt.epochs, run, names, signals)
            with signals.at_once():
                result = parts.validate(epoch, logger.observer(epoch))
            stops = bool(ranks.broadcast(result is not None and stopper(epoch, result.fitness)))
            stopper.stopped = stops  # one that is pasted from v6.1 does not keep it
            logger.log_epoch(epoch, losses, result, trainer.learning_rates, stopper.best_epoch)
            if ranks.is_main and (stops or epoch + 1 == opt.epochs or not opt.nosave):
                is_best = result is not None and stopper.best_epoch == epoch
                run.save(epoch, trainer, stopper, model, parts.maps, is_best)
                logger.log_checkpoint(epoch, run.epoch_checkpoint(epoch), is_best)
            epochs_left = opt.epochs - epoch - 1
            if epochs_left and not stops:
                mean = (time.time() - began) / (epoch + 1 - parts.start_epoch)
                LOGGER.info(f"about {duration(mean * epochs_left)} left for {plural(epochs_left, 'epoch')}")
            if stops:
                LOGGER.info(f"no better epoch than {stopper.best_epoch} in {plural(opt.patience, 'epoch')}: stopped")
                break
            if signals.is_deferred:
                check_signals(signals, trainer)
        LOGGER.info(f"{plural(epoch + 1 - parts.start_epoch, 'epoch')} in {duration(time.time() - began)}")
        with signals.at_once():
            result = finish(run, parts.val_batches, names, trainer.device, ranks, parts.imgsz)
            logger.log_end(epoch, run.final, result)
        if ranks.is_main:
            run.strip_last()
    return run.folder


def evolve(opt: TrainOptions) -> Path:
    """Searches better hyper-parameters by training again and again; the folder of what was found."""
    data = load_data(opt)
    return find_hyp(
        search_settings(opt), lambda hyp, report: train_trial(opt, data, Hyp.from_dict(hyp, opt.hyp), report)
    )


def search_settings(opt: TrainOptions) -> SearchSettings:
    """Collect the options that concern the search."""
    return SearchSettings(
        start=start_values(opt.hyp, with_anchors=not opt.noautoanchor),
        generations=opt.evolve,
        sampler=opt.evolve_sampler,
        seed=opt.seed,
        epochs=opt.epochs,
        common=opt.comparable(),
        folder=Path(opt.project) / opt.name,
        exist_ok=opt.exist_ok,
        storage=opt.evolve_storage,
        plots=not opt.noplots,
    )


def train_trial(opt: TrainOptions, data: DataConfig, hyp: Hyp, report: Callable[[int, float], None]) -> list[float]:
    """A training of --evolve, of which no file is left: P, R, mAP@.5, mAP@.5:.95 and three losses of its best epoch.

    report(epoch, fitness) is called after each epoch that was validated, and may raise to end the training.
    """
    threads = ThreadLimit(opt.threads)
    threads.apply()
    parts = build_training(opt, data, hyp)
    best: list[float] = []
    with closing(parts.batches):
        for epoch in range(opt.epochs):
            threads.apply()
            train_epoch(parts.trainer, parts.batches, epoch, opt.epochs, None, data.names)
            result = parts.validate(epoch)
            if result is None:
                continue
            stops = parts.stopper(epoch, result.fitness)
            if parts.stopper.best_epoch == epoch:
                best = [result.mp, result.mr, result.map50, result.map, *result.losses]
            report(epoch, result.fitness)
            if stops:
                break
    return best


# Parts ----------------------------------------------------------------------------------------------------------------


def build_training(
    opt: TrainOptions,
    data: DataConfig,
    hyp: Hyp,
    checkpoint: Checkpoint | None = None,
    ranks: DistEnv = SINGLE,
) -> Training:
    """The parts of a training, in the state of the checkpoint that it goes on from, if any."""
    device = select_device(opt.device, local_rank=ranks.local_rank, processes=ranks.size)
    init_seeds(opt.seed, opt.deterministic)
    weights = None if checkpoint else initial_weights(opt.weights, "weights" in opt.given, opt.cfg or DEFAULT_CFG)
    with ranks.main_first():
        data.prepare()
        splits = {name: load_split(data, name, opt.workers, opt.single_cls) for name in ("train", "val")}
    model = build_model(opt, data, hyp, load_checkpoint(weights) if weights else checkpoint)
    model.imgsz = imgsz = fit_model(opt, hyp, model, splits["train"])
    opt = replace(opt, batch_size=find_batch_size(opt, hyp, model, splits["train"], imgsz, device))
    if opt.sync_bn:
        model = synchronized(model, device, ranks)
    model = model.to(device, memory_format=torch.channels_last)
    start_epoch, maps = 0, None
    if checkpoint:
        start_epoch, maps = checkpoint.epoch + 1, checkpoint.training.get("maps")
    weigh = ImageWeights(splits["train"], data.nc) if opt.image_weights else None
    partial = checkpoint.training.get("partial") if checkpoint else None
    start = start_epoch, int(partial["batches"]) if partial else 0
    batches, val_batches = build_loaders(
        opt, hyp, splits, imgsz, model, start, ranks, weights=weigh(maps) if weigh else None
    )
    trainer = build_trainer(opt, hyp, model, len(batches), imgsz, ranks)
    if opt.compile:
        compile_network(model, is_dynamic=opt.multi_scale or opt.rect)
        trainer.compiled_for = opt.batch_size // ranks.size // (QUAD if opt.quad else 1)
    stopper = EarlyStopping(opt.patience)
    if checkpoint:
        restore(checkpoint, trainer, stopper)
        if partial and not trainer.first_batch(start_epoch, len(batches)):
            LOGGER.warning(
                f"--resume: the run was saved in epoch {start_epoch} after {partial['batches']} of "
                f"{partial['batch_count']} batches; now there are {len(batches)}, so the epoch begins again"
            )
    LOGGER.info(
        f"{imgsz} px, {plural(len(splits['train']), 'image')} to train on, {len(splits['val'])} to validate; "
        f"{plural(batches.workers, 'loading process')}, {device}, "
        f"trained in {trainer.amp_dtype or torch.float32}, validated in {torch.float32}"
    )
    for warning in setting_warnings(hyp, opt.optimizer, len(batches), opt.epochs):
        LOGGER.warning(warning)
    return Training(
        opt=opt,
        hyp=hyp,
        data=data,
        splits=splits,
        imgsz=imgsz,
        trainer=trainer,
        stopper=stopper,
        batches=batches,
        val_batches=val_batches,
        weigh=weigh,
        start_epoch=start_epoch,
        maps=maps,
    )


def open_run(parts: Training, checkpoint: Checkpoint | None, lock: Lock) -> RunFiles:
    """The run's folder, in which rank 0 draws what is labelled; of a run that goes on the one that it has."""
    opt, ranks = parts.opt, parts.trainer.ranks
    state = checkpoint.training if checkpoint else {}
    data, changes = data_record(state, parts.start_epoch - 1, parts.splits, parts.data.root)
    run = RunFiles(
        folder=Path(str(opt.resume)).parents[1] if checkpoint else Path(opt.project) / opt.name,
        options=opt.values() | {"data": str(parts.data.file.resolve())},
        hyp=parts.hyp.to_dict(),
        data=data,
        changes=changes,
        save_period=opt.save_period,
        is_plotted=not opt.noplots,
    ).opened(is_new=not checkpoint, exist_ok=opt.exist_ok, weights=opt.weights, ranks=ranks, lock=lock)
    if checkpoint and ranks.is_main and parts.epochs_left(checkpoint):
        run.reopen(checkpoint)
    if ranks.is_main and run.is_plotted and not checkpoint:
        run.plot_labels(parts.splits["train"], parts.data.names)
    LOGGER.info(f"results go to {run.folder}")
    return run


def wandb_flags(opt: TrainOptions) -> WandbFlags:
    """Collect the options that concern W&B."""
    return WandbFlags(
        project=opt.wandb,
        entity=opt.entity,
        upload_dataset=opt.upload_dataset,
        bbox_interval=opt.bbox_interval,
        artifact_alias=opt.artifact_alias,
    )


def build_model(opt: TrainOptions, data: DataConfig, hyp: Hyp, source: Checkpoint | None) -> Model:
    """The model of the run that goes on, or of --cfg, or of the source, with what the source has for its layers."""
    if opt.resume:
        model = Model(source.yaml)
    else:
        cfg = source.yaml if source else DEFAULT_CFG
        if opt.cfg:
            cfg = find_file(opt.cfg, YAML_SUFFIXES)
        if opt.insert:
            cfg = with_insertions(cfg, opt.insert, opt.cfg or opt.weights)
        model = Model(cfg, nc=data.nc, anchors=None if hyp.anchors is None else round(hyp.anchors))
    model.names = list(data.names)
    if source and not opt.resume:
        has_own_anchors = bool(opt.cfg) or hyp.anchors is not None
        report = transfer_weights(source, model, exclude=["anchors"] if has_own_anchors else [])
        LOGGER.info(f"{opt.weights}:\n{report}")
        if opt.cfg and source.yaml.get("pruned"):
            LOGGER.warning(f"{opt.weights} is of a pruned network: without --cfg it is trained as it is")
        report.check(opt.weights, opt.cfg, opt.require_transfer)
    elif opt.require_transfer and not source:
        raise ValueError(f"--require-transfer {opt.require_transfer:g}: there are no weights; name them by --weights")
    if opt.noautoanchor and model.has_placeholder_anchors:
        what = opt.hyp if hyp.anchors is not None else opt.cfg or opt.weights
        raise ValueError(
            f"{what}: gives only a number of anchors; leave --noautoanchor out, or write them into the yaml"
        )
    return model


def fit_model(opt: TrainOptions, hyp: Hyp, model: Model, train_set: Sequence[LabelRecord]) -> int:
    """Freezes the model's layers and fits its anchors to the labels; the images' size that its strides divide."""
    freeze_layers(model.model, opt.freeze)
    stride = largest_stride(model)
    imgsz = check_img_size(opt.imgsz, stride, floor=2 * stride)
    if not (opt.resume or opt.noautoanchor):
        adapt_anchors(model, train_set, imgsz, hyp.anchor_t, opt.seed)
    return imgsz


def load_data(opt: TrainOptions) -> DataConfig:
    """The data set's description, its classes as they are trained."""
    data = DataConfig.from_yaml(opt.data)
    return data.as_one_class() if opt.single_cls else data


def build_loaders(
    opt: TrainOptions,
    hyp: Hyp,
    splits: Mapping[str, Sequence[LabelRecord]],
    imgsz: int,
    model: Model,
    start: tuple[int, int],
    ranks: DistEnv,
    *,
    weights: np.ndarray | None,
) -> tuple[TrainLoader, DataLoader]:
    """Batches for training, whose images are drawn by `weights` (N,), and for validation.

    start: the epoch, and the batch of it, to begin with.
    """
    is_gpu, stride = model.head.anchors.is_cuda, largest_stride(model)
    batches = train_loader(
        splits["train"],
        imgsz,
        opt.batch_size,
        hyp,
        seed=opt.seed,
        workers=opt.workers,
        start_epoch=start[0],
        start_batch=start[1],
        epochs=opt.epochs,
        rect=opt.rect,
        cache=opt.cache,
        stride=stride,
        ranks=ranks,
        pin_memory=is_gpu,
        quad=opt.quad,
        weights=weights,
        close_mosaic=opt.close_mosaic,
    )
    val_batches = val_loader(
        splits["val"],
        imgsz,
        opt.batch_size * 2,
        workers=opt.workers,
        cache=opt.cache,
        stride=stride,
        ranks=ranks,
        pin_memory=is_gpu,
    )
    return batches, val_batches


def build_trainer(
    opt: TrainOptions, hyp: Hyp, model: Model, batch_count: int, imgsz: int, ranks: DistEnv = SINGLE
) -> Trainer:
    """The model with its optimizer, schedule, loss and moving average, for epochs of so many batches."""
    optimizer = build_optimizer(model, opt.optimizer, hyp, opt.batch_size)
    schedule = Schedule(hyp, opt.epochs, batch_count, opt.batch_size, cosine=opt.cos_lr)
    scaled = hyp.scaled(model.head.nl, model.nc, imgsz)
    model.hyp = scaled.to_dict() | {"label_smoothing": opt.label_smoothing}
    criterion = ComputeLoss(model)
    criterion.ranks = ranks
    amp_dtype = select_amp(opt.amp, next(model.parameters()).device)
    return Trainer(
        model,
        optimizer,
        criterion,
        schedule,
        ModelEMA(model),
        amp_dtype,
        may_leave_amp=opt.amp == "auto",
        resize=MultiScale(opt.seed, largest_stride(model)) if opt.multi_scale else None,
        loss_factor=QUAD if opt.quad else 1,
        penalty=nam_penalty(model, hyp.nam_sparsity or 0.0),
        ranks=ranks,
    )


def find_batch_size(
    opt: TrainOptions, hyp: Hyp, model: Model, train_set: Sequence[LabelRecord], imgsz: int, device: torch.device
) -> int:
    """--batch-size, or where it asks for it the largest that fits the device, found with copies of the model."""
    if opt.batch_size != AUTO_BATCH:
        return opt.batch_size

    def make_trainer(batch_size: int) -> Trainer:
        trained = copy.deepcopy(model).to(device, memory_format=torch.channels_last)
        return build_trainer(replace(opt, batch_size=batch_size, multi_scale=False), hyp, trained, 1, imgsz)

    largest = imgsz * 3 // 2 if opt.multi_scale else imgsz  # quads have as many pixels as the images they are made of
    found = auto_batch(make_trainer, device, make_divisible(largest, largest_stride(model)), train_set)
    return max(found - found % QUAD, QUAD) if opt.quad else found


def restore(checkpoint: Checkpoint, trainer: Trainer, stopper: EarlyStopping) -> None:
    """Brings trainer and stopper to where the checkpoint was taken."""
    trainer.load_state_dict(checkpoint.training, checkpoint.state)
    vars(stopper).update(checkpoint.training["stopper"])


def train_epoch(
    trainer: Trainer,
    batches: TrainLoader,
    epoch: int,
    epochs: int,
    run: RunFiles | None,
    names: Sequence[str],
    signals: StopSignals | None = None,
) -> Tensor:
    """Trains one epoch under a progress bar and draws the first batches of a run, if any; its mean losses (3,).

    Stopped after a batch where one of these signals has come and was deferred.
    """
    is_main = trainer.ranks.is_main
    first = trainer.first_batch(epoch, len(batches))
    bar = EpochBar(epoch, epochs, batches.epoch(epoch, first), len(batches) - first, disable=not is_main)

    def observe(i: int, batch: Batch, losses: Tensor | None) -> None:
        bar.show(memory_text(trainer.device), batch, losses)
        if run and is_main and run.is_plotted and epoch == 0 and i < PLOTTED_BATCHES:
            plot_batch(batch.images, batch.targets, run.folder / f"train_batch{i}.jpg", names, batch.paths)
        if signals is not None and signals.is_deferred:
            check_signals(signals, trainer)

    return trainer.run_epoch(bar, epoch, len(batches), observe)


def check_signals(signals: StopSignals, trainer: Trainer) -> None:
    """Raise Stopped if any of the ranks has been asked to stop, in all of them, whose state is then the same."""
    is_asked = trainer.ranks.sum_(torch.tensor([float(signals.number is not None)]))
    if not is_asked.item():
        return
    trainer.share_progress()
    signals.number = signals.number or signal.SIGTERM
    signals.check()


@contextmanager
def stopping(run: RunFiles, parts: Training) -> Iterator[StopSignals]:
    """The signals that end a run within the block, which then logs how it can go on.

    With --save-on-signal they are deferred, and what they break off is saved first.
    """
    if not parts.opt.save_on_signal:
        with log_resume_hint(run):
            yield StopSignals()
        return
    trainer = parts.trainer

    def save() -> None:
        if trainer.ranks.is_main:
            run.save_partial(trainer, parts.stopper, trainer.model, parts.maps)

    with stop_signals(is_deferred=True, names=(*STOPPING, *ON_REQUEST)) as signals, log_resume_hint(run, save):
        yield signals


def finish(
    run: RunFiles, val_batches: DataLoader, names: Sequence[str], device: torch.device, ranks: DistEnv, imgsz: int
) -> EvalResult:
    """Strip the best checkpoint, validate it with plots, and log where the results are; return the result.

    If it is interrupted a resume repeats all of it.
    """
    if ranks.is_main:
        run.strip_best()
    weights = run.final
    LOGGER.info(f"\nvalidating {weights}")
    plots = EvalPlots(run.folder, names) if run.is_plotted else None
    with ranks.broadcast_file(weights) as file:
        model = attempt_load(file, device).to(memory_format=torch.channels_last)
    settings = EvalSettings(by_size=True)
    result = evaluate(model, val_batches, names, device=device, settings=settings, on_batch=plots, ranks=ranks)
    if not ranks.is_main:
        return result
    log_table(result, per_class=len(names) > 1)
    log_speed(result)
    write_results(result, run.folder / "results.json")
    write_thresholds(result, run.folder / "thresholds.yaml")
    if plots is not None:
        plots.finish(result)
        plot_results(run.folder / "results.csv")
        write_report(plots, result, model, {"options": run.options, "hyp": run.hyp}, default_settings())
    LOGGER.info(
        f"mAP@.5 {result.map50:.3f}, mAP@.5:.95 {result.map:.3f} with {weights}\n"
        f"Results saved to {colorstr('bold', str(run.folder))}"
        + (f"\nReport: {run.folder / PAGE}" if run.is_plotted else "")
    )
    for command in next_commands(weights, Path(str(run.options["data"])), imgsz):
        LOGGER.info(command)
    return result


# Runs -----------------------------------------------------------------------------------------------------------------


def resumed(opt: TrainOptions, lock: Lock | None) -> tuple[TrainOptions, Checkpoint]:
    """The options of the run that --resume names, with those changed that may be, and its checkpoint.

    lock: is to hold the run's folder before anything is read from it.
    """
    path = find_run(opt.resume, Path(opt.project))
    if lock is not None:
        lock.take_folder(path.parents[1])
    checkpoint = load_run(path)
    named = {name: value for name, value in opt.values().items() if name in opt.given - LOCATING}
    options = resumed_options(path, checkpoint, parse_opt([]).values(), named, CHANGEABLE, get_type_hints(TrainOptions))
    opt = replace(opt, **options | {"resume": str(path)})
    with telling_of_moved_data(opt.data):
        data = load_data(opt)
        if data.generator is None:
            data.split("train")
            data.split("val")
    check_same_data(path, checkpoint, data.names)
    return opt, checkpoint


# Options --------------------------------------------------------------------------------------------------------------


def default_settings() -> dict[str, dict[str, object]]:
    """Return the defaults of the options and of the hyper-parameters, by which a report shows what was changed."""
    opt = parse_opt([])
    return {"options": opt.values(), "hyp": Hyp.from_yaml(opt.hyp).to_dict()}


def run(**options: object) -> Path:
    """Training from Python: the flags as keywords with `_` for `-`, the command line's defaults for all others."""
    set_logging()
    known = [field.name for field in fields(TrainOptions) if field.name != "given"]
    options = normalized(options, several=SEVERAL, allowed=known)
    return main(replace(parse_opt([]), **options, given=frozenset(options)))


if __name__ == "__main__":
    run_script(main, OPTIONS)
