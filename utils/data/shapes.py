"""A data set of drawn shapes, generated offline; equal seeds give equal images.

It is for trying things out, for end-to-end tests and for comparisons under equal conditions. utils/data/shape_scenes.py
draws the images. `python -m tools.shapes --help` generates the set by hand; data/shapes.yaml generates it if missing.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.base.constants import SPLITS
from utils.data.shape_scenes import NAMES, VERSION, Scene, draw_scene
from utils.general import LOGGER, progress, remove_stale, scratch_folder

MAKER = "utils/shapes.py"  # what sets say that they were made by, wherever this file lies
STAMP = "shapes.json"  # says what made the folder and with which settings; written last


@dataclass(frozen=True, slots=True)
class ShapesSettings:
    """Number of images per split, and the seed."""

    train: int = 960
    val: int = 160
    test: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for invalid numbers."""
        for name, value in asdict(self).items():
            if value < 0:
                raise ValueError(f"{name} {value}: 0 or more")


def generate(root: Path, settings: ShapesSettings | None = None) -> None:
    """Generate the data set in `root`, images/<split> and labels/<split>, unless it exists with these settings.

    The default settings are those of the existing set, which is renewed only if an older version of this program made
    it. The set is drawn beside `root` and renamed when complete, so an interruption leaves nothing, and of two
    concurrent processes one wins.

    Raises:
        ValueError: if `root` is another folder.
    """
    root = Path(root).resolve()
    present = _read_stamp(root)
    settings = settings or ShapesSettings(**(present["settings"] if present else {}))
    stamp = {"made by": MAKER, "version": VERSION, "settings": asdict(settings), "names": list(NAMES)}
    if present == stamp:
        return
    if present is None and root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root} exists and was not made by {MAKER}: move it away or choose another folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(root.parent, root.name)
    with scratch_folder(root) as made:
        jobs = list(_jobs(settings))
        for split in SPLITS:
            for kind in ("images", "labels"):
                (made / kind / split).mkdir(parents=True)
        for split, index, rng in progress(jobs, total=len(jobs), desc=f"Drawing {root}"):
            _write_scene(draw_scene(rng), made, split, f"{index:06d}")
        (made / STAMP).write_text(json.dumps(stamp, indent=1), encoding="utf-8")
        _install(made, root, stamp)


def _jobs(settings: ShapesSettings) -> Iterator[tuple[str, int, np.random.Generator]]:
    """Yield split, index and generator of each image; an image does not depend on the number of others."""
    for number, split in enumerate(SPLITS):
        for index in range(getattr(settings, split)):
            yield split, index, np.random.default_rng((settings.seed, VERSION, number, index))


def _write_scene(scene: Scene, root: Path, split: str, stem: str) -> None:
    _, data = cv2.imencode(".jpg", scene.image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    (root / "images" / split / f"{stem}.jpg").write_bytes(data.tobytes())
    rows = (f"{int(label)} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for label, x, y, w, h in scene.labels)
    (root / "labels" / split / f"{stem}.txt").write_text("".join(rows), encoding="utf-8")


def _read_stamp(root: Path) -> dict | None:
    """Read the generator's stamp; None if it did not make the folder."""
    try:
        stamp = json.loads((root / STAMP).read_text(encoding="utf-8"))
        ours = stamp["made by"] == MAKER and stamp["settings"].keys() == asdict(ShapesSettings()).keys()
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return stamp if ours else None


def _install(made: Path, root: Path, stamp: dict) -> None:
    """Rename the complete folder to `root`; replaces an older set, but not one that another process just completed."""
    older = made.with_name(f"{made.name}-older")
    if _read_stamp(root) not in (None, stamp):
        root.rename(older)
    try:
        if root.is_dir() and not any(root.iterdir()):
            root.rmdir()  # a rename replaces an empty folder on POSIX only
        made.rename(root)
    except OSError:
        if _read_stamp(root) != stamp:
            raise
    if older.exists():
        _discard(older)


def _discard(folder: Path) -> None:
    """Delete an older set, unless it contains a user's files."""
    ours = re.compile(
        rf"{re.escape(STAMP)}|images/\w+/\d{{6}}\.jpg|labels/\w+/\d{{6}}\.txt|labels/[\w+]+\.cache(\.npz)?"
    )
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    strange = [name for name in files if not ours.fullmatch(name)]
    if strange:
        LOGGER.warning(f"the older data set is kept as {folder}: it holds files of yours, e.g. {strange[0]}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
