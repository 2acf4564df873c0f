"""report.html: what is on it, from a training, from val.py and from old folders, and how a browser shows it."""

import json
import re

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import train
from tools.report import ReportOptions, main, parse_opt
from utils.datasets import Batch, ImageShape
from utils.draw.html_page import write_page
from utils.evaluation.evaluate import EvalSettings, evaluate
from utils.evaluation.files import EvalPlots
from utils.report.page import make_page, write_report

EVIL = "<script>alert(1)</script>\"'&犬"
MAX_BYTES = 5e6
CENTRE = (0.5, 0.5, 0.25, 0.25)
SHAPE = ImageShape((96, 128), ((1.0, 1.0), (0.0, 0.0)))


class Answer(nn.Module):
    """Finds an object of class 0 in the middle of every image, as surely as it was told."""

    def __init__(self, nc, confidence=0.9):
        super().__init__()
        self.nc, self.confidence = nc, nn.Parameter(torch.tensor(confidence))

    def forward(self, images):
        h, w = images.shape[2:]
        row = [w / 2, h / 2, w / 4, h / 4, float(self.confidence), 1.0, *[0.0] * (self.nc - 1)]
        return torch.tensor(row).expand(len(images), 1, 5 + self.nc), []


def batch(*labels, names=None):
    """Images of noise with lists of label rows each."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (len(labels), 3, 96, 128), dtype=np.uint8))
    rows = [(i, *row) for i, rows in enumerate(labels) for row in rows]
    paths = names or tuple(f"{i}.jpg" for i in range(len(labels)))
    return Batch(images, torch.tensor(rows, dtype=torch.float32).view(-1, 6), paths, (SHAPE,) * len(labels))


def report(folder, names, *batches, model=None, options=None):
    """The page's text of an evaluation; curves as pictures are left out, they have tests of their own."""
    folder.mkdir()
    plots, model, cpu = EvalPlots(folder, names), model or Answer(len(names)), torch.device("cpu")
    settings = EvalSettings(by_size=True)
    result = evaluate(model, batches, names, device=cpu, settings=settings, on_batch=plots, show_progress=False)
    options = options or {"data": "set.yaml", "imgsz": 96}
    write_report(plots, result, model, {"options": options}, {"options": {"imgsz": 640}})
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert len(text.encode()) < MAX_BYTES
    return text


def headings(text):
    return re.findall(r"<h2 [^>]*>([^<]*)</h2>", text)


def rows_of(text):
    """The cells of all rows of tables, without markup."""
    rows = (re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL))
    return [[re.sub("<.*?>", "", cell) for cell in row] for row in rows if row]


# Evaluations ----------------------------------------------------------------------------------------------------------


def test_all_of_an_evaluation(tmp_path):
    text = report(tmp_path / "exp", ("cat", "dog"), batch([(0, *CENTRE)], [(1, *CENTRE)], [(0, *CENTRE)]))
    sections = ["Results", "Curves", "Confusion matrix", "Best and worst images", "Labels", "Settings"]
    assert headings(text) == [*sections, "Model and machine"]
    rows = rows_of(text)
    assert [next(row for row in rows if row[0] == "cat")[i] for i in (0, 1, 3)] == ["cat", "2", "1.000"]
    assert next(row for row in rows if row[0] == "dog")[3:6] == ["0.000", "0.000", "0.000"]
    assert ["imgsz", "96", "640"] in rows
    assert ["data", "set.yaml"] in rows
    assert any(row[:2] == ["medium", "3"] or row[:2] == ["small", "3"] for row in rows)
    assert "F1 1.00: 1 right, 0 false, 0 missed" in text
    assert "F1 0.00: 0 right, 1 false, 1 missed" in text
    assert "F1 of the image at confidence 0.25 and IoU 0.5" in text
    assert text.count("data:image/jpeg") == 6  # two pictures of each of three images


def test_hostile_names_stay_text(tmp_path):
    names = (EVIL, "b" * 300)
    options = {"data": EVIL, "weights": [EVIL, "x"], EVIL: None}
    images = batch([(0, *CENTRE)], [], names=(f"folder/{EVIL[-20:]}.jpg", "a\x00\ud800.jpg"))
    text = report(tmp_path / "a<b>'", names, images, options=options)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;犬" in text
    assert "a&lt;b&gt;&#x27;: report</title>" in text


@pytest.mark.parametrize(
    ("names", "labels", "confidence"),
    [
        (("only",), [[(0, *CENTRE)]], 0.9),
        (("only",), [[(0, *CENTRE)]] * 3, 0.0),  # nothing is found
        (("a", "b"), [[], []], 0.9),  # nothing is labelled
        (("a", "b"), [[], []], 0.0),
        (("a", "b"), [], 0.9),  # no images
        (tuple(f"class {i}" for i in range(80)), [[(i, *CENTRE) for i in range(80)]] * 14, 0.9),
    ],
)
def test_poor_and_rich_sets(tmp_path, names, labels, confidence):
    batches = [batch(*labels)] if labels else []
    text = report(tmp_path / "exp", names, *batches, model=Answer(len(names), confidence))
    assert headings(text)[0] == "Results"
    assert not [cell for row in rows_of(text) for cell in row if "nan" in cell]
    assert ("No labels, so no class can be rated" in text) == (not any(labels))
    assert ("Curves" in headings(text)) == any(labels)
    json.loads((tmp_path / "exp" / "report.json").read_text(), parse_constant=pytest.fail)


def test_save_hybrid_is_told(tmp_path):
    options = {"data": "a.yaml", "save_hybrid": True}
    assert "all scores are too high" in report(tmp_path / "exp", ("a",), batch([(0, *CENTRE)]), options=options)


# Trainings ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of a short training with plots, not validated in between."""
    common = {"imgsz": 64, "batch_size": 4, "workers": 0, "device": "cpu", "weights": "", "cfg": "yolov5n-NAM.yaml"}
    project = str(tmp_path_factory.mktemp("runs"))
    return train.run(**common, data=data, project=project, epochs=2, noval=True)


def test_page_of_a_training(trained):
    text = (trained / "report.html").read_text(encoding="utf-8")
    assert headings(text)[:3] == ["Results", "Training", "Curves"]
    assert "2 of 2 epochs" in text
    assert "Images of the training" in text
    assert "Images of the evaluation" in text
    rows = rows_of(text)
    assert ["epochs", "2", "300"] in rows
    assert rows.index(["epochs", "2", "300"]) < rows.index(["optimizer", "SGD"])  # what differs comes first
    assert ["lr0", "0.01"] in rows
    assert "train/box_loss, epoch 1: " in text
    assert (trained / "AP_bars.png").exists()
    results = json.loads((trained / "results.json").read_text())
    assert [entry["name"] for entry in results["classes"]] == list(
        yaml.safe_load((trained / "thresholds.yaml").read_text())
    )
    assert set(results["sizes"]) == {"small", "medium", "large"}
    assert len(text.encode()) < MAX_BYTES


def test_the_page_can_be_made_again(trained, tmp_path):
    page = trained / "report.html"
    before = page.read_text(encoding="utf-8")
    page.unlink()
    assert main(parse_opt([str(trained)])) == page
    assert page.read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (["results.csv"], ["Training"]),
        (["opt.yaml", "hyp.yaml"], ["Settings"]),
        (["results.json"], ["Results"]),
        (["opt.yaml", "results.csv", "results.json", "labels.json"], ["Results", "Training", "Labels", "Settings"]),
    ],
)
def test_as_far_as_the_files_allow(trained, tmp_path, kept, expected):
    for name in kept:
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    assert headings(make_page(tmp_path).read_text(encoding="utf-8")) == expected


def test_a_run_without_plots_has_numbers_and_no_page(data, tmp_path):
    common = {"imgsz": 64, "batch_size": 4, "workers": 0, "device": "cpu", "weights": "", "cfg": "yolov5n-NAM.yaml"}
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "report.html").write_text("of an older run")
    folder = train.run(**common, data=data, project=str(tmp_path), epochs=1, noplots=True, exist_ok=True)
    left = {path.name for path in folder.iterdir()}
    assert {"results.json", "thresholds.yaml"} <= left
    assert not left & {"report.html", "report.json", "labels.json"}


def test_defaults_are_those_of_the_command_line():
    defaults = train.default_settings()
    assert defaults["options"]["epochs"] == 300
    assert defaults["hyp"]["lr0"] == 0.01


# Errors ---------------------------------------------------------------------------------------------------------------


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        main(ReportOptions(str(tmp_path / "absent")))
    with pytest.raises(FileNotFoundError, match="no run's folder"):
        make_page(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("report.json", "{", "not JSON"),
        ("report.json", "[1]", "an object is wanted"),
        ("results.csv", "a,b\n1,2\n", "not a results.csv"),
        ("results.json", '{"a": 1}', "speed_ms.*; remove it"),
        ("report.json", '{"images": {"best": 3}}', "measure.*; remove it"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    (tmp_path / "opt.yaml").write_text("epochs: 3\n")
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        make_page(tmp_path)


# Browser --------------------------------------------------------------------------------------------------------------


def brightness(shot):
    return float(np.median(shot))


def test_a_browser_shows_the_training(trained, open_page):
    page = open_page(trained / "report.html")
    assert page.console == []
    assert page.outside == []
    assert re.search(r"<td>all</td><td>\d+</td>", page.dom)
    assert page.dom.count("<svg") >= 15
    assert brightness(page.shot) > 200
    assert page.shot.std() > 10  # not an empty page
    dark = open_page(trained / "report.html", width=400, dark=True)
    assert brightness(dark.shot) < 60
    assert dark.console == []


def test_a_browser_runs_nothing_of_hostile_names(tmp_path, open_page):
    report(tmp_path / "exp", (EVIL, "b"), batch([(0, *CENTRE)], names=(f"{EVIL[-20:]}.jpg",)))
    page = open_page(tmp_path / "exp" / "report.html")
    assert page.console == []
    assert page.outside == []
    assert "<script" not in page.dom


def test_the_browser_would_say_what_is_wrong(tmp_path, open_page):
    """That the tests above can fail: a page with a script and an image from elsewhere is stopped by the policy."""
    write_page(tmp_path / "p.html", "p", ["<script>console.log('ran')</script><img src='https://x.example/a.png'>"])
    page = open_page(tmp_path / "p.html")
    assert any("Content Security Policy" in line for line in page.console)
    assert not any('"ran"' in line for line in page.console)
    assert page.outside == ["https://x.example/a.png"]
