"""train.py --evolve with trainings of a network: what it leaves, how it fails, that its result can be trained with."""

import csv

import pytest

import train
from utils.data.config import Hyp
from utils.training.engine import Trainer

TINY = {"imgsz": 64, "batch_size": 4, "workers": 0, "device": "cpu", "weights": "", "cfg": "yolov5n.yaml", "epochs": 1}


def rows(folder):
    with (folder / "evolve.csv").open(newline="") as file:
        return [[cell.strip() for cell in row] for row in csv.reader(file)]


def test_evolve_end_to_end(data, tmp_path):
    """v6.1's command leaves v6.1's files, no weights and no results.csv; --hyp takes what was found."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    place = ["--data", data, "--project", str(tmp_path / "evolve")]
    folder = train.main(train.parse_opt([*arguments, *place, "--evolve", "2"]))
    assert folder == tmp_path / "evolve" / "exp"
    found = sorted(path.name for path in folder.iterdir())
    assert found == ["evolve.csv", "evolve.db", "evolve.png", "hyp_evolve.yaml"]
    table = rows(folder)
    assert len(table) == 3
    assert table[1][7:] != table[2][7:]
    assert all(float(cell) >= 0 for row in table[1:] for cell in row)
    found = Hyp.from_yaml(folder / "hyp_evolve.yaml").to_dict()
    assert [*found] == table[0][7:]


def test_a_trial_has_the_numbers_of_a_run(data, tmp_path):
    """The first generation is the training that the same command does without --evolve; also validated at its end only.

    The anchors that --evolve adds are those of AutoAnchor, so both get none.
    """
    options = {**TINY, "data": data, "noplots": True, "noautoanchor": True}
    run = train.run(**options, project=tmp_path / "runs")
    folder = train.run(**options, project=tmp_path / "evolve", evolve=1, noval=True)
    with (run / "results.csv").open(newline="") as file:
        expected = [cell.strip() for cell in list(csv.reader(file))[1]][4:11]
    assert rows(folder)[1][:7] == expected


def test_a_diverging_trial_does_not_end_the_search(data, tmp_path, monkeypatch):
    """As when a learning rate is too high: all gradients of the second training are not finite."""
    step, steps = Trainer.step, []

    def poisoned(self):
        steps.append(self)
        if len({id(trainer) for trainer in steps}) == 2:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(float("nan"))
        step(self)

    monkeypatch.setattr(Trainer, "step", poisoned)
    folder = train.run(
        **TINY, data=data, project=tmp_path, evolve=3, noplots=True, noautoanchor=True, evolve_sampler="tpe"
    )
    assert len(rows(folder)) == 3


def test_a_search_goes_on(data, tmp_path):
    options = {**TINY, "data": data, "project": tmp_path, "noplots": True, "noautoanchor": True}
    folder = train.run(**options, evolve=1)
    begun = rows(folder)
    assert train.run(**options, evolve=2, resume=True) == folder
    assert rows(folder)[: len(begun)] == begun
    assert len(rows(folder)) > len(begun)


def test_the_default_project_is_evolves(data, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.cli.train_options.ROOT", tmp_path)
    folder = train.run(**TINY, data=data, evolve=1, noplots=True, noautoanchor=True)
    assert folder == tmp_path / "runs" / "evolve" / "exp"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"evolve": 0}, "--evolve 0"),
        ({"evolve": 2, "bucket": "gs://mine"}, "--evolve-storage"),
        ({"evolve": 2, "evolve_sampler": "random"}, "--evolve-sampler random: must be one of ga, tpe"),
        ({"evolve_storage": "sqlite:///evolve.db"}, "--evolve"),
        ({"evolve": 2, "epochs": 0}, "--epochs 0"),
        ({"evolve": 2, "resume": "a/weights/last.pt"}, "--resume a/weights/last.pt"),
    ],
)
def test_user_errors(data, tmp_path, options, says):
    with pytest.raises(ValueError, match=says):
        train.run(**{**TINY, **options, "data": data, "project": tmp_path / "evolve"})
    assert not (tmp_path / "evolve").exists()


def test_missing_data_end_the_search_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train.run(**TINY, data="nowhere.yaml", evolve=2, project=tmp_path / "evolve")
    assert not (tmp_path / "evolve").exists()


def test_evolve_without_a_number_is_v61s():
    assert train.parse_opt(["--evolve"]).evolve == 300
    assert train.parse_opt([]).evolve is None
