"""The options of train.py: their types and checks, and which of them may change when a run is resumed."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from utils.base.constants import QUAD, ROOT
from utils.cli.arguments import check_threads

AUTO_BATCH = -1  # in place of a batch size: the largest that fits
LEAST = {"epochs": 1, "imgsz": 1, "workers": 0, "patience": 0, "seed": 0, "close_mosaic": 0}

# What a run that goes on may do otherwise than it began; all else would make it another run.
CHANGEABLE = frozenset(
    {
        "data",
        "epochs",
        "device",
        "workers",
        "threads",
        "cache",
        "patience",
        "nosave",
        "noval",
        "noplots",
        "verbose",
        "save_period",
        "save_on_signal",
        "compile",
        "wandb",
        "mlflow",
        "entity",
        "bbox_interval",
    }
)
# What makes trainings of a search comparable: workers and searches that go on must have the same. Files by their names
# alone, since they may lie elsewhere on other machines.
COMPARABLE = (
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
COMPARABLE_FILES = ("data", "cfg", "weights")
DEFAULT_PROJECT = str(ROOT / "runs" / "train")
EVOLVE_SAMPLERS = ("ga", "tpe")
SEVERAL = {"freeze", "insert"}  # options that take several values
LOCATING = frozenset({"resume", "project", "name", "exist_ok"})  # with --resume they only say where the run is


@dataclass(frozen=True)
class TrainOptions:
    """The flags of `parse_opt` in train.py, which holds their defaults; `given` are those named by the user."""

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
    threads: int | str
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
    compile: bool
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
    verbose: bool
    given: frozenset[str] = frozenset()

    def values(self) -> dict[str, object]:
        """The flags' values by name."""
        return {name: value for name, value in asdict(self).items() if name != "given"}

    def comparable(self) -> dict[str, object]:
        """Return the values that all trainings of a search must have in common."""
        values = {name: getattr(self, name) for name in COMPARABLE}
        return values | {name: Path(getattr(self, name)).name for name in COMPARABLE_FILES}

    def for_search(self, processes: int) -> "TrainOptions":
        """Return the options as --evolve means them: runs/evolve by default, and --resume means --exist-ok.

        Raise ValueError if --resume names a run, or if there are several processes.
        """
        if isinstance(self.resume, str):
            raise ValueError(
                f"--resume {self.resume}: a search is resumed without a path, by --evolve N --project ... --name ... "
                "--resume"
            )
        if processes > 1:
            raise ValueError(
                "--evolve runs in one process; for more start several commands with the same --evolve-storage, each "
                "with its own --device"
            )
        is_default = Path(self.project) == Path(DEFAULT_PROJECT)
        project = str(ROOT / "runs" / "evolve") if is_default else self.project
        return replace(self, project=project, exist_ok=self.exist_ok or bool(self.resume), resume=False)

    def check(self) -> None:
        """ValueError where a value is out of its range, or two exclude each other."""
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: {least} or more")
        check_threads(self.threads)
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
