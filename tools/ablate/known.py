"""Runs that were done at an earlier time or elsewhere, of which only the row in a runs.csv is left.

A training takes minutes and its files gigabytes; the row is small enough to be committed. A row counts as done where
its variant, seed and digest are a run's of the plan.
"""

import csv
import json
from pathlib import Path

from tools.ablate.plan import Plan
from tools.ablate.queue import RunQueue
from utils.general import LOGGER, atomic_write, plural

TEXTS = ("variant", "digest", "weights", "data")
WHOLE = ("seed", "epochs")
NEEDED = ("variant", "seed", "map")


def read_runs(path: Path) -> list[dict[str, object]]:
    """The records in a runs.csv: numbers as numbers, None for an empty cell, and what begins with `env_` as text.

    ValueError names the file and the row that is damaged.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    missing = [name for name in NEEDED if rows and name not in rows[0]]
    if missing:
        raise ValueError(f"{path}: no column {missing[0]}; a runs.csv of tools.ablate has it")
    return [_record(row, path, number) for number, row in enumerate(rows, 2)]


def _record(row: dict[str, str], path: Path, number: int) -> dict[str, object]:
    record: dict[str, object] = {}
    for name, cell in row.items():
        if cell is None or name is None:
            raise ValueError(f"{path}:{number}: has another number of cells than the head")
        if name in TEXTS or name.startswith("env_"):
            record[name] = cell
            continue
        try:
            record[name] = None if cell == "" else int(cell) if name in WHOLE else float(cell)
        except ValueError:
            raise ValueError(f"{path}:{number}: {name} {cell!r} is no number") from None
    return record


def adopt_known(plan: Plan, queue: RunQueue) -> int:
    """Marks the plan's runs as done whose rows its `known` file has, unless they are done or begun here; how many."""
    if plan.known is None or not plan.known.is_file():
        return 0
    rows = {(row["variant"], row["seed"]): row for row in read_runs(plan.known)}
    adopted, others = 0, 0
    for run in plan.runs:
        row = rows.get((run.variant, run.seed))
        if row is None or queue.state(run.key) != "open":
            continue
        if row.get("digest") != run.digest:
            others += 1
            continue
        place = queue.place(run.key)
        place.mkdir(parents=True, exist_ok=True)
        _write(place / "run.json", {"digest": run.digest, "arguments": list(run.arguments)})
        _write(place / "done.json", row)
        adopted += 1
    if adopted:
        LOGGER.info(f"{plural(adopted, 'run')} known from {plan.known}")
    if others:
        LOGGER.warning(f"{plan.known}: {plural(others, 'row')} of other options or files than the plan's; done again")
    return adopted


def _write(path: Path, content: object) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
