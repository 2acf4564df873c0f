"""Our own checkpoint files: round trips, stripping, writing whole or not at all, and one-line errors."""

import logging
import os
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from utils.files.checkpoint import FORMAT, VERSION, Checkpoint, load_checkpoint, save_checkpoint, strip_optimizer

YAML = {
    "nc": 2,
    "ch": 3,
    "depth_multiple": 0.33,
    "width_multiple": 0.25,
    "anchors": [[10, 13, 16.5, 30]],
    "backbone": [[-1, 1, "Conv", [8, 3, None]]],
    "head": [[[0], 1, "Detect", ["nc", "anchors"]]],
}


@pytest.fixture
def checkpoint():
    """What a run saves after an epoch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    training = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": {"cpu": torch.get_rng_state()},
        "opt": {"freeze": [0], "resume": False, "cache": None, "lr0": 0.01, "weights": "größe.pt"},
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
    }
    return Checkpoint(YAML, ("cat", "Hündin"), model.state_dict(), 7, 0.25, training, "2026-11-24T10:00:00")


def same(a, b):
    """Whether two nested values are equal, tensors in value and type."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b and type(a) is type(b)


def plain(**changes):
    """What a file holds, with changes; a value of ... is left out."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "date": "",
        "origin": "",
        "yaml": YAML,
        "names": ["a", "b"],
        "epoch": -1,
        "best_fitness": None,
        "state": {"model.0.w": torch.ones(2)},
        "training": None,
        **changes,
    }
    return {key: value for key, value in content.items() if value is not ...}


def test_round_trip_is_exact(tmp_path, checkpoint):
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    found = load_checkpoint(str(tmp_path / "last.pt"))
    assert same(vars(found), {**vars(checkpoint), "state": dict(checkpoint.state)})
    assert list(found.state) == list(checkpoint.state)


def test_a_file_is_plain_data(tmp_path, checkpoint):
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    assert torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "last.pt") == []
    assert torch.load(tmp_path / "last.pt", weights_only=True)["format"] == FORMAT


def test_a_saved_file_depends_on_nothing_else(tmp_path, checkpoint):
    for name in ("a.pt", "b.pt"):
        save_checkpoint(tmp_path / name, checkpoint)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pt", "b.pt"]


def test_non_ascii_paths(tmp_path, checkpoint):
    path = tmp_path / "größe 模型" / "best.pt"
    path.parent.mkdir()
    save_checkpoint(path, checkpoint)
    assert load_checkpoint(path).names == checkpoint.names


@pytest.mark.parametrize(
    ("training", "where"),
    [
        ({"lr": np.float64(0.1)}, "checkpoint.training.lr"),
        ({"a": [{"b": (1, {2})}]}, r"checkpoint.training.a\[0\].b\[1\]"),
        ({"path": [type]}, r"training.path\[0\]"),
        ({("a", 1): 1}, "key"),
    ],
)
def test_what_cannot_be_read_back_is_not_written(tmp_path, checkpoint, training, where):
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(AssertionError, match=where):
        save_checkpoint(tmp_path / "last.pt", replace(checkpoint, training=training))
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_failure_while_writing_leaves_the_old_file(tmp_path, checkpoint, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()

    def break_off(_, file):
        file.write(b"PK half of it")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", break_off)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, checkpoint)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits files as POSIX does")
@pytest.mark.parametrize("is_there", [False, True])
def test_a_full_disk_is_said(tmp_path, checkpoint, is_there):
    resource = pytest.importorskip("resource")
    path = tmp_path / "last.pt"
    if is_there:
        path.write_bytes(b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # fails a write as a full disk does
    try:
        with pytest.raises(OSError, match=r"last\.pt: cannot be written, there may be no space left") as error:
            save_checkpoint(path, replace(checkpoint, state={"w": torch.zeros(100_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ("stays as it was" in str(error.value)) == is_there
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"] * is_there


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: out of order"), PermissionError(13, "Permission denied")])
def test_other_errors_while_writing_stay_what_they_are(tmp_path, checkpoint, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(type(error)) as raised:
        save_checkpoint(tmp_path / "last.pt", checkpoint)
    assert raised.value is error


# Stripping ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", [None, "small.pt"])
def test_strip(tmp_path, checkpoint, caplog, out):
    path, target = tmp_path / "last.pt", tmp_path / (out or "last.pt")
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()
    with caplog.at_level(logging.INFO, "yolov5"):
        strip_optimizer(path, out and target)
    assert "Optimizer stripped" in caplog.text
    assert (path.read_bytes() == before) == (out is not None)
    assert target.stat().st_size < len(before)
    found = load_checkpoint(target)
    assert (found.epoch, found.training, found.best_fitness) == (-1, None, None)
    assert (found.yaml, found.names, found.date) == (YAML, checkpoint.names, checkpoint.date)
    assert {v.dtype for v in torch.load(target)["state"].values()} == {torch.float16, torch.int64}
    for name, value in found.state.items():
        torch.testing.assert_close(value, checkpoint.state[name], rtol=1e-3, atol=1e-6)


def test_strip_twice_changes_nothing(tmp_path, checkpoint):
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    strip_optimizer(tmp_path / "last.pt")
    once = (tmp_path / "last.pt").read_bytes()
    strip_optimizer(tmp_path / "last.pt")
    assert (tmp_path / "last.pt").read_bytes() == once


def test_strip_keeps_numbers_beyond_fp16(tmp_path, checkpoint):
    state = {"model.0.large": torch.tensor([1e6, 1.0]), "model.0.inf": torch.tensor([float("inf"), 1.0])}
    save_checkpoint(tmp_path / "a.pt", replace(checkpoint, state=state))
    strip_optimizer(tmp_path / "a.pt")
    assert same(load_checkpoint(tmp_path / "a.pt").state, state)


def test_strip_of_what_is_no_checkpoint_leaves_it(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"a\.pt: not a checkpoint"):
        strip_optimizer(tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == b"mine"


def test_strip_converts_yolov5s_files(tmp_path, shared, caplog):
    with caplog.at_level(logging.INFO, "yolov5"):
        strip_optimizer(shared / "weights" / "yolov5n.pt", tmp_path / "n.pt")
    assert "converted from YOLOv5 (models.yolo.Model)" in caplog.text
    assert torch.load(tmp_path / "n.pt")["format"] == FORMAT
    original, found = load_checkpoint(shared / "weights" / "yolov5n.pt"), load_checkpoint(tmp_path / "n.pt")
    assert same(found.state, original.state)  # which was FP16 itself
    assert (found.yaml, found.names) == (original.yaml, original.names)


# Files that are wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (plain(version=2), f"a '{FORMAT}' of version 2; this program reads version {VERSION}"),
        (plain(version=torch.ones(2)), "of version tensor"),
        (plain(version=...), "of version None"),
        (plain(format="other"), "a 'other' of version 1"),
        (plain(format=...), "not a checkpoint of this project"),
        ({"a": torch.ones(1), "b": torch.ones(2)}, r"weights only \(a state dict\)"),
        ({}, "not a checkpoint of this project"),
        ([1, 2], "not a checkpoint of this project"),
        (torch.ones(3), "not a checkpoint of this project"),
        (plain(state=...), "damaged: it has no state"),
        (plain(state={}), "no weights"),
        (plain(state={"model.0.w": 3}), "'model.0.w' is no tensor"),
        (plain(state={3: torch.ones(2)}), "weight 3 is no tensor"),
        (plain(state={"w": torch.ones(2).to_sparse()}), "'w' is no tensor"),
        (plain(state={"w": torch.ones(2, dtype=torch.complex64)}), "weight w is of type torch.complex64"),
        (plain(state={"w": torch.ones(2, device="meta")}), "weight w is of type"),
        (plain(state={"w": torch.ones(1).expand(10**12)}), "w claims 1000000000000 numbers"),
        (plain(state=[torch.ones(2)]), "state is of type list"),
        (plain(training=3), "training is of type int"),
        (plain(epoch="3"), "epoch is of type str"),
        (plain(best_fitness=torch.ones(1)), "best_fitness is of type Tensor"),
        (plain(yaml=["a"]), "yaml is of type list"),
        (plain(yaml={**YAML, "nc": "2"}), "nc of its yaml is '2'"),
        (plain(yaml={k: v for k, v in YAML.items() if k != "head"}), "head of its yaml is None"),
        (plain(yaml={**YAML, "extra": torch.ones(1)}), "more than numbers and texts"),
        (plain(yaml={**YAML, "extra": {1: 2}}), "more than numbers and texts"),
        (plain(names="ab"), "names is of type str"),
        (plain(names=["a", 2]), "2 class names for 2 classes"),
        (plain(names=["a"]), "1 class names for 2 classes"),
    ],
)
def test_wrong_content(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(tmp_path / "a.pt")
    assert str(caught.value).startswith(f"{tmp_path / 'a.pt'}: ")
    assert "\n" not in str(caught.value)


def test_what_a_plain_file_holds_is_right(tmp_path):
    """Or the cases above would be refused for another reason."""
    torch.save(plain(), tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt").names == ("a", "b")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt: no such file"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="a folder"):
        load_checkpoint(tmp_path)
    (tmp_path / "empty.pt").touch()
    with pytest.raises(ValueError, match=r"empty\.pt: the file is empty"):
        load_checkpoint(tmp_path / "empty.pt")


class Harm:
    """Would make a folder if it were unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_the_format_of_old_torch_is_explained_and_harm_in_it_named(tmp_path):
    path = tmp_path / "old.pt"
    torch.save({"state": {"w": torch.zeros(3)}}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"old\.pt: in the format of torch before 1\.6.*save it with a newer torch"):
        load_checkpoint(path)
    harm = {"w": torch.zeros(3), "harm": Harm(tmp_path / "harm")}
    torch.save(harm, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=rf"refused, for it names {os.mkdir.__module__}\.mkdir"):
        load_checkpoint(path)
    assert not (tmp_path / "harm").exists()


def test_other_zip_files(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(ValueError, match="a zip file, but not a checkpoint"):
        load_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("constants.pkl", "data.pkl"):
            archive.writestr(f"model/{name}", "as torch.jit.save writes it")
    with pytest.raises(ValueError, match=r"a program \(TorchScript\), not a checkpoint"):
        load_checkpoint(path)


def test_a_packed_file_is_not_unpacked(tmp_path):
    torch.save(plain(state={"w": torch.zeros(100_000)}), tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    with pytest.raises(ValueError, match="a packed zip file"):
        load_checkpoint(tmp_path / "a.pt")


def test_truncated_anywhere(tmp_path, checkpoint):
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint)
    data = path.read_bytes()
    for size in range(1, len(data), 97):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"last\.pt: (not a checkpoint|truncated)"):
            load_checkpoint(path)


def test_a_changed_weight_is_noticed(tmp_path, checkpoint):
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint)
    weight = checkpoint.state["0.weight"].numpy().tobytes()
    data = path.read_bytes()
    assert weight in data
    path.write_bytes(data.replace(weight, weight[:-1] + bytes([weight[-1] ^ 1])))
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(path)
