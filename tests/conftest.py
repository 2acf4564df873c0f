"""Fixtures that tests of several folders use."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from models.yolo import Model
from utils.data.shapes import ShapesSettings, generate
from utils.files.checkpoint import Checkpoint, save_checkpoint
from utils.general import LOGGER, ROOT

pytest_plugins = ["tests.networks", "tests.pages"]

torch.set_num_threads(1)  # the tests' networks are too small to gain by more
os.environ.setdefault("OMP_NUM_THREADS", "1")  # and so are those of the commands that they start
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp()  # the list of what was exported here is not the user's
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _same_log() -> Iterator[None]:
    """The log's level and handlers, which a script or a hub model may set, are as they were after each test."""
    level, handlers = LOGGER.level, LOGGER.handlers[:]
    yield
    LOGGER.setLevel(level)
    LOGGER.handlers[:] = handlers


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference numbers, weights and photographs beside the checkout; skips where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("needs ../shared, which is not part of the project")
    return folder


SMALL = {  # three levels; NAM is layer 7
    "nc": 3,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45], [116, 90, 156, 198]],
    "backbone": [[-1, 1, "Conv", [8, 6, 2, 2]], *([-1, 1, "Conv", [16, 3, 2]],) * 4, [-1, 1, "C3", [16]]],
    "head": [
        [-1, 1, "SPPF", [16, 5]],
        [-1, 1, "NAMAttention", [16]],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 3], 1, "Concat", [1]],
        [-1, 1, "C3", [16]],
        [[2, 10, 7], 1, "Detect", ["nc", "anchors"]],
    ],
}


def save_small(path: Path, nam: list) -> Path:
    """A checkpoint of a small network that finds ants, bees and cats everywhere; `nam` is the row in NAM's place."""
    torch.manual_seed(0)
    head = [nam if row[2] == "NAMAttention" else row for row in SMALL["head"]]
    model = Model({**SMALL, "head": head}, verbose=False)
    for module in model.modules():
        if isinstance(module, _NormBase):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
    for conv in model.head.m:
        conv.bias.data.view(2, 8)[:, 4] += 3
    save_checkpoint(path, Checkpoint(model.yaml, ("ant", "bee", "cat"), model.state_dict()))
    return path


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory) -> Path:
    """A checkpoint of a small network with NAM that finds ants, bees and cats everywhere, quick to export."""
    return save_small(tmp_path_factory.mktemp("small") / "net.pt", [-1, 1, "NAMAttention", [16]])


@pytest.fixture(scope="session")
def spatial_weights(tmp_path_factory) -> Path:
    """The same whose NAM starts as identity and gates pixels as well."""
    nam = [-1, 1, "NAMAttention", [16, {"no_spatial": False, "grid": 3, "gain": "C", "gain_out": 2}]]
    return save_small(tmp_path_factory.mktemp("spatial") / "net.pt", nam)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> str:
    """The yaml of twelve drawn pictures to train on and six each to validate and test."""
    folder = tmp_path_factory.mktemp("data")
    generate(folder / "shapes", ShapesSettings(train=12, val=6, test=6))
    content = yaml.safe_load((ROOT / "data" / "shapes.yaml").read_text(encoding="utf-8"))
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**content, "path": str(folder / "shapes")}), encoding="utf-8")
    return str(file)


@pytest.fixture
def offline(tmp_path_factory, monkeypatch) -> Iterator[None]:
    """W&B without a network, which keeps nothing outside the tests' folders; MLflow with its own default store."""
    wandb = pytest.importorskip("wandb")
    for name in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path_factory.getbasetemp() / "wandb"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
    wandb.teardown()
