"""Fixtures that tests of several folders use."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from utils.general import ROOT
from utils.shapes import ShapesSettings, generate

torch.set_num_threads(1)  # the tests' networks are too small to gain by more


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference numbers, weights and photographs beside the checkout; skips where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("needs ../shared, which is not part of the project")
    return folder


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
