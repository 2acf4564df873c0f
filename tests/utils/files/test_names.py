"""Names of folders: safe ones, and of each class its own."""

import pytest

from utils.files.names import folder_names


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        ([], []),
        (["cat", "dog"], ["cat", "dog"]),
        (["cell", "dot", "cell"], ["cell_0", "dot", "cell_2"]),
        (["a/b", "a:b", "a_b"], ["a_b_0", "a_b_1", "a_b_2"]),
        (["Cat", "cat"], ["Cat_0", "cat_1"]),
        (["cell", "cell", "cell_1"], ["cell_0", "cell_1_", "cell_1"]),
        (["..", "02146", "$a_$"], ["_", "02146", "$a_$"]),
    ],
)
def test_each_class_has_a_folder_of_its_own(names, folders):
    assert folder_names(names) == folders
