"""Fixtures that tests of several folders use."""

from pathlib import Path

import pytest
import torch

from utils.general import ROOT

torch.set_num_threads(1)  # the tests' networks are too small to gain by more


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference numbers, weights and photographs beside the checkout; skips where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("needs ../shared, which is not part of the project")
    return folder
