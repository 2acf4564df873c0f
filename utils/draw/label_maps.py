"""What a set of labels looks like in numbers, for utils/report/page.py: how many of each class, where, how large."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.draw.html_charts import density_chart
from utils.draw.html_page import bars, table
from utils.general import atomic_write

GRID = 32  # cells of a map, along each side


class LabelMaps:
    """Counts labels image by image, in arrays whose size does not grow."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.images = self.background = 0  # the latter without labels
        self.counts = np.zeros(len(names), np.int64)
        self.centres, self.sizes = np.zeros((2, GRID, GRID), np.int64)  # x or width first
        self.smallest, self.largest = np.inf, 0.0  # roots of boxes' areas, shares of the image

    def add(self, labels: np.ndarray) -> None:
        """Counts an image with labels (t, 5): class, cx, cy, w, h in shares of the image."""
        self.images += 1
        self.background += not len(labels)
        if not len(labels):
            return
        self.counts += np.bincount(labels[:, 0].astype(int), minlength=len(self.names))
        cells = np.clip((labels[:, 1:] * GRID).astype(int), 0, GRID - 1)  # (t, 4)
        np.add.at(self.centres, (cells[:, 0], cells[:, 1]), 1)
        np.add.at(self.sizes, (cells[:, 2], cells[:, 3]), 1)
        sides = np.sqrt(np.prod(labels[:, 3:], 1))
        self.smallest = min(self.smallest, float(sides.min()))
        self.largest = max(self.largest, float(sides.max()))

    def to_dict(self) -> dict[str, object]:
        """All of it as plain values."""
        return {
            "names": list(self.names),
            "images": self.images,
            "background": self.background,
            "counts": self.counts.tolist(),
            "centres": self.centres.tolist(),
            "sizes": self.sizes.tolist(),
            "sides": [self.smallest, self.largest] if self.counts.any() else None,
        }


def write_label_maps(all_labels: Sequence[np.ndarray], names: Sequence[str], path: Path) -> None:
    """Writes the maps of the images' labels, (t, 5) each, as JSON."""
    maps = LabelMaps(names)
    for labels in all_labels:
        maps.add(labels)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(maps.to_dict()) + "\n", encoding="utf-8")


def class_table(maps: Mapping[str, Any]) -> str:
    """Markup of the classes' counts, of what `LabelMaps.to_dict` gives."""
    most = max([1, *maps["counts"]])
    rows = [(name, count, bars(count / most)) for name, count in zip(maps["names"], maps["counts"], strict=True)]
    return table(("class", "labels", ""), rows)


def label_charts(maps: Mapping[str, Any]) -> str:
    """Markup of where the boxes are and how large, of what `LabelMaps.to_dict` gives; nothing where there are none."""
    charts = [
        density_chart("centres of boxes", np.array(maps["centres"]), ("x", "y"), is_downward=True),
        density_chart("sizes of boxes", np.array(maps["sizes"]), ("width", "height"), is_downward=False),
    ]
    return f'<div class="charts">{"".join(charts)}</div>' if any(charts) else ""
