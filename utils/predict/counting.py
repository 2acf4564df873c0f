"""Count objects that cross a line, and objects in zones, by supervision, an optional package.

Legend: n detections of a frame, k corners of a polygon.
"""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from utils.files.names import plain_cell
from utils.files.reading import parse_json
from utils.general import LOGGER, atomic_write
from utils.plots import Annotator
from utils.predict.sources import Frame
from utils.predict.tracking import NO_ID, as_supervision, tracking_package

Line = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
COUNT_COLUMNS = ("image", "counter", "class", "in", "out", "max", "objects")
ALL = "all"  # classes
COLOR = (0, 215, 255)  # BGR of lines and zones


class FrameCounts(NamedTuple):
    """Counts of one frame.

    crossed: for each of n detections "in", to the left side as seen from the line's first point towards its second,
    "out" or "". zones: for each the names of the zones that it is in. crossings: in and out since the start of the
    video, None without a line. inside: objects in each zone.
    """

    crossed: list[str]
    zones: list[list[str]]
    crossings: tuple[int, int] | None
    inside: dict[str, int]


class Regions(NamedTuple):
    """A line, and polygons (k, 2) by name, in pixels."""

    line: Line | None
    zones: Mapping[str, np.ndarray]

    def draw(self, image: np.ndarray, thickness: int) -> None:
        """Draw the line and the zones on an image (h, w, 3) BGR."""
        if self.line is not None:
            x1, y1, x2, y2 = map(round, self.line)
            cv2.line(image, (x1, y1), (x2, y2), COLOR, thickness, cv2.LINE_AA)
        polygons = [polygon.astype(np.int32) for polygon in self.zones.values()]
        cv2.polylines(image, polygons, True, COLOR, thickness, cv2.LINE_AA)

    def label(self, annotator: Annotator, counts: FrameCounts) -> None:
        """Write the counts of a frame beside the line and the zones."""
        if self.line is not None and counts.crossings is not None:
            x, y = self.line[:2]
            annotator.box_label((x, y, x, y), "in {}, out {}".format(*counts.crossings), COLOR)
        for name, polygon in self.zones.items():
            x, y = polygon[0].tolist()
            annotator.box_label((x, y, x, y), f"{name}: {counts.inside[name]}", COLOR)


class ObjectCounter:
    """Count at one line and in several zones of one video, stream or image."""

    def __init__(self, image: str, line: Line | None, zones: Mapping[str, np.ndarray]) -> None:
        sv = tracking_package("supervision")
        self.image = image
        self.line = None if line is None else sv.LineZone(sv.Point(*line[:2]), sv.Point(*line[2:]))
        self.zones = {name: sv.PolygonZone(polygon) for name, polygon in zones.items()}
        self.max: Counter[str] = Counter()
        self.ids: dict[str, set[int]] = {name: set() for name in zones}
        self.has_ids = False

    def update(self, detections: np.ndarray, ids: np.ndarray | None) -> FrameCounts:
        """Count the detections (n, 6), xyxy in pixels, confidence, class, with their ids (n,) if they are tracked."""
        found = as_supervision(detections, ids)
        crossed = [""] * len(detections)
        crossings = None
        if self.line is not None and ids is not None:
            for way, hits in zip(("in", "out"), self.line.trigger(found), strict=True):
                for row in np.flatnonzero(hits):
                    crossed[row] = way
            crossings = (self.line.in_count, self.line.out_count)
        zones: list[list[str]] = [[] for _ in detections]
        inside = {}
        for name, zone in self.zones.items():
            rows = np.flatnonzero(zone.trigger(found))
            for row in rows:
                zones[row].append(name)
            inside[name] = len(rows)
            self.max[name] = max(self.max[name], len(rows))
            if ids is not None:
                self.has_ids = True
                self.ids[name] |= set(ids[rows].tolist()) - {NO_ID}
        return FrameCounts(crossed, zones, crossings, inside)

    def rows(self, names: Sequence[str]) -> list[dict[str, object]]:
        """Return the counts of all frames, a row for each zone, and for the line one for all and one for each class."""
        rows = []
        if self.line is not None:
            ins, outs = self.line.in_count_per_class, self.line.out_count_per_class
            totals = {ALL: (self.line.in_count, self.line.out_count)}
            totals |= {names[kind]: (ins.get(kind, 0), outs.get(kind, 0)) for kind in sorted(ins.keys() | outs.keys())}
            for name, (came, went) in totals.items():
                rows.append(self._row("line", name) | {"in": came, "out": went})
        for name in self.zones:
            objects = len(self.ids[name]) if self.has_ids else None
            rows.append(self._row(name, ALL) | {"max": self.max[name], "objects": objects})
        return rows

    def _row(self, counter: str, kind: str) -> dict[str, object]:
        return dict.fromkeys(COUNT_COLUMNS) | {"image": self.image, "counter": counter, "class": kind}


class CounterSet:
    """One ObjectCounter for each video, stream and image of a source."""

    def __init__(self, regions: Regions, names: Sequence[str]) -> None:
        self.line, self.zones = regions
        self.names = names
        self.counters: dict[str, ObjectCounter] = {}
        self.is_warned = False

    def update(self, frame: Frame, detections: np.ndarray, ids: np.ndarray | None) -> FrameCounts:
        """Count a frame's detections (n, 6) with their ids (n,) if they are tracked."""
        key = f"{frame.stem} {frame.is_still}"
        if key not in self.counters:
            self.counters[key] = ObjectCounter(frame.name, None if frame.is_still else self.line, self.zones)
            self._warn_if_outside(frame)
        return self.counters[key].update(detections, None if frame.is_still else ids)

    def rows(self) -> list[dict[str, object]]:
        """Return the counts of all images, videos and streams."""
        return [row for counter in self.counters.values() for row in counter.rows(self.names)]

    def _warn_if_outside(self, frame: Frame) -> None:
        """Warn once where a line or zone lies outside the image, so that it counts nothing."""
        h, w = frame.image.shape[:2]
        outside = [f"--zone {name}" for name, polygon in self.zones.items() if (polygon.min(0) >= (w, h)).any()]
        if self.line is not None:
            x1, y1, x2, y2 = map(round, self.line)
            if not cv2.clipLine((0, 0, w, h), (x1, y1), (x2, y2))[0]:
                outside.append(f"--line {x1} {y1} {x2} {y2}")
        if outside and not self.is_warned:
            self.is_warned = True
            LOGGER.warning(
                f"{outside[0]} lies outside {frame.name}, which has {w} x {h} pixels: it counts nothing there"
            )


def read_zones(path: str | Path) -> dict[str, np.ndarray]:
    """Read polygons (k, 2), in pixels of the image, from a JSON file, by name.

    It has one polygon [[x, y], ...], a list of them, or an object of them by name. Without names they are zone 1,
    zone 2 and so on. ValueError names the file and the polygon.
    """
    path = Path(path)
    try:
        data = parse_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"--zone {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"--zone {path}: not a JSON file ({error})") from None
    if isinstance(data, list) and data and is_point(data[0]):
        data = [data]
    if isinstance(data, list):
        data = {f"zone {i}": polygon for i, polygon in enumerate(data, 1)}
    if not isinstance(data, dict) or not data:
        raise ValueError(f"--zone {path}: no polygon; write [[x, y], [x, y], [x, y]] or {{name: [[x, y], ...]}}")
    zones = {}
    for name, polygon in data.items():
        if not isinstance(polygon, list) or len(polygon) < 3 or not all(map(is_point, polygon)):
            raise ValueError(
                f"--zone {path}: {name}: a polygon has three or more points [x, y], in pixels of 0 or more"
            )
        zones[name] = np.array(polygon).round().astype(np.int64)
    return zones


def is_point(value: object) -> bool:
    """Whether a JSON value is a point [x, y] that may lie in an image."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(item) in {int, float} and 0 <= item < 2**20 for item in value)
    )


def report_counts(rows: Sequence[Mapping[str, object]], folder: Path, kinds: Sequence[str]) -> None:
    """Log the counts, and write them as counts.csv and counts.json as far as these kinds are asked for."""
    for row in rows:
        if row["counter"] == "line":
            LOGGER.info(f"{row['image']}: {row['in']} in and {row['out']} out over the line, {row['class']}")
        else:
            objects = "" if row["objects"] is None else f", {row['objects']} different"
            LOGGER.info(f"{row['image']}: {row['max']} at most at a time in {row['counter']}{objects}")
    if "csv" in kinds:
        with atomic_write(folder / "counts.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COUNT_COLUMNS)
            writer.writerows([plain_cell("" if value is None else value) for value in row.values()] for row in rows)
    if "json" in kinds:
        with atomic_write(folder / "counts.json") as path:
            path.write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")
