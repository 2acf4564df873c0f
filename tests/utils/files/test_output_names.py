"""Names of results: an input's own where nobody else wants it, and never that of another input."""

import itertools
from pathlib import Path

import pytest

from utils.files.output_names import NamesAsTheyCome, distinct_names, key, output_names


def crops(name, is_video=False):
    """The names of an input's first five crops."""
    stems = [f"{name.stem}_{number}" for number in (1, 2, 3)] if is_video else [name.stem]
    return {key(stem + end) for stem in stems for end in ("", *(f"{name.separator}{i}" for i in range(2, 6)))}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], []),
        (["s/a.jpg", "s/b.v2.png"], ["a", "b.v2"]),
        (["img1.jpg", "img1.png", "img12.jpg"], ["img1_jpg", "img1_png", "img12"]),
        (["a/img.jpg", "b/img.jpg", "img2.jpg"], ["a_img", "b_img", "img2"]),
        (["a/img.jpg", "b/img.jpg", "a_img.jpg"], ["a_img_jpg", "b_img", "a_img"]),
        (["a/img.jpg", "a/img.png", "b/img.jpg"], ["a_img_jpg", "img_png", "b_img"]),
        (["v/x/i.jpg", "w/x/i.jpg"], ["v_x_i", "w_x_i"]),
        (["s/A.jpg", "s/a.jpg", "s/a_2.jpg"], ["A", "a_3", "a_2"]),  # one name where case makes no difference
        (["s/e\u0301.jpg", "s/\u00e9.jpg"], ["e\u0301", "\u00e9_2"]),  # and one in macOS
        (["a.jpg", "./a.jpg", "a.jpg", "a_2.jpg"], ["a", "a_3", "a_4", "a_2"]),  # one file, named again
        (["10:00:00.jpg", "what?.jpg", "shot .jpg"], ["10:00:00", "what?", "shot "]),
        (["clip.jpg", "clip.mp4"], ["clip", "clip"]),  # whose label files are clip.txt and clip_1.txt
        (["clip_7.jpg", "clip.mp4"], ["clip_7", "clip_mp4"]),
        (["clip.avi", "clip.mov"], ["clip_avi", "clip_mov"]),
        (["http://h/get?id=1", "http://h/get?id=2"], ["get", "get_2"]),  # a query may hold a secret
        (["http://u:pw@h/x/a%3Ab.jpg?key=pw", "http://i/x/a:b.jpg"], ["h_x_a_b", "i_x_a_b"]),
    ],
)
def test_stems(files, expected):
    assert [name.stem for name in output_names(files)] == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["img1.jpg", "img1.png"], ["img1", "img1"]),  # img1.jpg and img1.png are two files
        (["s/img.JPG", "s/img.jpg"], ["img", "img_2"]),
        (["a/img.jpg", "b/img.jpg"], ["a_img", "b_img"]),
        (["clip.jpg", "clip.mp4"], ["clip", "clip"]),
        (["clip.avi", "clip.mov"], ["clip_avi", "clip_mov"]),  # both become .mp4
    ],
)
def test_pictures(files, expected):
    assert [name.picture for name in output_names(files)] == expected


@pytest.mark.parametrize(
    "stems", [("frame", "frame_2"), ("frame", "frame_2", "frame__2"), ("a", "a_", "a_2"), ("A", "a_2", "a_2_2")]
)
def test_no_crop_is_called_as_that_of_another_image(stems):
    for order in itertools.permutations(stems):
        names = output_names([f"s/{stem}.jpg" for stem in order])
        assert {name.stem for name in names} == set(stems)
        for one, other in itertools.combinations(names, 2):
            assert not crops(one) & crops(other)


@pytest.mark.parametrize("others", [["clip.jpg"], ["clip_2.jpg"], ["clip_2_3.jpg"], ["clip_1.mp4"], ["clip_1_.mp4"]])
def test_no_crop_of_a_video_is_called_as_that_of_another_input(others):
    files = ["clip.mp4", *others]
    names = output_names(files)
    found = [crops(name, is_video=file.endswith("mp4")) for file, name in zip(files, names, strict=True)]
    for one, other in itertools.combinations(found, 2):
        assert not one & other


def test_long_names_leave_room_for_a_number_and_a_suffix():
    names = output_names([f"s/{'猫' * 80}{letter}.jpg" for letter in "abc"])
    assert len({name.stem for name in names}) == 3
    assert max(len(name.stem.encode()) for name in names) <= 210


def test_inputs_that_come_one_after_another():
    namer = NamesAsTheyCome()
    files = ["a/x.jpg", "b/x.png", "b/x.jpg", "b/x.jpg", "v.mp4", "v_1.jpg"]
    names = [namer.next(file) for file in files]
    assert [name.stem for name in names] == ["x", "x_png", "x_jpg", "b_x", "v", "v_1_jpg"]
    assert [name.picture for name in names[:3]] == ["x", "x", "x_jpg"]


def test_distinct_names():
    assert distinct_names(["bus", "bus", "Bus", "bus_2", "car"]) == ["bus", "bus_3", "Bus_4", "bus_2", "car"]


def test_nothing_is_lost_among_many():
    files = [
        f"{folder}/{stem}.{suffix}" for folder in "abc" for stem in ("x", "X", "y_2", "y") for suffix in ("jpg", "png")
    ]
    names = output_names(files)
    assert len({key(name.stem) for name in names}) == len(files)
    pictures = {key(f"{name.picture}{Path(file).suffix}") for file, name in zip(files, names, strict=True)}
    assert len(pictures) == len(files)
