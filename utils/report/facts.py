"""What a report says beside the numbers of results.json: curves, images, labels, machine, model, settings.

All of it goes to report.json in the run's folder, from which `python -m tools.report` can make the page again.
"""

import json
import platform
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from utils.general import ROOT, atomic_write
from utils.metrics import EvalResult
from utils.torch_utils import model_info

CURVE_POINTS = 101
HASH = re.compile(r"[0-9a-f]{40,64}")


def write_facts(facts: Mapping[str, object], path: Path) -> None:
    """Writes them as JSON."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(facts) + "\n", encoding="utf-8")


def environment(device: torch.device) -> dict[str, str]:
    """The machine and the versions that matter, and the commit of this checkout where it is one."""
    is_gpu = device.type == "cuda"
    facts = {
        "date": datetime.now().isoformat(sep=" ", timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if is_gpu else f"{device.type}, {torch.get_num_threads()} threads",
        "system": platform.platform(),
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "NumPy": np.__version__,
        "OpenCV": cv2.__version__,
    }
    commit = git_commit(ROOT)
    return facts | ({"commit": commit} if commit else {})


def git_commit(root: Path) -> str | None:
    """The hash of the commit that is checked out in `root`, read from git's files; None where there is none."""
    try:
        folder = root / ".git"
        if folder.is_file():  # a worktree or submodule says where its folder is
            folder = root / folder.read_text(encoding="utf-8").partition("gitdir:")[2].strip()
        common = folder / "commondir"
        shared = folder / common.read_text(encoding="utf-8").strip() if common.exists() else folder
        head = (folder / "HEAD").read_text(encoding="utf-8").strip()
        name = head.removeprefix("ref:").strip()
        if name == head:
            return head if HASH.fullmatch(head) else None
        loose = next((place / name for place in (folder, shared) if (place / name).is_file()), None)
        if loose:
            found = loose.read_text(encoding="utf-8").strip()
            return found if HASH.fullmatch(found) else None
        packed = (line.split(" ") for line in (shared / "packed-refs").read_text(encoding="utf-8").splitlines())
        return next((parts[0] for parts in packed if parts[1:] == [name] and HASH.fullmatch(parts[0])), None)
    except (OSError, UnicodeDecodeError):  # no checkout, or one that cannot be read: a report can do without
        return None


def model_facts(model: nn.Module, shape: tuple[int, ...]) -> dict[str, str]:
    """Its kind, its size and its strides; shape is that of a batch it was given."""
    size = max(shape[2:], default=640)
    members = list(model) if isinstance(model, nn.ModuleList) else [model]
    facts = {}
    for i, member in enumerate(members):
        key = "model" if len(members) == 1 else f"model {i + 1} of the ensemble"
        is_exported = hasattr(member, "metadata")  # whose layers are not ours to count
        what = f"run by {type(member).__name__}" if is_exported else model_info(member, size)
        facts[key] = f"{what} at {size} px, as it was evaluated"
        strides = getattr(member, "stride", None)
        if isinstance(strides, Tensor):
            facts[f"{key}'s strides"] = ", ".join(f"{float(stride):g}" for stride in strides)
    return facts


def curve_facts(result: EvalResult) -> dict[str, object]:
    """The curves of the classes that have labels, thinned to CURVE_POINTS."""
    stats = result.stats
    chosen = np.linspace(0, len(stats.points) - 1, CURVE_POINTS).round().astype(int)
    curves = {"PR": stats.pr_curve, "F1": stats.f1_curve, "P": stats.precision_curve, "R": stats.recall_curve}
    return {
        "names": [result.names[index] for index in stats.classes],
        "points": stats.points[chosen].round(4).tolist(),
        **{name: curve[:, chosen].round(4).tolist() for name, curve in curves.items()},
    }
