"""Division into parts: exact, repeatable, and copies of an image stay together."""

from collections import Counter

import pytest

from utils.data.dividing import divide, group_copies


@pytest.mark.parametrize(
    ("count", "shares", "sizes"),
    [
        (200, (0.8, 0.2), [160, 40]),
        (205, (0.8, 0.2), [164, 41]),
        (40, (0.7, 0.2, 0.1), [28, 8, 4]),
        (10, (0.9, 0.1, 0.0), [9, 1, 0]),
        (7, (1, 1, 1), [3, 2, 2]),
        (2, (0.9, 0.1), [1, 1]),
        (3, (0.8, 0.1, 0.1), [1, 1, 1]),
        (1, (0.8, 0.2), [1, 0]),
        (0, (0.8, 0.2), [0, 0]),
        (5, (0.0, 1.0), [0, 5]),
    ],
)
def test_shares_are_kept_exactly(count, shares, sizes):
    parts = divide(range(count), shares)
    found = Counter(parts)
    assert sorted(found[i] for i in range(len(shares))) == sorted(sizes)
    assert all(found[i] == size for i, size in enumerate(sizes)) or count == 7


def test_the_seed_alone_decides():
    groups = range(100)
    assert divide(groups, (0.8, 0.2), 3) == divide(groups, (0.8, 0.2), 3) != divide(groups, (0.8, 0.2), 4)


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_not_torn(seed):
    groups = [0] * 7 + [1] * 3 + [2] * 2 + list(range(3, 91))  # 100 images
    parts = divide(groups, (0.8, 0.2), seed)
    assert Counter(parts) == {0: 80, 1: 20}
    assert all(
        len({part for part, other in zip(parts, groups, strict=True) if other == group}) == 1 for group in groups
    )


def test_a_part_that_no_group_fits_gets_the_smallest():
    assert divide([0, 0, 0, 1, 1, 2, 2, 2, 2], (0.9, 0.1)) == [0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert set(divide([5, 5, 5], (0.5, 0.5))) == {0}


def test_copies_are_grouped_by_content_and_by_roboflows_names(tmp_path):
    contents = {
        "a.jpg": "one",
        "b.jpg": "two",
        "sub/c.jpg": "one",
        "dog_jpg.rf.1a.jpg": "three",
        "dog_jpg.rf.2b.jpg": "fours",
        "e.jpg": "fours",
        "cat_jpg.rf.3c.jpg": "five",
    }
    images = []
    for name, content in contents.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        images.append(path)
    assert group_copies(images) == [0, 1, 0, 3, 3, 3, 6]
