"""Classes and the categories of COCO annotations, paired by their names."""

import pytest

from utils.evaluation.coco import categories_of


@pytest.mark.parametrize(
    ("names", "by_name", "expected"),
    [
        (["cat", "dog"], {"dog": [1], "cat": [7]}, (7, 1)),
        (["cell", "dot", "cell"], {"cell": [3, 9], "dot": [5]}, (3, 5, 9)),
        (["fish"], {"fish": [0, 1]}, (1,)),  # Roboflow's category of the project comes first, and has no objects
        (["02146"], {"02146": [4]}, (4,)),
    ],
)
def test_each_class_has_its_category(names, by_name, expected):
    assert categories_of(names, by_name) == expected
