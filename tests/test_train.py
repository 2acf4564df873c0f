"""train.py as a user runs it: what a run leaves, how it fails, how it goes on after it was killed."""

import csv
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import detect
import train
import val
from utils.data.image_store import ImageStore
from utils.datasets import DetectionDataset
from utils.files.checkpoint import load_checkpoint, save_checkpoint
from utils.general import ROOT

HEADER = (
    "epoch,train/box_loss,train/obj_loss,train/cls_loss,metrics/precision,metrics/recall,metrics/mAP_0.5,"
    "metrics/mAP_0.5:0.95,val/box_loss,val/obj_loss,val/cls_loss,x/lr0,x/lr1,x/lr2"
)
TINY = {"imgsz": 64, "batch_size": 4, "workers": 0, "device": "cpu", "weights": "", "cfg": "yolov5n-NAM.yaml"}
BARE = {**TINY, "noplots": True}


@pytest.fixture
def fit(data, tmp_path):
    """`train.run` on the tiny set with results in tmp_path/runs."""

    def call(**options):
        return train.run(**{**BARE, "data": data, "project": str(tmp_path / "runs"), "epochs": 1, **options})

    return call


def command(data, project, *arguments):
    """The command line of a training on the tiny set."""
    tiny = ["--imgsz", "64", "--batch-size", "4", "--workers", "0", "--device", "cpu", "--noplots", "--data", data]
    return [sys.executable, "train.py", *tiny, "--project", str(project), *arguments]


def rows(folder):
    with (folder / "results.csv").open(newline="") as file:
        return [[cell.strip() for cell in row] for row in csv.reader(file)]


def weights(path):
    return load_checkpoint(path).state


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")


# A whole run ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """The folder of a run of two epochs with checkpoints of each."""
    project = tmp_path_factory.mktemp("runs")
    return train.run(**TINY, data=data, project=str(project), epochs=2, save_period=1)


def test_files_of_a_run(finished):
    files = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith("events")} == {
        "opt.yaml",
        "hyp.yaml",
        "results.csv",
        "results.png",
        "labels.jpg",
        "labels_correlogram.jpg",
        "weights/last.pt",
        "weights/best.pt",
        "weights/epoch1.pt",
        "weights/resume.pt",
        *(f"train_batch{i}.jpg" for i in range(3)),
        "val_batch0_labels.jpg",
        "val_batch0_pred.jpg",
        "confusion_matrix.png",
        "PR_curve.png",
        "F1_curve.png",
        "P_curve.png",
        "R_curve.png",
        "AP_bars.png",
        "results.json",
        "thresholds.yaml",
        "labels.json",
        "report.json",
        "report.html",
    }
    assert sum(name.startswith("events.out.tfevents") for name in files) == 1


def test_results_have_the_columns_of_v61(finished):
    header, *body = rows(finished)
    assert ",".join(header) == HEADER
    assert [row[0] for row in body] == ["0", "1"]
    assert np.isfinite(np.array(body, float)).all()
    lines = (finished / "results.csv").read_text().splitlines()
    assert all(len(cell) >= 20 for line in lines for cell in line.split(","))


def test_settings_are_kept(finished, data):
    options = yaml.safe_load((finished / "opt.yaml").read_text())
    assert options["data"] == data
    assert options["epochs"] == 2
    assert options["save_dir"] == str(finished)
    hyp = yaml.safe_load((finished / "hyp.yaml").read_text())
    assert hyp == yaml.safe_load((ROOT / "data" / "hyps" / "hyp.scratch-low.yaml").read_text())


def test_checkpoints_are_plain_data(finished):
    for name in ("last", "best", "epoch1"):
        torch.load(finished / "weights" / f"{name}.pt", weights_only=True)
    best, kept = (load_checkpoint(finished / "weights" / f"{name}.pt") for name in ("best", "epoch1"))
    assert best.training is None
    assert kept.training is not None
    assert best.names[0] == "circle"
    assert (finished / "weights" / "best.pt").stat().st_size < 4.5e6  # FP16, without the optimizer


def test_val_and_detect_take_the_result(finished, data, tmp_path):
    best = finished / "weights" / "best.pt"
    val.run(weights=str(best), data=data, imgsz=64, device="cpu", workers=0, project=str(tmp_path))
    source = str(next(Path(data).parent.rglob("*.jpg")))
    folder = detect.run(weights=str(best), source=source, imgsz=64, device="cpu", project=str(tmp_path / "detect"))
    assert list(folder.glob("*.jpg"))


# Options --------------------------------------------------------------------------------------------------------------


def test_flags_can_be_shortened_and_given_ones_are_known():
    arguments = "--img 320 --batch 8 --cache --resume --freeze 1 2 --epochs 300"
    opt = train.parse_opt(arguments.split())
    assert (opt.imgsz, opt.batch_size, opt.cache, opt.resume, opt.freeze) == (320, 8, "ram", True, [1, 2])
    assert opt.given == {"imgsz", "batch_size", "cache", "resume", "freeze", "epochs"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "--epochs 0: 1 or more"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"imgsz": -1}, "--imgsz -1"),
        ({"patience": -1}, "--patience -1"),
        ({"label_smoothing": 1.0}, "--label-smoothing"),
        ({"cache": "foo"}, "--cache foo"),
        ({"close_mosaic": -1}, "--close-mosaic -1"),
        ({"quad": True, "batch_size": 6}, "--quad: a multiple of 4"),
        ({"rect": True, "image_weights": True}, "--rect has a fixed order, --image-weights"),
        ({"amp": "fp16"}, "--amp fp16 needs a GPU"),
        ({"freeze": [99]}, "--freeze 99: the model's layers are 0 to 25"),
        ({"freeze": [3, -1]}, "--freeze -1"),
        ({"freeze": [26]}, "no parameter is left to train"),
        ({"weights": "absent.pt"}, r"--weights absent\.pt: no such file"),
        ({"weights": "yolov5n.yaml"}, r"a \.pt file is wanted"),
        ({"cfg": "absent.yaml"}, r"absent\.yaml: no such file"),
        ({"data": "absent.yaml"}, r"absent\.yaml: no such file"),
        ({"hyp": "absent.yaml"}, r"absent\.yaml: no such file"),
        ({"resume": "absent.pt"}, r"absent\.pt"),
        ({"resume": True}, "no run with a last.pt"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(fit, tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        fit(**options)
    assert not (tmp_path / "runs").exists()


def test_frozen_layers_do_not_move(fit):
    folder = fit(freeze=[4], save_period=1, epochs=2)
    trained = load_checkpoint(folder / "weights" / "epoch1.pt").training["model"]
    train.init_seeds(0)
    made = train.Model("yolov5n-NAM.yaml", nc=10).state_dict()
    frozen = tuple(f"model.{i}." for i in range(4))
    before, after = ({k: v for k, v in state.items() if k.startswith(frozen)} for state in (made, trained))
    assert_same(before, after)
    assert not torch.equal(trained["model.4.cv1.conv.weight"], made["model.4.cv1.conv.weight"])
    assert (trained["model.4.cv1.bn.running_mean"] != 0).any()


def test_weights_follow_their_layers(fit, finished, caplog):
    with caplog.at_level("INFO", "yolov5"):
        fit(weights=str(finished / "weights" / "best.pt"), cfg="yolov5n.yaml", nosave=True, noval=True, epochs=2)
    assert "349" in caplog.text


def test_same_seed_same_weights(fit):
    first, second, other = (weights(fit(seed=seed) / "weights" / "last.pt") for seed in (1, 1, 2))
    assert_same(first, second)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_workers_and_cache_change_nothing(fit):
    alone, helped, cached = (
        weights(fit(**options) / "weights" / "last.pt") for options in ({}, {"workers": 2}, {"cache": "ram"})
    )
    assert_same(alone, helped)
    assert_same(alone, cached)


def test_nosave_and_noval_do_so_at_the_end(fit):
    folder = fit(epochs=2, nosave=True, noval=True, name="mine")
    assert folder.name == "mine"
    _, first, second = rows(folder)
    assert first[4:11] == ["nan"] * 7
    assert "nan" not in second
    assert load_checkpoint(folder / "weights" / "last.pt").epoch == -1  # stripped
    assert not [path.name for path in folder.iterdir() if path.suffix in {".jpg", ".png"}]


@pytest.mark.parametrize(
    "options",
    [
        {"rect": True, "threads": "auto"},
        {"optimizer": "AdamW", "cos_lr": True, "label_smoothing": 0.1},
        {"quad": True, "rect": True},
        {"quad": True, "multi_scale": True, "image_weights": True, "close_mosaic": 1, "single_cls": True},
    ],
    ids=str,
)
def test_other_ways_to_train(fit, options):
    _, row = rows(fit(**options))
    assert np.isfinite(np.array(row, float)).all()


@pytest.mark.parametrize(
    "options",
    [
        {"single_cls": True},
        {"multi_scale": True},
        {"quad": True},
        {"image_weights": True},
        {"close_mosaic": 1},
        {"label_smoothing": 0.1},
    ],
    ids=str,
)
def test_each_flag_makes_another_run(fit, plain_run, options):
    first, other = plain_run, weights(fit(**options) / "weights" / "last.pt")
    assert any(first[name].shape != other[name].shape or not torch.equal(first[name], other[name]) for name in first)


@pytest.fixture(scope="module")
def plain_run(data, tmp_path_factory):
    """The weights of one epoch without further flags."""
    folder = train.run(**BARE, data=data, project=str(tmp_path_factory.mktemp("plain")), epochs=1)
    return weights(folder / "weights" / "last.pt")


def test_single_cls(fit, data, tmp_path):
    """The network has one class, item, and all labels are of it; so it is in val.py, and after a resume."""
    folder = fit(single_cls=True, epochs=2, save_period=1)
    best = load_checkpoint(folder / "weights" / "best.pt")
    assert (best.names, best.yaml["nc"]) == (("item",), 1)
    assert [row[10] for row in rows(folder)[1:]] == ["0", "0"]  # val/cls_loss: of one class there is none
    result = val.run(
        **{"weights": str(folder / "weights" / "best.pt"), "data": data, "imgsz": 64, "device": "cpu", "workers": 0},
        **{"single_cls": True, "project": str(tmp_path / "val"), "noplots": True},
    )
    assert result.counts.tolist() == [result.counts.sum()]
    shutil.copy(folder / "weights" / "epoch1.pt", folder / "weights" / "last.pt")
    train.run(resume=str(folder / "weights" / "last.pt"), epochs=3)
    assert len(rows(folder)) == 4


def test_multi_scale_and_quad_change_the_networks_images(fit, monkeypatch):
    """Sides of 64 and 96 pixels at --imgsz 64; two of 128 make a quad batch of eight, whose loss counts fourfold."""
    seen, factors, forward, backward = [], set(), train.Model.forward, train.Trainer.backward

    def watched(model, x, *others, **named):
        if model.training and torch.is_grad_enabled():
            seen.append(tuple(x.shape))
        return forward(model, x, *others, **named)

    def noted(trainer, *arguments):
        factors.add(trainer.loss_factor)
        return backward(trainer, *arguments)

    monkeypatch.setattr(train.Model, "forward", watched)
    monkeypatch.setattr(train.Trainer, "backward", noted)
    fit(multi_scale=True, epochs=3, nosave=True, noval=True)
    assert {shape[2:] for shape in seen} == {(64, 64), (96, 96)}
    assert factors == {1}
    seen.clear()
    factors.clear()
    fit(quad=True, batch_size=8, nosave=True)
    assert seen == [(2, 3, 128, 128), (1, 3, 128, 128)]
    assert factors == {4}


@pytest.mark.parametrize(
    ("options", "is_dynamic", "images"), [({}, False, 8), ({"multi_scale": True}, True, 8), ({"quad": True}, False, 2)]
)
def test_compiled_for_the_images_of_a_batch(fit, monkeypatch, options, is_dynamic, images):
    seen, backward = [], train.Trainer.backward

    def noted(trainer, *arguments):
        seen.append(trainer.compiled_for)
        return backward(trainer, *arguments)

    monkeypatch.setattr(train, "compile_network", lambda network, is_dynamic: seen.append(is_dynamic))
    monkeypatch.setattr(train.Trainer, "backward", noted)
    fit(compile=True, batch_size=8, nosave=True, noval=True, **options)
    assert seen == [is_dynamic, images, images]


def test_close_mosaic_ends_mosaics(fit, monkeypatch):
    calls, make = [], DetectionDataset._mosaic
    monkeypatch.setattr(DetectionDataset, "_mosaic", lambda *args: (calls.append(1), make(*args))[1])
    fit(epochs=2, close_mosaic=1, nosave=True, noval=True)
    assert len(calls) == 12
    calls.clear()
    fit(close_mosaic=3)
    assert not calls


@pytest.mark.parametrize(("cache", "expected"), [("val", [None, "ram"]), ("ram", ["ram", "ram"]), (None, [None, None])])
def test_cache_val_keeps_validation_images_only(fit, monkeypatch, cache, expected):
    kept, make = [], ImageStore.__init__

    def noted(store, *args, cache, **named):
        kept.append(cache)
        make(store, *args, cache=cache, **named)

    monkeypatch.setattr(ImageStore, "__init__", noted)
    fit(cache=cache, nosave=True)
    assert kept == expected


def test_deterministic(fit):
    try:
        first, second = (weights(fit(deterministic=True) / "weights" / "last.pt") for _ in range(2))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        train.init_seeds(0)
    assert_same(first, second)


def test_automatic_batch_is_kept_as_the_number_found(fit):
    folder = fit(batch_size=-1, save_period=1, epochs=2)
    assert yaml.safe_load((folder / "opt.yaml").read_text())["batch_size"] == 16  # what a CPU takes
    with pytest.raises(ValueError, match=r"--batch-size -1 cannot change when resuming; .* has 16"):
        train.run(resume=str(folder / "weights" / "epoch1.pt"), batch_size=-1)


def test_diverging_run_says_so_and_keeps_the_epoch_before(fit, tmp_path):
    hyp = yaml.safe_load((ROOT / "data" / "hyps" / "hyp.scratch-low.yaml").read_text())
    wild = {**hyp, "lr0": 1e30, "warmup_epochs": 0, "warmup_bias_lr": 1e30}
    (tmp_path / "wild.yaml").write_text(yaml.safe_dump(wild))
    with pytest.raises(ValueError, match="diverged in epoch"):
        fit(hyp=str(tmp_path / "wild.yaml"), epochs=30)


# Resume ---------------------------------------------------------------------------------------------------------------


def test_killed_run_goes_on_to_the_same_weights(data, tmp_path):
    arguments = ("--cfg", "yolov5n-NAM.yaml", "--weights", "", "--epochs", "4")
    whole = command(data, tmp_path / "whole", *arguments)
    subprocess.run(whole, cwd=ROOT, check=True, capture_output=True)
    process = subprocess.Popen(
        command(data, tmp_path / "cut", *arguments), cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
    )
    last = tmp_path / "cut" / "exp" / "weights" / "last.pt"
    deadline = time.time() + 120
    while not (last.exists() and load_checkpoint(last).epoch >= 1):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.time() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert load_checkpoint(last).epoch in {1, 2}
    resume = [sys.executable, "train.py", "--resume", str(last)]
    done = subprocess.run(resume, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "cut" / "exp") == rows(tmp_path / "whole" / "exp")
    for name in ("last", "best"):
        assert_same(*(weights(tmp_path / run / "exp" / "weights" / f"{name}.pt") for run in ("whole", "cut")))


@pytest.fixture
def rated(monkeypatch):
    """Validations that find each class differently well, as the weights have it; a tiny run finds nothing at all."""
    evaluate = train.evaluate

    def rate(model, *args, **named):
        result = evaluate(model, *args, **named)
        seed = int(sum(p.detach().abs().double().sum() for p in model.parameters()) * 1e6)
        ap = np.random.default_rng(seed).random(result.stats.ap.shape)
        return dataclasses.replace(result, stats=dataclasses.replace(result.stats, ap=ap))

    monkeypatch.setattr(train, "evaluate", rate)


@pytest.mark.parametrize("workers", [0, 2])
def test_drawn_sizes_quads_and_image_weights_go_on_exactly(fit, rated, workers):
    """An epoch's images depend on the validation before it, whose maps a resume takes from the checkpoint."""
    drawn = {"image_weights": True, "multi_scale": True, "quad": True, "close_mosaic": 1}
    whole = fit(epochs=3, save_period=1, workers=workers, **drawn)
    cut, forgetful = (whole.with_name(name) for name in ("cut", "forgetful"))
    ends = []
    for folder in (cut, forgetful):
        shutil.copytree(whole, folder)
        last = folder / "weights" / "last.pt"
        kept = load_checkpoint(folder / "weights" / "epoch1.pt")
        assert len(kept.training["maps"]) == 10
        if folder is forgetful:
            kept.training["maps"] = None
        save_checkpoint(last, kept)
        train.run(resume=str(last))
        ends.append(weights(last))
    expected = weights(whole / "weights" / "last.pt")
    assert_same(expected, ends[0])
    assert rows(whole) == rows(cut)
    assert any(not torch.equal(expected[name], ends[1][name]) for name in expected)


def test_a_finished_run_goes_on_with_more_epochs(fit, data, tmp_path, caplog):
    """Where the learning rates do not depend on the number of epochs it equals, to the bit, one run of them all."""
    hyp = yaml.safe_load((ROOT / "data" / "hyps" / "hyp.scratch-low.yaml").read_text())
    (tmp_path / "flat.yaml").write_text(yaml.safe_dump({**hyp, "lrf": 1.0, "warmup_epochs": 0}))
    flat = {"hyp": str(tmp_path / "flat.yaml")}
    whole = fit(epochs=3, **flat)
    folder = fit(epochs=2, **flat)
    last, kept = (folder / "weights" / f"{name}.pt" for name in ("last", "resume"))
    before = weights(last)
    for named in (last, folder, kept):
        with pytest.raises(ValueError, match="finished with 2 epochs; to go on name more with --epochs"):
            train.run(resume=str(named))
    assert_same(before, weights(last))
    with pytest.raises(ValueError, match=r"--hyp .* cannot change when resuming; .*: lrf 1\.0 -> 0\.01"):
        train.run(resume=str(last), epochs=3, hyp="hyp.scratch-low.yaml")
    caplog.clear()
    assert train.run(resume=str(last), epochs=3, data=data, **flat) == folder
    assert not [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert rows(whole) == rows(folder)
    for name in ("last", "best"):
        assert_same(*(weights(run / "weights" / f"{name}.pt") for run in (whole, folder)))
    assert_same(*(load_checkpoint(run / "weights/resume.pt").training["model"] for run in (whole, folder)))
    assert yaml.safe_load((folder / "opt.yaml").read_text())["epochs"] == 3


def test_a_finished_run_goes_on_as_if_cut_off_in_its_last_epoch(finished, tmp_path):
    """The schedule is that of the new number of epochs, from the first new epoch on."""
    ends = []
    for name in ("ended", "cut"):
        folder = tmp_path / name / "exp"
        shutil.copytree(finished, folder)
        if name == "cut":
            shutil.copy(folder / "weights" / "epoch1.pt", folder / "weights" / "last.pt")
            (folder / "weights" / "resume.pt").unlink()
        ends.append(weights(train.run(resume=str(folder), epochs=4, nosave=True) / "weights" / "last.pt"))
    assert_same(*ends)


def test_after_early_stopping_patience_decides(fit, monkeypatch):
    monkeypatch.setattr(train.EarlyStopping, "__call__", stop_after_first)
    folder = fit(epochs=3, patience=1)
    monkeypatch.undo()
    assert len(rows(folder)) == 3
    for options in ({}, {"epochs": 9}):
        with pytest.raises(ValueError, match=r"stopped early after epoch 1, 1 epoch after its best, 0; .* --patience"):
            train.run(resume=str(folder), **options)
    train.run(resume=str(folder), patience=0, noval=True, nosave=True)
    assert len(rows(folder)) == 4


def stop_after_first(stopper, epoch, fitness):
    """Early stopping for which the first epoch is the best."""
    if epoch == 0:
        stopper.best_epoch, stopper.best_fitness = 0, 1.0
    stopper.stopped = epoch - stopper.best_epoch >= stopper.patience > 0
    return stopper.stopped


def test_nosave_keeps_what_a_resume_needs_at_the_end(fit):
    folder = fit(epochs=1, nosave=True, noval=True)
    assert load_checkpoint(folder / "weights" / "resume.pt").epoch == 0
    train.run(resume=True, project=str(folder.parent), epochs=2)
    _, first, second = rows(folder)
    assert first[0] == "0"
    assert second[0] == "1"


def test_changed_data_is_recorded(fit, data, tmp_path, caplog):
    shutil.copytree(Path(data).parent / "shapes", tmp_path / "set")
    content = yaml.safe_load(Path(data).read_text())
    for name in ("set", "moved"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**content, "path": str(tmp_path / name)}))
    folder = fit(data=str(tmp_path / "set.yaml"))
    (tmp_path / "set").rename(tmp_path / "moved")
    labels = sorted((tmp_path / "moved/labels/train").glob("*.txt"))
    labels[0].write_text("0 0.5 0.5 0.5 0.5\n")
    image = next((tmp_path / "moved/images/train").glob(f"{labels[1].stem}.*"))
    image.rename(image.with_stem("new"))
    with caplog.at_level("WARNING", "yolov5"):
        train.run(resume=str(folder), epochs=2, data=str(tmp_path / "moved.yaml"))
    line = "from epoch 1 on: train: 1 image added, 1 removed, labels of 1 changed"
    assert any(line in message for message in caplog.messages)
    options = yaml.safe_load((folder / "opt.yaml").read_text())
    assert options["data_changes"] == [line]
    assert options["data"] == str(tmp_path / "moved.yaml")
    train.run(resume=str(folder), epochs=3)
    assert yaml.safe_load((folder / "opt.yaml").read_text())["data_changes"] == [line]


def test_a_moved_run_goes_on(finished, tmp_path):
    """Where it now is, whatever --project says; the folder's older weights are not this run's."""
    moved = tmp_path / "moved" / "exp"
    shutil.copytree(finished, moved)
    shutil.copy(moved / "weights" / "epoch1.pt", moved / "weights" / "last.pt")
    folder = train.run(resume=True, project=tmp_path / "moved", epochs=3)
    assert folder == moved
    assert [row[0] for row in rows(moved)[1:]] == ["0", "1", "2"]


def test_a_new_run_in_an_old_folder_leaves_none_of_its_weights(fit):
    folder = fit(epochs=2, save_period=1)
    assert fit(exist_ok=True, noval=True) == folder
    assert not (folder / "weights" / "epoch1.pt").exists()


def test_a_run_does_not_replace_the_weights_that_it_starts_from(fit):
    best = fit() / "weights" / "best.pt"
    before = best.read_bytes()
    with pytest.raises(ValueError, match=r"best\.pt is of the run that --exist-ok replaces"):
        fit(weights=str(best), exist_ok=True)
    assert best.read_bytes() == before


def test_weights_of_another_width_are_refused(fit, finished):
    with pytest.raises(ValueError, match="none of it fits"):
        fit(weights=str(finished / "weights" / "best.pt"), cfg="yolov5s.yaml")


def test_resume_with_other_options(finished):
    kept = str(finished / "weights" / "epoch1.pt")
    with pytest.raises(ValueError, match="--imgsz 128 cannot change when resuming"):
        train.run(resume=kept, imgsz=128)
    with pytest.raises(ValueError, match="finished with 2 epochs; to go on"):
        train.run(resume=kept)
