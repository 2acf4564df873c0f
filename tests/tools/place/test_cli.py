"""tools.place as a user runs it: signals alone, a whole search with trainings that are made up, and budgets."""

import csv
import json

import pytest

from tools.place import cli as place


@pytest.fixture
def options(data, tmp_path):
    def call(*flags):
        common = ("--module", "NAMAttention", "--data", data, "--imgsz", "64", "--epochs", "2", "--batch-size", "4")
        return place.parse_opt([*common, "--device", "cpu", "--project", str(tmp_path), *flags])

    return call


@pytest.mark.parametrize(("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("0.5h", 1800)])
def test_budgets(text, seconds):
    assert place.read_budget(text) == seconds


@pytest.mark.parametrize("text", ["2", "h", "2h 3", "two hours", "-1h"])
def test_no_budget(text):
    with pytest.raises(ValueError, match="--budget"):
        place.read_budget(text)


@pytest.fixture
def made_up(monkeypatch, options):
    """Trainings take two seconds an epoch and nothing is trained: behind row 9 the block gains 0.2."""

    def train(self, run, split):
        gain = 0.2 if run.variant == "row9" else 0.0
        return {"map": 0.5 + gain + 0.001 * (run.seed % 3) * len(run.variant), "train_seconds": 2.0}

    monkeypatch.setattr(place.Trainer, "train", train)
    monkeypatch.setattr(place, "attempt_load", lambda *_, **__: None)
    monkeypatch.setattr(place, "spread_of", lambda *_: 0.1)


def test_the_planted_place_comes_out(made_up, options, monkeypatch, caplog):
    rows = {"9": "[-1, 1, SPPF, [1024, 5]]", "23": "[-1, 3, C3, [1024, False]]", "4": "[-1, 6, C3, [256]]"}
    monkeypatch.setattr(place, "places_of", lambda *_: rows)
    caplog.set_level("INFO")
    folder = place.main(options("--budget", "10m"))
    verdict = json.loads((folder / "verdict.json").read_text())
    assert (verdict["winner"], verdict["is_better"], verdict["confirmed on"]) == ("9", True, "test")
    assert "--insert NAMAttention@9" in caplog.text
    with (folder / "places.csv").open(newline="") as file:
        assert {row["place"] for row in csv.DictReader(file)} == set(rows)


def test_too_small_a_budget_says_what_would_do(made_up, options, monkeypatch):
    monkeypatch.setattr(place, "places_of", lambda *_: {"9": "", "23": ""})
    with pytest.raises(ValueError, match=r"--budget: .* add .* hours"):
        place.main(options("--budget", "5s"))


def test_signals_alone(options, monkeypatch, caplog):
    monkeypatch.setattr(place, "places_of", lambda *_: {"9": "SPPF", "23": "C3"})
    caplog.set_level("INFO")
    place.main(options("--dry-run"))
    assert "SPPF" in caplog.text


def test_one_training_is_done_once(options, tmp_path, data):
    opt = options()
    trainer = place.Trainer(opt, place.DataConfig.from_yaml(data), tmp_path / "NAM")
    run = trainer.run("9", 0, 1)
    first = trainer.train(run, "val")
    assert 0 <= first["map"] <= 1
    assert trainer.train(run, "val") == first
    model = place.attempt_load(place.final_weights(run), trainer.device, fuse=False)
    assert len(place.gated_blocks(model)) == 1
    assert place.spread_of(model, trainer.data, run) > 0
