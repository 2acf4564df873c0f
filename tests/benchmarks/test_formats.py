"""benchmarks/formats.py on a small network: a row for each format, and files."""

import csv
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import format_table, formats
from benchmarks.format_table import BASE, FormatRow, Timing
from models.yolo import Model
from utils.data.config import DataConfig
from utils.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


@pytest.fixture
def weights(small_weights, data, tmp_path):
    """A small network with the classes of the drawn set."""
    names = DataConfig.from_yaml(data).names
    model = Model({**load_checkpoint(small_weights).yaml, "nc": len(names)}, verbose=False)
    save_checkpoint(tmp_path / "net.pt", Checkpoint(model.yaml, tuple(names), model.state_dict()))
    return tmp_path / "net.pt"


def options(weights, data, tmp_path, *more):
    common = ["--weights", str(weights), "--data", data, "--imgsz", "64", "--project", str(tmp_path / "runs")]
    return formats.parse_opt([*common, "--images", "4", "--rounds", "2", "--threads", "1", *more])


def test_a_row_for_each_format_and_setting(weights, data, tmp_path, caplog):
    pytest.importorskip("openvino")
    settings = ["--precision", "fp32", "bf16", "--hint", "latency", "throughput"]
    rows = formats.main(options(weights, data, tmp_path, "--formats", "onnx", "openvino", *settings))
    titles = [(row.name, row.precision, row.hint) for row in rows if row.precision == "fp32"]
    assert titles == [
        (BASE, "fp32", "latency"),
        ("pytorch", "fp32", "latency"),
        ("onnx", "fp32", "latency"),
        ("openvino", "fp32", "latency"),
        ("openvino", "fp32", "throughput"),
    ]
    assert "onnx has no row for bf16, latency: --precision bf16: what runs onnx files here knows fp32" in caplog.text
    assert "onnx has no row for fp32, throughput: --hint throughput" in caplog.text
    assert rows[0].ratio == 1
    for row in rows:
        assert abs(row.difference) < (0.002 if row.precision == "fp32" else 0.05)
        assert 0 < row.p50_ms <= row.p95_ms
        assert row.images_per_s > 0
        assert row.at_a_time >= 1
        assert 0 < row.megabytes < 1
    folder = tmp_path / "runs" / "exp"
    content = json.loads((folder / "formats.json").read_text())
    assert [row["name"] for row in content["rows"]] == [row.name for row in rows]
    assert (content["machine"]["images"], content["machine"]["side"], content["machine"]["threads"]) == (4, 64, 1)
    with (folder / "formats.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [float(row["ratio"]) for row in table] == [row.ratio for row in rows]
    assert (folder / "formats.md").read_text().splitlines()[2].startswith("| v6.1's way | fp32 | ")
    assert (folder / "formats.txt").read_text().splitlines()[1].startswith("v6.1's way")
    assert (folder / "formats.png").stat().st_size > 5000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pt", "runs"]


def test_a_format_that_is_missing(weights, data, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "openvino", None)
    rows = formats.main(options(weights, data, tmp_path, "--formats", "openvino"))
    assert [row.name for row in rows] == [BASE, "pytorch"]
    assert "openvino is left out: not written" in caplog.text


def test_the_base_is_what_v61_did(weights, data, tmp_path):
    base, ours = formats.pytorch_ways(options(weights, data, tmp_path), weights)
    first = next(parameter for parameter in base.model.parameters() if parameter.ndim == 4)
    assert (base.name, first.dtype, first.is_contiguous()) == (BASE, torch.float32, True)
    assert isinstance(base.model.model[0].bn, torch.nn.Identity)  # fused
    second = next(parameter for parameter in ours.model.parameters() if parameter.ndim == 4)
    assert second.is_contiguous(memory_format=torch.channels_last)


class Sleeper(torch.nn.Module):
    """Takes so long for an image; with a queue, for all together."""

    def __init__(self, name, seconds, calls, queue=None):
        super().__init__()
        self.name, self.duration, self.calls, self.queue = name, seconds, calls, queue

    def forward(self, images):
        self.calls.append((self.name, len(images)))
        time.sleep(self.duration)
        self.seconds = [2 * self.duration] * len(images)


def test_all_take_turns_and_ratios_are_those_of_a_round():
    calls = []
    models = [Sleeper("a", 0.004, calls), Sleeper("b", 0.001, calls), Sleeper("q", 0.002, calls, queue=[0, 0])]
    contenders = [formats.Contender(model.name, "fp32", "latency", Path("x"), model) for model in models]
    timings = formats.timed(contenders, [torch.zeros(1, 3, 8, 8)] * 5, 2)
    a, b, q = [("a", 1)] * 6, [("b", 1)] * 6, [("q", 1), ("q", 5)]  # the first of a turn is not counted
    assert calls == a + b + q + b + q + a
    assert [timing.images_ms.shape for timing in timings] == [(2, 5)] * 3
    assert [timing.rates.shape for timing in timings] == [(2,)] * 3
    assert timings[0].images_ms.min() >= 4
    assert timings[2].images_ms.tolist() == [[4.0] * 5] * 2
    assert timings[2].rates.max() <= 5 / 0.002
    assert timings[1].rates.min() > timings[0].rates.max()


def test_the_middle_of_the_rounds_counts():
    base = Timing(np.full((3, 2), 10.0), np.array([100.0, 50.0, 100.0]))
    other = Timing(np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([200.0, 110.0, 150.0]))
    assert format_table.summarize(base, other) == pytest.approx((3.5, 5.75, 150.0, 2.0))


def test_the_verdict_names_the_fastest_and_the_bar():
    common = {"hint": "latency", "at_a_time": 1, "megabytes": 1.0, "map50_95": 0.5, "difference": -0.001}
    common |= {"p50_ms": 1.0, "p95_ms": 1.0, "images_per_s": 30.0}
    rows = [FormatRow(BASE, "fp32", ratio=1.0, **common), FormatRow("pytorch", "fp32", ratio=9.0, **common)]
    assert format_table.verdict(rows) == []
    rows += [FormatRow("onnx", "fp32", ratio=1.79, **common), FormatRow("openvino", "bf16", ratio=1.8, **common)]
    fp32, best = format_table.verdict(rows)
    assert "Fastest in FP32: onnx in fp32, 30.0 images/s, 1.79 times v6.1's way (misses 1.8), mAP -0.0010" in fp32
    assert "Fastest in any precision: openvino in bf16" in best
    assert "reaches 1.8" in best


@pytest.mark.parametrize(("flag", "value"), [("--images", "0"), ("--rounds", "0"), ("--threads", "-1")])
def test_numbers_out_of_range(weights, data, tmp_path, flag, value):
    with pytest.raises(ValueError, match=f"{flag} {value}: "):
        formats.main(options(weights, data, tmp_path, flag, value))
    assert not (tmp_path / "runs").exists()
