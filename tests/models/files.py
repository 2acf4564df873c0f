"""What tests of several exported formats share: files of small networks, and what comes out compared."""

import shutil
import sys

import cv2
import numpy as np
from torch import nn

import detect
import export
from models.experimental import attempt_load
from models.runtimes.load import load_backend

SIZE = [64, 96]  # height and width of the images


def as_trained(model):
    """The model in evaluation with norms as after a training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def export_whole_and_half(kind, whole, half, folder):
    """Checkpoints as a.pt and half.pt in the folder, and exported: a for two images, half in FP16."""
    shutil.copy(whole, folder / "a.pt")
    shutil.copy(half, folder / "half.pt")
    export.run(folder / "a.pt", imgsz=SIZE, include=kind, batch_size=2)
    export.run(folder / "half.pt", imgsz=SIZE, include=kind, half=True)
    return folder


def differ(a, b):
    return float((a - b).abs().max())


def check(found, wanted, boxes=5e-3, scores=1e-4):
    assert found.shape == wanted.shape
    assert differ(found[..., :4], wanted[..., :4]) < boxes
    assert differ(found[..., 4:], wanted[..., 4:]) < scores


def load_both(file, runtime):
    """The runtime of a file that takes two images, and the checkpoint a.pt beside it."""
    model, network = load_backend(file, threads=1), attempt_load(file.with_name("a.pt"))
    assert (type(model), model.fixed_batch, model.fixed_hw) == (runtime, 2, tuple(SIZE))
    assert (model.names, int(model.stride)) == (["ant", "bee", "cat"], 32)
    return model, network


def check_detects_alike(file, image, place):
    """detect.py writes the same labels of an image (H, W, 3) with a file as with the checkpoint a.pt beside it."""
    cv2.imwrite(str(place / "a.png"), image)
    results = []
    for weights in (file.with_name("a.pt"), file):
        options = {"source": str(place / "a.png"), "imgsz": SIZE, "save_txt": True, "nosave": True}
        folder = detect.run(weights=weights, project=str(place / weights.suffix[1:]), conf_thres=0.01, **options)
        results.append(np.array((folder / "labels" / "a.txt").read_text().split(), dtype=float))
    np.testing.assert_allclose(*results, atol=1e-4)


def damaged(content):
    """What may become of a file's bytes: nothing, other things, a half, most of it, one with a flipped bit, its end."""
    flipped = bytearray(content)
    flipped[len(content) // 3] ^= 64
    return b"", b"no such thing", content[: len(content) // 2], content[:-5], flipped, content[100:]


def hide(monkeypatch, tmp_path, *packages):
    """Make packages absent, in this process even if they are imported, and in child processes."""
    folder = tmp_path.with_name(f"{tmp_path.name}-hidden")
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    for package in packages:
        (folder / f"{package}.py").write_text("raise ImportError(__name__)", encoding="utf-8")
        monkeypatch.setitem(sys.modules, package, None)
        for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
            monkeypatch.delitem(sys.modules, name)
