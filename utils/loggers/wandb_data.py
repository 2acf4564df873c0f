"""Data sets as W&B artifacts: what --upload_dataset makes of one, and what --data wandb-artifact://... fetches."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import yaml

from utils.data.config import DataConfig
from utils.data.labels import LabelRecord, label_path
from utils.files.names import UniqueNames, safe_name
from utils.general import LOGGER, ROOT, colorstr, one_line, plural

if TYPE_CHECKING:
    from wandb import Run

ARTIFACT_PREFIX = "wandb-artifact://"
DATA_FILE = "data.yaml"
FETCHED = ROOT / "datasets"  # each version in a folder of its own


def import_wandb() -> ModuleType:
    """The package; ImportError says how to get it."""
    try:
        import wandb
    except ImportError as error:
        raise ImportError(
            f"--wandb: W&B is not installed ({one_line(error)}); pip install wandb, or leave the flag out, and "
            "--entity, --upload_dataset, --bbox_interval and --artifact_alias, which are for W&B alone"
        ) from None
    return wandb


def upload_dataset(
    wandb: ModuleType, run: "Run", data_file: str | Path, splits: Mapping[str, Sequence[LabelRecord]]
) -> None:
    """Logs the images, labels and description of splits of the data set of a yaml as a data set artifact.

    The files are uploaded from where they are; no copy of them is made on this machine.
    """
    file = Path(data_file)
    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "_", file.stem, flags=re.ASCII), type="dataset")
    content: dict[str, object] = {name: f"images/{name}" for name in splits}
    content["names"] = list(DataConfig.from_yaml(file).names)  # those of the label files, also with --single-cls
    with artifact.new_file(DATA_FILE, encoding="utf-8") as description:
        yaml.safe_dump(content, description, sort_keys=False, allow_unicode=True)
    count = 0
    for split, records in splits.items():
        names = UniqueNames()
        for record in records:
            image, labels = Path(record.image), Path(label_path(record.image))
            stem = names.claim(image.stem)
            count += 1
            files = {f"images/{split}/{stem}{image.suffix}": image}
            if labels.is_file():
                files[f"labels/{split}/{stem}.txt"] = labels
            for name, path in files.items():
                artifact.add_file(str(path), name, policy="immutable", skip_cache=True)
    run.log_artifact(artifact)
    LOGGER.info(f"{colorstr('W&B: ')}data set {artifact.name} with {plural(count, 'image')}, {' and '.join(splits)}")


def fetch_dataset(address: str, alias: str) -> Path:
    """The description of the data set wandb-artifact://[entity/]project/name, downloaded in this version.

    A version in the address itself, as name:v3, goes before the alias. ValueError where W&B does not give it.
    """
    wandb = import_wandb()
    path = address.removeprefix(ARTIFACT_PREFIX).strip("/")
    if not 1 <= path.count("/") <= 2:
        raise ValueError(f"--data {address}: {ARTIFACT_PREFIX}entity/project/name is wanted")
    full = path if ":" in path.rpartition("/")[2] else f"{path}:{alias}"
    try:
        artifact = wandb.Api().artifact(full, type="dataset")
        folder = FETCHED / safe_name(f"{path.rpartition('/')[2].partition(':')[0]}-{artifact.version}")
        LOGGER.info(f"{colorstr('W&B: ')}downloading {full} to {folder}")
        artifact.download(root=str(folder))
    except (wandb.errors.Error, ValueError, OSError) as error:
        raise ValueError(f"--data {address}: W&B does not give {full}: {one_line(error)}") from None
    file = folder / DATA_FILE
    if not file.is_file():
        raise ValueError(f"--data {address}: has no {DATA_FILE}; make the data set with --upload_dataset")
    return file


def local_data(data: str, alias: str) -> str:
    """Return --data as a file on this machine: fetched from W&B, by its alias there, if it names a data set there."""
    return os.fspath(fetch_dataset(data, alias)) if data.startswith(ARTIFACT_PREFIX) else data
