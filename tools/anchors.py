"""Find anchors that fit a data set, to paste into a model yaml.

python -m tools.anchors --data custom.yaml --n 9 --img 640
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.autoanchor import GENERATIONS, label_sizes, measure, search_anchors, yaml_text
from utils.cli.arguments import tool_parser
from utils.data.config import DataConfig
from utils.data.labels import load_split
from utils.general import LOGGER, run_script


@dataclass(frozen=True)
class Options:
    """The flags of `parse_opt`."""

    data: str
    n: int
    levels: int
    imgsz: int
    anchor_t: float
    generations: int
    seed: int

    def check(self) -> None:
        """ValueError where a number is out of its range."""
        for flag, value, least in (
            ("--n", self.n, 1),
            ("--levels", self.levels, 1),
            ("--imgsz", self.imgsz, 1),
            ("--gen", self.generations, 0),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                raise ValueError(f"{flag} {value}: {least} or more")
        if self.n % self.levels:
            raise ValueError(f"--n {self.n}: must be a multiple of --levels {self.levels}, as many for each level")
        if not self.anchor_t > 1:
            raise ValueError(f"--anchor-t {self.anchor_t}: a ratio of sides, must be above 1")


def parse_opt(arguments: Sequence[str] | None = None) -> Options:
    """The options of the command line, or of `arguments`."""
    parser = tool_parser(
        "anchors", "Find anchors that fit a data set, to paste into a model yaml.", "--data custom.yaml --n 9 --img 640"
    )
    add = parser.add_argument
    add("--data", required=True, help="data set yaml; its training images count")
    add("--n", type=int, default=9, help="anchors of all levels together")
    add("--levels", type=int, default=3, help="levels to share them out to: 3 for P3 to P5, 4 for P3 to P6")
    add("--imgsz", "--img", "--img-size", type=int, default=640, help="side of the network's image, in pixels")
    add("--anchor-t", type=float, default=4.0, help="the anchor_t of the hyper-parameters")
    add("--generations", "--gen", type=int, default=GENERATIONS, help="random changes to try after k-means")
    add("--seed", type=int, default=0, help="another seed, slightly other anchors")
    return Options(**vars(parser.parse_args(arguments)))


def main(opt: Options) -> np.ndarray:
    """Prints the anchors for the training images of --data, (n, 2) in pixels, and gives them back."""
    opt.check()
    data = DataConfig.from_yaml(opt.data)
    data.prepare()
    sizes = label_sizes(load_split(data, "train", workers=8), opt.imgsz, np.random.default_rng(opt.seed))
    found = search_anchors(sizes, opt.n, opt.anchor_t, opt.generations, opt.seed).round(2)
    LOGGER.info(f"{measure(sizes, found, opt.anchor_t)}, {len(sizes)} labels, {opt.imgsz} pixels")
    print(yaml_text(found.reshape(opt.levels, -1).tolist()))
    return found


if __name__ == "__main__":
    run_script(main, parse_opt())
