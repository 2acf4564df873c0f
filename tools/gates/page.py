"""The page of an inspection, gates.html: the verdict, the tables and the pictures, in one file."""

import base64
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment

from tools.gates.gates import CONSTANT, Counterfactual, GateStats
from utils.draw.html_page import POLICY, STYLE
from utils.general import atomic_write
from utils.metrics import EvalResult

PAGE = "gates.html"
SAME_MAP = 0.002  # change of mAP@.5:.95 that is within the noise of an evaluation
TEMPLATE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Gates of {{ weights }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<style>
{{ style|safe }}</style></head><body>
<h1>Gates of {{ weights }}</h1>
<p><b>{{ verdict }}</b></p>
<p class="dim">{{ images }} images, mAP@.5 {{ "%.4f"|format(trained.map50) }},
mAP@.5:.95 {{ "%.4f"|format(trained.map) }} as trained.
A gate multiplies the input of its block; it rests where all its sigmoids get 0.</p>
<h2>Gates</h2>
<div class="scroll"><table>
<tr><th>block</th><th>module</th><th>channels</th><th>rests at</th><th>mean</th><th>sd</th><th>sd within channels</th>
<th>left rest</th><th></th></tr>
{% for stat in stats %}<tr><td>{{ stat.name }}</td><td>{{ stat.module }}</td><td>{{ stat.mean|length }}</td>
<td>{{ "%.4f"|format(stat.rest) }}</td><td>{{ "%.4f"|format(stat.mean.mean()) }}</td>
<td>{{ "%.4f"|format(stat.sd_all) }}</td><td>{{ "%.4f"|format(stat.sd_within) }}</td>
<td>{{ "%.1f"|format(100 * stat.left.mean()) }}%</td><td>{{ stat.alarm }}</td></tr>
{% endfor %}</table></div>
{% if found %}<h2>Without the attention</h2>
<div class="scroll"><table>
<tr><th>block</th><th>gate</th><th>mAP@.5</th><th>change</th><th>mAP@.5:.95</th><th>change</th></tr>
{% for case in found %}<tr><td>{{ case.block }}</td><td>{{ case.gate }}</td>
<td>{{ "%.4f"|format(case.map50) }}</td><td>{{ "%+.4f"|format(-case.carried50) }}</td>
<td>{{ "%.4f"|format(case.map) }}</td><td>{{ "%+.4f"|format(-case.carried) }}</td></tr>
{% endfor %}</table></div>
{% endif %}<h2>Pictures</h2>
{% for name, kind, code in pictures %}<figure><figcaption>{{ name }}</figcaption>
<img src="data:image/{{ kind }};base64,{{ code }}" alt="{{ name }}" style="max-width: 100%"></figure>
{% endfor %}</body></html>
"""


def verdict(stats: Sequence[GateStats], found: Sequence[Counterfactual]) -> str:
    """Return one sentence on what the gates do.

    With counterfactuals it rests on the mAP with all gates held at their means, otherwise on how much gates vary.
    """
    means = [case for case in found if case.gate == "mean"]
    if means:
        held = means[-1]  # all blocks, or the only one
        subject = "the gate" if len(stats) == 1 else "the gates"
        pronoun = "it works as a constant" if len(stats) == 1 else "they work as constants"
        change = -held.carried
        if abs(change) >= SAME_MAP:
            pronoun = "what differs between images and positions counts"
        place = "its mean" if len(stats) == 1 else "their means"
        verb = "changes" if len(stats) == 1 else "change"
        return f"Held at {place}, {subject} {verb} mAP@.5:.95 by {change:+.4f}: {pronoun}."
    flat = [stat for stat in stats if stat.sd_within < CONSTANT * stat.rest]
    return (
        f"{len(flat)} of {len(stats)} gates hardly differ between images and positions; --counterfactual measures what "
        "mAP they carry."
    )


def write_page(
    folder: Path, weights: str, stats: Sequence[GateStats], trained: EvalResult, found: Sequence[Counterfactual]
) -> None:
    """Write gates.html with the pictures that are in the folder, gates.png and cam/*; it needs no other file."""
    files = [*sorted(folder.glob("*.png")), *sorted((folder / "cam").glob("*.jpg")), *sorted(folder.glob("cam/*.png"))]
    pictures = [
        (
            file.relative_to(folder).as_posix(),
            "png" if file.suffix == ".png" else "jpeg",
            base64.b64encode(file.read_bytes()).decode("ascii"),
        )
        for file in files
    ]
    page = (
        Environment(autoescape=True)
        .from_string(TEMPLATE)
        .render(
            weights=weights,
            policy=POLICY,
            style=STYLE.read_text(encoding="utf-8"),
            verdict=verdict(stats, found),
            images=trained.images,
            trained=trained,
            stats=stats,
            found=found,
            pictures=pictures,
        )
    )
    with atomic_write(folder / PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
