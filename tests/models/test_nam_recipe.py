"""The NAM recipe that this project began with, step by step in a copy: file, import, branch, yaml, commands."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.copies import copy_repository, patch
from utils.files.checkpoint import load_checkpoint
from utils.files.images import write_image

NAM = """import torch
import torch.nn as nn


class Channel_Att(nn.Module):
    def __init__(self, channels, t=16):
        super(Channel_Att, self).__init__()
        self.channels = channels
        self.bn2 = nn.BatchNorm2d(self.channels, affine=True)

    def forward(self, x):
        residual = x
        x = self.bn2(x)
        weight_bn = self.bn2.weight.data.abs() / torch.sum(self.bn2.weight.data.abs())
        x = x.permute(0, 2, 3, 1).contiguous()
        x = torch.mul(weight_bn, x)
        x = x.permute(0, 3, 1, 2).contiguous()
        x = torch.sigmoid(x) * residual  #
        return x


class NAMAttention(nn.Module):
    def __init__(self, channels, out_channels=None, no_spatial=True):
        super(NAMAttention, self).__init__()
        self.Channel_Att = Channel_Att(channels)
        self.register_buffer("theirs", torch.ones(1))

    def forward(self, x):
        x_out1 = self.Channel_Att(x)
        return x_out1
"""
BRANCH = """        elif m is NAMAttention:
            c1, c2 = ch[f], args[0]
            if c2 != no:
                c2 = make_divisible(c2 * gw, 8)
            args = [c1, *args[1:]]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with the recipe's four edits."""
    folder = copy_repository(tmp_path_factory.mktemp("seed"))
    (folder / "models" / "NAM.py").write_text(NAM)
    yolo = folder / "models" / "yolo.py"
    patch(yolo, "from models.tta import", "from models.NAM import NAMAttention\nfrom models.tta import")
    patch(yolo, "        elif m is Concat:\n", f"{BRANCH}        elif m is Concat:\n")
    text = (folder / "models" / "yolov5n.yaml").read_text()
    text = text.replace("nc: 80", "nc: 10").replace("width_multiple: 0.25", "width_multiple: 0.125")
    text = text.replace("   [[17, 20, 23],", "   [-1, 1, NAMAttention, [1024]],\n\n   [[17, 20, 24],")
    (folder / "models" / "yolov5-NAM.yaml").write_text(text)
    return folder


def run(folder: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_train_detect_export(folder: Path, data: str) -> None:
    small = ("--imgsz", "64", "--device", "cpu")
    log = run(
        folder,
        "train.py",
        "--cfg",
        "yolov5-NAM.yaml",
        "--weights",
        "",
        "--data",
        data,
        "--epochs",
        "1",
        *small,
        "--batch-size",
        "6",
        "--workers",
        "0",
    )
    assert "models.NAM.NAMAttention" in log
    assert "NAMAttention is your class of models.NAM" in log
    best = folder / "runs" / "train" / "exp" / "weights" / "best.pt"
    assert "model.24.theirs" in load_checkpoint(best).state
    write_image(folder / "gray.png", np.full((48, 64, 3), 114, np.uint8))
    run(folder, "detect.py", "--weights", str(best), "--source", "gray.png", *small)
    assert (folder / "runs" / "detect" / "exp" / "gray.png").is_file()
    run(folder, "export.py", "--weights", str(best), "--include", "onnx", *small)
    assert best.with_suffix(".onnx").is_file()
