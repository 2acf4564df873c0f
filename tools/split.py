"""Divide a folder's images at random into lists for train, val and test.

python -m tools.split ../datasets/mine/images                       # autosplit_{train,val}.txt beside images/
python -m tools.split ../datasets/mine/images --weights 0.8 0.1 0.1 --annotated-only
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.cli.arguments import tool_parser
from utils.data.tools import autosplit
from utils.general import LOGGER, run_script


@dataclass(frozen=True)
class SplitOptions:
    """The flags of `parse_opt`, which holds their defaults and meanings."""

    path: str
    weights: tuple[float, float, float]
    annotated_only: bool
    seed: int = 0


def parse_opt(arguments: Sequence[str] | None = None) -> SplitOptions:
    """The options of the command line, or of `arguments`."""
    parser = tool_parser(
        "split",
        "Divide a folder's images at random into autosplit_*.txt beside it.",
        "../datasets/mine/images --weights 0.8 0.1 0.1",
    )
    parser.add_argument("path", help="folder of images")
    parser.add_argument("--weights", nargs=3, type=float, default=(0.9, 0.1, 0.0), help="shares of train, val, test")
    parser.add_argument("--annotated-only", action="store_true", help="leave out images without label file")
    parser.add_argument("--seed", type=int, default=0, help="another one divides differently")
    return SplitOptions(**vars(parser.parse_args(arguments)))


def main(opt: SplitOptions) -> dict[str, Path]:
    """Write the lists and return their paths by split; end with what to do next."""
    lists = autosplit(opt.path, opt.weights, opt.annotated_only, opt.seed)
    rows = "".join(f"\n  {split}: {path.resolve()}" for split, path in lists.items())
    LOGGER.info(f"Next: name the lists in a data yaml, with the names of the classes, and check it:{rows}")
    LOGGER.info("  python -m tools.check data.yaml")
    return lists


if __name__ == "__main__":
    run_script(main, parse_opt())
