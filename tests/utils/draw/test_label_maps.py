"""Maps of labels: every label is counted once, where it is, and labels.json holds it."""

import json

import numpy as np

from utils.draw.label_maps import GRID, LabelMaps, class_table, label_charts, write_label_maps


def test_counts_places_and_sizes(tmp_path):
    labels = np.array([[1, 0, 1, 0.25, 0.5], [1, 0.5, 0.25, 1, 1], [0, 0.5, 0.25, 0.1, 0.1]], np.float32)
    write_label_maps([labels, np.zeros((0, 5), np.float32)], ["a", "b", "c"], tmp_path / "labels.json")
    maps = json.loads((tmp_path / "labels.json").read_text())
    assert (maps["images"], maps["background"], maps["counts"]) == (2, 1, [1, 2, 0])
    centres, sizes = np.array(maps["centres"]), np.array(maps["sizes"])
    assert centres.sum() == sizes.sum() == 3
    assert centres[0, GRID - 1] == 1  # x 0; y 1 belongs to the last cell
    assert centres[GRID // 2, GRID // 4] == 2
    assert sizes[GRID // 4, GRID // 2] == sizes[GRID - 1, GRID - 1] == 1
    np.testing.assert_allclose(maps["sides"], [0.1, 1], rtol=1e-6)


def test_no_labels():
    maps = LabelMaps(["<b>"]).to_dict()
    assert json.loads(json.dumps(maps, allow_nan=False))["sides"] is None
    assert label_charts(maps) == ""
    assert "&lt;b&gt;" in class_table(maps)
    assert class_table(LabelMaps([]).to_dict()) == ""
