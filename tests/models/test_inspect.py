"""Gates looked at, end to end on a small trained network and against what they are on networks made for it."""

import csv
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import train
from models.attention import NAMAttention
from models.attention_peers import SE
from models.experimental import attempt_load
from models.inspect import (
    BINS,
    GateTally,
    as_constant,
    as_identity,
    attention_blocks,
    counterfactuals,
    hooked,
    main,
    parse_opt,
    watch_gates,
)
from models.yolo import Model
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.general import ROOT
from utils.images import read_image


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
    assert sorted(path.name for path in folder.iterdir()) == ["gates.csv", "gates.png", "inspect.json"]
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
        command = [sys.executable, "-m", "models.inspect", str(weights), *flags]
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


# Statistics -----------------------------------------------------------------------------------------------------------


def test_tally_equals_numpy() -> None:
    torch.manual_seed(0)
    tally = GateTally("x", NAMAttention(4))
    gates = [torch.rand(b, 4, h, 3) for b, h in ((2, 5), (1, 4))]
    for gate in gates:
        tally.add(gate, gate.shape)
    stats = tally.stats()
    flat = np.concatenate([gate.transpose(0, 1).flatten(1).numpy() for gate in gates], 1)  # (4, n)
    np.testing.assert_allclose(stats.mean, flat.mean(1), rtol=1e-5)
    np.testing.assert_allclose(stats.sd, flat.std(1), rtol=1e-5)
    np.testing.assert_allclose(stats.low, flat.min(1), rtol=1e-5)
    np.testing.assert_allclose(stats.high, flat.max(1), rtol=1e-5)
    np.testing.assert_allclose(stats.left, (np.abs(flat - 0.5) > 0.05).mean(1))
    np.testing.assert_array_equal(stats.histogram, np.histogram(flat, BINS, (0, 1))[0])
    assert stats.sd_all == pytest.approx(flat.std(), rel=1e-5)
    assert not stats.alarm


def test_a_gate_of_a_whole_channel_counts_at_each_place() -> None:
    tally = GateTally("x", SE(2))
    tally.add(torch.tensor([0.5, 0.9]).view(1, 2, 1, 1), torch.Size((1, 2, 3, 5)))
    stats = tally.stats()
    assert tally.values == 15
    assert stats.left.tolist() == [0, 1]
    assert stats.histogram.sum() == 30
    assert "each channel's gate is constant" in stats.alarm


@pytest.mark.parametrize(("noise", "alarm"), [(0.001, "the gate is constant at 0.500"), (0.02, "")])
def test_alarm(noise: float, alarm: str) -> None:
    torch.manual_seed(0)
    tally = GateTally("x", NAMAttention(8))
    gate = 0.5 + noise * torch.randn(4, 8, 6, 6)
    tally.add(gate, gate.shape)
    assert tally.stats().alarm.startswith(alarm)
    assert bool(tally.stats().alarm) == bool(alarm)


def test_rest_follows_the_gain() -> None:
    tally = GateTally("x", NAMAttention(2, gain_out=2))
    gate = torch.tensor([1.09, 1.11]).view(1, 2, 1, 1)
    tally.add(gate, gate.shape)
    assert tally.stats().left.tolist() == [0, 1]  # 0.1 of a gate that rests at 1
    assert tally.top == 2


# Replacing ------------------------------------------------------------------------------------------------------------


def test_hooks_replace_and_leave() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), SE(4)).eval()
    x = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        before, inner = net(x), net[0](x)
        blocks = attention_blocks(net)
        assert list(blocks) == ["1"]
        with hooked(blocks, lambda _: as_identity):
            assert torch.equal(net(x), inner)
        mean = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
        with hooked(blocks, lambda _: as_constant(mean)):
            torch.testing.assert_close(net(x), inner * mean[:, None, None].float())
        assert torch.equal(net(x), before)


def test_a_network_without_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="no attention block"):
        attention_blocks(nn.Conv2d(1, 1, 1))


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
