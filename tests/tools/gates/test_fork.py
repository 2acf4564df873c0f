"""Forks looked over from their files: wiring, modules of their own, which NAM, and checkpoints of another yaml."""

import logging
from pathlib import Path

import pytest
import torch

from models.yolo import Model
from tools.gates.cli import main, parse_opt
from tools.gates.fork import inspect_fork, sentences, variants_in
from utils.files.checkpoint import Checkpoint, save_checkpoint
from utils.general import ROOT

RIGHT = (ROOT / "models" / "yolov5n-NAM.yaml").read_text(encoding="utf-8")


def write(path: Path, *changes: tuple[str, str]) -> Path:
    text = RIGHT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


def save(path: Path, cfg: Path) -> Path:
    model = Model(cfg, nc=3, verbose=False)
    save_checkpoint(path, Checkpoint(yaml=model.yaml, names=("a", "b", "c"), state=model.state_dict()))
    return path


def test_the_recipe_is_right(tmp_path: Path) -> None:
    found = inspect_fork(write(tmp_path / "fork.yaml"))
    assert [row.index for row in found.added] == [24]
    assert (found.warnings, len(found.variants)) == ((), 1)
    assert sentences(found)[-1] == "verdict: the wiring is right"


def test_missed_renumbering_is_found_with_a_module_that_only_the_fork_has(tmp_path: Path) -> None:
    """The block stands behind row 23, but Detect still reads 23: nobody reads the block."""
    fork = write(tmp_path / "fork.yaml", ("NAMAttention, [1024]", "TheirNAM, [1024, 7]"), ("17, 20, 24", "17, 20, 23"))
    found = inspect_fork(fork)
    assert [row.content[2] for row in found.added] == ["TheirNAM"]
    assert any("row 24" in warning for warning in found.warnings)
    assert sentences(found)[-1].startswith("verdict: wired otherwise than meant")


def test_detect_fed_by_a_concat(tmp_path: Path) -> None:
    found = inspect_fork(write(tmp_path / "fork.yaml", ("17, 20, 24", "17, 19, 24")))
    assert any("input 19" in warning for warning in found.warnings)


def test_the_checkpoint_tells_the_variant(tmp_path: Path) -> None:
    fork = write(tmp_path / "fork.yaml")
    (variant,) = inspect_fork(fork, save(tmp_path / "best.pt", fork)).variants
    assert variant.startswith("model.24: NAM of channels alone")
    assert "hardly a gate" in variant
    pixels = write(tmp_path / "pixels.yaml", ("NAMAttention, [1024]", "NAMAttention, [1024, {no_spatial: False}]"))
    (variant,) = inspect_fork(pixels, save(tmp_path / "pixels.pt", pixels)).variants
    assert "channels and pixels" in variant


def test_variants_by_their_tensors() -> None:
    gamma = torch.zeros(8)
    gamma[0] = 1.0
    published = {"model.24.Channel_Att.bn2.weight": gamma, "model.24.Channel_Att.bn2.bias": torch.zeros(8)}
    assert "a gate that moves" in variants_in(published)[0]  # one channel has all the weight
    assert "400 lambdas" in variants_in({**published, "model.24.Spatial_Att.bn2.weight": torch.ones(400)})[0]
    assert "constant half" in variants_in({"model.24.Channel_Att.bn2.weight": torch.zeros(8)})[0]
    assert variants_in({"model.0.conv.weight": gamma}) == []


def test_a_checkpoint_of_other_rows_is_refused(tmp_path: Path) -> None:
    weights = save(tmp_path / "best.pt", write(tmp_path / "fork.yaml"))
    other = write(tmp_path / "other.yaml", ("17, 20, 24", "17, 20, 23"))
    with pytest.raises(ValueError, match="row 25"):
        inspect_fork(other, weights)


def test_command_rates_where_data_is_named(data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fork = write(tmp_path / "fork.yaml")
    with caplog.at_level(logging.INFO, "yolov5"):
        assert main(parse_opt(["--fork", str(fork)])) == fork
    assert "verdict" in caplog.text
    with pytest.raises(ValueError, match="3 classes"):  # the classes of the checkpoint are not the data's
        main(parse_opt(["--fork", str(fork), str(save(tmp_path / "best.pt", fork)), "--data", data]))
