"""Which weights a script takes, and names for what a run writes: none is given twice."""

import re
from collections.abc import Sequence
from pathlib import Path

from utils.general import LOGGER, ROOT

DEFAULT_WEIGHTS = ROOT / "yolov5s.pt"


def find_weights(
    weights: str | Path | Sequence[str | Path] | None,
    default: Path = DEFAULT_WEIGHTS,
    runs: Path = ROOT / "runs" / "train",
) -> list[Path]:
    """The checkpoint files to load; nothing is downloaded.

    Files that were named must exist. Where only the default stands, or nothing, and it is absent, the newest best.pt of
    the trainings below `runs` is taken, which a log line says. FileNotFoundError says what is missing and what to do.
    """
    files = [Path(weights)] if isinstance(weights, str | Path) else [Path(file) for file in weights or (default,)]
    missing = [file for file in files if not file.is_file()]
    if not missing:
        return files
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
    """The text as a name of one file or folder: characters that mean something in paths become underscores."""
    return re.sub(r'[\x00-\x1f<>:"/\\|?*]+', "_", text).strip(" .") or "_"
