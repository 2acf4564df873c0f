"""The page of `python -m tools.check --html`: one file that needs no other and no network."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from utils.general import LOGGER, plural
from utils.draw.html_page import escaped, image_tag, jpeg, lines, section, table
from utils.draw.html_page import write_page as write_html
from utils.files.images import read_image
from utils.draw.label_maps import LabelMaps, class_table, label_charts
from utils.data.labels import LabelRecord
from utils.plots import draw_tile
from tools.datasets.split_check import SplitCheck

SIDE = 480  # pixels of a sample's longer side


def write_page(
    path: Path,
    summary: str,
    checks: Sequence[SplitCheck],
    names: Sequence[str],
    general: Sequence[str],
    samples: int,
) -> None:
    """Writes the numbers, problems and drawn samples of all splits as one HTML file; an older page is replaced."""
    parts = [f"<h1>{escaped(summary)}</h1>", lines(general, "problem")]
    for check in checks:
        maps = LabelMaps(names)
        for record in check.records:
            maps.add(record.boxes)
        parts.append(
            section(
                check.name,
                f"<p>{plural(len(check.records), 'usable image')}; labels {escaped(check.report)}</p>",
                lines(check.problems, "problem"),
                lines(check.notes, "note"),
                _ranges(check.ranges()),
                class_table(maps.to_dict()),
                label_charts(maps.to_dict()),
                _samples(check.records, names, samples),
            )
        )
    write_html(path, summary, parts)


def _ranges(rows: Sequence[tuple[str, list[float]]]) -> str:
    cells = [(name, *(f"{value:.4g}" for value in values)) for name, values in rows]
    return table(("", "min", "5%", "50%", "95%", "max"), cells)


def _samples(records: Sequence[LabelRecord], names: Sequence[str], count: int) -> str:
    """So many images, spread evenly over the split, with their boxes."""
    if not (records and count):
        return ""
    chosen = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)).tolist()
    tiles = [_sample(records[i], names) for i in chosen]
    return f'<div class="samples">{"".join(tiles)}</div>'


def _sample(record: LabelRecord, names: Sequence[str]) -> str:
    try:
        image = read_image(record.image, note=LOGGER.debug)
    except (OSError, ValueError) as error:
        LOGGER.warning(f"{error}; not drawn")
        return ""
    h, w = image.shape[:2]
    scale = SIDE / max(h, w)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    tile = cv2.resize(image, (max(round(w * scale), 1), max(round(h * scale), 1)), interpolation=interpolation)
    rows = np.insert(record.boxes, 0, 0, axis=1)  # (n, 6)
    return image_tag(jpeg(draw_tile(tile, rows, names)), Path(record.image).name)
