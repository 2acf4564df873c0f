"""The options of train.py: its flags, their defaults and meanings, and which of them a run that goes on may change."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from utils.cli.arguments import add_device, add_run_folder
from utils.files.weights import DEFAULT_WEIGHTS
from utils.general import ROOT
from utils.loggers import check_services
from utils.loggers.wandb import DEFAULT_PROJECT as SERVICE_PROJECT
from utils.ops.quads import QUAD
from utils.training.engine import AMP_CHOICES

AUTO_BATCH = -1  # in place of a batch size: the largest that fits
LEAST = {"epochs": 1, "imgsz": 1, "workers": 0, "patience": 0, "seed": 0, "close_mosaic": 0}

# What a run that goes on may do otherwise than it began; all else would make it another run.
CHANGEABLE = frozenset(
    {"data", "epochs", "device", "workers", "cache", "patience", "nosave", "noval", "noplots", "save_period"}
    | {"save_on_signal", "wandb", "mlflow", "entity", "bbox_interval"}
)
DEFAULT_PROJECT = str(ROOT / "runs" / "train")
EVOLVE_SAMPLERS = ("ga", "tpe")
LOCATING = frozenset({"resume", "project", "name", "exist_ok"})  # with --resume they only say where the run is


@dataclass(frozen=True)
class TrainOptions:
    """The flags of `parse_opt`, which holds their defaults and meanings; `given` are those named by the user."""

    weights: str
    cfg: str
    insert: list[str]
    require_transfer: float
    data: str
    hyp: str
    epochs: int
    batch_size: int
    imgsz: int
    rect: bool
    resume: str | bool
    nosave: bool
    noval: bool
    noautoanchor: bool
    cache: str | None
    device: str
    optimizer: str
    workers: int
    project: str
    name: str
    exist_ok: bool
    cos_lr: bool
    label_smoothing: float
    patience: int
    freeze: list[int]
    save_period: int
    seed: int
    amp: str
    save_on_signal: bool
    noplots: bool
    single_cls: bool
    multi_scale: bool
    quad: bool
    image_weights: bool
    close_mosaic: int
    deterministic: bool
    sync_bn: bool
    evolve: int | None
    evolve_sampler: str
    evolve_storage: str
    bucket: str
    wandb: str | None
    mlflow: str | None
    entity: str | None
    upload_dataset: str | bool
    bbox_interval: int
    artifact_alias: str
    local_rank: int
    given: frozenset[str] = frozenset()

    def values(self) -> dict[str, object]:
        """The flags' values by name."""
        return {name: value for name, value in asdict(self).items() if name != "given"}

    def check(self) -> None:
        """ValueError where a value is out of its range, or two exclude each other."""
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: {least} or more")
        if self.batch_size < 1 and self.batch_size != AUTO_BATCH:
            raise ValueError(f"--batch-size {self.batch_size}: 1 or more, or {AUTO_BATCH} for the largest that fits")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"--label-smoothing {self.label_smoothing}: from 0 to below 1")
        if self.cache not in (None, "ram", "disk", "val"):
            raise ValueError(f"--cache {self.cache}: ram, disk or val")
        if self.quad and self.batch_size > 0 and self.batch_size % QUAD:
            raise ValueError(f"--quad: a multiple of {QUAD} is needed, not --batch-size {self.batch_size}")
        if self.rect and self.image_weights:
            raise ValueError(
                "--rect has a fixed order, --image-weights draws a new one each epoch: leave one of them out"
            )
        check_services(self.values())
        if not 0 <= self.require_transfer <= 1:
            raise ValueError(f"--require-transfer {self.require_transfer}: a share, from 0 to 1")
        if self.evolve is not None and self.evolve < 1:
            raise ValueError(f"--evolve {self.evolve}: 1 generation or more")
        if self.evolve_sampler not in EVOLVE_SAMPLERS:
            raise ValueError(f"--evolve-sampler {self.evolve_sampler}: must be one of {', '.join(EVOLVE_SAMPLERS)}")
        if self.evolve_storage and self.evolve is None:
            raise ValueError("--evolve-storage is for a search: add --evolve, or leave it out")
        if self.bucket:
            raise ValueError(f"--bucket {self.bucket}: workers share a search by --evolve-storage URL, not by a bucket")

    def check_shares(self, processes: int) -> None:
        """Raise ValueError if a batch cannot be shared out to this number of processes."""
        if processes == 1:
            return
        least = processes * (QUAD if self.quad else 1)
        if self.batch_size == AUTO_BATCH:
            raise ValueError(f"--batch-size {AUTO_BATCH} is for one process; name a size, a multiple of {least}")
        if self.batch_size % least == 0:
            return
        if self.resume:
            raise ValueError(
                f"--resume: the run's --batch-size {self.batch_size} is not a multiple of {least}, as {processes} "
                "processes need it; start another number of them"
            )
        raise ValueError(
            f"--batch-size {self.batch_size} is shared out to {processes} processes: a multiple of {least}"
        )


def parse_opt(arguments: Sequence[str] | None = None) -> TrainOptions:
    """The options of the command line, or of `arguments`."""
    parser = argparse.ArgumentParser(description="Train a detector.", epilog="Results go to <project>/<name>.")
    add = parser.add_argument
    add(
        "--weights",
        default=str(DEFAULT_WEIGHTS),
        help="checkpoint to start from; '' = from scratch, as where the default is absent (nothing is downloaded)",
    )
    add("--cfg", default="", help="model yaml, e.g. yolov5s-NAM.yaml; empty takes the checkpoint's own architecture")
    add(
        "--insert",
        action="append",
        default=[],
        metavar="BLOCK@PLACE",
        help="put a block into the architecture: NAMAttention@p5, NAMAttention@p3,p4,p5, NAMAttention@detect, "
        "C3[c,False]@backbone; places as in python -m tools.insert --help, before:PLACE for a row's inputs",
    )
    add(
        "--require-transfer",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="end where less than this share of the checkpoint's tensors fits the architecture, e.g. 0.95",
    )
    add(
        "--data",
        default=str(ROOT / "data" / "shapes.yaml"),
        help="data set yaml; the default one is drawn on first use",
    )
    add(
        "--hyp",
        default=str(ROOT / "data" / "hyps" / "hyp.scratch-low.yaml"),
        help="hyper-parameter yaml: learning rate, loss gains, augmentation",
    )
    add("--epochs", type=int, default=300, help="passes over the training images")
    add("--batch-size", type=int, default=16, help="images of a step, over all devices; -1 = most that fit")
    add("--imgsz", "--img", "--img-size", type=int, default=640, help="side of the network's image, in pixels")
    add("--rect", action="store_true", help="batches of images of like aspect: less padding, but no mosaics")
    add("--resume", nargs="?", const=True, default=False, help="go on with the newest run, or this one or its last.pt")
    add("--nosave", action="store_true", help="write checkpoints after the last epoch only")
    add("--noval", action="store_true", help="validate after the last epoch only")
    add("--noautoanchor", action="store_true", help="keep the anchors, however badly they fit the labels")
    add("--cache", nargs="?", const="ram", help="keep decoded images: ram, disk, or val (only those of val, in RAM)")
    add_device(parser)
    add("--optimizer", choices=("SGD", "Adam", "AdamW"), default="SGD", help="Adam and AdamW want a smaller lr0")
    add("--workers", type=int, default=8, help="most processes that load images; 0 loads them in this one")
    add_run_folder(parser, DEFAULT_PROJECT)
    add("--cos-lr", action="store_true", help="let the learning rate fall along a cosine, not a straight line")
    add("--label-smoothing", type=float, default=0.0, help="epsilon of the class targets, e.g. 0.1")
    add("--patience", type=int, default=100, help="stop after so many epochs without a better one; 0 = never")
    add("--freeze", nargs="+", type=int, default=[0], help="one n freezes layers 0 to n-1, several freeze just those")
    add("--save-period", type=int, default=-1, help="also keep epoch<N>.pt every so many epochs; below 1 = never")
    add(
        "--save-on-signal",
        action="store_true",
        help="at Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 write last.pt after the current batch; --resume takes the next one",
    )
    add("--seed", type=int, default=0, help="of the weights, the order and the augmentation: same seed, same run")
    add(
        "--amp",
        choices=AMP_CHOICES,
        default="auto",
        help="numbers of half the size where the hardware computes them fast and safely (auto), or as named",
    )
    add("--noplots", action="store_true", help="draw no pictures: no curves, no batches, no labels")
    add("--single-cls", action="store_true", help="take all classes as one, called item")
    add("--multi-scale", action="store_true", help="give each batch another size, from a half to one and a half")
    add("--quad", action="store_true", help="join four images to one of twice the size, or enlarge one of them")
    add("--image-weights", action="store_true", help="show images with rare and badly found classes more often")
    add("--close-mosaic", type=int, default=0, help="train the last so many epochs without mosaic and mixup")
    add("--deterministic", action="store_true", help="same seed, same weights to the last bit, or an error; slower")
    add("--sync-bn", action="store_true", help="under torchrun: batch statistics over the images of all processes")
    add("--evolve", type=int, nargs="?", const=300, help="search hyper-parameters: train so many times (300)")
    add("--evolve-sampler", choices=EVOLVE_SAMPLERS, default="ga", help="v6.1's genetic search, or Optuna's TPE")
    add(
        "--evolve-storage",
        default="",
        help="address of a database that several workers draw from, e.g. sqlite:///evolve.db or postgresql://...; "
        "--name says which study in it; empty takes a file in the search's folder",
    )
    add("--bucket", default="", help="v6.1's Google bucket for --evolve: use --evolve-storage instead")
    services = parser.add_argument_group("experiment services")
    add = services.add_argument
    add("--wandb", nargs="?", const=SERVICE_PROJECT, metavar="PROJECT", help="log to W&B (pip install wandb)")
    add("--mlflow", nargs="?", const=SERVICE_PROJECT, metavar="EXPERIMENT", help="log to MLflow (pip install mlflow)")
    add("--entity", help="W&B: the user or team that the run belongs to")
    add("--upload_dataset", nargs="?", const=True, default=False, help="W&B: upload the data set; val = only its val")
    add("--bbox_interval", type=int, default=-1, help="W&B: log drawn images every so many epochs; -1 = ten times")
    add("--artifact_alias", default="latest", help="W&B: version of a --data wandb-artifact://... to train on")
    add(
        "--local_rank", type=int, default=-1, help=argparse.SUPPRESS
    )  # of old launchers; torchrun's is in its variables
    return TrainOptions(**vars(parser.parse_args(arguments)), given=_given(parser, arguments))


def _given(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> frozenset[str]:
    """Return the names of the options that the command line has, whatever their values.

    The parser's defaults are suppressed for this; it is of no use afterwards.
    """
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return frozenset(vars(parser.parse_args(arguments)))
