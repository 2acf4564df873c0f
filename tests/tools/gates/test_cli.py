"""Gates looked at, end to end on a small trained network and against what they are on networks made for it."""

import csv
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import train
from models.experimental import attempt_load
from models.yolo import Model
from tools.gates.cli import counterfactuals, main, parse_opt, watch_gates
from utils.files.checkpoint import Checkpoint, save_checkpoint
from utils.files.images import read_image
from utils.general import ROOT


@pytest.fixture(scope="module")
def trained(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of one tiny epoch with NAM on three levels."""
    options = {"imgsz": 64, "batch_size": 6, "workers": 0, "weights": "", "noplots": True, "epochs": 1}
    folder = train.run(
        **options, data=data, device="cpu", cfg="yolov5n-NAM-p3p5.yaml", project=str(tmp_path_factory.mktemp("runs"))
    )
    return folder / "weights" / "last.pt"


def look(weights: Path, data: str, project: Path, *flags: str) -> Path:
    """The folder of an inspection on the CPU."""
    common = ("--data", data, "--imgsz", "64", "--workers", "0", "--device", "cpu", "--project", str(project))
    return main(parse_opt([str(weights), *common, *flags]))


def test_end_to_end(trained: Path, data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "yolov5"):
        folder = look(trained, data, tmp_path, "--counterfactual")
    assert sorted(path.name for path in folder.iterdir()) == ["gates.csv", "gates.html", "gates.png", "inspect.json"]
    content = json.loads((folder / "inspect.json").read_text())
    names = [f"model.{i}" for i in (18, 22, 26)]
    assert [gate["block"] for gate in content["gates"]] == names
    assert [gate["channels"] for gate in content["gates"]] == [64, 128, 256]
    assert content["images"] == 6
    for gate in content["gates"]:
        assert gate["mean"] == pytest.approx(0.5, abs=0.01)  # hardly trained: the published gate is where it began
    assert "the gate is constant at 0.500" in content["gates"][2]["alarm"]
    assert "model.26: the gate is constant at 0.500" in caplog.text
    cases = [(case["block"], case["gate"]) for case in content["counterfactuals"]]
    assert cases == [(block, gate) for block in (*names, "all") for gate in ("identity", "mean")]
    for case in content["counterfactuals"]:
        assert case["carried"] == pytest.approx(content["mAP@.5:.95"] - case["map"])
    with (folder / "gates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 64 + 128 + 256
    assert read_image(folder / "gates.png").shape[1] > 1000
    assert "left rest" in caplog.text
    sentence = verdict_line(content)
    assert sentence in caplog.messages[-1]
    page = (folder / "gates.html").read_text()
    assert sentence in page
    assert page.count("data:image/png;base64,") == 1
    assert all(name in page for name in names)


def verdict_line(content: dict) -> str:
    """The part of the last line that has the change of mAP with all gates at their means."""
    held = content["counterfactuals"][-1]
    assert (held["block"], held["gate"]) == ("all", "mean")
    return f"mAP@.5:.95 by {-held['carried']:+.4f}"


def test_without_counterfactual_the_network_is_rated_once(trained: Path, data: str, tmp_path: Path) -> None:
    folder = look(trained, data, tmp_path)
    assert json.loads((folder / "inspect.json").read_text())["counterfactuals"] == []
    assert look(trained, data, tmp_path).name == "exp2"


def test_as_a_command(data: str, small_weights: Path, tmp_path: Path) -> None:
    """Where the network has other classes, and where it has no attention: one line, exit status 1."""
    plain = tmp_path / "plain.pt"
    model = Model("yolov5n.yaml", nc=10, verbose=False)
    save_checkpoint(plain, Checkpoint(model.yaml, tuple("abcdefghij"), model.state_dict()))
    cases = ((small_weights, "the model has 3 classes, the data set 10"), (plain, "no attention block"))
    out = tmp_path / "out"
    for weights, message in cases:
        flags = f"--imgsz 64 --workers 0 --device cpu --project {out} --data {data}".split()
        command = [sys.executable, "-m", "tools.gates", str(weights), *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert message in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert not list(out.glob("*"))


@pytest.mark.parametrize(("flag", "value"), [("--imgsz", "0"), ("--batch-size", "-1")])
def test_wrong_numbers(trained: Path, data: str, tmp_path: Path, flag: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{flag} {value}: 1 or more"):
        look(trained, data, tmp_path, flag, value)


def test_models_yolo_runs_as_a_file_beside_inspect(tmp_path: Path) -> None:
    """Python looks beside a file first, and this folder has a module of the name of one of Python's own."""
    file = ROOT / "models" / "yolo.py"
    command = [sys.executable, str(file), "--cfg", "yolov5n-NAM.yaml", "--device", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "models.common.NAMAttention" in done.stdout + done.stderr


# Replacing ------------------------------------------------------------------------------------------------------------


def test_counterfactuals_rate_what_they_say(small_weights: Path) -> None:
    """By the output on a picture in place of an AP: identity is the network without the row, mean the mean gate."""
    model = attempt_load(small_weights)
    image = torch.rand(1, 3, 64, 64)

    class Rating:
        images = 1

        def __init__(self, output: torch.Tensor) -> None:
            self.map = self.map50 = output.double().sum().item()

    def rate() -> Rating:
        with torch.no_grad():
            return Rating(model(image)[0])

    stats, trained = watch_gates(model, rate)
    found = counterfactuals(model, stats, trained, rate)
    assert [case.gate for case in found] == ["identity", "mean"]
    layer = model.model[7]
    model.model[7] = nn.Identity()
    assert found[0].map == rate().map
    gate = torch.from_numpy(stats[0].mean).float()[:, None, None]

    class Scale(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * gate

    model.model[7] = Scale()
    assert found[1].map == pytest.approx(rate().map, rel=1e-6)
    model.model[7] = layer
    assert rate().map == trained.map
    assert found[0].carried == trained.map - found[0].map != 0
