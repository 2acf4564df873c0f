"""Which weights a command loads: files that are named, or the newest training's. Nothing is downloaded."""

from collections.abc import Sequence
from pathlib import Path

from utils.files.addresses import ModelAddress, is_url, without_credentials
from utils.general import LOGGER, ROOT, find_file

DEFAULT_WEIGHTS = ROOT / "yolov5s.pt"
RELEASED = {f"yolov5{size}{levels}.pt" for size in "nsmlx" for levels in ("", "6")}
RELEASE = "https://github.com/ultralytics/yolov5/releases/download/v6.1"


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
        hint = released_hint(path) or "name an existing checkpoint"
        raise FileNotFoundError(
            f"--weights {weights}: no such file, and nothing is downloaded; {hint}, or '' to start from scratch"
        )
    hint = released_hint(path)
    LOGGER.warning(
        f"no {path.name} here: training {cfg} from scratch, which takes far more epochs and images than fine-tuning"
        + (f"; {hint}" if hint else "")
    )
    return None


def released_hint(path: Path) -> str:
    """Return where a file of YOLOv5's release is to be had; empty for any other name."""
    if path.name not in RELEASED:
        return ""
    return f"get it from {RELEASE}/{path.name} and save it as {path}"


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
        released = released_hint(missing[0])
        hint = f"{released}; {hint}" if released else hint
        raise FileNotFoundError(f"--weights {missing[0]}: no such file, and nothing is downloaded; {hint}")
    if best is None:
        raise FileNotFoundError(
            f"no weights: neither {default} nor a best.pt below {runs} is there; train with train.py, or name a "
            "checkpoint with --weights (YOLOv5 v6.x files can be read)"
            + (f", or {released_hint(default)}" if released_hint(default) else "")
        )
    LOGGER.info(f"no {default.name} here: taking the newest training's weights, {best}")
    return [best]


def newest(runs: Path, name: str) -> Path | None:
    """The checkpoint of this name, best.pt or last.pt, that was written last among the runs in this folder, or None."""
    found = sorted(runs.glob(f"*/weights/{name}"), key=lambda path: (path.stat().st_mtime_ns, path))
    return found[-1] if found else None
