"""The head: what it decodes, in every type, mode and size; and test-time augmentation."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.tta import predict_augmented, scale_images
from models.yolo import Detect, Model

Tiny = Callable[..., dict]  # see conftest.py


def build(settings: dict | str | Path, **kwargs: object) -> Model:
    """The model, without the table."""
    return Model(settings, verbose=False, **kwargs)


def decode_by_hand(head: Detect, raw: list[Tensor]) -> Tensor:
    """The boxes of v6.1's formulas, one at a time."""
    boxes = []
    for level, y in enumerate(raw):
        stride = head.stride[level]
        for a in range(head.na):
            for row in range(y.shape[2]):
                for column in range(y.shape[3]):
                    s = torch.sigmoid(y[:, a, row, column].double())
                    xy = (s[:, :2] * 2 - 0.5 + torch.tensor([column, row])) * stride
                    wh = (s[:, 2:4] * 2) ** 2 * head.anchors[level, a] * stride
                    boxes.append(torch.cat((xy, wh, s[:, 4:]), 1))
    return torch.stack(boxes, 1)


def test_decode_equals_the_formulas_box_by_box(tiny: Tiny) -> None:
    model = build(tiny()).eval()
    with torch.no_grad():
        for size in ((32, 48), (48, 32), (32, 48)):  # the cells that are kept follow the size
            decoded, raw = model(torch.rand(2, 3, *size))
            torch.testing.assert_close(decoded.double(), decode_by_hand(model.head, raw), rtol=1e-5, atol=1e-4)
    assert [y.shape for y in raw] == [(2, 2, 4, 6, 7), (2, 2, 2, 3, 7)]


def test_decode_follows_new_anchors(tiny: Tiny) -> None:
    model = build(tiny()).eval()
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = model(x)[0]
        model.head.anchors *= 2
        after = model(x)[0]
    torch.testing.assert_close(after[..., 2:4], before[..., 2:4] * 2)
    assert torch.equal(after[..., :2], before[..., :2])


def test_boxes_are_fp32_under_autocast_and_in_half_precision(tiny: Tiny) -> None:
    model = build(tiny()).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)[0]
        with torch.autocast("cpu", torch.bfloat16):
            decoded, raw = model(x)
        assert (decoded.dtype, raw[0].dtype) == (torch.float32, torch.bfloat16)
        torch.testing.assert_close(decoded, expected, rtol=0.05, atol=0.5)
        half, raw = copy.deepcopy(model).half()(x.half())
    assert (half.dtype, raw[0].dtype) == (torch.float32, torch.float16)
    torch.testing.assert_close(half, expected, rtol=0.01, atol=0.1)


def test_inference_mode_then_gradients(tiny: Tiny) -> None:
    model = build(tiny()).eval()
    x = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        model(x)
    x.requires_grad_()
    model(x)[0].sum().backward()
    assert x.grad.abs().sum() > 0
    model.train()
    sum(y.square().mean() for y in model(torch.rand(2, 3, 32, 32))).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
def test_a_trace_follows_the_size(nano: Model) -> None:
    with torch.no_grad():
        nano(torch.rand(1, 3, 64, 64))
        traced = torch.jit.trace(nano, torch.rand(1, 3, 64, 64), check_trace=False)
        x = torch.rand(1, 3, 96, 32)
        torch.testing.assert_close(traced(x)[0], nano(x)[0], rtol=1e-4, atol=1e-3)


def test_detect_with_fewer_inputs_than_levels() -> None:
    with pytest.raises(ValueError, match="Detect reads 1 rows, but the anchors have 2 levels"):
        Detect(2, [[10, 12], [40, 48]], [16])


# Test-time augmentation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "inner", "outer"), [(1, (160, 96), (160, 96)), (0.83, (132, 79), (160, 96))])
def test_scale_images(scale: float, inner: tuple[int, int], outer: tuple[int, int]) -> None:
    scaled, ratios = scale_images(torch.ones(1, 3, 160, 96), scale, 32)
    assert scaled.shape == (1, 3, *outer)
    assert ratios == (inner[0] / 160, inner[1] / 96)
    content = scaled[..., : inner[0], : inner[1]]
    torch.testing.assert_close(content, torch.ones_like(content))
    assert (scaled[..., inner[0] :, :] == 0.447).all()
    assert (scaled[..., inner[1] :] == 0.447).all()


def test_augmented_boxes_come_back_to_where_they_are() -> None:
    def see(images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """A predictor with two levels that finds the bright rectangle's box, in the pixels that it is shown."""
        ys, xs = torch.nonzero(images[0, 0] > 0.7, as_tuple=True)
        low, high = torch.stack((xs.min(), ys.min())), torch.stack((xs.max(), ys.max())) + 1
        box = torch.cat(((low + high) / 2, high - low, torch.tensor([0.9, 0.8]))).expand(1, 5, 6)
        return box, [torch.zeros(1, 1, 2, 2, 6), torch.zeros(1, 1, 1, 1, 6)]

    image = torch.full((1, 3, 160, 224), 0.1)
    image[..., 40:90, 30:110] = 1
    boxes = predict_augmented(see, image, 32)
    assert boxes.shape == (1, 4 + 5 + 1, 6)
    assert (boxes[0, :, :4] - torch.tensor([70.0, 65.0, 80.0, 50.0])).abs().max() < 1.5
    torch.testing.assert_close(boxes[..., 4:], torch.tensor([0.9, 0.8]).expand(1, 10, 2))


def test_augmented_model(nano: Model) -> None:
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        boxes, raw = nano(x, augment=True)
        plain = nano(x)[0]
    levels = [3 * (64 // s) * (96 // s) for s in (8, 16, 32)]
    assert raw is None
    assert torch.equal(boxes[:, : levels[0] + levels[1]], plain[:, : levels[0] + levels[1]])
    assert boxes.shape == (2, levels[0] + levels[1] + sum(levels) + levels[1] + levels[2], 85)
