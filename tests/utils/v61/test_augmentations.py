"""v6.1's choice of boxes after augmentation."""

import numpy as np

from utils.augmentations import box_candidates


def test_box_candidates_follow_their_definition() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 60, (2, 2, 300))
    before, after = (np.concatenate((c, c + rng.uniform(0, 40, (2, 300)) ** 2 / 10)) for c in corners)
    kept = box_candidates(before, after, wh_thr=3, ar_thr=4, area_thr=0.2)
    expected = []
    for (x1, y1, x2, y2), (u1, v1, u2, v2) in zip(before.T, after.T, strict=True):
        w, h = u2 - u1, v2 - v1
        area = (x2 - x1) * (y2 - y1)
        expected.append(w > 3 and h > 3 and w * h > 0.2 * area and max(w / h, h / w) < 4)
    assert kept.tolist() == expected
    assert 0 < sum(expected) < 300
