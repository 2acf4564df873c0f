"""tools.prune as a user runs it: the files it makes work with all other scripts, and what it says when it cannot."""

import csv
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import detect
import export
import train
import val
from models.experimental import network_of
from models.spec.rows import load_model_yaml
from models.yolo import Model
from tools.prune import cli as prune
from utils.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.general import ROOT

NAMES = tuple(yaml.safe_load((ROOT / "data" / "shapes.yaml").read_text(encoding="utf-8"))["names"])
NARROW = {"nc": 10, "depth_multiple": 0.1, "width_multiple": 0.0625}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A best.pt of a narrow yolov5n-NAM-p3p5 that finds something everywhere."""
    torch.manual_seed(0)
    content, _ = load_model_yaml("yolov5n-NAM-p3p5.yaml")
    model = Model(content | NARROW, verbose=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    for conv in model.head.m:
        conv.bias.data.view(3, 15)[:, 4:] += 5
    path = tmp_path_factory.mktemp("prune") / "best.pt"
    save_checkpoint(path, Checkpoint(model.yaml, NAMES, model.state_dict(), imgsz=64))
    return path


@pytest.fixture
def options(weights, data, tmp_path):
    """Options for the small network and the drawn pictures, with more flags."""

    def call(*flags):
        place = ["--data", data, "--device", "cpu", "--workers", "0", "--rounds", "2"]
        least = ["--min-channels", "2", "--batch-size", "4", "--project", str(tmp_path / "out")]
        return prune.parse_opt([str(weights), *place, *least, *flags])

    return call


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "pareto.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_pruned_files_work_everywhere(options, weights, data, tmp_path, caplog):
    caplog.set_level("INFO")
    before = weights.read_bytes()
    folder = prune.main(options("--ratio", "0", "0.2", "0.4", "--criterion", "gamma", "--calibrate", "0"))
    assert weights.read_bytes() == before, "the original stays"
    assert "--hyp" not in caplog.text
    rows = rows_of(folder)
    assert [row["name"] for row in rows] == ["original", "gamma-0", "gamma-0.2", "gamma-0.4"]
    for key in ("parameters", "gmacs", "megabytes"):
        counts = [float(row[key]) for row in rows]
        assert counts[1] > counts[2] > counts[3] > 0
    assert rows[0]["parameters"] == rows[1]["parameters"]
    assert float(rows[1]["map_before"]) == pytest.approx(float(rows[0]["map_before"]), abs=0.01)  # FP16
    assert [row["map_after"] for row in rows] == [""] * 4
    assert all(0 < float(row["p50_ms"]) <= float(row["p95_ms"]) for row in rows)
    assert (folder / "pareto.png").read_bytes()[:4] == b"\x89PNG"

    file = Path(rows[3]["weights"])
    assert file.is_relative_to(folder)
    assert load_checkpoint(file).imgsz == 64  # which the original was trained at, and is pruned and rated at
    assert sum("images of 64 x 64 pixels, the size that" in record.getMessage() for record in caplog.records) == 1
    place = {"device": "cpu", "project": str(tmp_path / "more")}
    result = val.run(data=data, weights=file, workers=0, noplots=True, batch_size=8, **place)
    assert result.map == pytest.approx(float(rows[3]["map_before"]), abs=1e-6)
    found = detect.run(weights=file, source=str(next((Path(data).parent / "shapes").rglob("*.jpg"))), **place)
    assert found is not None
    files = export.run(weights=file, include=["onnx"], imgsz=64, device="cpu")  # compares its outputs with PyTorch's
    onnx = next(Path(path) for path in files if str(path).endswith(".onnx"))
    again = val.run(data=data, weights=onnx, workers=0, noplots=True, batch_size=1, **place)
    assert again.images == result.images


def test_fine_tune_and_resume(options, caplog):
    """An epoch of train.py on a pruned file; its run can be gone on with, and its best.pt is pruned as well."""
    caplog.set_level("INFO")
    hyp = str(ROOT / "data" / "hyps" / "hyp.scratch-low.yaml")
    folder = prune.main(
        options("--ratio", "0.3", "--epochs", "1", "--hyp", hyp, "--seed", "3", "--calibrate", "0", "--noplots")
    )
    (_, row) = rows_of(folder)
    assert math.isfinite(float(row["map_after"]))
    best = folder / "finetune" / "nam-0.3" / "weights" / "best.pt"
    assert row["weights"] == str(best)
    pruned = load_checkpoint(folder / "weights" / "best-nam-0.3.pt")
    tuned = load_checkpoint(best)
    assert tuned.yaml["pruned"] == pruned.yaml["pruned"]
    assert {k: v.shape for k, v in tuned.state.items()} == {k: v.shape for k, v in pruned.state.items()}
    assert any(not torch.equal(value, pruned.state[name]) for name, value in tuned.state.items())
    assert "the result says nothing of what fine-tuning can do" in caplog.text  # 3 steps, 9 of warm-up are meant

    run = best.parents[1]
    train.run(resume=str(run), epochs=2, noplots=True)
    assert load_checkpoint(run / "weights" / "best.pt").yaml["pruned"] == pruned.yaml["pruned"]
    assert len((run / "results.csv").read_text(encoding="utf-8").splitlines()) == 3


def test_another_cfg_does_not_fit_and_says_why(options, weights, data, tmp_path, caplog):
    network = network_of(weights, load_checkpoint(weights), "cpu", fuse=False)
    ((_, pruned),) = prune.plan(options(), network)
    file = tmp_path / "pruned.pt"
    save_checkpoint(file, Checkpoint(pruned.model.yaml, NAMES, pruned.model.state_dict()))
    place = {"data": data, "imgsz": 64, "workers": 0, "device": "cpu", "project": str(tmp_path / "runs")}
    with pytest.raises(ValueError, match="none of it fits"):
        train.run(weights=file, cfg="yolov5n.yaml", epochs=1, **place)
    assert "pruned.pt is of a pruned network: without --cfg it is trained as it is" in caplog.text


def test_a_failed_fine_tune_is_told_at_the_end(options, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(prune, "TRAINER", (sys.executable, "-c", "import sys; print('no luck'); sys.exit(3)"))
    with pytest.raises(ValueError, match=r"1 fine-tune failed, see .*nam-0.3.log; the pruned networks are there"):
        prune.main(options("--epochs", "50"))
    assert "the fine-tune failed: no luck" in caplog.text
    assert len(rows_of(tmp_path / "out" / "exp")) == 2
    assert "warm-up" not in caplog.text


def test_rules(options, weights, caplog):
    """The flags that say which channels go reach the choice."""
    caplog.set_level("INFO")
    which = ["--per-layer", "--round", "4", "--keep", "0", "--criterion", "random"]
    folder = prune.main(options(*which, "--name", "r", "--calibrate", "8", "--hyp", "hyp.shapes.yaml"))
    (_, row) = rows_of(folder)
    assert folder.name == "r"
    assert "--hyp hyp.shapes.yaml is for fine-tuning, of which --epochs 0 does none" in caplog.text
    assert "norms are measured on 8 training images" in caplog.text
    channels = load_checkpoint(row["weights"]).yaml["pruned"]["channels"]
    assert all(width % 4 == 0 for width in channels)
    assert channels[0] == load_checkpoint(weights).state["model.0.conv.weight"].shape[0]
    assert prune.main(options("--name", "r", "--ratio", "0")).name == "r2"


def test_a_network_without_nam_is_told(options, caplog):
    for cfg, is_told in (("yolov5n-NAM.yaml", False), ("yolov5n.yaml", True)):
        content, _ = load_model_yaml(cfg)
        prune.plan(options("--ratio", "0.1"), Model(content | NARROW, verbose=False))
        assert ("has no NAM to rank channels by" in caplog.text) == is_told


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--ratio", "0.97"), "--ratio 0.97: "),
        (("--ratio", "1"), "--ratio 1: a share"),
        (("--ratio", "0.2", "0.2"), "--ratio 0.2 0.2: name each once"),
        (("--epochs", "-1"), "--epochs -1: 0 or more"),
        (("--batch-size", "-1"), "--batch-size -1: 1 or more"),
        (("--round", "0"), "--round 0: 1 or more"),
        (("--ratio", "0.1234567", "0.12345671"), "name each once"),
        (
            ("--ratio", "0.0001"),
            "--ratio 0.0001 takes out none of .* channels that can go: choose a larger one, a smaller",
        ),
        (("--data", "bccd-none.yaml"), "bccd-none.yaml"),
    ],
)
def test_refused(options, flags, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prune.main(options(*flags))
    assert not (tmp_path / "out").exists(), "nothing is begun"


def test_one_line_on_the_command_line():
    command = [sys.executable, "-m", "tools.prune", "--weights", "none.pt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "none.pt: no such file" in line


def test_other_classes_are_refused(options, data, tmp_path, caplog):
    content = yaml.safe_load(Path(data).read_text(encoding="utf-8"))
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(content | {"nc": 2, "names": ["a", "b"]}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"the model has 10 classes, the data set 2: .*\(--data\).* trained for$"):
        prune.main(options("--data", str(other)))
    train = {"names": [*NAMES[:9], "nut"], "train": "images/none"}  # as many, of which one is another
    other.write_text(yaml.safe_dump(content | train), encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="images/none does not exist"):
        prune.main(options("--data", str(other)))
    assert "class 9 is 'arrow' to the model and 'nut' in" in caplog.text
    assert not (tmp_path / "out").exists(), "no folder of a run that could not calibrate"


def test_weights_are_named_once(capsys):
    assert prune.parse_opt(["--ratio", "0.2", "0.4", "--weights", "a.pt"]) == prune.parse_opt(
        ["a.pt", "--ratio", "0.2", "0.4"]
    )
    for arguments, message in (([], "--weights best.pt names it"), (["a.pt", "--weights", "b.pt"], "two checkpoints")):
        with pytest.raises(SystemExit) as caught:
            prune.parse_opt(arguments)
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
