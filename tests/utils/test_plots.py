"""Colours, boxes, labels, crops and grids: what is drawn where, and that nothing given is touched."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from utils.files import fonts
from utils.files.images import read_image
from utils.ops.boxes import PAD_VALUE
from utils.plots import (
    CAPTION_HEIGHT,
    Annotator,
    Colors,
    colors,
    crop_box,
    draw_batch,
    plot_batch,
    targets_of,
    text_color,
)

WHITE = np.full((120, 200, 3), 255, np.uint8)
RED = (0, 0, 255)


def drawn_area(image):
    """x1, y1, x2, y2 of the pixels that are not white."""
    rows, columns = np.nonzero((image != 255).any(2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_twenty_colors_are_distinct_and_cycle():
    palette = [colors(i) for i in range(20)]
    distances = [np.abs(np.subtract(a, b)).sum() for i, a in enumerate(palette) for b in palette[:i]]
    assert len(Colors.HEX) == 20
    assert min(distances) > 60
    assert colors(23) == colors(3)
    assert colors(3, bgr=True) == colors(3)[::-1]


def test_text_can_be_read_on_every_color():
    for i in range(20):
        background = np.array(colors(i, bgr=True))
        assert np.abs(background - text_color(tuple(background))).max() > 100


def test_annotator_draws_on_the_array_that_it_is_given():
    image = WHITE.copy()
    annotator = Annotator(image)
    annotator.box_label((10, 40, 60, 90), "cat 0.9", RED)
    assert annotator.result() is image
    assert annotator.im is image
    assert (image != 255).any()


@pytest.mark.parametrize("kind", ["reversed", "frozen", "pil"])
def test_annotator_copies_what_cannot_be_drawn_upon(kind):
    image = WHITE.copy()
    image.flags.writeable = kind != "frozen"
    given = {"reversed": image[..., ::-1], "frozen": image, "pil": Image.fromarray(image)}[kind]
    annotator = Annotator(given)
    annotator.box_label((10, 40, 60, 90), "cat 0.9", RED)
    assert (image == 255).all()
    assert (annotator.result() != 255).any()


def test_annotators_words_of_v61():
    first, second = Annotator(WHITE.copy(), line_width=2), Annotator(im=WHITE.copy(), line_width=2)
    first.box_label((10, 40, 60, 90), "cat", RED, (255, 255, 255))
    second.box_label(list(torch.tensor([10.0, 40, 60, 90])), label="cat", color=RED, txt_color=(255, 255, 255))
    np.testing.assert_array_equal(first.im, second.im)
    second.box_label(torch.tensor([10, 40, 60, 90]), "cat", colors(torch.tensor(3.0), True))
    assert colors.palette[3] == colors(3) == Colors.hex2rgb(f"#{Colors.HEX[3]}")
    assert len(colors.palette) == colors.n == 20


def test_annotators_rectangle_and_text():
    annotator = Annotator(WHITE.copy(), line_width=3)
    annotator.rectangle((10, 20, 60, 40), fill=RED)
    assert drawn_area(annotator.im) == (10, 20, 61, 41)
    annotator.text((70, 100), "cat", RED)
    x1, y1, _, y2 = drawn_area(annotator.im[:, 65:])
    assert x1 >= 5
    assert y1 > 60
    assert y2 <= 101
    annotator.text((-500, -500), "cat")  # beyond the image


@pytest.mark.parametrize(
    ("hw", "expected"), [((64, 64), 2), ((480, 640), 2), ((720, 1280), 3), ((2160, 3840), 9)], ids=str
)
def test_default_line_width(hw, expected):
    assert Annotator(np.zeros((*hw, 3), np.uint8)).lw == expected


@pytest.mark.parametrize("box", [(60, 40, 100, 90), (100, 90, 60, 40), (100, 40, 60, 90)], ids=["plain", "both", "x"])
def test_box_corners_in_any_order(box):
    annotator = Annotator(WHITE.copy(), line_width=1)
    annotator.box_label(box, color=RED)
    assert drawn_area(annotator.result()) == (60, 40, 101, 91)


@pytest.mark.parametrize(
    "box",
    [
        (-50, -50, 400, 400),
        (1e9, 1e9, -1e9, 2e9),
        (float("nan"),) * 4,
        (float("inf"), 0, float("-inf"), 9),
        (5, 5, 5, 5),
    ],
    ids=["around", "far", "nan", "inf", "point"],
)
@pytest.mark.parametrize("label", ["", "cat", "ключ"])
def test_odd_boxes_are_survived(box, label):
    annotator = Annotator(WHITE.copy())
    annotator.box_label(box, label, RED)
    assert annotator.result().shape == WHITE.shape


@pytest.mark.parametrize(
    "label", ["cat 0.87", "Größe 0.87", "кот 0.87", "a label much longer than the picture is wide 0.87"]
)
@pytest.mark.parametrize("corner", [(0, 0), (190, 0), (0, 118), (190, 110), (90, 60)], ids=str)
def test_label_stays_inside_and_can_be_read(label, corner):
    annotator = Annotator(WHITE.copy(), line_width=2)
    annotator.label(corner, label, RED)
    x1, y1, x2, y2 = drawn_area(annotator.result())
    patch = annotator.result()[y1:y2, x1:x2]
    assert y2 - y1 >= 8
    assert (patch[[0, -1]] == RED).all(
        2
    ).mean() > 0.95  # the margin around the letters, on all sides: nothing is cut off
    assert (patch.min(2) > 100).any()  # and the letters


def test_label_above_the_box_where_there_is_room_else_below():
    for top, is_above in ((60, True), (3, False)):
        annotator = Annotator(WHITE.copy(), line_width=1)
        annotator.label((20, top), "cat", RED)
        _, y1, _, y2 = drawn_area(annotator.result())
        assert (y2 <= top + 1) if is_above else (y1 >= top - 1)


def test_labels_lie_above_boxes_drawn_later():
    first, second = (Annotator(WHITE.copy(), line_width=1) for _ in range(2))
    first.labels_last = second.labels_last = True
    first.box_label((20, 60, 90, 100), "cat", RED)
    second.box_label((20, 60, 90, 100), "cat", RED)
    second.box_label((30, 5, 190, 110), color=(255, 0, 0))  # its left edge crosses the label
    np.testing.assert_array_equal(first.result()[50:60, 20:40], second.result()[50:60, 20:40])


def test_words_of_v61s_callers_change_nothing():
    pictures = []
    for words in ({}, {"font": "Arial.ttf", "pil": True, "example": "['cat']"}):
        annotator = Annotator(WHITE.copy(), line_width=3, **words)
        annotator.box_label((10, 40, 60, 90), "cat 0.9", color=RED)
        pictures.append(annotator.result())
    np.testing.assert_array_equal(*pictures)


def test_tiny_image():
    annotator = Annotator(np.zeros((4, 3, 3), np.uint8))
    annotator.box_label((0, 0, 3, 4), "cat 0.9", RED)
    assert annotator.result().shape == (4, 3, 3)


def test_labels_of_the_same_letters_look_alike_in_both_fonts():
    ascii_height, other_height = (
        np.ptp(np.nonzero((Annotator(WHITE.copy(), 3).im != drawn).any(2))[0])
        for drawn in (draw_text("xx"), draw_text("x\u0445"))  # a Cyrillic x
    )
    assert abs(ascii_height - other_height) <= 8


def draw_text(text):
    annotator = Annotator(WHITE.copy(), 3)
    annotator.label((20, 80), text, RED)
    return annotator.result()


def test_font_has_the_glyphs():
    path = fonts.find_font("кот")
    assert path is None or fonts.has_glyphs(fonts.load_font("кот", 16), "кот")
    assert not fonts.has_glyphs(fonts.load_font("a", 16), "\U0010fffe")


def test_missing_glyphs_are_named_once(caplog, monkeypatch):
    monkeypatch.setattr(fonts, "TOLD", set())
    with caplog.at_level(logging.WARNING, "yolov5"):
        assert fonts.find_font("\U0010fffd") is None
        assert fonts.find_font("\U0010fffc") is None
    assert len(caplog.records) == 1
    assert "\\U0010fffd" in caplog.text


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((40, 40, 90, 60), (34, 34, 95, 65)),  # 50 x 20 -> 61 x 30.4 around (65, 50)
        ((-20, -20, 20, 20), (0, 0, 25, 25)),
        ((190, 110, 240, 160), (184, 104, 200, 120)),
    ],
    ids=["inside", "upper left", "lower right"],
)
def test_crop_is_two_percent_and_ten_pixels_larger(box, expected):
    image = np.random.default_rng(0).integers(0, 255, (120, 200, 3), np.uint8)
    x1, y1, x2, y2 = expected
    np.testing.assert_array_equal(crop_box(image, torch.tensor(box, dtype=torch.float32)), image[y1:y2, x1:x2])


def test_crop_outside_is_empty():
    assert crop_box(WHITE, torch.tensor([500.0, 500, 600, 600])).size == 0


@pytest.mark.parametrize(
    ("count", "hw"), [(1, (240, 360)), (2, (240, 720)), (3, (480, 720)), (5, (480, 1080)), (20, (960, 1440))]
)
def test_grid_size(count, hw):
    assert draw_batch(torch.zeros(count, 3, 240, 360, dtype=torch.uint8), torch.zeros(0, 6), []).shape == (*hw, 3)


@pytest.mark.parametrize(
    ("count", "hw", "max_side", "expected"),
    [
        (1, (64, 64), 1920, (320, 320)),
        (4, (100, 200), 1920, (320, 640)),
        (16, (64, 64), 640, (640, 640)),  # 160 each: more there is no room for
        (16, (64, 64), 128, (128, 128)),
    ],
)
def test_small_images_are_enlarged(count, hw, max_side, expected):
    images = torch.full((count, 3, *hw), 90, dtype=torch.uint8)
    grid = draw_batch(images, torch.zeros(0, 6), [], max_side=max_side)
    assert grid.shape == (*expected, 3)
    assert np.unique(grid).tolist() == [90, 255]


def test_an_unused_tile_is_gray():
    grid = draw_batch(torch.zeros(3, 3, 320, 320, dtype=torch.uint8), torch.zeros(0, 6), [])
    assert (grid[320:, 320:] == PAD_VALUE).all()


def test_labels_and_the_files_name_do_not_cover_each_other():
    targets = torch.tensor([[0, 0, 0.5, 0.5, 1, 1]])
    images = torch.zeros(1, 3, 320, 320, dtype=torch.uint8)
    plain, labelled = (draw_batch(images, rows, ["a long label"], ["name.jpg"]) for rows in (targets[:0], targets))
    assert (labelled[:CAPTION_HEIGHT] == plain[:CAPTION_HEIGHT]).all()
    assert (labelled[CAPTION_HEIGHT:] == draw_batch(images, targets, ["a long label"])).all()


def test_labels_leave_most_of_a_small_image_to_be_seen():
    targets = torch.tensor([[0, 0, 0.5, 0.5, 0.9, 0.9]])
    plain, labelled = (draw_batch(torch.zeros(1, 3, 64, 64), targets, [name]) for name in ("", "triangle"))
    assert (plain != labelled).any(2).mean() < 0.05


def test_large_grid_is_made_smaller():
    image = draw_batch(torch.zeros(9, 3, 320, 640, dtype=torch.uint8), torch.zeros(0, 6), [], max_side=960)
    assert image.shape == (480, 960, 3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_grid_shows_the_batch_and_leaves_it_alone(dtype):
    images = torch.zeros(2, 3, 320, 320, dtype=dtype)
    images[0, 0] = 255 if dtype == torch.uint8 else 1  # red
    before = images.clone()
    targets = torch.tensor([[1, 0, 0.5, 0.5, 0.5, 0.5]])
    grid = draw_batch(images, targets, ["cat"])
    assert torch.equal(images, before)
    assert (grid[2:318, 2:318] == RED).all()
    inner = grid[:, 320:]
    assert tuple(inner[200, 80]) == colors(0, bgr=True)  # the left edge of the box
    assert (inner[110:230, 90:230] == 0).all()  # and nothing in it


@pytest.mark.parametrize("columns", [6, 7])
def test_unknown_class_and_confidence(columns):
    row = [0, 7, 0.5, 0.5, 0.2, 0.2, 0.8][:columns]
    assert draw_batch(torch.zeros(1, 3, 64, 64), torch.tensor([row]), ["cat"]).any()


def test_plot_images_has_written_when_it_returns(tmp_path):
    plot_batch(torch.zeros(2, 3, 64, 64), torch.zeros(0, 6), tmp_path / "é.jpg", ["cat"], ["a/b.jpg", "c.jpg"])
    assert read_image(tmp_path / "é.jpg").shape == (320 + CAPTION_HEIGHT, 640, 3)


def test_predictions_become_targets():
    first = torch.tensor([[10.0, 20, 30, 60, 0.9, 2], [0, 0, 64, 32, 0.2, 1]])
    rows = targets_of([first, torch.zeros(0, 6), first[:1]], (64, 128))
    expected = [20 / 128, 40 / 64, 20 / 128, 40 / 64, 0.9]
    torch.testing.assert_close(rows, torch.tensor([[0, 2, *expected], [2, 2, *expected]]))


def test_captions_are_drawn():
    plain, captioned = (
        draw_batch(torch.zeros(1, 3, 64, 256), torch.zeros(0, 6), [], paths) for paths in ((), ("a/name.jpg",))
    )
    assert (captioned[CAPTION_HEIGHT:] == plain).all()
    assert np.ptp(captioned[:CAPTION_HEIGHT]) > 100
