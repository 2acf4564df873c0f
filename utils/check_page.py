"""The page of `python -m utils.check --html`: one file that needs no other and no network."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from utils.general import LOGGER, atomic_write
from utils.images import read_image
from utils.labels import LabelRecord
from utils.plots import draw_tile
from utils.split_check import SplitCheck

SIDE = 480  # pixels of a sample's longer side
HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
body {{ font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse; margin: 1em 0 }} td, th {{ padding: .15em .8em; text-align: right }}
td:first-child, th:first-child {{ text-align: left }} tr:nth-child(even) {{ background: #f3f3f3 }}
.bar {{ width: 300px; text-align: left }} .bar div {{ background: #2f5bea; height: .8em }}
.samples {{ display: flex; flex-wrap: wrap; gap: 8px }} .samples img {{ max-width: 100%; height: 240px }}
.problem {{ color: #a01020; overflow-wrap: anywhere }} .note {{ color: #555; overflow-wrap: anywhere }}
</style></head><body>
"""


def write_page(
    path: Path,
    summary: str,
    checks: Sequence[SplitCheck],
    names: Sequence[str],
    general: Sequence[str],
    samples: int,
) -> None:
    """Writes the numbers, problems and drawn samples of all splits as one HTML file; an older page is replaced."""
    parts = [HEAD.format(title=html.escape(summary)), f"<h1>{html.escape(summary)}</h1>", _list(general, "problem")]
    for check in checks:
        parts += [
            f"<h2>{html.escape(check.name)}</h2><p>{len(check.records)} usable images; labels {check.report}</p>",
            _list(check.problems, "problem"),
            _list(check.notes, "note"),
            _ranges(check.ranges()),
            _histogram(names, check.counts.tolist()),
            _samples(check.records, names, samples),
        ]
    parts.append("</body></html>\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8", errors="replace")


def _list(lines: Sequence[str], kind: str) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _ranges(rows: Sequence[tuple[str, list[float]]]) -> str:
    if not rows:
        return ""
    head = "<tr><th></th><th>min</th><th>5%</th><th>50%</th><th>95%</th><th>max</th></tr>"
    cells = ("".join(f"<td>{value:.4g}</td>" for value in values) for _, values in rows)
    body = "".join(f"<tr><td>{html.escape(name)}</td>{row}</tr>" for (name, _), row in zip(rows, cells, strict=True))
    return f"<table>{head}{body}</table>"


def _histogram(names: Sequence[str], counts: Sequence[int]) -> str:
    most = max(1, *counts)
    rows = (
        f"<tr><td>{html.escape(name)}</td><td>{count}</td>"
        f'<td class="bar"><div style="width:{100 * count / most:.1f}%"></div></td></tr>'
        for name, count in zip(names, counts, strict=True)
    )
    return f"<table><tr><th>class</th><th>objects</th><th></th></tr>{''.join(rows)}</table>"


def _samples(records: Sequence[LabelRecord], names: Sequence[str], count: int) -> str:
    """So many images, spread evenly over the split, with their boxes."""
    chosen = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)).tolist()
    tiles = [_sample(records[i], names) for i in chosen]
    return f'<div class="samples">{"".join(tiles)}</div>'


def _sample(record: LabelRecord, names: Sequence[str]) -> str:
    name = html.escape(Path(record.image).name, quote=True)
    try:
        image = read_image(record.image)
    except (OSError, ValueError) as error:
        LOGGER.warning(f"{error}; not drawn")
        return ""
    h, w = image.shape[:2]
    scale = SIDE / max(h, w)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    tile = cv2.resize(image, (max(round(w * scale), 1), max(round(h * scale), 1)), interpolation=interpolation)
    rows = np.insert(record.boxes, 0, 0, axis=1)  # (n, 6)
    _, data = cv2.imencode(".jpg", draw_tile(tile, rows, names, ""), [cv2.IMWRITE_JPEG_QUALITY, 85])
    code = base64.b64encode(data.tobytes()).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{code}" alt="{name}" title="{name}">'
