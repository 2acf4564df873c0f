"""Functions that every script needs: logging, files and folders, image sizes, seeds, start and failure of a script.

Names that v6.1's users import from here and that are defined elsewhere are passed on: boxes and figures by the last
imports, all others by `__getattr__` on access. `from utils.general import *` imports them all, and np, torch, cv2, os
and Path.
"""

import difflib
import errno
import glob
import math
import os
import random
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TypeVar, overload

import cv2
import numpy as np
import torch

from utils.base.constants import ROOT
from utils.base.log import LOGGER, ConsoleHandler, ProjectLogger, colorstr, progress, set_logging  # noqa: F401
from utils.metrics import bbox_iou, box_iou, fitness  # noqa: F401  v6.1's names, as the next two lines
from utils.ops.boxes import clip_coords, scale_coords, xywh2xyxy, xywhn2xyxy, xyxy2xywh, xyxy2xywhn  # noqa: F401
from utils.ops.nms import WITHOUT_FLOAT64, boxes_by_class, candidates, nms, torchvision  # noqa: F401
from utils.processes.locks import is_abandoned, sign_of_life
from utils.processes.signals import StopSignals, exit_status

SAME_SUFFIXES = {".yaml", ".yml"}
SEARCHED = ("data", "models", "utils")  # below ROOT, for files named without a folder
NO_MEMORY = ("DefaultCPUAllocator: ", "in function 'OutOfMemoryError'")  # torch's words, OpenCV's
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
LOST_WORKER = re.compile(r"DataLoader worker \(pid.*\) (is killed|exited unexpectedly)")
SYSTEM_ERROR = re.compile(r"\[Errno -?\d+\] ([^:]+): '(.*)'", re.DOTALL)
UNFINISHED = re.compile(r"\..{1,32}-[0-9a-f]{12}\.tmp", re.DOTALL)  # names that `temporary_name` gives
FRESH_S = 1.0  # within which a temporary file may not be locked yet by the process that has made it
STALE_S = 3600.0  # after which one is taken for abandoned if the system has no locks
Options = TypeVar("Options")


# Scripts --------------------------------------------------------------------------------------------------------------


def run_script(main: Callable[[Options], object], options: Options) -> None:
    """Run `main(options)`. Log an error that the user can fix as one line and exit with status 1, without traceback.

    Ctrl-C, SIGTERM and SIGHUP exit with 128 plus the number of the signal.
    """
    set_logging()
    signals = StopSignals()
    signals.install()
    try:
        _run_logged(main, options)
        return
    except KeyboardInterrupt as error:
        name, status = str(error) or "Ctrl-C", exit_status(error)
    finally:
        if signals.number is None:
            signals.restore()  # else what is left to do is short, and a second Ctrl-C must not disturb it
    LOGGER.error(f"stopped by {name}")
    raise SystemExit(status)  # outside of `except`, so that what the traceback kept alive has ended by now


def _run_logged(main: Callable[[Options], object], options: Options) -> None:
    """Run `main(options)` and log its errors."""
    try:
        main(options)
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError, cv2.error) as error:
        advice = resource_advice(error)
        if advice is None and isinstance(error, RuntimeError | cv2.error):
            raise
        LOGGER.debug("the error in full", exc_info=error)
        LOGGER.error(f"{one_line(error)}; {advice}" if advice else one_line(error))
        raise SystemExit(1) from None


def resource_advice(error: BaseException) -> str | None:
    """Return advice if the machine lacked memory, disk or another resource; None for other errors."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in text for words in NO_MEMORY):
        return "the memory does not suffice: choose a smaller --batch-size or --imgsz"
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return "free some space, or choose a folder on another disk (--project)"
    if isinstance(error, RuntimeError) and LOST_WORKER.match(text):
        return "the memory may not suffice: choose fewer --workers or a smaller --batch-size"
    return None


def one_line(error: BaseException) -> str:
    """Format an error in one line, without a worker's traceback; the system's own path first."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        files = [
            os.fsdecode(file) for file in (error.filename, error.filename2) if isinstance(file, str | bytes | Path)
        ]
        return f"{' -> '.join(files)}{': ' if files else ''}{error.strerror[:1].lower()}{error.strerror[1:]}"
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    tracebacks = [i for i, line in enumerate(lines) if line.endswith("Traceback (most recent call last):")]
    if lines[0].startswith("Caught ") and tracebacks:  # torch: 'Caught ValueError in ... worker', traceback, message
        lines = lines[tracebacks[-1] + 1 :]
        lines = lines[next((i for i, line in enumerate(lines) if not line.startswith(" ")), -1) :]
        lines[0] = lines[0].partition(": ")[2] or lines[0]
    text = " ".join(line.strip() for line in lines)
    system = SYSTEM_ERROR.fullmatch(text)  # a worker's has lost its parts
    return f"{system[2]}: {system[1][:1].lower()}{system[1][1:]}" if system else text


def in_columns(cells: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    """Format a table for the console: the first `words` columns left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]


def plural(count: int, noun: str) -> str:
    """Format a count: `1 bus`, `2 buses`, `4 persons`. Plural nouns in s, as scissors, are unchanged."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith(("us", "ss", "x", "z", "ch", "sh")) and not noun.endswith("och"):  # epochs
        return f"{count} {noun}es"
    return f"{count} {noun}" if noun.endswith("s") else f"{count} {noun}s"


def duration(seconds: float) -> str:
    """Format a duration: `8 s`, `3 min 12 s`, `1 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size_text(count: int) -> str:
    """Format a number of bytes: `512 bytes`, `3.4 KB`, `14.1 MB`."""
    if count < 1000:
        return plural(count, "byte")
    return f"{count / 1e3:.1f} KB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def init_seeds(seed: int, deterministic: bool = False) -> None:
    """Seed Python, numpy and torch. `deterministic` also makes torch refuse nondeterministic operations."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic != torch.are_deterministic_algorithms_enabled():  # the call below takes seconds
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = torch.cuda.is_available() and not deterministic


def is_running(process: int) -> bool:
    """Return True if a process of this number runs here; always True on Windows, where the query would end it."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


# Files ----------------------------------------------------------------------------------------------------------------


def check_file(file: str | Path, suffix: str | Sequence[str] = "") -> str:
    """Find a file as `find_file` does, with v6.1's signature: return its path as str, and '' for ''."""
    return str(find_file(file, [suffix] if isinstance(suffix, str) and suffix else suffix)) if str(file) else ""


def find_file(file: str | Path, suffixes: Sequence[str] = ()) -> Path:
    """Return the file of this path, or the one of this name below data/, models/ or utils/.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if there are several, or the suffix is not one of `suffixes`.
    """
    path = Path(os.path.expanduser(file))
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{file}: a file that ends with {' or '.join(suffixes)} is wanted")
    if path.is_file():
        return path
    if path.parent == Path() and path.name:
        name = glob.escape(path.name)
        found = sorted(hit for folder in SEARCHED for hit in (ROOT / folder).rglob(name) if hit.is_file())
        if len(found) > 1:
            raise ValueError(f"{file} is the name of {', '.join(map(str, found))}; name one with its folder")
        if found:
            return found[0]
    where = f", nor one of this name below {', '.join(SEARCHED)}" if path.parent == Path() else ""
    raise FileNotFoundError(f"{file}: no such file{where}{_nearest(path)}")


def _nearest(path: Path) -> str:
    """Return the most similar file names in the folder, for an error; empty if there are none."""
    places = [ROOT / folder for folder in SEARCHED] if path.parent == Path() else []
    suffixes = SAME_SUFFIXES if path.suffix.lower() in SAME_SUFFIXES else {path.suffix}
    places = [file for place in places for file in place.rglob("*")]
    if path.parent.is_dir():
        places += path.parent.iterdir()
    found = {file.name for file in places if file.suffix in suffixes and file.is_file()}
    close = difflib.get_close_matches(path.name, sorted(found), n=3, cutoff=0.75)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def increment_path(path: str | Path, exist_ok: bool = False, sep: str = "", mkdir: bool = False) -> Path:
    """Return the path, or if it exists `path2`, `path3`, ..., one above the highest number; `mkdir` creates the folder.

    A file's number precedes its suffix: `image2.jpg`. With `mkdir` no two processes get the same folder.
    """
    path = Path(path)
    while True:
        free = path
        if os.path.lexists(path) and not exist_ok:  # a broken link counts, too
            stem, suffix = (path.stem, path.suffix) if path.is_file() else (path.name, "")
            free = path.with_name(f"{stem}{sep}{_next_number(path.parent, f'{stem}{sep}', suffix)}{suffix}")
        if not mkdir:
            return free
        for place in (free.parent, *free.parent.parents):
            if place.is_file():
                raise NotADirectoryError(f"{place}: a file, where a folder for the results is wanted")
        free.parent.mkdir(parents=True, exist_ok=True)
        try:
            free.mkdir(exist_ok=exist_ok)
        except FileExistsError:
            if exist_ok:  # a file stands there
                raise
            continue
        return free


def _next_number(folder: Path, start: str, suffix: str) -> int:
    pattern = re.compile(rf"{re.escape(start)}(\d+){re.escape(suffix)}")
    numbers = [int(match[1]) for other in folder.iterdir() if (match := pattern.fullmatch(other.name))]
    return max([1, *numbers]) + 1


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name that is renamed to `path` if the block succeeds; otherwise `path` is unchanged.

    The content is flushed to disk before the rename, so a crash leaves the old file or the new one. Permissions are
    those of the old file, or the default.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        with sign_of_life(temporary):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        if path.exists():
            temporary.chmod(path.stat().st_mode & 0o777)
        temporary.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None  # what the caller has heard of
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def scratch_folder(path: str | Path) -> Iterator[Path]:
    """Create a folder for temporary files beside `path`; remove it when the block ends."""
    folder = temporary_name(Path(path))
    folder.mkdir()
    try:
        with sign_of_life(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def temporary_name(path: Path) -> Path:
    """Return a new name beside `path`, by which `remove_stale` recognizes files of killed processes."""
    return path.with_name(f".{path.name[:32]}-{secrets.token_hex(6)}.tmp")


def remove_stale(folder: str | Path, name: str = "", is_ours: bool = False) -> None:
    """Remove temporary files and folders that killed processes left in a folder.

    name: only those of the file of this name. is_ours: no other process writes here, so all are stale.
    """
    for path in Path(folder).glob(f".{glob.escape(name[:32]) or '*'}-*.tmp"):
        with suppress(OSError):  # it is gone by now, or not ours to remove
            if not UNFINISHED.fullmatch(path.name) or path.is_symlink() or not (is_ours or _is_stale(path)):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
            LOGGER.debug(f"{path} was left by a process that was killed; it is removed")


def _is_stale(path: Path) -> bool:
    age_s = time.time() - path.stat().st_mtime
    if age_s <= FRESH_S:
        return False
    abandoned = is_abandoned(path)
    return age_s > STALE_S if abandoned is None else abandoned


# Sizes ----------------------------------------------------------------------------------------------------------------


def make_divisible(x: float, divisor: int | torch.Tensor) -> int:
    """Round x up to a multiple of divisor; of a tensor, such as a model's strides, the largest value is used."""
    if isinstance(divisor, torch.Tensor):
        divisor = int(divisor.max())
    return math.ceil(x / divisor) * divisor


@overload
def check_img_size(imgsz: int, s: int = 32, floor: int = 0) -> int:
    """Round one size."""


@overload
def check_img_size(imgsz: Sequence[int], s: int = 32, floor: int = 0) -> list[int]:
    """Round height and width."""


def check_img_size(imgsz: int | Sequence[int], s: int = 32, floor: int = 0) -> int | list[int]:
    """Round imgsz up to a multiple of the stride s, at least `floor`; warn if it changes.

    Raises:
        ValueError: if a size is not a positive number.
    """
    if isinstance(imgsz, Sequence):
        return [check_img_size(side, s, floor) for side in imgsz]
    if imgsz < 1:
        raise ValueError(f"--imgsz {imgsz}: a number of pixels, 1 or more, is wanted")
    size = max(make_divisible(imgsz, int(s)), floor)
    if size != imgsz:
        LOGGER.warning(f"--imgsz {imgsz} must be a multiple of the stride {s}: {size} is used")
    return size


# Boxes ----------------------------------------------------------------------------------------------------------------


def non_max_suppression(
    prediction: torch.Tensor | Sequence[torch.Tensor],
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    labels: Sequence[torch.Tensor] = (),
    max_det: int = 300,
) -> list[torch.Tensor]:
    """Select the final detections from a network's predictions. All commands call this function.

    On a device without float64 (MPS) it runs on the CPU, where the result then is.

    Args:
        prediction: (B, N, 5 + nc) of any float dtype: xywh in pixels, objectness, class scores; or a network's output
            in evaluation mode, whose first item it is. Rows that are not finite are dropped.
        conf_thres: Confidence threshold for the product of objectness and class score.
        iou_thres: A box is dropped if its IoU with a more confident one of its class is above this.
        classes: Class indices to keep.
        agnostic: Suppress across classes.
        multi_label: Allow several classes per box; otherwise only the best.
        labels: For each image known objects (t, 5), class, xywh in the network's pixels, which join the predictions
            with confidence 1, for automatic labelling.
        max_det: Maximum number of detections per image.

    Returns:
        B tensors (n, 6) float32 of xyxy, confidence, class, by confidence.

    Raises:
        ValueError: if a threshold or max_det is out of range.
    """
    if isinstance(prediction, list | tuple):
        prediction = prediction[0]
    if prediction.device.type in WITHOUT_FLOAT64:
        prediction = prediction.cpu()
    assert prediction.ndim == 3, f"(B, N, 5 + nc) is expected, not {tuple(prediction.shape)}"
    assert prediction.shape[2] > 5, "there are no class scores"
    assert len(labels) in {0, len(prediction)}, f"labels of {len(labels)} images for a batch of {len(prediction)}"
    for name, value in (("confidence", conf_thres), ("IoU", iou_thres)):
        if not 0 <= value <= 1:
            raise ValueError(f"the {name} threshold is {value}: a share between 0 and 1 is wanted")
    if max_det < 1:
        raise ValueError(f"max_det is {max_det}: 1 or more detections of an image are wanted")

    output: list[torch.Tensor] = []
    for x in candidates(prediction, conf_thres, classes, multi_label, labels):  # (n, 6) of an image, surest first
        tried, count = x, max(2 * max_det, 512)
        i = torch.zeros(0, dtype=torch.int64, device=x.device)
        while len(x):  # the first few alone, then more: whether a box stays depends on surer ones only
            tried = x[:count]
            boxes, scores = boxes_by_class(tried, agnostic)  # (m, 4) xyxy, those of different classes apart, and (m,)
            i = nms(boxes, scores, iou_thres)  # indices of the boxes that stay: the line to replace for another NMS
            if len(i) >= max_det or count >= len(x):
                break
            count *= 2
        output.append(tried[i[:max_det]])
    return output


# Names of v6.1 --------------------------------------------------------------------------------------------------------


def __getattr__(name: str) -> object:
    """Import a v6.1 name on first access; utils/v61 lists where each is."""
    if name == "__path__":  # each import of the module asks for it
        raise AttributeError(name)
    return import_module("utils.v61").find(__name__, name)
