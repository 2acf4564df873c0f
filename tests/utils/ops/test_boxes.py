"""Box formats: round trips as tensor and array, and the way back from the letterboxed image to the original one."""

import numpy as np
import pytest
import torch

from utils.augmentations import letterbox, letterbox_placement
from utils.ops.boxes import (
    clip_coords,
    clipped_coords,
    scale_coords,
    scaled_coords,
    xywh2xyxy,
    xywhn2xyxy,
    xyxy2xywh,
    xyxy2xywhn,
)

KINDS = [
    pytest.param(torch.tensor, id="tensor"),
    pytest.param(lambda x: torch.tensor(x).double(), id="double"),
    pytest.param(np.array, id="array"),
]
SHAPES = [(1, 1), (3, 640), (640, 3), (480, 640), (1080, 1920), (719, 1281), (33, 31), (2000, 100)]


def drawn(hw, count=50, seed=0):
    """Boxes xyxy (count, 4) of whole pixels inside an image of hw."""
    rng = np.random.default_rng(seed)
    x, y = (np.sort(rng.uniform(0, side, (count, 2)), 1) for side in hw[::-1])
    return np.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), 1)


def close(a, b, tolerance=1e-6):
    return np.allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("xyxy", "xywh"),
    [([0.0, 0.0, 10.0, 20.0], [5.0, 10.0, 10.0, 20.0]), ([2.0, 3.0, 2.0, 3.0], [2.0, 3.0, 0.0, 0.0])],
)
def test_corners_and_centre(kind, xyxy, xywh):
    assert close(xyxy2xywh(kind([xyxy])), [xywh])
    assert close(xywh2xyxy(kind([xywh])), [xyxy])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(4,), (0, 4), (50, 4), (2, 25, 4), (5, 1, 10, 4)])
def test_round_trips_keep_kind_type_and_shape(kind, shape):
    boxes = kind(drawn((480, 640), max(int(np.prod(shape[:-1])), 0)).reshape(shape))
    for back in (
        xywh2xyxy(xyxy2xywh(boxes)),
        xyxy2xywh(xywh2xyxy(boxes)),
        xywhn2xyxy(xyxy2xywhn(boxes, 640, 480), 640, 480),
        xywhn2xyxy(xyxy2xywhn(boxes, w=7, h=1000), w=7, h=1000),
    ):
        assert type(back) is type(boxes)
        assert (back.dtype, back.shape) == (boxes.dtype, boxes.shape)
        assert close(back, boxes, 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_given_is_not_changed(kind):
    boxes = kind([[-5.0, -5.0, 50.0, 50.0]])
    for function in (
        xyxy2xywh,
        xywh2xyxy,
        lambda x: xyxy2xywhn(x, 9, 9, clip=True),
        xywhn2xyxy,
        lambda x: clipped_coords(x, (9, 9)),
        lambda x: scaled_coords((64, 64), x, (32, 16)),
    ):
        result = function(boxes)
        result[...] = 0
        assert close(boxes, [[-5, -5, 50, 50]])


def test_half_precision_stays_half():
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).half()
    assert scaled_coords((64, 64), boxes, (32, 32)).dtype == torch.half


@pytest.mark.parametrize("kind", KINDS)
def test_normalised(kind):
    assert close(xyxy2xywhn(kind([[64.0, 48.0, 192.0, 144.0]]), w=640, h=480), [[0.2, 0.2, 0.2, 0.2]])
    assert close(xywhn2xyxy(kind([[0.5, 0.5, 1.0, 1.0]]), w=10, h=20, padw=3, padh=4), [[3, 4, 13, 24]])
    cut = xyxy2xywhn(kind([[-10.0, -10.0, 650.0, 490.0]]), w=640, h=480, clip=True, eps=1e-3)
    assert close(cut, [[0.5, 0.5, 1, 1]], 1e-5)
    assert (np.asarray(xywhn2xyxy(cut, 640, 480))[:, 2:] < (640, 480)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_clip_takes_height_and_width(kind):
    boxes = kind([[-1.0, -2.0, 300.0, 300.0], [5.0, 6.0, 7.0, 8.0], [-9.0, -9.0, -5.0, -5.0]])
    expected = [[0, 0, 200, 100], [5, 6, 7, 8], [0, 0, 0, 0]]
    assert close(clipped_coords(boxes, (100, 200)), expected)
    assert close(clipped_coords(boxes, (100, 200, 3)), expected)


@pytest.mark.parametrize("image_hw", SHAPES)
@pytest.mark.parametrize(
    "options", [{"auto": False}, {"auto": True}, {"auto": False, "scaleFill": True}, {"scaleup": False}]
)
def test_scaled_coords_undoes_the_letterbox(image_hw, options):
    placement = letterbox_placement(image_hw, (320, 416), **options)
    ratio_pad = (placement.ratio[::-1], placement.pad)
    boxes = drawn(image_hw)
    (ratio_w, ratio_h), (pad_w, pad_h) = placement.ratio, placement.pad
    inside = boxes * (ratio_w, ratio_h, ratio_w, ratio_h) + (pad_w, pad_h, pad_w, pad_h)
    for kind in (torch.tensor, np.array):
        assert close(scaled_coords((320, 416), kind(inside), image_hw, ratio_pad), boxes, 1e-9)


@pytest.mark.parametrize("image_hw", SHAPES)
def test_scaled_coords_without_numbers_errs_by_the_rounding_at_most(image_hw):
    placement = letterbox_placement(image_hw, (320, 416), auto=False)
    boxes = drawn(image_hw)
    ratio, (pad_w, pad_h) = placement.ratio[0], placement.pad
    back = scaled_coords((320, 416), boxes * ratio + (pad_w, pad_h, pad_w, pad_h), image_hw)
    # the padding of whole pixels and that of the exact ratio differ by less than half a pixel, on small sides by one
    assert np.abs(back - boxes).max() <= 1 / ratio


def test_scaled_coords_clips_to_the_original():
    assert scaled_coords((64, 64), np.array([[-9.0, 0.0, 99.0, 64.0]]), (32, 64)).tolist() == [[0, 0, 64, 32]]


def test_no_boxes():
    assert scaled_coords((64, 64), torch.zeros(0, 4), (32, 32)).shape == (0, 4)
    assert clipped_coords(np.zeros((0, 4)), (32, 32)).shape == (0, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_v61s_two_change_what_they_are_given(kind):
    rows = kind([[-5.0, 4.0, 50.0, 70.0, 0.9, 1.0]])  # with confidence and class, of which a view is given
    boxes = rows[:, :4]
    assert clip_coords(boxes, (64, 48)) is boxes
    assert close(rows, [[0, 4, 48, 64, 0.9, 1]])
    assert scale_coords((64, 48), boxes, (128, 96)) is boxes
    assert close(rows, [[0, 8, 96, 128, 0.9, 1]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("auto", [False, True])
def test_ratio_and_padding_as_letterbox_gives_them(kind, auto):
    image = np.zeros((100, 150, 3), np.uint8)
    fitted, ratio, pad = letterbox(image, (320, 416), auto=auto)
    boxes = drawn(image.shape[:2])
    inside = kind(boxes * ratio[0] + (*pad, *pad))
    assert close(scale_coords(fitted.shape[:2], inside, image.shape, (ratio, pad)), boxes, 1e-5)
