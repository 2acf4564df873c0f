"""Make the report.html of a run's folder again, as far as its files allow.

python -m tools.report runs/train/exp
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from train import default_settings
from utils.cli.arguments import tool_parser
from utils.general import LOGGER, run_script, size_text
from utils.report.page import make_page


@dataclass(frozen=True)
class ReportOptions:
    """The flags of `parse_opt`, which holds their meanings."""

    folder: str


def parse_opt(arguments: Sequence[str] | None = None) -> ReportOptions:
    """The options of the command line, or of `arguments`."""
    parser = tool_parser("report", "Make the report.html of a run's folder again.", "runs/train/exp")
    parser.add_argument("folder", help="the run's folder, e.g. runs/train/exp or runs/val/exp")
    return ReportOptions(**vars(parser.parse_args(arguments)))


def main(opt: ReportOptions) -> Path:
    """Makes the page; its path."""
    folder = Path(opt.folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; name that of a run, e.g. runs/train/exp")
    path = make_page(folder, default_settings())
    LOGGER.info(f"{path}: {size_text(path.stat().st_size)}, open it in a browser")
    return path


if __name__ == "__main__":
    run_script(main, parse_opt())
