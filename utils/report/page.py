"""report.html: all about a training or an evaluation on one page, which needs no other file and no network.

`python -m tools.report runs/train/exp` makes it again, as far as the folder's files allow.

train.py and val.py write it at their end, unless --noplots is given. It is made of opt.yaml, hyp.yaml, results.csv,
results.json, labels.json and report.json in the folder; of what is not there the page says nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from torch import nn

from utils.draw.curves import read_results
from utils.draw.html_charts import matrix_chart, metric_chart, training_chart
from utils.draw.html_page import UNKNOWN, anchor, bars, escaped, image_tag, number, section, table, write_page
from utils.draw.label_maps import class_table, label_charts
from utils.evaluation.files import EvalPlots, results_content
from utils.files.reading import parse_json
from utils.files.yamls import read_yaml
from utils.general import plural
from utils.metrics import EvalResult
from utils.report.facts import curve_facts, environment, model_facts, write_facts

PAGE, FACTS, LABELS = "report.html", "report.json", "labels.json"
MOST_BYTES = 256 << 20  # of a JSON file
PANELS = (  # of the training's curves: title, columns of results.csv
    *((f"{part} loss", (f"train/{part}_loss", f"val/{part}_loss")) for part in ("box", "obj", "cls")),
    ("precision and recall", ("metrics/precision", "metrics/recall")),
    ("mAP", ("metrics/mAP_0.5", "metrics/mAP_0.5:0.95")),
    ("learning rates", ("x/lr0", "x/lr1", "x/lr2")),
)
Facts = Mapping[str, Any]


def write_report(
    plots: EvalPlots, result: EvalResult, model: nn.Module, settings: Mapping[str, Facts], defaults: Mapping[str, Facts]
) -> None:
    """Writes report.json and report.html into the folder of `plots`, when the evaluation that it saw is done.

    settings: groups of names and values, as `options` and `hyp`; defaults: the same groups, as far as there are any.
    """
    facts = {
        "settings": settings,
        "defaults": defaults,
        "environment": environment(next(model.parameters()).device),
        "model": model_facts(model, result.shape),
        "results": results_content(result),
        "curves": curve_facts(result),
        "confusion": {"names": list(plots.names), "matrix": plots.confusion.matrix.tolist()},
        "images": plots.examples.to_dict(),
        "labels": plots.labels.to_dict(),
    }
    write_facts(facts, plots.folder / FACTS)
    make_page(plots.folder)


@dataclass(frozen=True, eq=False)
class Run:
    """What a run's folder holds for its page; empty where a file is absent."""

    facts: Facts
    results: Facts
    history: Mapping[str, np.ndarray]  # the columns of results.csv
    settings: Mapping[str, Facts]
    defaults: Mapping[str, Facts]
    labels: Facts

    @classmethod
    def read(cls, folder: Path, train_defaults: Mapping[str, Facts]) -> Self:
        """Read what is there; train_defaults are for a folder without report.json.

        FileNotFoundError where there is nothing of a run, ValueError names a damaged file.
        """
        facts = _read(folder / FACTS)
        results = facts.get("results") or _read(folder / "results.json")
        history = read_results(folder / "results.csv") if (folder / "results.csv").is_file() else {}
        settings, defaults = facts.get("settings", {}), facts.get("defaults", {})
        if not settings and (folder / "opt.yaml").is_file():
            files = {"options": folder / "opt.yaml", "hyp": folder / "hyp.yaml"}
            settings = {name: read_yaml(file) for name, file in files.items() if file.is_file()}
            defaults = train_defaults
        if not (facts or results or history or settings):
            wanted = f"{FACTS}, results.json, results.csv, opt.yaml"
            raise FileNotFoundError(f"{folder}: no run's folder, it has none of {wanted}")
        return cls(facts, results, history, settings, defaults, _read(folder / LABELS))


def make_page(folder: Path, train_defaults: Mapping[str, Facts] = MappingProxyType({})) -> Path:
    """Makes report.html of what is in a run's folder; its path. Errors as `Run.read` has them.

    train_defaults: defaults of train.py, in groups as `write_report` has them, for a folder without report.json.
    """
    run = Run.read(folder, train_defaults)
    path, name = folder / PAGE, folder.resolve().name
    try:
        parts = _sections(run)
    except (KeyError, TypeError, IndexError, AttributeError) as error:  # edited by hand, or another version's
        raise ValueError(
            f"{folder}: {FACTS}, results.json or {LABELS} is not as train.py and val.py write it ({error!r}); remove "
            "it to make the page without it"
        ) from error
    links = "".join(f'<a href="#{anchor(title)}">{escaped(title)}</a> ' for title, part in parts.items() if part)
    head = [f"<h1>{escaped(name)}</h1>", f'<p class="dim">{escaped(_about(run))}</p>', f"<nav>{links}</nav>"]
    write_page(path, f"{name}: report", [*head, *parts.values()])
    return path


def _sections(run: Run) -> dict[str, str]:
    """Markup of the page's sections by title, in their order; empty where nothing is known."""
    facts, results = run.facts, run.results
    around = {**facts.get("model", {}), **facts.get("environment", {})}
    contents = {
        "Results": (_means(results), _classes(results), _sizes(results)),
        "Training": (_training(run.history),),
        "Curves": (_curves(facts.get("curves"), results),),
        "Confusion matrix": (_matrix(facts.get("confusion")),),
        "Best and worst images": (_images(facts.get("images")),),
        "Labels": (_labels("training", run.labels), _labels("evaluation", facts.get("labels"))),
        "Settings": (_settings(run.settings, run.defaults),),
        "Model and machine": (table(("", ""), [*around.items()], "text"),),
    }
    return {title: section(title, *content) for title, content in contents.items()}


def _read(path: Path) -> Facts:
    """The content of a JSON file, empty where it is absent; ValueError where it is no object."""
    if not path.is_file():
        return {}
    try:
        content = parse_json(path.read_bytes(), MOST_BYTES)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}; remove it to make the page without it") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: an object is wanted; remove it to make the page without it")
    return content


def _about(run: Run) -> str:
    """The line below the title."""
    options, history = run.settings.get("options", {}), run.history
    kind = "Training" if "epochs" in options or history else "Evaluation"
    about = [f"{kind} on {options['data']}" if "data" in options else kind]
    if "epochs" in options and history:
        about.append(f"{len(history['epoch'])} of {options['epochs']} epochs")
    if "date" in run.facts.get("environment", {}):
        about.append(run.facts["environment"]["date"])
    if options.get("save_hybrid"):
        about.append("labels counted as found (--save-hybrid), so that all scores are too high")
    return ", ".join(about)


# Results --------------------------------------------------------------------------------------------------------------


def _means(results: Facts) -> str:
    if not results:
        return ""
    speed = results["speed_ms"]
    cards = {
        "mAP@.5:.95": number(results["mAP_0.5:0.95"]),
        "mAP@.5": number(results["mAP_0.5"]),
        "precision": number(results["precision"]),
        "recall": number(results["recall"]),
        "at confidence": number(results["threshold"]),
        "images": results["images"],
        "labels": results["labels"],
        "ms an image": f"{sum(speed.values()):.1f}",
    }
    cells = "".join(f'<div class="card"><b>{escaped(value)}</b>{escaped(name)}</div>' for name, value in cards.items())
    parts = ", ".join(f"{name} {value:.1f} ms" for name, value in speed.items())
    note = (
        f"Speed: {parts}. Precision and recall are taken where the mean F1 over all classes, smoothed over a tenth of "
        "the confidences, is highest; the best confidence of a class is where its own F1 is, smoothed alike."
    )
    return f'<div class="cards">{cells}</div><p class="dim">{escaped(note)}</p>'


def _classes(results: Facts) -> str:
    """The table of the classes; of those without labels only their number is told."""
    if "classes" not in results:
        return ""
    known = [entry for entry in results["classes"] if entry["labels"]]
    if not known:
        return '<p class="dim">No labels, so no class can be rated.</p>'
    metrics = ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95")
    rows = [
        [
            entry["name"],
            entry["labels"],
            *(number(entry[metric]) for metric in metrics),
            number(entry["threshold"]),
            bars(entry["mAP_0.5"], entry["mAP_0.5:0.95"]),
        ]
        for entry in [{**results, "name": "all", "threshold": results["threshold"]}, *known]
    ]
    head = ("class", "labels", "P", "R", "AP@.5", "AP@.5:.95", "best confidence", "AP@.5, thin: AP@.5:.95")
    absent = len(results["classes"]) - len(known)
    note = f'<p class="dim">{absent} of {len(results["classes"])} classes have no labels here.</p>' if absent else ""
    return f"<h3>By class</h3>{table(head, rows, 'rated', first_is_all=True)}{note}"


def _sizes(results: Facts) -> str:
    sizes = results.get("sizes") or {}
    rows = [
        (name, entry["labels"], number(entry["mAP_0.5"]), number(entry["mAP_0.5:0.95"]))
        for name, entry in sizes.items()
    ]
    title = "<h3>By size</h3><p class=dim>Small is up to 32 x 32 pixels of the image file, large from 96 x 96.</p>"
    return f"{title}{table(('size', 'labels', 'mAP@.5', 'mAP@.5:.95'), rows)}" if rows else ""


def _training(history: Mapping[str, np.ndarray]) -> str:
    if not history or not len(history["epoch"]):
        return ""
    charts = [
        training_chart(
            title,
            history["epoch"],
            [(name.removeprefix("metrics/").removeprefix("x/"), history[name]) for name in names if name in history],
        )
        for title, names in PANELS
    ]
    scores = history["metrics/mAP_0.5:0.95"]
    note = ""
    if np.isfinite(scores).any():
        best = int(np.nanargmax(np.where(np.isfinite(scores), scores, np.nan)))
        note = f"<p>Highest mAP@.5:.95: {scores[best]:.3f} in epoch {history['epoch'][best]:.0f}.</p>"
    return f'{note}<div class="charts">{"".join(charts)}</div>'


def _curves(curves: Facts | None, results: Facts) -> str:
    if not curves or not curves["names"]:
        return ""
    points = np.array(curves["points"])
    draw = partial(metric_chart, points=points, names=curves["names"])
    charts = [draw("precision over recall, IoU 0.5", values=np.array(curves["PR"]), xlabel="recall")]
    for key, title in (("F1", "F1"), ("P", "precision"), ("R", "recall")):
        charts.append(
            draw(
                f"{title} over confidence", values=np.array(curves[key]), xlabel="confidence", mark=results["threshold"]
            )
        )
    return f'<div class="charts four">{"".join(charts)}</div>'


def _matrix(confusion: Facts | None) -> str:
    if not confusion:
        return ""
    note = (
        "Rows are what was predicted, columns what is labelled, numbers are shares of the column: what is missed is in "
        "the row background, what was found where nothing is in the column background. Confidence 0.25, IoU 0.45."
    )
    return f'<p class="dim">{note}</p>{matrix_chart(np.array(confusion["matrix"]), confusion["names"])}'


# Images and labels ----------------------------------------------------------------------------------------------------


def _images(images: Facts | None) -> str:
    if not images:
        return ""
    parts = [
        f'<p class="dim">Ranked by the {escaped(images["measure"])} {images["ranked"]} of {images["seen"]} images are '
        "ranked.</p>"
    ]
    nothing = {"best": "No image has a right detection.", "worst": "No further image has an error."}
    for kind in ("best", "worst"):
        pairs = "".join(_pair(image) for image in images[kind])
        parts.append(f"<h3>{kind.capitalize()}</h3>")
        parts.append(f'<div class="shots">{pairs}</div>' if pairs else f"<p>{nothing[kind]}</p>")
    return "\n".join(parts)


def _pair(image: Facts) -> str:
    name, right, false, missed = image["name"], image["right"], image["false"], image["missed"]
    f1 = 2 * right / (2 * right + false + missed)
    caption = f"F1 {f1:.2f}: {right} right, {false} false, {missed} missed"
    sides = (("labels", image["labels_jpeg"]), ("detections", image["found_jpeg"]))
    pictures = "".join(f"<div>{image_tag(code, f'{name}: {what}')}{what}</div>" for what, code in sides)
    return (
        f"<figure><figcaption><b>{escaped(name)}</b><br>{caption}</figcaption>"
        f'<div class="pair">{pictures}</div></figure>'
    )


def _labels(kind: str, maps: Facts | None) -> str:
    """Counts, histogram of classes, and where and how large the boxes are."""
    if not maps or not maps["images"]:
        return ""
    counts = (
        f"{plural(sum(maps['counts']), 'label')} of {plural(len(maps['names']), 'class')} "
        f"in {plural(maps['images'], 'image')}"
    )
    text = f"{counts}, {maps['background']} of them without"
    if maps["sides"]:
        low, high = maps["sides"]
        text += f"; boxes from {low:.3f} to {high:.3f} of the image (root of the area's share)"
    return f"<h3>Images of the {kind}</h3><p>{text}.</p>{class_table(maps)}{label_charts(maps)}"


# Settings -------------------------------------------------------------------------------------------------------------


def _settings(settings: Mapping[str, Facts], defaults: Mapping[str, Facts]) -> str:
    """Of each group a table of what differs from the defaults, and below it one of the rest."""
    parts = []
    for group, values in settings.items():
        usual = defaults.get(group, {})
        changed = [
            (name, value, usual[name]) for name, value in values.items() if name in usual and value != usual[name]
        ]
        rest = [(name, value) for name, value in values.items() if name not in usual or value == usual[name]]
        parts.append(f"<h3>{escaped(group)}: other than the default</h3>" if changed else "")
        parts.append(table((group, "value", "default"), [tuple(map(_value, row)) for row in changed], "text"))
        parts.append(f"<h3>{escaped(group)}: {'all others' if changed else 'as the defaults'}</h3>" if rest else "")
        parts.append(table((group, "value"), [tuple(map(_value, row)) for row in rest], "text"))
    return "\n".join(parts)


def _value(value: object) -> str:
    """A setting as the table shows it."""
    if isinstance(value, list):
        return " ".join(map(_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return UNKNOWN if value in (None, "") else str(value)
