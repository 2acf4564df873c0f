"""Four pictures as one, or one enlarged: pixels and labels stay together."""

import torch

from utils.ops.quads import join_quad


def picture(value, h=4, w=6):
    return torch.full((3, h, w), value, dtype=torch.uint8)


def test_four_side_by_side():
    """Order 0, 1 in the left column, 2, 3 in the right one; a box is where its picture is."""
    targets = [torch.tensor([[0, float(i), 0.5, 0.5, 1.0, 1.0]]) for i in range(4)]
    image, joined = join_quad([picture(i) for i in range(4)], targets)
    assert image.shape == (3, 8, 12)
    assert image.dtype == torch.uint8
    assert joined[:, 1].tolist() == [0, 1, 2, 3]
    for _, value, cx, cy, w, h in joined.tolist():
        left, right = round((cx - w / 2) * 12), round((cx + w / 2) * 12)
        top, bottom = round((cy - h / 2) * 8), round((cy + h / 2) * 8)
        assert (right - left, bottom - top) == (6, 4)
        assert (image[:, top:bottom, left:right] == value).all()


def test_pictures_without_labels():
    _, joined = join_quad([picture(i) for i in range(4)], [torch.zeros(0, 6)] * 4)
    assert joined.shape == (0, 6)


def test_one_enlarged():
    ramp = (torch.arange(8) * 20).to(torch.uint8).expand(3, 4, 8)
    targets = torch.tensor([[0, 1, 0.25, 0.5, 0.5, 1.0]])
    image, joined = join_quad([ramp], [targets])
    assert image.shape == (3, 8, 16)
    assert torch.equal(joined, targets)
    expected = ((torch.arange(16) + 0.5) / 2 - 0.5).clamp(0, 7) * 20
    torch.testing.assert_close(image[0, 0].float(), expected)
