"""hubconf.py as torch.hub loads it."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch

import hubconf
from models.yolo import Model
from utils.files.checkpoint import Checkpoint, save_checkpoint
from utils.files.images import write_image
from utils.general import ROOT
from utils.predict.autoshape import AutoShape

NAMES = [f"yolov5{size}{levels}" for levels in ("", "6") for size in "nsmlx"]
QUIET = {"verbose": False, "device": "cpu"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with yolov5n.pt of two classes."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = Model("yolov5n.yaml", nc=2, verbose=False)
    save_checkpoint(tmp_path / "yolov5n.pt", Checkpoint(model.yaml, ("cat", "dog"), model.state_dict()))
    return tmp_path


def test_entry_points():
    listed = [name for name in dir(hubconf) if callable(getattr(hubconf, name)) and name[0] != "_"]  # as torch.hub does
    attention = [f"yolov5{size}_nam" for size in "nsmlx"]
    assert listed == sorted(["custom", *NAMES, *attention])
    for name in [*NAMES, *attention]:
        assert [*inspect.signature(getattr(hubconf, name)).parameters] == (
            ["pretrained", "channels", "classes", "autoshape", "verbose", "device"]
        )


def test_torch_hub_from_anywhere(folder):
    """Nothing of the repository is on the path but by way of torch.hub."""
    code = f"""
import numpy as np, torch
model = torch.hub.load({str(ROOT)!r}, "custom", path="yolov5n.pt", source="local", device="cpu")
results = model([np.zeros((40, 60, 3), np.uint8)] * 2, size=64)
results.print()
print(len(results), model.names, results.save())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "2 ['cat', 'dog'] runs/detect/exp"
    assert len(list((folder / "runs/detect/exp").iterdir())) == 2


def test_the_readmes_snippet(folder):
    """It runs as written, in a folder that has what a clone with a finished training has."""
    for name in ("hubconf.py", "models", "utils"):
        (folder / name).symlink_to(ROOT / name)
    place = folder / "runs/train/exp/weights"
    place.mkdir(parents=True)
    (folder / "yolov5n.pt").rename(place / "best.pt")
    for name in ("a.jpg", "b.jpg"):
        write_image(folder / name, np.full((40, 60, 3), 90, np.uint8))
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## From Python\n")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "image 2/2: 40x60" in done.stdout
    assert {path.name for path in (folder / "runs/detect/exp").iterdir()} == {"a.jpg", "b.jpg"}


def test_a_compiled_network(folder, monkeypatch):
    compiled = []
    monkeypatch.setattr(hubconf.torch_utils, "compile_network", lambda model, is_dynamic: compiled.append(model))
    model = hubconf.custom("yolov5n.pt", autoshape=False, compile=True, **QUIET)
    assert compiled == [model.model]


def test_custom(folder):
    shaped = hubconf.custom("yolov5n.pt", **QUIET)
    bare = hubconf.custom("yolov5n.pt", autoshape=False, **QUIET)
    images = torch.rand(1, 3, 64, 64)
    assert isinstance(shaped, AutoShape)
    assert not any(p.requires_grad for p in shaped.parameters())
    torch.testing.assert_close(shaped(images)[0], bare(images)[0].detach(), rtol=1e-4, atol=1e-3)
    sum(level.sum() for level in bare.train()(images)).backward()
    assert all(p.grad is not None for p in bare.parameters())


def test_untrained_network():
    model = hubconf.yolov5n(classes=3, channels=1, autoshape=False, **QUIET)
    assert model(torch.rand(1, 1, 64, 64))[0].shape[2] == 8
    found = hubconf.yolov5n(**QUIET)(np.zeros((32, 64, 3), np.uint8), size=64)
    assert (found.xyxy[0].shape[1], len(found.names)) == (6, 80)


def test_six_has_four_levels():
    model = hubconf.yolov5n6(autoshape=False, **QUIET)
    assert model.stride.tolist() == [8, 16, 32, 64]


def test_pretrained_of_the_same_classes(folder):
    model = hubconf.yolov5n(pretrained=True, classes=2, **QUIET)
    images = torch.rand(1, 3, 64, 64)
    assert model.names == ["cat", "dog"]
    assert torch.equal(model(images)[0], hubconf.custom("yolov5n.pt", **QUIET)(images)[0])


def test_pretrained_of_other_classes(folder):
    trained = hubconf.custom("yolov5n.pt", autoshape=False, **QUIET).model.state_dict()
    model = hubconf.yolov5n(pretrained=True, classes=5, autoshape=False, **QUIET)
    same = [name for name, value in model.state_dict().items() if torch.equal(value, trained[name])]
    assert len(model.names) == 5
    assert set(model.state_dict()) - set(same) == {
        f"model.24.m.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")
    }


def test_mistakes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hubconf.general, "ROOT", tmp_path / "repository")
    with pytest.raises(FileNotFoundError, match=r"yolov5s\.pt: no such file.*pretrained=False"):
        hubconf.yolov5s(pretrained=True, **QUIET)
    with pytest.raises(ValueError, match="3 channels, not 4"):
        hubconf.yolov5s(channels=4, **QUIET)
    with pytest.raises(FileNotFoundError, match="absent"):
        hubconf.custom("absent.pt", **QUIET)


def test_networks_with_attention(folder, caplog):
    model = hubconf.yolov5n_nam(autoshape=False, classes=2, **QUIET)
    assert any(type(module).__name__ == "NAMAttention" for module in model.modules())
    assert "yolov5n-NAM.pt" in caplog.text
    torch.manual_seed(1)
    trained = Model("yolov5n-NAM.yaml", nc=2, verbose=False)
    save_checkpoint(folder / "yolov5n-NAM.pt", Checkpoint(trained.yaml, ("cat", "dog"), trained.state_dict()))
    assert hubconf.yolov5n_nam(classes=2, **QUIET).names == ["cat", "dog"]


def test_weights_that_are_there_are_taken(folder, caplog):
    """As in v6.1, where `pretrained` is the default; that there are none is a warning."""
    assert hubconf.yolov5n(classes=2, **QUIET).names == ["cat", "dog"]
    assert hubconf.yolov5n(pretrained=False, classes=2, **QUIET).names == ["0", "1"]
    assert not caplog.records
    hubconf.yolov5n6(autoshape=False, **QUIET)
    assert "yolov5n6.pt" in caplog.text
