"""Read an ablation's yaml and list its trainings."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from tools.ablate.power import Look, plan_looks
from train import parse_opt
from utils.base.constants import SPLITS
from utils.cli.arguments import normalized
from utils.cli.train_options import TrainOptions
from utils.data.config import Hyp
from utils.files.names import safe_name
from utils.files.yamls import YAML_SUFFIXES, read_yaml
from utils.general import ROOT, atomic_write, find_file

MOST_SEEDS = 10_000
KEYS = ("data", "split", "seeds", "baseline", "variants", "train", "alpha", "bootstrap", "known", "looks")
OWN = frozenset({"data", "seed", "project", "name", "exist_ok", "resume", "evolve", "nosave", "noval", "given"})
ALLOWED = sorted({field.name for field in fields(TrainOptions)} - OWN)
BOOTSTRAP = 200  # draws


@dataclass(frozen=True)
class Run:
    """A training: variant, seed, results folder, options of train.py, and a hash of the options.

    The digest is the same on every machine: it hashes the content of files, not their paths.
    """

    variant: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]
    digest: str

    @property
    def key(self) -> str:
        """Name in the queue."""
        return self.folder.name


@dataclass(frozen=True)
class Plan:
    """Content of an ablation's yaml. Runs are rated on `split`; `runs` are sorted by seed."""

    file: Path
    data: str
    split: str
    seeds: tuple[int, ...]
    baseline: str
    variants: tuple[str, ...]
    models: Mapping[str, str]  # the model yaml by variant, '' for the checkpoint's own
    train: TrainOptions  # what all variants share
    alpha: float
    bootstrap: int
    known: Path | None  # a runs.csv of an earlier time, whose rows need not be done again
    looks: tuple[Look, ...]  # after how many seeds a variant is tested and may stop; empty: once, at the end
    runs: tuple[Run, ...]


def load_plan(file: str, folder: Path) -> Plan:
    """Read a plan for results in a folder; write the variants' own yamls there.

    ValueError or FileNotFoundError names the key at fault.
    """
    path = find_file(file, YAML_SUFFIXES)
    content = read_yaml(path)
    unknown = [str(key) for key in content if key not in KEYS]
    missing = [key for key in ("data", "seeds", "baseline", "variants") if key not in content]
    if unknown or missing:
        what = f"unknown key {unknown[0]}" if unknown else f"{missing[0]} is missing"
        raise ValueError(f"{path}: {what}; an ablation has {', '.join(KEYS)}")
    seeds, variants = _seeds(content["seeds"], path), _mapping(content["variants"], f"{path}: variants")
    baseline, split = str(content["baseline"]), str(content.get("split", "val"))
    if baseline not in variants or len(variants) < 2:
        raise ValueError(f"{path}: variants: two or more with the baseline {baseline} among them, not {list(variants)}")
    if split not in SPLITS:
        raise ValueError(f"{path}: split {split}: must be one of {', '.join(SPLITS)}")
    alpha, bootstrap = content.get("alpha", 0.05), content.get("bootstrap", BOOTSTRAP)
    if not isinstance(alpha, float) or not 0 < alpha < 1:
        raise ValueError(f"{path}: alpha {alpha}: must be between 0 and 1, such as 0.05")
    if type(bootstrap) is not int or bootstrap < 0:
        raise ValueError(f"{path}: bootstrap {bootstrap}: must be a number of draws, 0 for none")
    names = [safe_name(str(name)).replace(" ", "_") for name in variants]
    if len({name.casefold() for name in names}) < len(names):
        raise ValueError(f"{path}: variants: two have the same name in the file system: {', '.join(sorted(names))}")
    data = str(find_file(str(content["data"]), YAML_SUFFIXES))
    common = _options(content.get("train", {}), f"{path}: train")
    settings, models = {}, {}
    for name, variant in variants.items():
        source = f"{path}: {name}"
        own = _mapping(variant, source) if variant is not None else {}
        settings[name] = prepare(common, own, folder / "configs" / safe_name(name).replace(" ", "_"), source)
        models[name] = str(settings[name].get("cfg", ""))
    shared = parse_opt(_arguments({**common, "data": data}))
    runs = tuple(
        make_run(name, seed, folder / "runs" / f"{place}-s{seed}", {**settings[name], "data": data, "seed": seed})
        for seed, (name, place) in itertools.product(seeds, zip(variants, names, strict=True))
    )
    return Plan(
        file=path,
        data=data,
        split=split,
        seeds=seeds,
        baseline=baseline,
        variants=tuple(variants),
        models=models,
        train=shared,
        alpha=alpha,
        bootstrap=bootstrap,
        known=_known(content.get("known"), path),
        looks=_looks(content.get("looks"), len(seeds), alpha, path),
        runs=runs,
    )


def _known(value: object, path: Path) -> Path | None:
    """Return the path of the key `known`, relative to the yaml or to the repository."""
    if value is None:
        return None
    if not isinstance(value, str) or not value.endswith(".csv"):
        raise ValueError(f"{path}: known {value!r}: must be a runs.csv, such as docs/nam-bccd-runs.csv")
    places = (path.parent / value, ROOT / value)
    return next((place for place in places if place.is_file()), places[-1])


def prepare(common: Mapping[str, object], own: Mapping[str, object], place: Path, source: str) -> dict[str, object]:
    """Return the options of a variant, which override the common ones.

    `replace` {block: other block} writes its cfg to <place>.yaml; a mapping `hyp` writes the changed hyper-parameters
    to <place>-hyp.yaml.
    """
    own = dict(own)
    replaced, changes = own.pop("replace", None), own.get("hyp")
    if isinstance(changes, Mapping):
        own.pop("hyp")
    options = {**common, **_options(own, source)}
    if isinstance(changes, Mapping):
        base = str(options.get("hyp") or parse_opt([]).hyp)
        values = {**Hyp.from_yaml(base).to_dict(), **changes}
        Hyp.from_dict(values, source)
        options["hyp"] = _write(place.with_name(f"{place.name}-hyp.yaml"), values)
    if replaced is not None:
        if not options.get("cfg"):
            raise ValueError(f"{source}: replace needs a cfg, the model yaml in which blocks are replaced")
        content = replace_blocks(str(options["cfg"]), _mapping(replaced, f"{source}: replace"))
        options["cfg"] = _write(place.with_name(f"{place.name}.yaml"), content)
    return options


def replace_blocks(cfg: str, blocks: Mapping[str, object]) -> dict[str, object]:
    """Replace blocks of a model yaml; of their arguments only the first, the channels, is kept.

    ValueError if the yaml lacks a block.
    """
    path = find_file(cfg, YAML_SUFFIXES)
    content = read_yaml(path)
    for old, new in blocks.items():
        rows = [
            row
            for part in ("backbone", "head")
            for row in content.get(part) or ()
            if isinstance(row, list) and len(row) > 3 and row[2] == old
        ]
        if not rows:
            raise ValueError(f"{path}: replace: there is no block {old}")
        for row in rows:
            row[2], row[3] = str(new), row[3][:1]
    return content


def make_run(variant: str, seed: int, folder: Path, options: Mapping[str, object]) -> Run:
    """Create a run from options of train.py, named as in Python."""
    arguments = _arguments(options)
    digest = hashlib.sha256()
    for name, value in sorted(options.items()):
        digest.update(f"{name}={_content_of(name, value)}\0".encode())
    place = ["--project", str(folder.parent), "--name", folder.name, "--exist-ok"]
    return Run(variant, seed, folder, (*arguments, *place), digest.hexdigest()[:16])


def _looks(value: object, seeds: int, alpha: float, path: Path) -> tuple[Look, ...]:
    """Return the looks of the key `looks`, the last of which comes after all seeds."""
    if value is None:
        return ()
    if not isinstance(value, list) or any(type(count) is not int for count in value) or value[-1:] != [seeds]:
        raise ValueError(f"{path}: looks {value}: must increase and end with all {seeds} seeds, such as [8, {seeds}]")
    try:
        return plan_looks(value, alpha)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _content_of(name: str, value: object) -> str:
    """Return an option's content for the digest: values of a yaml, hash of a weights file, else the value."""
    if not isinstance(value, str) or not value:
        return str(value)
    if name in ("cfg", "hyp", "data"):
        content = read_yaml(find_file(value, YAML_SUFFIXES))
        content.pop("path", None)  # where the images are; what they are is in a record's `data`
        return json.dumps(content, sort_keys=True, default=str)
    if name == "weights" and Path(value).is_file():
        return hashlib.sha256(Path(value).read_bytes()).hexdigest()
    return value


def _options(values: object, source: str) -> dict[str, object]:
    """Check options of train.py, named as in Python or as on the command line."""
    named = {str(key).replace("-", "_"): value for key, value in _mapping(values, source).items()}
    taken = sorted(named.keys() & OWN)
    if taken:
        raise ValueError(f"{source}: {taken[0]} is set by tools.ablate; remove it")
    try:
        return normalized(named, allowed=ALLOWED)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _arguments(options: Mapping[str, object]) -> list[str]:
    """Return options as command-line words, without false and null ones."""
    words: list[str] = []
    for name, value in options.items():
        flag = f"--{name}" if name in ("upload_dataset", "bbox_interval") else f"--{name.replace('_', '-')}"
        if value is None or value is False:
            continue
        words.append(flag)
        if value is not True:
            words += map(str, value) if isinstance(value, list) else [str(value)]
    return words


def _seeds(value: object, path: Path) -> tuple[int, ...]:
    if type(value) is int and value > MOST_SEEDS:
        raise ValueError(f"{path}: seeds {value}: up to {MOST_SEEDS} are possible")
    seeds = list(range(value)) if type(value) is int else value
    if not isinstance(seeds, Sequence) or not seeds or any(type(seed) is not int or seed < 0 for seed in seeds):
        raise ValueError(f"{path}: seeds {value}: must be a count, such as 5, or a list of integers from 0 on")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{path}: seeds {value}: must differ; the same seed gives the same run")
    return tuple(seeds)


def _mapping(value: object, source: str) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{source}: must hold `key: value` rows, not {value!r}")
    return {str(key): item for key, item in value.items()}


def _write(path: Path, content: Mapping[str, object]) -> str:
    """Write a yaml unless the file has this content; return its path."""
    text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return str(path)
