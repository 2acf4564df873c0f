"""Hyper-parameter and data set yamls as checked values."""

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Self

from utils.base.constants import SPLITS
from utils.data.shapes import generate
from utils.files.yamls import YAML_SUFFIXES, read_yaml, report_unknown
from utils.general import LOGGER, ROOT, find_file

MOST_CLASSES = 100_000  # as of a model yaml
DATA_KEYS = ("path", *SPLITS, "nc", "names", "generate", "download")
TEXT_KEYS = ("path", *SPLITS, "names")  # what the user writes there is text: class 02146, folder 2024


# Hyper-parameters -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hyp:
    """Hyper-parameters; data/hyps/hyp.scratch-low.yaml describes each. `anchors` is optional, as in v6.1.

    `nam_sparsity`, default 0, is p of NAM's penalty p * (sum |gamma| + sum |lambda|) on each image's loss.
    """

    lr0: float
    lrf: float
    momentum: float
    weight_decay: float
    warmup_epochs: float
    warmup_momentum: float
    warmup_bias_lr: float
    box: float
    cls: float
    cls_pw: float
    obj: float
    obj_pw: float
    iou_t: float
    anchor_t: float
    fl_gamma: float
    hsv_h: float
    hsv_s: float
    hsv_v: float
    degrees: float
    translate: float
    scale: float
    shear: float
    perspective: float
    flipud: float
    fliplr: float
    mosaic: float
    mixup: float
    copy_paste: float
    anchors: float | None = None
    nam_sparsity: float | None = None

    @classmethod
    def from_yaml(cls, file: str | Path) -> Self:
        """Read a YAML file, found as `find_file` does; ValueError names the key and the fault."""
        path = find_file(file, YAML_SUFFIXES)
        return cls.from_dict(read_yaml(path), str(path))

    @classmethod
    def from_dict(cls, values: dict, source: str) -> Self:
        """Build from a mapping; `source` names it in errors."""
        unknown = [str(key) for key in values if key not in {field.name for field in fields(cls)}]
        missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in values]
        if unknown:
            raise ValueError(f"{source}: unknown hyper-parameter {', '.join(unknown)}")
        if missing:
            raise ValueError(f"{source}: hyper-parameter {', '.join(missing)} is missing")
        empty = [key for key, value in values.items() if value is None and key != "anchors"]
        if empty:
            raise ValueError(f"{source}: {', '.join(empty)} has no value")
        hyp = cls(**{key: _number(value, f"{source}: {key}") for key, value in values.items() if value is not None})
        hyp.check(source)
        return hyp

    def check(self, source: str) -> None:
        """Raise ValueError if a value is out of range."""
        for name in ("mosaic", "mixup", "copy_paste", "flipud", "fliplr", "momentum", "warmup_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{source}: {name} {getattr(self, name)}: must lie between 0 and 1")
        for field in fields(self):
            if (value := getattr(self, field.name)) is not None and value < 0:
                raise ValueError(f"{source}: {field.name} {value}: must not be negative")
        if self.anchor_t <= 1:
            raise ValueError(f"{source}: anchor_t {self.anchor_t}: a ratio of sides, must be above 1")

    def scaled(self, levels: int, nc: int, imgsz: int) -> Self:
        """Return a copy with the loss gains scaled to the number of levels, classes and the image size, as in v6.1."""
        by_levels = 3 / levels
        return replace(
            self,
            box=self.box * by_levels,
            cls=self.cls * nc / 80 * by_levels,
            obj=self.obj * (imgsz / 640) ** 2 * by_levels,
        )

    def to_dict(self) -> dict[str, float]:
        """Return the values as a mapping; `anchors` and `nam_sparsity` only if set."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def _number(value: object, what: str) -> float:
    """Parse a finite number. YAML 1.1 reads 1e-3 as a string; it is accepted as a number."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{what}: {value!r} is not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{what}: {value!r} is not finite")
    return number


# Data set -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataConfig:
    """A data set's description. Sources of a split are folders, .txt lists or images, absolute or below the root."""

    file: Path
    root: Path
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    test: tuple[Path, ...]
    names: tuple[str, ...]
    generator: str | None = None

    @property
    def nc(self) -> int:
        """Number of classes."""
        return len(self.names)

    @classmethod
    def from_yaml(cls, file: str | Path) -> Self:
        """Read a data yaml, found as `find_file` does. No other file is read; `prepare` checks for the images.

        A relative `path` is below the repository, as in v6.1, or else beside the yaml. Without `path` the root is the
        yaml's folder or else the repository. Splits are looked up in both, then as in `_sources`. Names are a list or a
        mapping from 0 on. Names and paths are taken as strings as written, without YAML's types.

        Raises:
            ValueError: names the key and the fault.
        """
        path = find_file(file, YAML_SUFFIXES)
        content = read_yaml(path, TEXT_KEYS)
        names = parse_names(content.get("names"), content.get("nc"), str(path))
        generator = content.get("generate")
        if generator not in (None, "shapes"):
            raise ValueError(f"{path}: generate: {generator!r} is unknown; the one generator is 'shapes'")
        if content.get("download"):
            LOGGER.warning(f"{path}: its `download` is not run; get the data set yourself where it is missing")
        report_unknown(content, DATA_KEYS, str(path))
        _warn_of_equal_names(names, str(path))
        roots = _find_roots(content.get("path"), path)
        splits = [_sources(content.get(name), roots, path, name) for name in SPLITS]
        return cls(path, roots[0], *splits, names, generator)

    def as_one_class(self) -> Self:
        """Return a copy with all classes as one, `item`; a single class keeps its name."""
        return self if self.nc == 1 else replace(self, names=("item",))

    def prepare(self) -> None:
        """Generate the data set if it is a generated one and missing. Nothing is downloaded."""
        if self.generator:
            generate(self.root)

    def split(self, name: str) -> tuple[Path, ...]:
        """Return the sources of train, val or test; ValueError or FileNotFoundError if there are none."""
        sources: tuple[Path, ...] = getattr(self, name)
        if not sources:
            raise ValueError(f"{self.file}: has no `{name}`, which is needed; name a folder or a list of images")
        missing = [source for source in sources if not source.exists()]
        if missing:
            raise FileNotFoundError(
                f"{self.file}: {name}: {missing[0]} does not exist; correct `path` or `{name}` in the yaml, or put the "
                "data set there (nothing is downloaded)"
            )
        return sources


def parse_names(names: object, nc: object, source: str) -> tuple[str, ...]:
    """Parse class names: a list, a mapping from 0 on, or absent if nc is given; ValueError otherwise."""
    if nc is not None and (isinstance(nc, bool) or not isinstance(nc, int) or not 1 <= nc <= MOST_CLASSES):
        raise ValueError(f"{source}: nc: {nc!r} is not a number of classes, 1 to {MOST_CLASSES}")
    if names is None:
        if nc is None:
            raise ValueError(f"{source}: neither `names` nor `nc` is there; a data yaml names its classes")
        names = [f"class{i}" for i in range(nc)]
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise ValueError(f"{source}: names: a mapping must number its classes from 0 to {len(names) - 1}")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{source}: names: a list of class names is wanted")
    for i, name in enumerate(names):
        if isinstance(name, bool):
            raise ValueError(f"{source}: names: entry {i} is read as {name} by YAML: put yes, no, on, off in quotes")
        if not isinstance(name, str | int | float):
            raise ValueError(f"{source}: names: entry {i} is {name!r}, not a name")
    if nc is not None and nc != len(names):
        raise ValueError(f"{source}: nc is {nc}, but there are {len(names)} names")
    return tuple(map(str, names))


def _find_roots(path: object, file: Path) -> list[Path]:
    """Return the folders to look up splits in; the first one, which exists if any does, is the root."""
    folder = file.resolve().parent
    if path is None or path == "":
        return [folder, ROOT]
    if not isinstance(path, str):
        raise ValueError(f"{file}: path: {path!r} is not a folder's name")
    root = os.path.expanduser(path)
    roots = [(ROOT / root).resolve(), (folder / root).resolve()]
    return sorted(roots, key=lambda place: not place.exists())


def _warn_of_equal_names(names: Sequence[str], source: str) -> None:
    """Warn of names shared by several classes: results tell them apart by index only."""
    for name, count in Counter(names).items():
        if count > 1:
            numbers = ", ".join(str(i) for i, other in enumerate(names) if other == name)
            LOGGER.warning(f"{source}: names: {name!r} is the name of several classes ({numbers}); rename all but one")


def _sources(value: object, roots: Sequence[Path], file: Path, split: str) -> tuple[Path, ...]:
    """Return the paths of a split; log where one is found if it is not below the roots.

    `../train/images`, as some tools export it, is also looked up below the first root. `My-Project-1/train/images` is
    also looked up below the folder above it, if the yaml is in `My-Project-1`; below the current folder, as in v6.1;
    and, for a renamed or moved export, as `train/images` below the root.
    """
    names: Sequence[object] = value if isinstance(value, list) else [] if value is None else [value]
    sources = []
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"{file}: {split}: {name!r} is not a path")
        path = Path(os.path.expanduser(name))
        usual = [root / path for root in roots] + [roots[0] / name.removeprefix("../")]
        parts = [part for part in path.parts if part not in (path.anchor, "..")]
        tails = [root.joinpath(*parts[i:]) for i in range(1, len(parts) - 1) for root in roots]
        unusual = [*(root.parent / path for root in roots), Path.cwd() / path, *tails]
        found = next((place for place in (*usual, *unusual) if place.exists()), usual[0])
        if found not in usual:
            LOGGER.warning(f"{file}: {split}: {name} is not below {roots[0]}; {found} is used")
        sources.append(found)
    return tuple(sources)


def names_of(file: str | Path) -> Callable[[], Sequence[str]]:
    """Return a function that reads the class names of a data yaml when called."""
    return lambda: DataConfig.from_yaml(file).names
