"""Runs that were done earlier or elsewhere, read from a committed runs.csv.

A row stands for a run of the plan with the same variant, seed and digest; that run is not trained again.
"""

import csv
from pathlib import Path

from tools.ablate.plan import Plan
from tools.ablate.queue import RunQueue
from utils.general import LOGGER, plural

TEXTS = ("variant", "digest", "weights", "data")
WHOLE = ("seed", "epochs")
NEEDED = ("variant", "seed", "map")


def read_runs(path: Path) -> list[dict[str, object]]:
    """Read the records of a runs.csv: numbers, None for an empty cell, and text in the columns `env_*`.

    ValueError names the file and the damaged row.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    missing = [name for name in NEEDED if rows and name not in rows[0]]
    if missing:
        raise ValueError(f"{path}: no column {missing[0]}; give a runs.csv of tools.ablate")
    return [_record(row, path, number) for number, row in enumerate(rows, 2)]


def _record(row: dict[str, str], path: Path, number: int) -> dict[str, object]:
    record: dict[str, object] = {}
    for name, cell in row.items():
        if cell is None or name is None:
            raise ValueError(f"{path}:{number}: has another number of cells than the header; correct the row")
        if name in TEXTS or name.startswith("env_"):
            record[name] = cell
            continue
        try:
            record[name] = None if cell == "" else int(cell) if name in WHOLE else float(cell)
        except ValueError:
            raise ValueError(f"{path}:{number}: {name} {cell!r} is not a number") from None
    return record


def adopt_known(plan: Plan, queue: RunQueue) -> int:
    """Mark the plan's open runs as done if its `known` file has their rows; return their number."""
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
        queue.add(run.key, run.digest, row)
        adopted += 1
    if adopted:
        LOGGER.info(f"{plural(adopted, 'run')} known from {plan.known}")
    if others:
        LOGGER.warning(
            f"{plan.known}: {plural(others, 'row')} with other options or files than the plan's; these runs are trained"
        )
    return adopted
