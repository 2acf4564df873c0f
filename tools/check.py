"""Says what is in a data set and what is wrong with it, by file and line, before a training finds out.

    python -m tools.check data.yaml --html page.html

Exit status 1 where something is wrong: an image that cannot be read, a label row that cannot be used, a picture that is
there twice, in one split or in two. Images without labels are background, and only counted. Nothing is changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.datasets.check_page import write_page
from tools.datasets.split_check import PERCENTILES, SplitCheck, check_split, find_leaks
from utils.base.constants import SPLITS
from utils.cli.arguments import tool_parser
from utils.data.config import DataConfig
from utils.data.tools import dataset_stats
from utils.general import LOGGER, one_line, plural, run_script

MAX_SHOWN = 50  # problems of a split that go to the log; the page has all
BAR = 30  # characters of the longest bar of a histogram


@dataclass(frozen=True)
class CheckOptions:
    """The flags of `parse_opt`, which holds their defaults and meanings."""

    data: str
    html: str = ""
    stats: bool = False
    samples: int = 12
    workers: int = 8


# Report ---------------------------------------------------------------------------------------------------------------


def split_text(check: SplitCheck, names: Sequence[str]) -> str:
    """Counts, ranges and the histogram of classes as lines of text."""
    lines = [f"{check.name}: {plural(len(check.records), 'usable image')}; labels {check.report}"]
    ranges = check.ranges()
    if ranges:
        titles = [{0: "min", 100: "max"}.get(p, f"{p}%") for p in PERCENTILES]
        lines.append(f"  {'':32}" + "".join(f"{title:>10}" for title in titles))
        lines += [f"  {name:32}" + "".join(f"{value:10.4g}" for value in values) for name, values in ranges]
    width = max(map(len, names))
    most = max(int(check.counts.max()), 1)
    for name, count in zip(names, check.counts.tolist(), strict=True):
        lines.append(f"  {name:{width}} {count:8d} {'#' * -(-count * BAR // most)}")
    return "\n".join(lines)


def check_data(opt: CheckOptions) -> int:
    """Checks all splits, logs what was found, writes the page; the number of problems."""
    data = DataConfig.from_yaml(opt.data)
    data.prepare()
    checks = []
    general = [
        f"{data.file}: has no `{name}`, which training needs" for name in ("train", "val") if not getattr(data, name)
    ]
    for split in SPLITS:
        if getattr(data, split):
            try:
                checks.append(check_split(data, split, opt.workers))
            except (OSError, ValueError) as error:
                general.append(one_line(error))
    general += find_leaks(checks)
    for check in checks:
        LOGGER.info(split_text(check, data.names))
        _log(check.name, check.notes, "note: ")
        _log(check.name, check.problems, "")
    _log(str(data.file), general, "")
    total = len(general) + sum(len(check.problems) for check in checks)
    images = sum(len(check.records) for check in checks)
    objects = sum(int(check.counts.sum()) for check in checks)
    found = plural(total, "problem") if total else "no problem"
    summary = f"{data.file}: {plural(images, 'usable image')}, {plural(objects, 'object')}, {found} found"
    if opt.html:
        write_page(Path(opt.html), summary, checks, data.names, general, opt.samples)
        LOGGER.info(f"{opt.html} is written")
    LOGGER.info(summary)
    return total


def _log(name: str, lines: Sequence[str], prefix: str) -> None:
    say = LOGGER.info if prefix else LOGGER.warning
    for line in lines[:MAX_SHOWN]:
        say(f"{prefix}{name}: {line}")
    if len(lines) > MAX_SHOWN:
        say(f"{prefix}{name}: ... and {len(lines) - MAX_SHOWN} more; the page of --html has all")


# Command --------------------------------------------------------------------------------------------------------------


def parse_opt(args: list[str] | None = None) -> CheckOptions:
    """The options of `python -m tools.check`."""
    parser = tool_parser(
        "check", "Check a data set: pairs, values, duplicates, leaks, classes.", "data.yaml --html page.html"
    )
    parser.add_argument("data", help="data yaml")
    parser.add_argument("--html", default="", help="write a page with the numbers and drawn samples to this file")
    parser.add_argument("--stats", action="store_true", help="print the counts of each split and class as JSON only")
    parser.add_argument("--samples", type=int, default=12, help="drawn images of each split on the page")
    parser.add_argument("--workers", type=int, default=8, help="threads that read")
    return CheckOptions(**vars(parser.parse_args(args)))


def main(opt: CheckOptions) -> None:
    """Check; exit status 1 where something is wrong."""
    if opt.samples < 0 or opt.workers < 1:
        raise ValueError(f"--samples {opt.samples} --workers {opt.workers}: at least 0 and 1 are wanted")
    if opt.stats:
        dataset_stats(opt.data, verbose=True)
    elif check_data(opt):
        raise SystemExit(1)


if __name__ == "__main__":
    run_script(main, parse_opt())
