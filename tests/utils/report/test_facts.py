"""What a report says of machine, checkout, model and curves."""

import subprocess
import threading

import numpy as np
import pytest
import torch
from torch import nn

from utils.general import ROOT
from utils.metrics import EvalResult, average_precision
from utils.report.facts import curve_facts, environment, git_commit, model_facts

COMMIT = "0123456789abcdef" * 2 + "01234567"


def test_commit_is_that_of_git():
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("needs git and a checkout")
    assert git_commit(ROOT) == done.stdout.strip()


def make(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_commit_of_each_kind_of_checkout(tmp_path):
    make(tmp_path / "loose" / ".git", HEAD="ref: refs/heads/a/b\n", refs__heads__a__b=f"{COMMIT}\n")
    packed = f"# pack-refs with: peeled\n{'f' * 40} refs/heads/m\n{COMMIT} refs/heads/main\n^{'e' * 40}\n"
    make(tmp_path / "packed" / ".git", HEAD="ref: refs/heads/main\n", **{"packed-refs": packed})
    make(tmp_path / "detached" / ".git", HEAD=f"{COMMIT}\n")
    make(tmp_path / "packed" / ".git" / "worktrees" / "w", HEAD="ref: refs/heads/main\n", commondir="../..\n")
    make(tmp_path / "worktree", **{".git": "gitdir: ../packed/.git/worktrees/w\n"})
    for name in ("loose", "packed", "detached", "worktree"):
        assert git_commit(tmp_path / name) == COMMIT, name


def test_no_commit_where_there_is_none(tmp_path):
    assert git_commit(tmp_path) is None
    make(tmp_path / "new" / ".git", HEAD="ref: refs/heads/main\n")  # before the first commit
    make(tmp_path / "odd" / ".git", HEAD="<script>\n")
    make(tmp_path / "lost", **{".git": "gitdir: /nowhere\n"})
    for name in ("new", "odd", "lost"):
        assert git_commit(tmp_path / name) is None


def test_environment():
    facts = environment(torch.device("cpu"))
    assert facts["PyTorch"] == torch.__version__
    assert facts["device"].startswith("cpu, ")


def test_model_and_ensemble():
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    model.stride = torch.tensor([8.0, 16.0])
    facts = model_facts(model, (2, 3, 64, 96))
    assert "16 parameters" in facts["model"]
    assert "at 96 px" in facts["model"]
    assert facts["model's strides"] == "8, 16"
    assert set(model_facts(nn.ModuleList([nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1)]), ())) == {
        "model 1 of the ensemble",
        "model 2 of the ensemble",
    }


def test_an_exported_file():
    """It has no layers to count, and what runs it cannot be copied."""
    model = nn.Module()
    model.metadata = "of the file"
    model.place, model.session, model.stride = nn.Parameter(torch.zeros(0)), threading.Lock(), torch.tensor([32.0])
    facts = model_facts(model, (1, 3, 320, 320))
    assert facts == {
        "model": "run by Module at 320 px, as it was evaluated",
        "model's strides": "32",
    }


def test_curves_are_those_of_the_classes_with_labels():
    right = np.ones((2, 10), bool)
    stats = average_precision(right, np.array([0.9, 0.5]), np.array([1, 1]), np.array([1, 1, 1]))
    curves = curve_facts(EvalResult(("a", "b"), 1, np.array([0, 3]), stats, None, (0, 0, 0), ()))
    assert curves["names"] == ["b"]
    assert (curves["points"][0], curves["points"][-1], len(curves["points"])) == (0, 1, 101)
    assert np.array(curves["R"]).shape == (1, 101)
    assert curves["R"][0][0] == pytest.approx(2 / 3, abs=1e-4)
