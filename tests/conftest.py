"""Fixtures that tests of several folders use."""

import os
from pathlib import Path

import pytest
import torch

from utils.general import ROOT

torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference numbers, weights and photographs beside the checkout; skips where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("needs ../shared, which is not part of the project")
    return folder
