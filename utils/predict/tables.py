"""What was found as one table: predictions.csv and predictions.json, complete at any moment.

Each frame's rows are written at once and reach the file before the next frame, so that whoever ends the run, or ends
it by force, leaves tables that can be read.

Further columns, of tracked objects for instance, follow those that are always there.

Legend: n detections of a frame.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from torch import Tensor

from utils.data.coco_ids import COCO_IDS, is_coco
from utils.files.names import plain_cell
from utils.predict.sources import Frame

Columns = Mapping[str, Sequence[object]]  # further values of n detections, by the column's name
COLUMNS = ("image", "frame", "class", "name", "confidence", "x1", "y1", "x2", "y2")
END = b"\n]\n"
NO_COLUMNS: Columns = {}


class CsvTable:
    """predictions.csv: COLUMNS, a row for each detection; frame is 0 for an image, boxes are in pixels.

    further: names of the columns after them; several values in one cell are parted by semicolons.
    """

    def __init__(self, path: Path, names: Sequence[str], further: Sequence[str] = ()) -> None:
        self.path, self.names = path, names
        self.file: IO[str] = path.open("w", newline="", encoding="utf-8", errors="surrogateescape")
        self._write([(*COLUMNS, *further)])

    def add(self, frame: Frame, _stem: str, detections: Tensor, columns: Columns = NO_COLUMNS) -> None:
        """Appends the rows of a frame; detections (n, 6) are xyxy in its pixels, confidence, class."""
        name = plain_cell(frame.name)
        self._write(
            [
                name,
                frame.number,
                int(kind),
                plain_cell(self.names[int(kind)]),
                f"{confidence:.6g}",
                *map(number, box_xyxy),
                *(cell(values[i]) for values in columns.values()),
            ]
            for i, (*box_xyxy, confidence, kind) in enumerate(detections.tolist())
        )

    def append_file(self, path: Path) -> None:
        """Appends the rows of another process's table."""
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as other:
            self._write(list(csv.reader(other))[1:])

    def close(self) -> None:
        """Closes the file."""
        self.file.close()

    def _write(self, rows: object) -> None:
        buffer = io.StringIO()
        csv.writer(buffer).writerows(rows)  # type: ignore[arg-type]
        self.file.write(buffer.getvalue())
        self.file.flush()


class JsonTable:
    """predictions.json: a list of COCO's results with the image's name, frame and class name besides.

    image_id is the stem of the image's output, as a number where it is one; category_id COCO's number for the 80
    classes of COCO, else the index; bbox left, top, width, height in pixels. The closing bracket is there all the time
    and is overwritten by what comes next.
    """

    def __init__(self, path: Path, names: Sequence[str], _further: Sequence[str] = ()) -> None:
        self.path, self.names = path, names
        self.categories = COCO_IDS if is_coco(names) else tuple(range(len(names)))
        self.file: IO[bytes] = path.open("wb")
        self.file.write(b"[" + END)
        self.file.flush()
        self.is_empty = True

    def add(self, frame: Frame, stem: str, detections: Tensor, columns: Columns = NO_COLUMNS) -> None:
        """Appends the entries of a frame; detections (n, 6) are xyxy in its pixels, confidence, class."""
        image_id = int(stem) if stem.isdecimal() and stem.isascii() else stem
        self._write(
            {
                "image_id": image_id,
                "category_id": self.categories[int(kind)],
                "bbox": [number(x1), number(y1), number(x2 - x1), number(y2 - y1)],
                "score": round(confidence, 6),
                "image": frame.name,
                "frame": frame.number,
                "name": self.names[int(kind)],
                **{name: values[i] for name, values in columns.items()},
            }
            for i, (x1, y1, x2, y2, confidence, kind) in enumerate(detections.tolist())
        )

    def append_file(self, path: Path) -> None:
        """Appends the entries of another process's file."""
        self._write(json.loads(path.read_text(encoding="utf-8")))

    def close(self) -> None:
        """Closes the file."""
        self.file.close()

    def _write(self, entries: object) -> None:
        text = ",\n".join(json.dumps(entry) for entry in entries).encode()  # type: ignore[attr-defined]
        if not text:
            return
        self.file.seek(-len(END), io.SEEK_END)
        self.file.write((b"\n" if self.is_empty else b",\n") + text + END)
        self.file.flush()
        self.is_empty = False


TABLES: dict[str, type[CsvTable | JsonTable]] = {"csv": CsvTable, "json": JsonTable}


class PredictionFiles:
    """The tables of a run, of the kinds asked for ("csv", "json"); each is made with the first frame.

    further: names of the columns that `add` gets besides the detections.
    """

    def __init__(self, folder: Path, names: Sequence[str], kinds: Sequence[str], further: Sequence[str] = ()) -> None:
        self.folder, self.names, self.kinds, self.further = folder, names, kinds, further
        self.tables: dict[str, CsvTable | JsonTable] = {}

    def add(self, frame: Frame, stem: str, detections: Tensor, columns: Columns = NO_COLUMNS) -> None:
        """Appends the detections (n, 6) of a frame whose output is called stem, and their further columns."""
        self._open()
        for table in self.tables.values():
            try:
                table.add(frame, stem, detections, columns)
            except OSError as error:  # the disk is full: of which file is said
                error.filename = error.filename or str(table.path)
                raise

    def append_folder(self, folder: Path) -> None:
        """Appends what another process wrote into its folder, if it wrote anything."""
        for kind in self.kinds:
            path = folder / f"predictions.{kind}"
            if path.exists():
                self._open()
                self.tables[kind].append_file(path)

    def close(self) -> None:
        """Closes the files."""
        for table in self.tables.values():
            table.close()

    def _open(self) -> None:
        if self.kinds and not self.tables:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.tables = {
                kind: TABLES[kind](self.folder / f"predictions.{kind}", self.names, self.further) for kind in self.kinds
            }


def cell(value: object) -> object:
    """A further value as a cell of a table."""
    return plain_cell(";".join(map(str, value)) if isinstance(value, list | tuple) else value)


def number(value: float) -> int | float:
    """A coordinate as it is best written: 12, not 12.0; else to three decimals."""
    return int(value) if value == int(value) else round(value, 3)
