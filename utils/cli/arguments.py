"""What a run takes and writes: options given from Python, weights, its folder, names given once, rows of labels.

Legend: n detections of an image.
"""

import argparse
import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.addresses import ModelAddress, is_url, without_credentials
from utils.boxes import xyxy2xywhn
from utils.general import LOGGER, ROOT, check_file, increment_path
from utils.sampling import QUAD

AUTO_BATCH = -1  # in place of a batch size: the largest that fits
LONGEST_NAME = 200  # bytes; file systems take 255
LEAST = {"epochs": 1, "imgsz": 1, "workers": 0, "patience": 0, "seed": 0, "close_mosaic": 0}
DEFAULT_WEIGHTS = ROOT / "yolov5s.pt"


def normalized(
    options: dict[str, object], several: Collection[str] = (), allowed: Collection[str] = ()
) -> dict[str, object]:
    """The options as the command line would give them: a Path is a str, and of the options `several` each is a list.

    One value will do where the command line takes several; None stays None. ValueError for a name that is not among
    those `allowed`, where they are given.
    """
    unknown = [name for name in options if allowed and name not in allowed]
    if unknown:
        close = difflib.get_close_matches(unknown[0], sorted(allowed), n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(allowed))}"
        raise ValueError(f"no option is called {unknown[0]}; {hint}")

    def plain(value: object) -> object:
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    found = {name: plain(value) for name, value in options.items()}
    lone = [name for name in several if name in found and not isinstance(found[name], list | None)]
    return found | {name: [found[name]] for name in lone}


def add_weights(parser: argparse.ArgumentParser, what: str) -> None:
    """Lets a parser take one checkpoint, `what` it is, by --weights as all scripts do, or without a flag."""
    parser.add_argument("--weights", default="", help=what)
    parser.add_argument("file", nargs="?", default="", metavar="WEIGHTS", help="the same, without its flag")


def read_weights(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, default: str = ""
) -> dict[str, object]:
    """What a parser of `add_weights` reads, its checkpoint as `weights`; ends the script where it is not one."""
    options = vars(parser.parse_args(arguments))
    named = [name for name in (options["weights"], options.pop("file")) if name]
    if len(named) > 1:
        parser.error(f"two checkpoints are named, {' and '.join(named)}; one is wanted")
    if not (named or default):
        parser.error("which checkpoint? --weights best.pt names it")
    return options | {"weights": (named or [default])[0]}


def check_training(options: Mapping[str, Any]) -> None:
    """ValueError where an option of train.py, by its name, is out of its range, or two exclude each other."""
    for name, least in LEAST.items():
        if options[name] < least:
            raise ValueError(f"--{name.replace('_', '-')} {options[name]}: {least} or more")
    batch_size = options["batch_size"]
    if batch_size < 1 and batch_size != AUTO_BATCH:
        raise ValueError(f"--batch-size {batch_size}: 1 or more, or {AUTO_BATCH} for the largest that fits")
    if not 0 <= options["label_smoothing"] < 1:
        raise ValueError(f"--label-smoothing {options['label_smoothing']}: from 0 to below 1")
    if options["cache"] not in (None, "ram", "disk", "val"):
        raise ValueError(f"--cache {options['cache']}: ram, disk or val")
    if options["quad"] and batch_size > 0 and batch_size % QUAD:
        raise ValueError(f"--quad: a multiple of {QUAD} is needed, not --batch-size {batch_size}")
    if options["rect"] and options["image_weights"]:
        raise ValueError("--rect has a fixed order, --image-weights draws a new one each epoch: leave one of them out")


def check_shares(options: Mapping[str, Any], processes: int) -> None:
    """ValueError where a batch of train.py cannot be shared out to so many processes."""
    if processes == 1:
        return
    batch_size, least = options["batch_size"], processes * (QUAD if options["quad"] else 1)
    if batch_size == AUTO_BATCH:
        raise ValueError(f"--batch-size {AUTO_BATCH} is for one process; name a size, a multiple of {least}")
    if batch_size % least:
        if options["resume"]:
            raise ValueError(
                f"--resume: the run's --batch-size {batch_size} is not a multiple of {least}, as {processes} processes "
                "need it; start another number of them"
            )
        raise ValueError(f"--batch-size {batch_size} is shared out to {processes} processes: a multiple of {least}")


def initial_weights(weights: str, is_named: bool, cfg: str) -> Path | None:
    """The checkpoint to start a training from, or None to start from scratch; unless it was named it may be absent."""
    check_file(cfg, (".yaml", ".yml"))
    if not weights:
        return None
    path = Path(weights)
    if path.suffix != ".pt" or is_url(weights):
        shown = without_credentials(weights)
        raise ValueError(f"--weights {shown}: a .pt file is wanted, or '' to start from scratch")
    if path.is_file():
        return path
    if is_named:
        raise FileNotFoundError(f"--weights {weights}: no such file, and nothing is downloaded")
    LOGGER.info(f"no {path.name} here: training {cfg} from scratch")
    return None


def find_weights(
    weights: str | Path | Sequence[str | Path] | None,
    default: Path = DEFAULT_WEIGHTS,
    runs: Path = ROOT / "runs" / "train",
    takes_addresses: bool = False,
) -> list[Path | ModelAddress]:
    """The checkpoint files to load; nothing is downloaded.

    Files that were named must exist. Where only the default stands, or nothing, and it is absent, the newest best.pt of
    the trainings below `runs` is taken, which a log line says. takes_addresses: a server's network may be named
    instead; nothing is asked of it here. FileNotFoundError or ValueError says what is missing and what to do.
    """
    named = [weights] if isinstance(weights, str | Path) else [*(weights or (default,))]
    addresses = [ModelAddress.parse(str(name)) for name in named if is_url(str(name))]
    if addresses:
        if takes_addresses and len(named) == 1:
            return [*addresses]
        advice = "name it alone" if takes_addresses else "a file is wanted here"
        raise ValueError(f"--weights {addresses[0]}: is the address of a server's network; {advice}")
    files = [Path(file) for file in named]
    folders = ("*.xml", "*.ncnn.param", "Manifest.json")  # OpenVINO, ncnn and Core ML have folders with such a file
    missing = [file for file in files if not file.is_file() and not any(any(file.glob(name)) for name in folders)]
    if not missing:
        return files
    if missing[0].is_dir():
        raise ValueError(f"--weights {missing[0]}: is a folder; name a .pt file, as in its weights/best.pt")
    best = newest(runs, "best.pt")
    if files != [default]:
        hint = f"the newest training's are {best}" if best else "train.py makes some"
        raise FileNotFoundError(f"--weights {missing[0]}: no such file, and nothing is downloaded; {hint}")
    if best is None:
        raise FileNotFoundError(
            f"no weights: neither {default} nor a best.pt below {runs} is there; train with train.py, "
            "or copy a checkpoint (YOLOv5 v6.x files can be read) and name it with --weights"
        )
    LOGGER.info(f"no {default.name} here: taking the newest training's weights, {best}")
    return [best]


def newest(runs: Path, name: str) -> Path | None:
    """The checkpoint of this name, best.pt or last.pt, that was written last among the runs in this folder, or None."""
    found = sorted(runs.glob(f"*/weights/{name}"), key=lambda path: (path.stat().st_mtime_ns, path))
    return found[-1] if found else None


@contextmanager
def run_folder(path: Path, exist_ok: bool = False) -> Iterator[Path]:
    """The folder `increment_path` makes of the path, for this run alone; it goes if nothing is in it at the end."""
    is_old = exist_ok and path.exists()
    folder = increment_path(path, exist_ok=exist_ok, mkdir=True)
    try:
        yield folder
    finally:
        if not is_old:
            with suppress(OSError):  # it holds what the run wrote
                folder.rmdir()


class UniqueNames:
    """Gives each name once: `bus`, then `bus2`, `bus3`; case makes no difference, as on some file systems."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.next_number: dict[str, int] = {}

    def claim(self, name: str) -> str:
        """The name, with a number if it was given before."""
        candidate, number = name, self.next_number.get(name.casefold(), 2)
        while candidate.casefold() in self.taken:
            candidate = f"{name}{number}"
            number += 1
        self.taken.add(candidate.casefold())
        self.next_number[name.casefold()] = number
        return candidate


def safe_name(text: str) -> str:
    """The text as a name of one file or folder: characters that mean something in paths become underscores.

    A long one is cut off, so that a number and a suffix may follow.
    """
    name = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*]+', "_", text)[:LONGEST_NAME]
    while len(name.encode(errors="surrogatepass")) > LONGEST_NAME:
        name = name[:-1]
    return name.strip(" .") or "_"


def label_rows(detections: Tensor, image_hw: tuple[int, int], with_confidence: bool) -> str:
    """The text of a label file: rows `class cx cy w h [confidence]`, boxes in shares of the image's sides.

    detections are (n, 6): xyxy in pixels of the image, confidence, class.
    """
    h, w = image_hw
    parts = [detections[:, 5:6], xyxy2xywhn(detections[:, :4], w, h), detections[:, 4:5]]  # (n, 1), (n, 4), (n, 1)
    rows = torch.cat(parts if with_confidence else parts[:2], 1).tolist()
    return "".join(" ".join(f"{value:g}" for value in row) + "\n" for row in rows)
