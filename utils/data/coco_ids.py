"""The numbers that COCO 2017 gives its 80 classes."""

from collections.abc import Sequence

from utils.data.config import DataConfig
from utils.general import ROOT

COCO_YAML = ROOT / "data" / "coco.yaml"
UNUSED_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})  # numbers below 91 that no class of COCO 2017 has
COCO_IDS = tuple(index for index in range(1, 91) if index not in UNUSED_IDS)  # of the 80 classes in their order


def is_coco(names: Sequence[str]) -> bool:
    """Whether these are the 80 classes of COCO in their order, whatever the data set is called."""
    return len(names) == len(COCO_IDS) and tuple(names) == DataConfig.from_yaml(COCO_YAML).names
