"""Anchors by hand, from clusters that are known, and in a training with its checkpoints."""

import itertools
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

import train
from models.yolo import Model
from tools import anchors as anchors_tool
from utils import autoanchor
from utils.autoanchor import (
    SMALLEST,
    Fit,
    adapt_anchors,
    fitness,
    initial_anchors,
    label_sizes,
    likeness,
    measure,
    refine,
    search_anchors,
    yaml_text,
)
from utils.data.labels import LabelRecord
from utils.files.checkpoint import load_checkpoint
from utils.general import ROOT

CFG = {  # two levels, 8 and 16
    "nc": 10,
    "depth_multiple": 1.0,
    "width_multiple": 0.5,
    "anchors": 3,
    "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]]],
    "head": [[-1, 1, "Conv", [32, 3, 2]], [[2, 3], 1, "Detect", ["nc", "anchors"]]],
}
BADLY_FITTING = [[300, 300, 310, 310, 320, 320], [400, 400, 410, 410, 420, 420]]


def sizes_of(*sides):
    return np.array(sides, np.float32)


def record(hw, *shares):
    boxes = np.array([(0, 0.5, 0.5, w, h) for w, h in shares], np.float32).reshape(-1, 5)
    return LabelRecord("image.jpg", hw, boxes)


def clusters(centres, each=60, noise=0.02, seed=0):
    """Sizes close to the centres."""
    rng = np.random.default_rng(seed)
    return np.concatenate([centre * (1 + noise * rng.normal(size=(each, 2))) for centre in centres]).astype(np.float32)


# Measuring ------------------------------------------------------------------------------------------------------------


def test_likeness_by_hand():
    sizes, anchors = sizes_of((10, 20), (40, 10)), sizes_of((10, 20), (20, 20), (20, 5))
    np.testing.assert_allclose(likeness(sizes, anchors), [[1, 0.25], [0.5, 0.5], [0.25, 0.5]])


def test_likeness_has_no_direction():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(1, 99, (2, 7, 2))
    np.testing.assert_allclose(likeness(a, b), likeness(b, a).T)
    np.testing.assert_allclose(likeness(a * 3, b * 3), likeness(a, b))


@pytest.mark.parametrize(
    ("anchor_t", "bpr", "aat"),
    [(4.0, 0.5, 0.5), (4.01, 1.0, 1.0), (2.01, 0.5, 0.5), (1.5, 0.5, 0.5), (17.0, 1.0, 2.0)],
)
def test_measure_by_hand(anchor_t, bpr, aat):
    """Likeness of the two labels: 1 and 1/16 with the first anchor, 1/16 and exactly 1/4 with the second."""
    sizes, anchors = sizes_of((8, 8), (32, 128)), np.array([(8.0, 8.0), (128.0, 32.0)])
    np.testing.assert_allclose(likeness(sizes, anchors), [[1, 1 / 16], [1 / 16, 1 / 4]])
    assert measure(sizes, anchors, anchor_t) == (bpr, aat)


def test_fitness_counts_matches_only():
    sizes, anchors = sizes_of((10, 10), (20, 20), (90, 90)), np.array([(10.0, 10.0)])
    assert fitness(sizes, anchors, 4.0) == pytest.approx((1 + 0.5 + 0) / 3)


def test_no_labels():
    none = np.zeros((0, 2), np.float32)
    assert measure(none, np.ones((9, 2)), 4.0) == (1.0, 0.0)
    assert label_sizes([], 640, np.random.default_rng(0)).shape == (0, 2)
    assert label_sizes([record((50, 50))], 640, np.random.default_rng(0)).shape == (0, 2)
    with pytest.raises(ValueError, match="no label"):
        search_anchors(none, 9)


def test_text_is_that_of_v61():
    assert str(Fit(0.98765, 4.321)) == "4.32 anchors/target, 0.988 Best Possible Recall (BPR)"


def test_label_sizes_are_pixels_of_the_longer_side():
    records = [record((100, 200), (0.5, 0.5), (1, 0.1)), record((40, 40)), record((300, 100), (0.3, 0.2))]
    sizes = label_sizes(records, 400, np.random.default_rng(0))
    nominal = np.array([(200, 100), (400, 20), (40, 80)])
    factors = sizes / nominal
    np.testing.assert_allclose(factors[:, 0], factors[:, 1], rtol=1e-6)
    assert factors[0, 0] == pytest.approx(factors[1, 0], rel=1e-6)  # one factor for an image
    assert abs(factors[0, 0] - factors[2, 0]) > 1e-3
    assert ((factors >= 0.9) & (factors <= 1.1)).all()
    np.testing.assert_array_equal(sizes, label_sizes(records, 400, np.random.default_rng(0)))


# Fitting --------------------------------------------------------------------------------------------------------------


def test_clusters_are_found():
    centres = np.array([(10, 12), (30, 20), (20, 60), (100, 90), (200, 300), (400, 150)])
    found = search_anchors(clusters(centres), 6)
    order = centres.prod(1).argsort()
    np.testing.assert_allclose(found, centres[order], rtol=0.03)


def test_sorted_by_area():
    sizes = np.exp(np.random.default_rng(0).normal(3, 1, (300, 2))).astype(np.float32)
    assert (np.diff(search_anchors(sizes, 9, generations=50).prod(1)) >= 0).all()


def test_seed_decides():
    sizes = np.exp(np.random.default_rng(0).normal(3, 1, (300, 2))).astype(np.float32)
    first, second, other = (search_anchors(sizes, 9, generations=100, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_many_labels_are_drawn_from(monkeypatch):
    monkeypatch.setattr(autoanchor, "MOST_FITTED", 100)
    seen = []
    monkeypatch.setattr(autoanchor, "refine", lambda sizes, anchors, *_: seen.append(len(sizes)) or anchors)
    centres = np.array([(10, 12), (100, 90)])
    np.testing.assert_allclose(search_anchors(clusters(centres, each=500), 2), centres, rtol=0.03)
    assert seen == [100]


@pytest.mark.parametrize(
    ("sizes", "reached"),
    [
        (sizes_of((30, 40)), 1),
        (sizes_of((30, 40), (31, 40), (200, 10)), 3),
        (np.full((500, 2), 50, np.float32), 1),
        (np.repeat(sizes_of((20, 30), (80, 30)), 100, 0), 2),  # equal heights
    ],
    ids=["one", "few", "all equal", "two kinds"],
)
def test_fewer_kinds_than_anchors(sizes, reached):
    """Each kind of label has its own anchor, whatever the rest are."""
    found = search_anchors(sizes, 9)
    assert found.shape == (9, 2)
    assert np.isfinite(found).all()
    assert (found >= SMALLEST).all()
    assert likeness(sizes, found).max(0).min() > 0.99
    assert len(np.unique(found, axis=0)) == 9
    assert len(np.unique(sizes, axis=0)) == reached


def test_lost_centroids_are_replaced(monkeypatch):
    """K-means may come back with fewer than asked for."""
    vq = pytest.importorskip("scipy.cluster.vq")
    monkeypatch.setattr(vq, "kmeans", lambda sizes, n, **_: (sizes[:2], 0.0))
    sizes = clusters(np.array([(10, 12), (100, 90)]))
    found = initial_anchors(sizes, 6, np.random.default_rng(0))
    assert found.shape == (6, 2)
    np.testing.assert_allclose(found[:2], sizes[:2], rtol=1e-5)


def test_tiny_labels_do_not_pull():
    """Below 2 pixels on both sides they are left out, unless there are no others; anchors are never smaller."""
    large = clusters(np.array([(20, 20), (60, 60)]))
    tiny = np.full((500, 2), 1.5, np.float32)
    np.testing.assert_array_equal(search_anchors(np.concatenate((tiny, large)), 2), search_anchors(large, 2))
    assert (search_anchors(tiny, 3) >= SMALLEST).all()
    kept = search_anchors(np.concatenate((np.full((500, 2), (1, 40), np.float32), large)), 3)
    assert (abs(kept - (2, 40)) < 3).all(1).any()  # one side is large enough


def test_refinement_only_raises():
    sizes = np.exp(np.random.default_rng(0).normal(3, 1, (300, 2))).astype(np.float32)
    anchors = initial_anchors(sizes, 6, np.random.default_rng(0))
    scores = [
        fitness(sizes, refine(sizes, anchors, 4.0, generations, np.random.default_rng(0)), 4.0)
        for generations in (0, 10, 100, 400)
    ]
    assert all(a <= b for a, b in itertools.pairwise(scores))
    assert scores[0] == fitness(sizes, anchors, 4.0)
    assert scores[-1] > scores[0] + 0.01


# A model's anchors ----------------------------------------------------------------------------------------------------


class FakeModel:
    """Notes the anchors it is given."""

    def __init__(self, stride, pixels):
        stride = torch.tensor(stride)
        anchors = torch.tensor(pixels, dtype=torch.float32).view(len(stride), -1, 2) / stride[:, None, None]
        self.head = SimpleNamespace(nl=len(stride), na=anchors.shape[1], stride=stride, anchors=anchors)
        self.has_placeholder_anchors = bool((anchors == 0).any())
        self.given = None

    def set_anchors(self, anchors):
        self.given = anchors


def records_of(pixels, imgsz=640):
    return [record((imgsz, imgsz), *(np.array(pixels) / imgsz))]


def test_good_anchors_stay(caplog):
    model = FakeModel([8.0, 16.0], [[20, 20], [80, 80]])
    with caplog.at_level(logging.INFO, "yolov5"):
        fit = adapt_anchors(model, records_of([(20, 20), (82, 78)]), 640, 3.0)
    assert fit.bpr == 1
    assert model.given is None
    assert "1.00 anchors/target, 1.000 Best Possible Recall (BPR)" in caplog.text


def test_bad_anchors_are_replaced(caplog):
    model = FakeModel([8.0, 16.0], [[400, 400], [500, 500]])
    with caplog.at_level(logging.INFO, "yolov5"):
        fit = adapt_anchors(model, records_of([(20, 20), (81, 79)] * 9), 640, 4.0)
    assert fit.bpr == 1
    np.testing.assert_allclose(np.ravel(model.given), [20, 20, 80, 80], rtol=0.12)
    assert "0.00 anchors/target, 0.000 Best Possible Recall" in caplog.text
    assert "1.000 Best Possible Recall" in caplog.text


def test_others_that_are_no_better_are_not_taken(monkeypatch):
    model = FakeModel([8.0, 16.0], [[20, 20], [400, 400]])
    monkeypatch.setattr(autoanchor, "search_anchors", lambda *_, **__: np.array([(19.0, 19.0), (500.0, 500.0)]))
    fit = adapt_anchors(model, records_of([(20, 20), (80, 80)]), 640, 3.0)
    assert fit.bpr == 0.5
    assert model.given is None


def test_stand_ins_always_go():
    model = FakeModel([8.0, 16.0], [[0, 1], [0, 1]])
    adapt_anchors(model, records_of([(20, 20), (80, 80)]), 640, 4.0)
    assert min(np.ravel(model.given)) >= SMALLEST


@pytest.mark.parametrize("stride", [*itertools.permutations((8.0, 16.0, 32.0))], ids=str)
def test_larger_anchors_go_to_larger_strides(stride):
    model = FakeModel(list(stride), [[300, 300]] * 3)
    adapt_anchors(model, records_of([(10, 10), (40, 40), (70, 70)] * 9), 640, 1.5)
    areas = [w * h for w, h in model.given]
    assert np.argsort(areas).tolist() == np.argsort(stride).tolist()


def test_small_labels_are_told(caplog):
    adapt_anchors(FakeModel([8.0], [[20, 20]]), records_of([(2, 20), (40, 40)]), 640, 4.0)
    assert "1 of 2 labels are below 3 pixels" in caplog.text


def test_yaml_text_is_read_back():
    levels = [[10.5, 13.0, 16.25, 30.0], [40.0, 41.0, 50.0, 60.0]]
    assert yaml.safe_load(yaml_text(levels)) == {"anchors": levels}


# Trainings ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fit(data, tmp_path_factory):
    """A function that trains a tiny network with these anchors in its yaml."""
    folder = tmp_path_factory.mktemp("fits")

    def call(anchors, **options):
        cfg = folder / "cfg.yaml"
        cfg.write_text(yaml.safe_dump({**CFG, "anchors": anchors}))
        given = {"data": data, "cfg": str(cfg), "weights": "", "project": str(folder / "runs"), "epochs": 1, **options}
        return train.run(imgsz=96, batch_size=4, workers=0, device="cpu", noplots=True, **given)

    return call


@pytest.fixture(scope="module")
def finished(fit):
    """The folder of a run of two epochs from a yaml that gives a number of anchors only."""
    return fit(3, epochs=2, save_period=1)


def pixels_of(checkpoint):
    model = Model(checkpoint.yaml, verbose=False)
    return (checkpoint.state["model.4.anchors"] * model.stride[:, None, None]).flatten(1)


def test_a_number_of_anchors_trains(finished, data):
    kept = load_checkpoint(finished / "weights" / "epoch1.pt")
    anchors = torch.tensor(kept.yaml["anchors"])
    assert anchors.shape == (2, 6)
    assert (anchors >= SMALLEST).all()
    torch.testing.assert_close(pixels_of(kept), anchors)
    areas = anchors.view(6, 2).prod(1)
    assert (areas.diff() >= 0).all()


def test_checkpoints_rebuild_with_the_new_anchors(finished):
    """From the yaml alone to the last bit; a stripped one's state is FP16."""
    kept, best = (load_checkpoint(finished / "weights" / f"{name}.pt") for name in ("epoch1", "best"))
    model = Model(kept.yaml, verbose=False)
    assert torch.equal(model.head.anchors, kept.state["model.4.anchors"])
    assert best.yaml == kept.yaml
    assert torch.equal(best.state["model.4.anchors"], kept.state["model.4.anchors"].half().float())


def test_resumed_runs_keep_their_anchors(finished, monkeypatch):
    before = load_checkpoint(finished / "weights" / "epoch1.pt")
    monkeypatch.setattr(train, "adapt_anchors", lambda *_: pytest.fail("a resumed run must not look for anchors"))
    folder = train.run(resume=str(finished / "weights" / "epoch1.pt"), epochs=3)
    after = load_checkpoint(folder / "weights" / "last.pt")
    assert after.yaml == before.yaml
    assert torch.equal(after.state["model.4.anchors"], before.state["model.4.anchors"].half().float())


def test_a_training_from_a_checkpoint_starts_with_its_anchors(finished, data, fit, caplog):
    best = finished / "weights" / "best.pt"
    with caplog.at_level(logging.INFO, "yolov5"):
        folder = fit(3, cfg="", weights=str(best))
    assert "with new anchors" not in caplog.text
    assert load_checkpoint(folder / "weights" / "best.pt").yaml["anchors"] == load_checkpoint(best).yaml["anchors"]


def test_badly_fitting_anchors_are_replaced_unless_kept_by_flag(fit):
    first, second = (
        load_checkpoint(fit(BADLY_FITTING, noautoanchor=flag) / "weights" / "last.pt") for flag in (False, True)
    )
    assert np.max(first.yaml["anchors"]) < 150
    assert second.yaml["anchors"] == BADLY_FITTING
    torch.testing.assert_close(pixels_of(second), torch.tensor(BADLY_FITTING, dtype=torch.float32))


def test_noautoanchor_without_anchors_is_refused(fit, tmp_path):
    with pytest.raises(ValueError, match=r"cfg\.yaml: gives only a number of anchors"):
        fit(3, noautoanchor=True, project=str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_anchors_of_the_hyper_parameters_give_new_ones(fit, tmp_path):
    hyp = yaml.safe_load((ROOT / "data" / "hyps" / "hyp.scratch-low.yaml").read_text())
    file = tmp_path / "hyp.yaml"
    file.write_text(yaml.safe_dump({**hyp, "anchors": 2}))
    kept = load_checkpoint(fit(BADLY_FITTING, hyp=str(file)) / "weights" / "last.pt")
    assert np.shape(kept.yaml["anchors"]) == (2, 4)
    with pytest.raises(ValueError, match=r"hyp\.yaml: gives only a number"):
        fit(BADLY_FITTING, hyp=str(file), noautoanchor=True)


# Script ---------------------------------------------------------------------------------------------------------------


def test_script_prints_what_a_yaml_takes(data, capsys):
    found = anchors_tool.main(anchors_tool.parse_opt(["--data", data, "--n", "6", "--levels", "2", "--img", "96"]))
    anchors = yaml.safe_load(capsys.readouterr().out)["anchors"]
    assert np.shape(anchors) == (2, 6)
    np.testing.assert_allclose(np.reshape(anchors, (6, 2)), found)
    Model({**CFG, "anchors": anchors}, verbose=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "0"], "--n 0: 1 or more"),
        (["--n", "8"], "--n 8: must be a multiple of --levels 3"),
        (["--img", "0"], "--imgsz 0"),
        (["--anchor-t", "1"], "--anchor-t 1.0"),
        (["--gen", "-1"], "--gen -1"),
    ],
)
def test_script_says_what_cannot_be(data, arguments, message):
    with pytest.raises(ValueError, match=message):
        anchors_tool.main(anchors_tool.parse_opt(["--data", data, *arguments]))
