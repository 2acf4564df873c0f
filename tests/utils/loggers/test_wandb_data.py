"""Data sets as W&B artifacts: uploaded from where they are, described so that they can be trained on, fetched."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from torch import nn

from tests.utils.loggers.offline_runs import OfflineRun
from train import parse_opt
from utils.data.config import DataConfig
from utils.data.labels import load_split
from utils.loggers import RunLogger, wandb_data
from utils.loggers.base import RunStart
from utils.loggers.wandb import WandbLogger
from utils.loggers.wandb_data import fetch_dataset, local_data


def upload(data, folder, *flags, start_epoch=0):
    opt = parse_opt(["--data", data, *flags])
    splits = {name: load_split(DataConfig.from_yaml(data), name, 0, opt.single_cls) for name in ("train", "val")}
    start = RunStart(folder, opt.values(), {}, start_epoch, ("item",), nn.Identity(), 64, splits)
    with RunLogger([WandbLogger("birds", upload=opt.upload_dataset, data_file=data)], start):
        return sorted(folder.glob("wandb/offline-run-*"))[-1]


def files_of(run):
    (artifact,) = OfflineRun(run).artifacts
    assert (artifact.name, artifact.type) == ("tiny", "dataset")
    return {entry.path: entry.local_path for entry in artifact.manifest.contents}


@pytest.mark.usefixtures("offline")
def test_a_data_set_goes_up_from_where_it_is_and_can_be_trained_on(data, tmp_path):
    run = upload(data, tmp_path, "--upload_dataset", "--single-cls")
    files = files_of(run)
    root = DataConfig.from_yaml(data).root
    assert all(str(path).startswith(str(root)) for name, path in files.items() if name != "data.yaml")
    assert not [path for path in run.rglob("*.jpg") if path.is_file()]
    assert len(files) == 1 + 2 * (12 + 6)
    for name, path in files.items():  # as W&B's download lays them out
        target = tmp_path / "copy" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(path).read_bytes())
    copy, original = DataConfig.from_yaml(tmp_path / "copy" / "data.yaml"), DataConfig.from_yaml(data)
    assert copy.names == original.names
    for split in ("train", "val"):
        ours, theirs = (sorted(load_split(c, split, 0), key=lambda r: r.image) for c in (copy, original))
        assert [record.boxes.tolist() for record in ours] == [record.boxes.tolist() for record in theirs]


@pytest.mark.usefixtures("offline")
def test_val_alone_and_only_once(data, tmp_path):
    files = files_of(upload(data, tmp_path, "--upload_dataset", "val"))
    assert {name.split("/")[1] for name in files if "/" in name} == {"val"}
    assert OfflineRun(upload(data, tmp_path, "--upload_dataset", "val", start_epoch=1)).artifacts == []


# Fetching needs a server, so W&B's public interface is played here -----------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The paths asked for; the artifact `me/birds/tiny:v3` is there, `empty` has no description."""
    asked = []

    def artifact(path, type):
        asked.append(path)
        if "absent" in path:
            raise wandb.errors.CommError("artifact membership not found")

        def download(root):
            folder = tmp_path / "fetched" / root.rpartition("/")[2]
            folder.mkdir(parents=True)
            if "empty" not in path:
                (folder / "data.yaml").write_text("names: [a]")

        return SimpleNamespace(version="v3", download=download)

    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(artifact=artifact))
    monkeypatch.setattr(wandb_data, "FETCHED", tmp_path / "fetched")
    return asked


@pytest.mark.parametrize(
    ("address", "flags", "asked"),
    [
        ("me/birds/tiny", [], "me/birds/tiny:latest"),
        ("me/birds/tiny", ["--artifact_alias", "v3"], "me/birds/tiny:v3"),
        ("birds/tiny:v1", ["--artifact_alias", "v3"], "birds/tiny:v1"),
    ],
)
def test_the_alias_chooses_the_version(server, tmp_path, address, flags, asked):
    opt = parse_opt(["--data", f"wandb-artifact://{address}", *flags])
    assert local_data(opt.data, opt.artifact_alias) == str(tmp_path / "fetched" / "tiny-v3" / "data.yaml")
    assert server == [asked]


def test_other_data_is_left_alone(server):
    assert local_data("coco.yaml", "latest") == "coco.yaml"
    assert server == []


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tiny", "wandb-artifact://entity/project/name is wanted"),
        ("a/b/c/d", "wandb-artifact://entity/project/name is wanted"),
        ("me/birds/absent", "W&B does not give me/birds/absent:latest: artifact membership not found"),
        ("me/birds/empty", "has no data.yaml; make the data set with --upload_dataset"),
    ],
)
def test_what_cannot_be_fetched(server, address, message):
    with pytest.raises(ValueError, match=message):
        fetch_dataset(f"wandb-artifact://{address}", "latest")
