"""Labels must follow pixels: objects are drawn, augmented and found again by their colour."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.augmentations import (
    GRAY,
    Scene,
    Source,
    Tile,
    augment_hsv,
    copy_paste,
    covered_share,
    flip,
    letterbox,
    letterbox_scene,
    mixup,
    mosaic,
    polygon_bounds,
    random_matrix,
    random_perspective,
    render,
    scaling,
    to_pixels,
    transform_labels,
    transform_points,
)
from utils.ops.boxes import PAD_VALUE

LETTERBOX = json.loads((Path(__file__).parents[1] / "golden" / "letterbox.json").read_text())
STILL = {"degrees": 0, "translate": 0, "scale": 0, "shear": 0, "perspective": 0}
COLOURS = ((0, 0, 255), (0, 255, 0), (255, 0, 0), (0, 255, 255))  # BGR
WARPS = {
    "still": STILL,
    "default": STILL | {"translate": 0.1, "scale": 0.5},
    "rotated": STILL | {"degrees": 30, "translate": 0.1},
    "sheared": STILL | {"shear": 10, "scale": 0.3},
    "perspective": STILL | {"perspective": 0.001, "scale": 0.3},
    "all": {"degrees": 20, "translate": 0.1, "scale": 0.5, "shear": 5, "perspective": 0.0005},
}


def drawn(hw, box_xyxy, colour=COLOURS[0], kind=0, polygon=None) -> Source:
    """A dark image with one coloured rectangle (or polygon, in pixels), labelled."""
    h, w = hw
    image = np.full((h, w, 3), 20, np.uint8)
    x1, y1, x2, y2 = box_xyxy
    if polygon is None:
        image[y1:y2, x1:x2] = colour
    else:
        share = coverage(np.array(polygon), hw)[..., None]
        image = np.rint(share * colour + (1 - share) * image).astype(np.uint8)
    labels = np.array([[kind, (x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h]], np.float32)
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)] if polygon is None else polygon
    return Source(image, labels, (np.array(corners, np.float32) / (w, h),))


def coverage(polygon, hw) -> np.ndarray:
    """The share of each pixel that a polygon covers; fillPoly alone would also paint pixels that it merely touches."""
    fine = np.zeros((hw[0] * 16, hw[1] * 16), np.uint8)
    cv2.fillPoly(fine, [np.round((polygon * 16 - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return fine.reshape(hw[0], 16, hw[1], 16).mean((1, 3))


def textured(hw, rng, n=5) -> Source:
    """A smooth picture with n random boxes and no polygons."""
    image = cv2.GaussianBlur(rng.integers(0, 256, (*hw, 3), np.uint8), (0, 0), 3)
    wh = rng.uniform(0.05, 0.4, (n, 2))
    xy = rng.uniform(wh / 2, 1 - wh / 2)
    return Source(image, np.concatenate((rng.integers(0, 3, (n, 1)), xy, wh), 1).astype(np.float32))


def colour_bounds(image, colour) -> np.ndarray | None:
    """The xyxy bounds of the pixels that are nearer to the colour than to the dark background."""
    distance = np.abs(image.astype(int) - colour).max(-1)
    ys, xs = np.nonzero(distance < 118)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) if len(xs) else None


# Letterbox ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", LETTERBOX, ids=lambda case: "x".join(map(str, case["image_hw"])))
def test_letterbox_gives_the_numbers_of_the_original(case):
    new_shape = case["new_shape"] if isinstance(case["new_shape"], int) else tuple(case["new_shape"])
    image, ratio, pad = letterbox(np.zeros((*case["image_hw"], 3), np.uint8), new_shape, auto=case["auto"])
    assert image.shape == (*case["out_hw"], 3)
    assert list(ratio) == pytest.approx(case["ratio_wh"])
    assert list(pad) == case["pad_wh"]


@pytest.mark.parametrize(
    ("options", "hw", "ratio", "pad"),
    [
        ({"auto": False, "scaleup": False}, (64, 64), (1, 1), (16, 22)),
        ({"auto": False, "scaleFill": True}, (64, 64), (2, 3.2), (0, 0)),
        ({"auto": True, "scaleup": False}, (20, 32), (1, 1), (0, 0)),
    ],
)
def test_letterbox_options(options, hw, ratio, pad):
    image, *facts = letterbox(np.full((20, 32, 3), 7, np.uint8), 64, stride=4, **options)
    assert image.shape == (*hw, 3)
    assert facts == [ratio, pad]
    assert (image == 7).all() or (image[0, 0] == GRAY).all()


def test_letterbox_of_an_extreme_strip_keeps_a_pixel():
    assert letterbox(np.zeros((1, 2000, 3), np.uint8), 320)[0].shape == (32, 320, 3)


# Geometry -------------------------------------------------------------------------------------------------------------


def classic_mosaic(sources, size, rng):
    """The four tiles painted on a canvas of twice the size, and their boxes there; the same draws as `mosaic`."""
    canvas, labels = np.full((2 * size, 2 * size, 3), PAD_VALUE, np.uint8), []
    x, y = (int(v) for v in rng.uniform(size / 2, 3 * size / 2, 2))
    for i, (image, rows, _) in enumerate(sources):
        h, w = image.shape[:2]
        left, top = [(x - w, y - h), (x, y - h), (x - w, y), (x, y)][i]
        for row in range(max(top, 0), min(top + h, 2 * size)):
            begin, end = max(left, 0), min(left + w, 2 * size)
            canvas[row, begin:end] = image[row - top, begin - left : end - left]
        for kind, cx, cy, bw, bh in rows:
            box = (cx - bw / 2) * w + left, (cy - bh / 2) * h + top, (cx + bw / 2) * w + left, (cy + bh / 2) * h + top
            labels.append([kind, *np.clip(box, 0, 2 * size)])
    return canvas, np.array(labels)


def classic_warp(canvas, labels, matrix, zoom, size):
    """The canvas warped at once, the boxes by their four corners."""
    half = scaling(1, 1, 0.5, 0.5)
    image = cv2.warpPerspective(canvas, np.linalg.inv(half) @ matrix @ half, (size, size), borderValue=GRAY)
    kept = []
    for kind, x1, y1, x2, y2 in labels:
        points = [matrix @ (x, y, 1) for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))]
        xs, ys = zip(*((p[0] / p[2], p[1] / p[2]) for p in points), strict=True)
        box = np.clip((min(xs), min(ys), max(xs), max(ys)), 0, size)
        w, h = box[2:] - box[:2]
        area = (x2 - x1) * (y2 - y1) * zoom**2
        if w > 2 and h > 2 and w * h > 0.1 * area and max(w / h, h / w) < 100:
            kept.append([kind, *box])
    return image, np.array(kept)


@pytest.mark.parametrize("warp", WARPS.values(), ids=WARPS)
@pytest.mark.parametrize("seed", range(6))
def test_a_rendered_mosaic_equals_the_warped_canvas(warp, seed):
    rng, size = np.random.default_rng(seed), 96
    sources = [textured(hw, rng) for hw in ((96, 72), (60, 96), (96, 96), (80, 96))]
    scene = mosaic(sources, size, np.random.default_rng(seed))
    canvas, canvas_labels = classic_mosaic(sources, size, np.random.default_rng(seed))
    draws = dict(warp, canvas_hw=scene.hw, out_hw=(size, size))
    matrix, zoom = random_matrix(**draws, rng=np.random.default_rng(seed))
    expected, expected_labels = classic_warp(canvas, canvas_labels, matrix, zoom, size)

    image, labels = random_perspective(scene, (size, size), **warp, rng=np.random.default_rng(seed))
    difference = np.abs(image.astype(int) - expected).max(-1)
    # What is left: where a taller tile ends beside a shorter one its rim is one pixel wider.
    assert np.quantile(difference, 0.98) <= 2
    np.testing.assert_allclose(labels, expected_labels, atol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_tiles_of_equal_size_leave_no_seam(seed):
    rng = np.random.default_rng(seed)
    sources = [textured((64, 64), rng) for _ in range(4)]
    sources = [source._replace(image=source.image // 2 + 127) for source in sources]  # far from the canvas' gray
    scene = mosaic(sources, 64, np.random.default_rng(seed))
    canvas, _ = classic_mosaic(sources, 64, np.random.default_rng(seed))
    matrix, zoom = random_matrix(scene.hw, (64, 64), 20, 0.1, 0.5, 5, 0.0005, rng)
    expected, _ = classic_warp(canvas, (), matrix, zoom, 64)
    difference = np.abs(render(scene.tiles, matrix, (64, 64)).astype(int) - expected)
    assert np.quantile(difference, 0.999) <= 2
    assert difference.max() <= 25  # at the centre, where four pictures meet


@pytest.mark.parametrize("warp", WARPS.values(), ids=WARPS)
def test_labels_follow_pixels_through_mosaics(warp):
    size, errors = 320, []
    outline = [(40, 150), (90, 40), (200, 60), (230, 170), (120, 130), (90, 200)]  # not convex
    box = 40, 40, 230, 200
    sources = [
        drawn((240, 320), box, COLOURS[0], 0, outline),
        drawn((320, 240), (30, 100, 170, 260), COLOURS[1], 1),
        drawn((320, 320), (100, 60, 260, 250), COLOURS[2], 2),
        drawn((200, 320), box, COLOURS[3], 3, outline),
    ]
    for seed in range(25):
        rng = np.random.default_rng(seed)
        image, labels = random_perspective(mosaic(sources, size, rng), (size, size), **warp, rng=rng)
        for axis in (0, 1):
            if rng.random() < 0.5:
                image, labels = flip(image, labels, axis)
        for kind, *box_xyxy in labels:
            found = colour_bounds(image, COLOURS[int(kind)])
            errors.extend(np.abs(box_xyxy - found))
    assert len(errors) > 4 * 40
    assert np.quantile(errors, 0.98) < 2
    assert max(errors) < 6  # a tip that the frame cuts off is too thin to be seen


@pytest.mark.parametrize("warp", WARPS.values(), ids=WARPS)
def test_labels_follow_pixels_through_letterbox(warp):
    compared = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        source = drawn((160, 200), (30, 40, 150, 110))._replace(polygons=())
        image, labels = random_perspective(letterbox_scene(source, (256, 320)), (256, 320), **warp, rng=rng)
        for _, *box_xyxy in labels:
            x1, y1, x2, y2 = box_xyxy
            if (
                x1 > 0 and y1 > 0 and x2 < 320 and y2 < 256
            ):  # a turned box that is cut is larger than what is seen of it
                np.testing.assert_allclose(box_xyxy, colour_bounds(image, COLOURS[0]), atol=2.5)
                compared += 1
    assert compared > 5


def test_nothing_to_do_is_identity():
    source = textured((48, 64), np.random.default_rng(0))
    image, labels = random_perspective(
        letterbox_scene(source, (64, 64)), (64, 64), **STILL, rng=np.random.default_rng(0)
    )
    expected, _, _ = letterbox(source.image, 64, auto=False)
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_allclose(labels, to_pixels(source, (48, 64), (0, 8))[0], atol=1e-4)
    assert (augment_hsv(image, 0, 0, 0, np.random.default_rng(0)) == image).all()


def test_no_labels_stay_no_labels():
    rng = np.random.default_rng(0)
    empty = Source(np.zeros((32, 32, 3), np.uint8), np.zeros((0, 5), np.float32))
    scene = copy_paste(mosaic([empty] * 4, 32, rng), 1.0, rng)
    image, labels = random_perspective(scene, (32, 32), **WARPS["all"], rng=rng)
    assert labels.shape == (0, 5)
    assert image.shape == (32, 32, 3)
    assert flip(image, labels, 1)[1].shape == (0, 5)
    assert mixup(image, labels, image, labels, rng)[1].shape == (0, 5)


def test_every_output_pixel_outside_the_tiles_is_gray():
    tile = Tile(np.zeros((10, 10, 3), np.uint8), scaling(1, 1, 5, 5))
    image = render([tile], np.eye(3), (20, 20))
    assert (image[5:15, 5:15] == 0).all()
    image[5:15, 5:15] = GRAY
    assert (image == PAD_VALUE).all()
    assert (render([tile], scaling(1, 1, 500, 0), (20, 20)) == PAD_VALUE).all()


def test_a_canvas_never_reaches_behind_the_viewer():
    for seed in range(50):
        matrix, _ = random_matrix((1280, 1280), (640, 640), 0, 0, 0, 0, 0.01, np.random.default_rng(seed))
        corners = np.array([[0, 0, 1], [1280, 0, 1], [0, 1280, 1], [1280, 1280, 1]])
        assert (corners @ matrix[2] > 0).all()


@pytest.mark.parametrize(
    ("box", "zoom", "kept"),
    [
        ((10, 10, 30, 30), 1, True),
        ((10, 10, 12, 30), 1, False),  # not wider than 2 px
        ((-95, 10, 5, 30), 1, False),  # a twentieth left
        ((-85, 10, 15, 30), 1, True),
        ((0, 10, 900, 13), 1, False),  # too thin
        ((30, 30, 30, 30), 1, False),
    ],
)
def test_labels_hardly_in_sight_are_dropped(box, zoom, kept):
    scene = Scene((100, 1000), (), np.array([[1, *box]], np.float32))
    assert len(transform_labels(scene, np.eye(3), zoom, (100, 1000))) == kept


def test_polygons_and_boxes_of_one_image_keep_their_rows():
    """A box row between polygon rows: each label takes its own polygon or its own corners."""
    rows = np.array([[0, 25, 25, 45, 45], [1, 40, 40, 60, 60], [2, 55, 55, 75, 75]], np.float32)
    triangle = np.array([[25, 25], [45, 25], [25, 45]], np.float32)
    scene = Scene((100, 100), (), rows, (triangle, None, triangle + 30))
    turn = scaling(1, 1, 50, 50) @ np.array([[0.6, 0.8, 0], [-0.8, 0.6, 0], [0, 0, 1]]) @ scaling(1, 1, -50, -50)
    labels = transform_labels(scene, turn, 1, (100, 100))
    assert labels[:, 0].tolist() == [0, 1, 2]
    for row, points in enumerate((triangle, np.array([[40, 40], [60, 40], [60, 60], [40, 60]]), triangle + 30)):
        moved = transform_points(points, turn)
        np.testing.assert_allclose(labels[row, 1:], [*moved.min(0), *moved.max(0)], atol=1e-4)


FRAME_CASES = {
    "inside": ([(10, 20), (50, 20), (30, 60)], (10, 20, 50, 60)),
    "cut": ([(-20, 20), (20, 20), (20, 40), (-20, 40)], (0, 20, 20, 40)),
    "slanted cut": ([(-40, 50), (40, 10), (40, 90)], (0, 10, 40, 80)),
    "outside": ([(-40, 50), (-10, 10), (-10, 90)], (0, 0, 0, 0)),
    "round a corner outside": ([(-30, 5), (5, -30), (-30, -30)], (0, 0, 0, 0)),
    "all around": ([(-50, -50), (150, -50), (150, 150), (-50, 150)], (0, 0, 100, 80)),
    "right half": ([(60, -50), (150, -50), (150, 150), (60, 150)], (60, 0, 100, 80)),
    "hole": ([(-9, -9), (109, -9), (109, 89), (-9, 89), (-9, 40), (30, 40), (30, 50), (-9, 50)], (0, 0, 100, 80)),
    "on the rim": ([(0, 0), (100, 0), (100, 80), (0, 80)], (0, 0, 100, 80)),
}


@pytest.mark.parametrize("case", FRAME_CASES, ids=str)
def test_polygon_bounds_in_a_frame(case):
    points, expected = FRAME_CASES[case]
    np.testing.assert_allclose(polygon_bounds([np.array(points)], (80, 100))[0], expected, atol=1e-9)


def test_polygon_bounds_of_many_at_once_equal_those_of_each():
    rng = np.random.default_rng(0)
    polygons = [rng.uniform(-60, 160, (rng.integers(3, 9), 2)) for _ in range(40)]
    together = polygon_bounds(polygons, (80, 100))
    np.testing.assert_array_equal(together, np.concatenate([polygon_bounds([p], (80, 100)) for p in polygons]))
    for points, (x1, y1, x2, y2) in zip(polygons, together, strict=True):
        ys, xs = np.nonzero(coverage(points + 60, (220, 240))[60:140, 60:160] > 0.01)
        if len(xs):
            np.testing.assert_allclose((x1, y1, x2, y2), (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), atol=2)


# Copy-paste, mixup, colours, flips ------------------------------------------------------------------------------------


def pasting_scene(colour=COLOURS[0], second=None) -> Scene:
    source = drawn((100, 200), (10, 20, 50, 60), colour, 1, [(10, 20), (50, 20), (10, 60)])
    labels, polygons = to_pixels(source, (100, 200), (0, 0))
    if second is not None:
        labels, polygons = np.concatenate((np.array([[0, *second]], np.float32), labels)), (None, *polygons)
    return Scene((100, 200), (Tile(source.image, np.eye(3)),), labels, polygons)


@pytest.mark.parametrize("colour", [COLOURS[0], (0, 0, 0)], ids=["red", "black"])
def test_copy_paste_shows_the_mirrored_object_and_its_label(colour):
    rng = np.random.default_rng(0)
    scene = copy_paste(pasting_scene(colour), 1.0, rng)
    image, labels = random_perspective(scene, (100, 200), **STILL, rng=rng)
    assert labels.tolist() == [[1, 10, 20, 50, 60], [1, 150, 20, 190, 60]]
    assert (image[25, 185] == colour).all()
    assert (image[55, 155] == 20).all(), "the corner outside the triangle stays"


@pytest.mark.parametrize(("second", "pasted"), [((150, 20, 190, 60), 0), ((0, 70, 20, 90), 1), ((140, 0, 199, 99), 1)])
def test_copy_paste_hides_no_other_object_and_takes_only_polygons(second, pasted):
    scene = copy_paste(pasting_scene(second=second), 1.0, np.random.default_rng(0))
    assert len(scene.pasted) == pasted
    assert len(scene.labels) == len(scene.polygons) == 2 + pasted
    assert scene.labels[2:, 0].tolist() == [1] * pasted


def test_copy_paste_follows_the_warp():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        scene = copy_paste(pasting_scene(), 1.0, rng)
        scene = scene._replace(labels=scene.labels[1:], polygons=scene.polygons[1:])
        image, labels = random_perspective(scene, (100, 200), **WARPS["all"] | {"scale": 0.2}, rng=rng)
        image[:, : 200 // 2] = 0  # the original
        for _, *box_xyxy in labels:
            if box_xyxy[0] > 110:
                np.testing.assert_allclose(box_xyxy, colour_bounds(image, COLOURS[0]), atol=3.5)


def test_covered_share():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    np.testing.assert_allclose(covered_share(boxes, np.array([0, 0, 10, 5])), [0.5, 0.25, 0], atol=1e-6)


def test_mixup_joins_labels_and_averages_pixels():
    a, b = np.full((8, 8, 3), 200, np.uint8), np.full((8, 8, 3), 100, np.uint8)
    image, labels = mixup(a, np.zeros((2, 5), np.float32), b, np.ones((1, 5), np.float32), np.random.default_rng(0))
    assert 125 < image.mean() < 175
    assert labels[:, 0].tolist() == [0, 0, 1]


def test_hsv_changes_what_its_gains_name():
    image = cv2.cvtColor(np.full((4, 4, 3), (60, 100, 120), np.uint8), cv2.COLOR_HSV2BGR)
    for channel in range(3):
        gains = [0.0, 0.0, 0.0]
        gains[channel] = 0.3
        seen = [
            cv2.cvtColor(augment_hsv(image, *gains, np.random.default_rng(i)), cv2.COLOR_BGR2HSV)[0, 0].astype(int)
            for i in range(20)
        ]
        spread = np.ptp(seen, axis=0)
        assert spread[channel] > 10
        assert np.delete(spread, channel).max() <= 3


def test_hsv_leaves_its_input_alone():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image.flags.writeable = False
    assert (augment_hsv(image, 0.1, 0.5, 0.5, np.random.default_rng(0)) != image).any()


@pytest.mark.parametrize("axis", [0, 1])
def test_flips(axis):
    source = drawn((40, 60), (5, 6, 25, 16))
    labels, _ = to_pixels(source, (40, 60), (0, 0))
    image, mirrored = flip(source.image, labels, axis)
    np.testing.assert_allclose(mirrored[0, 1:], colour_bounds(image, COLOURS[0]), atol=1e-3)
    again, original = flip(image, mirrored, axis)
    assert (again == source.image).all()
    np.testing.assert_allclose(original, labels)
