"""Which weights a command loads: files that are named, or the newest training's. Nothing is downloaded."""

import re
from collections.abc import Sequence
from pathlib import Path

from utils.files.addresses import ModelAddress, is_url, without_credentials
from utils.general import LOGGER, ROOT, find_file

DEFAULT_WEIGHTS = ROOT / "yolov5s.pt"
RELEASES = "https://github.com/ultralytics/yolov5/releases/download/v6.1"
RELEASED = re.compile(r"yolov5[nsmlx]6?\.pt")


def initial_weights(weights: str, is_named: bool, cfg: str) -> Path | None:
    """The checkpoint to start a training from, or None to start from scratch; unless it was named it may be absent."""
    find_file(cfg, (".yaml", ".yml"))
    if not weights:
        return None
    path = Path(weights)
    if path.suffix != ".pt" or is_url(weights):
        shown = without_credentials(weights)
        raise ValueError(f"--weights {shown}: a .pt file is wanted, or '' to start from scratch")
    if path.is_file():
        return path
    if is_named:
        raise FileNotFoundError(f"--weights {weights}: no such file; {release_advice(path) or 'nothing is downloaded'}")
    LOGGER.warning(
        f"no --weights, and no {path.name} here: training {cfg} from scratch; to start from released weights instead, "
        f"{release_advice(path)}"
    )
    return None


def release_advice(path: Path) -> str:
    """Return where to download a released checkpoint of YOLOv5 by hand; empty for other file names."""
    if not RELEASED.fullmatch(path.name):
        return ""
    return f"download {RELEASES}/{path.name} yourself and name it by --weights"


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
        hint = f"or take the newest training's, {best}" if best else "or train with train.py"
        advice = release_advice(missing[0]) or "nothing is downloaded"
        raise FileNotFoundError(f"--weights {missing[0]}: no such file; {advice}; {hint}")
    if best is None:
        raise FileNotFoundError(
            f"no weights: neither {default} nor a best.pt below {runs} exists; {release_advice(default)}, "
            "or train with train.py"
        )
    LOGGER.info(f"no {default.name} here: taking the newest training's weights, {best}")
    return [best]


def newest(runs: Path, name: str) -> Path | None:
    """The checkpoint of this name, best.pt or last.pt, that was written last among the runs in this folder, or None."""
    found = sorted(runs.glob(f"*/weights/{name}"), key=lambda path: (path.stat().st_mtime_ns, path))
    return found[-1] if found else None
