"""Trains a detector: from a model yaml, from a checkpoint, or going on with a run that was cut off.

python train.py --cfg yolov5s-NAM.yaml                                  # the generated shapes, from scratch
python train.py --data bccd.yaml --cfg yolov5n-NAM.yaml --weights yolov5n.pt --imgsz 320 --epochs 30
python train.py --data custom.yaml --weights yolov5s.pt                 # the checkpoint's own architecture
python train.py --resume                                                # the newest run, or --resume path/last.pt
"""

import copy
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from models.experimental import attempt_load
from models.transfer import transfer_weights
from models.yolo import Model
from utils.autoanchor import check_anchors
from utils.autobatch import auto_batch
from utils.checkpoint import Checkpoint, load_checkpoint
from utils.config import YAML_SUFFIXES, DataConfig, Hyp
from utils.curves import plot_results
from utils.datasets import Batch, TrainLoader, train_loader, val_loader
from utils.dist import SINGLE, Ranks, joined
from utils.engine import MultiScale, Trainer, memory_text, select_amp
from utils.eval_files import EvalPlots
from utils.evaluate import evaluate, log_speed, log_table
from utils.general import (
    LOGGER,
    check_file,
    check_img_size,
    colorstr,
    init_seeds,
    make_divisible,
    plural,
    run_script,
    set_logging,
)
from utils.labels import LabelRecord, load_split
from utils.loggers import EpochBar, RunLogger
from utils.loss import ComputeLoss
from utils.optim import Schedule, build_optimizer, freeze_layers
from utils.plots import plot_images
from utils.resume import check_same_data, check_same_images, find_run, load_run, merged_options
from utils.run_files import RunFiles, telling_how_to_go_on
from utils.runs import AUTO_BATCH, check_shares, initial_weights, normalized
from utils.sampling import QUAD, ImageWeights
from utils.sync_norm import synchronized
from utils.torch_utils import EarlyStopping, ModelEMA, largest_stride, select_device
from utils.train_options import CHANGEABLE, LOCATING, TrainOptions, parse_opt

DEFAULT_CFG = "yolov5s.yaml"  # what the default weights are of
PLOTTED_BATCHES = 3


def main(opt: TrainOptions) -> Path:
    """Trains as the options say; the folder of the run."""
    checkpoint = None
    if opt.resume:
        opt, checkpoint = resumed(opt)
    opt.check()
    with joined() as ranks:
        check_shares(opt.values(), ranks.size)
        LOGGER.info(colorstr("train: ") + ", ".join(f"{name}={value}" for name, value in opt.values().items()))
        return train(opt, checkpoint, ranks)


def train(opt: TrainOptions, checkpoint: Checkpoint | None = None, ranks: Ranks = SINGLE) -> Path:
    """The story of a run, from its parts to its results; with a checkpoint it goes on after the checkpoint's epoch.

    Of several ranks each does its share, and rank 0 writes.
    """
    device = select_device(opt.device, ranks.local_rank, ranks.size)
    init_seeds(opt.seed, opt.deterministic)
    state = checkpoint.training if checkpoint else {}
    hyp = Hyp.from_dict(state["hyp"], str(opt.resume)) if state else Hyp.from_yaml(opt.hyp)
    weights = None if state else initial_weights(opt.weights, "weights" in opt.given, opt.cfg or DEFAULT_CFG)
    source = load_checkpoint(weights) if weights else checkpoint
    data = load_data(opt)
    with ranks.main_first():
        data.prepare()
        train_set, val_set = (load_split(data, split, opt.workers, opt.single_cls) for split in ("train", "val"))
    model = build_model(opt, data, hyp, source)
    imgsz = fit_model(opt, hyp, model, train_set)
    opt = replace(opt, batch_size=find_batch_size(opt, hyp, model, train_set, imgsz, device))
    if opt.sync_bn:
        model = synchronized(model, device, ranks)
    model = model.to(device, memory_format=torch.channels_last)
    start_epoch, maps = checkpoint.epoch + 1 if checkpoint else 0, state.get("maps")
    weigh = ImageWeights(train_set, data.nc) if opt.image_weights else None
    batches, val_batches = build_loaders(
        opt, hyp, train_set, val_set, imgsz, model, start_epoch, ranks, weights=weigh(maps) if weigh else None
    )
    trainer, stopper = build_trainer(opt, hyp, model, len(batches), imgsz, ranks), EarlyStopping(opt.patience)
    run = RunFiles.create(opt.values() | {"data": str(data.file.resolve())}, hyp.to_dict(), len(train_set), ranks)
    if checkpoint:
        restore(checkpoint, trainer, stopper, len(train_set))
    elif run.is_plotted and ranks.is_main:
        run.plot_labels(train_set, data.names)
    LOGGER.info(
        f"{imgsz} px, {plural(len(train_set), 'image')} to train on, {len(val_set)} to validate; {batches.workers} "
        f"loading processes, {device}, {trainer.amp_dtype or 'torch.float32'}; results go to {run.folder}"
    )
    how = {"device": device, "amp_dtype": trainer.amp_dtype, "compute_loss": trainer.criterion.alone(), "ranks": ranks}
    began = time.time()
    with RunLogger(run.folder, start_epoch, ranks.is_main) as logger, closing(batches), telling_how_to_go_on(run):
        for epoch in range(start_epoch, opt.epochs):
            losses = train_epoch(trainer, batches, epoch, opt.epochs, run, data.names)
            is_last, result = epoch + 1 == opt.epochs, None
            if is_last or not opt.noval:
                result = evaluate(trainer.ema.ema, val_batches, data.names, **how)
                log_table(result)
                maps = result.maps.tolist()
                if weigh:
                    batches.set_weights(weigh(maps))
            stops = bool(ranks.broadcast(result is not None and stopper(epoch, result.fitness)))
            logger.log_epoch(epoch, losses, result, trainer.learning_rates)
            if ranks.is_main and (stops or is_last or not opt.nosave):
                is_best = result is not None and stopper.best_epoch == epoch
                run.save(epoch, trainer, stopper, model, maps, is_best)
            if stops:
                LOGGER.info(f"no better epoch than {stopper.best_epoch} in {plural(opt.patience, 'epoch')}: stopped")
                break
        LOGGER.info(f"{plural(epoch + 1 - start_epoch, 'epoch')} in {(time.time() - began) / 3600:.3f} hours")
        finish(run, val_batches, data.names, device, ranks)
        logger.log_end(epoch)
    return run.folder


# Parts ----------------------------------------------------------------------------------------------------------------


def build_model(opt: TrainOptions, data: DataConfig, hyp: Hyp, source: Checkpoint | None) -> Model:
    """The model of the run that goes on, or of --cfg, or of the source, with what the source has for its layers."""
    if opt.resume:
        model = Model(source.yaml)
    else:
        cfg = check_file(opt.cfg, YAML_SUFFIXES) if opt.cfg else source.yaml if source else DEFAULT_CFG
        model = Model(cfg, nc=data.nc, anchors=None if hyp.anchors is None else round(hyp.anchors))
    model.names = list(data.names)
    if source and not opt.resume:
        report = transfer_weights(source, model, ("anchors",) if opt.cfg or hyp.anchors is not None else ())
        LOGGER.info(f"{opt.weights}:\n{report}")
        if not any(entry.source.endswith(".weight") for entry in report.matched):
            raise ValueError(f"{opt.weights}: none of it fits {opt.cfg}; to train from scratch name --weights ''")
        if report.items < report.total / 2:
            LOGGER.warning(f"{opt.weights}: less than half of it fits {opt.cfg}")
    if opt.noautoanchor and model.head.has_placeholder_anchors:
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
        check_anchors(model, train_set, imgsz, hyp.anchor_t, opt.seed)
    return imgsz


def load_data(opt: TrainOptions) -> DataConfig:
    """The data set's description, its classes as they are trained."""
    data = DataConfig.from_yaml(opt.data)
    return data.as_one_class() if opt.single_cls else data


def build_loaders(
    opt: TrainOptions,
    hyp: Hyp,
    train_set: Sequence[LabelRecord],
    val_set: Sequence[LabelRecord],
    imgsz: int,
    model: Model,
    start_epoch: int,
    ranks: Ranks,
    *,
    weights: np.ndarray | None,
) -> tuple[TrainLoader, DataLoader]:
    """Batches for training from start_epoch on, whose images are drawn by `weights` (N,), and for validation."""
    is_gpu = model.head.anchors.is_cuda
    common = {"workers": opt.workers, "cache": opt.cache, "stride": largest_stride(model), "pin_memory": is_gpu}
    common |= {"ranks": ranks}
    epochs = {"start_epoch": start_epoch, "epochs": opt.epochs, "close_mosaic": opt.close_mosaic}
    chosen = {"seed": opt.seed, "rect": opt.rect, "quad": opt.quad, "weights": weights}
    batches = train_loader(train_set, imgsz, opt.batch_size, hyp, **epochs, **chosen, **common)
    return batches, val_loader(val_set, imgsz, opt.batch_size * 2, **common)


def build_trainer(
    opt: TrainOptions, hyp: Hyp, model: Model, batch_count: int, imgsz: int, ranks: Ranks = SINGLE
) -> Trainer:
    """The model with its optimizer, schedule, loss and moving average, for epochs of so many batches."""
    optimizer = build_optimizer(model, opt.optimizer, hyp, opt.batch_size)
    schedule = Schedule(hyp, opt.epochs, batch_count, opt.batch_size, cosine=opt.cos_lr)
    scaled = hyp.scaled(model.head.nl, model.nc, imgsz)
    criterion = ComputeLoss(model.head, scaled, opt.label_smoothing, ranks=ranks)
    amp_dtype = select_amp(opt.amp, next(model.parameters()).device)
    resize = MultiScale(opt.seed, largest_stride(model)) if opt.multi_scale else None
    changes = {"resize": resize, "loss_factor": QUAD if opt.quad else 1, "ranks": ranks}
    return Trainer(model, optimizer, criterion, schedule, ModelEMA(model), amp_dtype, **changes)


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


def restore(checkpoint: Checkpoint, trainer: Trainer, stopper: EarlyStopping, images: int) -> None:
    """Brings trainer and stopper to where the checkpoint was taken; `images` are those to train on now."""
    trainer.load_state_dict(checkpoint.training, checkpoint.state)
    stopper.load_state_dict(checkpoint.training["stopper"])
    check_same_images(checkpoint.training.get("images"), images)


def train_epoch(
    trainer: Trainer, batches: TrainLoader, epoch: int, epochs: int, run: RunFiles, names: Sequence[str]
) -> Tensor:
    """Trains one epoch under a progress bar and draws the run's first batches; its mean losses (3,)."""
    is_main = trainer.ranks.is_main
    bar = EpochBar(epoch, epochs, batches.epoch(epoch), len(batches), disable=not is_main)

    def observe(i: int, batch: Batch, losses: Tensor | None) -> None:
        bar.show(memory_text(trainer.device), batch, losses)
        if is_main and run.is_plotted and epoch == 0 and i < PLOTTED_BATCHES:
            plot_images(batch.images, batch.targets, run.folder / f"train_batch{i}.jpg", names, batch.paths)

    return trainer.run_epoch(bar, epoch, len(batches), observe)


def finish(run: RunFiles, val_batches: DataLoader, names: Sequence[str], device: torch.device, ranks: Ranks) -> None:
    """Strips the checkpoints, validates the best one with plots, and says where everything is."""
    if ranks.is_main:
        run.strip()
    weights = run.best if run.best.exists() else run.last
    LOGGER.info(f"\nvalidating {weights}")
    plots = EvalPlots(run.folder, names) if run.is_plotted else None
    with ranks.sent(weights) as file:
        model = attempt_load(file, device).to(memory_format=torch.channels_last)
    result = evaluate(model, val_batches, names, device=device, on_batch=plots, ranks=ranks)
    if not ranks.is_main:
        return
    log_table(result, per_class=len(names) > 1)
    log_speed(result)
    if plots is not None:
        plots.finish(result)
        plot_results(run.folder / "results.csv")
    LOGGER.info(
        f"mAP@.5 {result.map50:.3f}, mAP@.5:.95 {result.map:.3f} with {weights}\n"
        f"Results saved to {colorstr('bold', str(run.folder))}"
    )


# Runs -----------------------------------------------------------------------------------------------------------------


def resumed(opt: TrainOptions) -> tuple[TrainOptions, Checkpoint]:
    """The options of the run that --resume names, with those changed that may be, and its checkpoint."""
    path = find_run(opt.resume, Path(opt.project))
    checkpoint = load_run(path)
    named = {name: value for name, value in opt.values().items() if name in opt.given - LOCATING}
    options = merged_options(path, checkpoint.training["opt"], parse_opt([]).values(), named, CHANGEABLE)
    opt = TrainOptions(**{**options, "resume": str(path)}, given=opt.given)
    check_same_data(path, checkpoint, load_data(opt).names)
    if checkpoint.epoch + 1 >= opt.epochs:
        raise ValueError(f"{path}: all its {opt.epochs} epochs are done; name more with --epochs")
    return opt, checkpoint


def run(**options: object) -> Path:
    """Training from Python: the flags as keywords with `_` for `-`, the command line's defaults for all others."""
    set_logging()
    known = [field.name for field in fields(TrainOptions) if field.name != "given"]
    options = normalized(options, several={"freeze"}, allowed=known)
    return main(replace(parse_opt([]), **options, given=frozenset(options)))


if __name__ == "__main__":
    run_script(main, parse_opt())
