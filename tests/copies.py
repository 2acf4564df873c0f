"""Copies of the repository that a test edits as a reader of a recipe would."""

import shutil
from pathlib import Path

from utils.general import ROOT

COPIED = ("models", "utils", "data", "train.py", "val.py", "detect.py", "export.py", "hubconf.py")


def copy_repository(folder: Path) -> Path:
    """A copy of what a reader of a recipe edits."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def patch(path: Path, old: str, new: str) -> None:
    """Replace the first place of a text in a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path.name}: {old}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
