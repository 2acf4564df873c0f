"""What W&B's own package keeps of a run while it is offline: numbers, boxes, models, and the run again on resume."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.utils.loggers.offline_runs import OfflineRun
from train import main, parse_opt, wandb_flags
from utils.files.images import write_image
from utils.loggers import KEYS, RunLogger
from utils.loggers.base import RunStart, stored_service
from utils.loggers.wandb import WandbLogger, box_interval, check_wandb, open_run, wandb_project

pytestmark = pytest.mark.usefixtures("offline")
LOSSES, RATES = torch.tensor([1.0, 2.0, 3.0]), [0.01, 0.01, 0.1]
RESULT = SimpleNamespace(mp=0.5, mr=0.25, map50=0.125, map=0.1, losses=(0.1, 0.2, 0.3))


def runs_of(folder):
    return [OfflineRun(path) for path in sorted(folder.glob("wandb/offline-run-*"))]


def start_of(folder, start_epoch=0):
    return RunStart(folder, parse_opt(["--wandb"]).values(), {"lr0": 0.01}, start_epoch, ("a", "b"), nn.Identity(), 64)


def batch_of(found):
    images = torch.zeros(20, 3, 32, 48, dtype=torch.uint8)
    batch = SimpleNamespace(images=images, paths=[f"{i}.jpg" for i in range(20)])
    return SimpleNamespace(index=0, batch=batch, found=[found] * 20)


def test_a_run_and_its_continuation(tmp_path):
    folder = tmp_path / "exp"
    folder.mkdir()
    write_image(folder / "labels.jpg", np.zeros((8, 8, 3), np.uint8))
    (folder / "epoch1.pt").write_bytes(b"a")
    (folder / "best.pt").write_bytes(b"b")
    with RunLogger([WandbLogger("birds")], start_of(folder)) as logger:
        logger.log_epoch(0, LOSSES, RESULT, RATES, 0)
        logger.log_epoch(1, LOSSES, None, RATES, 0)
        logger.log_checkpoint(1, folder / "epoch1.pt", is_best=True)
        logger.log_end(1, folder / "best.pt", RESULT)
    (run,) = runs_of(folder)
    assert (run.run.project, run.run.display_name, run.exit_code) == ("birds", "exp", 0)
    assert run.config["hyp"] == {"lr0": 0.01}
    assert run.config["epochs"] == 300
    assert run.values("metrics/mAP_0.5") == [(0, 0.125)]
    assert run.values("x/lr2") == [(0, 0.1), (1, 0.1)]
    assert KEYS[0] in run.history[0]
    assert run.summary["best/mAP_0.5:0.95"] == 0.1
    assert run.summary["best/epoch"] == 0
    assert run.summary["pictures/labels/width"] == 8
    aliases = [{"latest", "epoch 1", "best"}, {"latest", "best", "stripped"}]
    assert [set(artifact.aliases) for artifact in run.artifacts] == aliases
    assert {artifact.name for artifact in run.artifacts} == {f"run_{run.run.run_id}_model"}
    stored = stored_service(folder, "wandb")
    assert stored == {"id": run.run.run_id, "project": "birds"}
    with pytest.raises(KeyboardInterrupt), RunLogger([WandbLogger("birds")], start_of(folder, 2)):
        raise KeyboardInterrupt
    again = runs_of(folder)[1]
    assert again.run.run_id == run.run.run_id
    assert again.exit_code == 1
    with RunLogger([WandbLogger("fish")], start_of(folder, 2)):
        assert stored_service(folder, "wandb")["id"] != run.run.run_id  # another project has not this run


def test_images_with_boxes(tmp_path):
    found = torch.tensor([[1.0, 2.0, 9.0, 8.0, 0.75, 1.0], [1.0, 2.0, 9.0, 8.0, 0.125, 0.0]])
    with RunLogger([WandbLogger("birds")], start_of(tmp_path), interval=2) as logger:
        assert logger.observer(0) is None
        logger.observer(1)(batch_of(found))
        logger.observer(3)(batch_of(torch.zeros(0, 6)))
    (run,) = runs_of(tmp_path)
    (path,) = {layer["predictions"]["path"] for layer in run.history[0]["BoundingBoxDebugger/all_boxes"]}
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    (box,) = json.loads((folder / "files" / path).read_text())["box_data"]
    assert box["position"] == {"minX": 1, "minY": 2, "maxX": 9, "maxY": 8}
    assert (box["class_id"], box["box_caption"]) == (1, "b 0.75")
    assert run.values("BoundingBoxDebugger/count") == [(1, 16), (3, 16)]
    assert run.values("BoundingBoxDebugger/width") == [(1, 48), (3, 48)]


@pytest.mark.parametrize(
    ("flags", "project"),
    [
        ([], None),
        (["--wandb"], "YOLOv5"),
        (["--wandb", "birds"], "birds"),
        (["--entity", "me"], "YOLOv5"),
        (["--upload_dataset"], "YOLOv5"),
        (["--bbox_interval", "0"], "YOLOv5"),
        (["--artifact_alias", "v3", "--wandb", "birds"], "birds"),
        (["--mlflow"], None),
        (["--project", "runs/birds"], None),  # v6.1 took a project's name from this path
    ],
)
def test_what_asks_for_it(flags, project):
    asked = wandb_flags(parse_opt(flags))
    check_wandb(asked)
    assert wandb_project(asked) == project


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--wandb", "my/birds"], "--wandb my/birds: a project's name has"),
        (["--wandb", "b" * 129], "at most 128 characters"),
        (["--upload_dataset", "all"], "--upload_dataset all: val, train"),
        (["--bbox_interval", "-2"], "--bbox_interval -2: a number of epochs"),
    ],
)
def test_wrong_options(flags, message):
    with pytest.raises(ValueError, match=message):
        main(parse_opt(flags))


@pytest.mark.parametrize(
    ("asked", "epochs", "interval"), [(-1, 300, 30), (-1, 10, 1), (-1, 3, 1), (0, 300, 0), (7, 3, 7)]
)
def test_interval(asked, epochs, interval):
    assert box_interval(asked, epochs) == interval


def test_a_refusal_says_what_to_do(tmp_path):
    class Errors:
        Error = ConnectionError

    def refuse(**options):
        raise ConnectionError("api_key not configured (no-tty)")

    package = SimpleNamespace(errors=Errors, init=refuse, Settings=dict)
    with pytest.raises(
        ValueError, match=r"--wandb: api_key not configured .no-tty.; log in with `wandb login`, or set"
    ):
        open_run(package, "birds", None, tmp_path, None)
