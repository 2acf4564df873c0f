"""Category ids of COCO 2017's 80 classes."""

from collections.abc import Sequence

from utils.data.config import DataConfig
from utils.general import ROOT

COCO_YAML = ROOT / "data" / "coco.yaml"
UNUSED_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})  # numbers below 91 that no class of COCO 2017 has
COCO_IDS = tuple(index for index in range(1, 91) if index not in UNUSED_IDS)  # of the 80 classes in their order


def is_coco(names: Sequence[str]) -> bool:
    """Return True if the names are COCO's 80 classes in order, whatever the data set is called."""
    return len(names) == len(COCO_IDS) and tuple(names) == DataConfig.from_yaml(COCO_YAML).names
