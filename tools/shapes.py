"""Draw the generated data set of shapes.

python -m tools.shapes --train 5000 --root ../datasets/shapes5000
"""

import argparse
from pathlib import Path

from utils.base.constants import SPLITS
from utils.cli.arguments import tool_parser
from utils.data.shape_scenes import NAMES
from utils.data.shapes import ShapesSettings, generate
from utils.general import LOGGER, ROOT, run_script


def parse_opt(args: list[str] | None = None) -> argparse.Namespace:
    """The options of `python -m tools.shapes`."""
    default = ShapesSettings()
    parser = tool_parser("shapes", "Draw the shapes data set.", "--root ../datasets/shapes5000 --train 5000")
    parser.add_argument("--root", type=Path, default=ROOT / "datasets/shapes", help="folder to make")
    for split in SPLITS:
        parser.add_argument(f"--{split}", type=int, default=getattr(default, split), help=f"pictures in {split}")
    parser.add_argument("--seed", type=int, default=default.seed, help="another seed, other pictures")
    return parser.parse_args(args)


def main(opt: argparse.Namespace) -> None:
    """Make the data set and say where it is."""
    generate(opt.root, ShapesSettings(opt.train, opt.val, opt.test, opt.seed))
    LOGGER.info(f"{opt.root}: {opt.train} train, {opt.val} val, {opt.test} test pictures of {', '.join(NAMES)}")


if __name__ == "__main__":
    run_script(main, parse_opt())
