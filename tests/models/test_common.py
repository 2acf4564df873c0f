"""Each block: the shape it gives, gradients in all its parameters, and what it computes where that is a formula."""

import math

import pytest
import torch
from torch import Tensor, nn

from models import common
from models.blocks import rare as experimental_blocks
from models.blocks.rare import CrossConv, MixConv2d, Sum
from models.common import (
    C3,
    C3NAM,
    C3SPP,
    C3TR,
    SPP,
    SPPF,
    Bottleneck,
    BottleneckCSP,
    BottleneckNAM,
    C3Ghost,
    Classify,
    Concat,
    Contract,
    Conv,
    DWConv,
    Expand,
    Focus,
    GhostBottleneck,
    GhostConv,
    NAMAttention,
    TransformerBlock,
    autopad,
)
from utils.torch_utils import fuse_conv_and_bn, initialize_weights

BLOCKS = [  # block, channels and size out of (2, 16, 8, 12)
    (Conv(16, 24), (24, 8, 12)),
    (Conv(16, 24, 3, 2), (24, 4, 6)),
    (Conv(16, 24, 6, 2, 2), (24, 4, 6)),
    (Conv(16, 24, (1, 3), (1, 2)), (24, 8, 6)),
    (Conv(16, 24, 3, g=4, act=nn.ReLU()), (24, 8, 12)),
    (Conv(16, 24, act=False), (24, 8, 12)),
    (DWConv(16, 24, 3, 2), (24, 4, 6)),
    (Focus(16, 24, 3), (24, 4, 6)),
    (GhostConv(16, 24, 3, 2), (24, 4, 6)),
    (Bottleneck(16, 16), (16, 8, 12)),
    (Bottleneck(16, 24, g=2), (24, 8, 12)),
    (BottleneckNAM(16, 16), (16, 8, 12)),
    (GhostBottleneck(16, 16), (16, 8, 12)),
    (GhostBottleneck(16, 24, 3, 2), (24, 4, 6)),
    (BottleneckCSP(16, 24, 2), (24, 8, 12)),
    (C3(16, 24, 2), (24, 8, 12)),
    (C3(16, 24, 2, False, e=0.25), (24, 8, 12)),
    (C3NAM(16, 24, 2), (24, 8, 12)),
    (C3NAM(16, 24, 1, False, gain="C", gain_out=2, gradient=True), (24, 8, 12)),
    (C3TR(16, 24, 2), (24, 8, 12)),
    (C3SPP(16, 24), (24, 8, 12)),
    (C3Ghost(16, 24, 2), (24, 8, 12)),
    (TransformerBlock(16, 24, 4, 2), (24, 8, 12)),
    (SPP(16, 24), (24, 8, 12)),
    (SPPF(16, 24), (24, 8, 12)),
    (CrossConv(16, 16, 3, shortcut=True), (16, 8, 12)),
    (CrossConv(16, 24, 3, 2), (24, 4, 6)),
    (MixConv2d(16, 24, (1, 3, 5), 2), (24, 4, 6)),
    (MixConv2d(16, 24, (1, 3), equal_ch=False), (24, 8, 12)),
    (NAMAttention(16), (16, 8, 12)),
]
NAMES = [f"{type(block).__name__}-{i}" for i, (block, _) in enumerate(BLOCKS)]
MORE_BLOCKS = [
    *(block for block, _ in BLOCKS),
    Contract(2),
    Expand(2),
    Concat(),
    Sum(2),
    Sum(2, True),
    Classify(32, 5),
    nn.Upsample(None, 2, "nearest"),
    nn.Upsample(None, 2, "bilinear"),
    nn.ConvTranspose2d(16, 8, 2, 2),
]
MORE_NAMES = [f"{type(block).__name__}-{i}" for i, block in enumerate(MORE_BLOCKS)]


def settle(block: nn.Module) -> nn.Module:
    """The block as in a model, its norms with numbers as after a training, in evaluation."""
    initialize_weights(block)
    torch.manual_seed(0)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.3, 3)
    return block.eval()


@pytest.mark.parametrize(("block", "shape"), BLOCKS, ids=NAMES)
def test_shape_and_gradients(block: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    initialize_weights(block)
    block.train().zero_grad()
    x = torch.randn(2, 16, 8, 12, requires_grad=True)
    y = block(x)
    assert y.shape == (2, *shape)
    (y * torch.randn_like(y)).sum().backward()
    assert x.grad.abs().sum() > 0
    lacking = [name for name, p in block.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert lacking == []


def test_all_blocks_are_looked_at() -> None:
    """What the next test holds for; attention has its own, blocks/test_nam.py and blocks/test_peers.py."""
    seen = {type(module) for block in MORE_BLOCKS for module in block.modules()}
    for file in (common, experimental_blocks):
        own = {value for value in vars(file).values() if isinstance(value, type) and value.__module__ == file.__name__}
        assert {block for block in own if issubclass(block, nn.Module)} <= seen


@pytest.mark.parametrize("block", MORE_BLOCKS, ids=MORE_NAMES)
def test_deterministic_mode_is_served(block: nn.Module) -> None:
    """No block refuses, and a second time gives the same to the last bit, gradients too."""

    def gradients() -> list[Tensor]:
        block.zero_grad()
        x = torch.linspace(-1, 1, 2 * 16 * 8 * 12).sin().view(2, 16, 8, 12).requires_grad_()
        y = block([x, x * 2] if isinstance(block, Concat | Sum | Classify) else x)
        (y * torch.arange(y.numel()).cos().view(y.shape)).sum().backward()
        return [y.detach(), x.grad, *(p.grad for p in block.parameters())]

    initialize_weights(block)
    block.train()
    torch.use_deterministic_algorithms(True)
    try:
        first, second = gradients(), gradients()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("block", "shape"), BLOCKS, ids=NAMES)
def test_one_image_equals_the_same_in_a_batch(block: nn.Module, shape: tuple[int, ...]) -> None:
    settle(block)
    x = torch.randn(3, 16, 8, 12)
    with torch.no_grad():
        torch.testing.assert_close(block(x)[1:2], block(x[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("act", [True, False, None, nn.Hardswish()])
def test_conv_fused_equals_conv(act: bool | nn.Module | None) -> None:
    conv = settle(Conv(8, 12, 3, 2, g=4, act=act))
    x = torch.randn(2, 8, 9, 7)
    with torch.no_grad():
        before = conv(x)
        conv.conv, conv.bn = fuse_conv_and_bn(conv.conv, conv.bn), nn.Identity()
        torch.testing.assert_close(conv(x), before, rtol=1e-5, atol=1e-5)


def test_conv_refuses_an_activation_by_name() -> None:
    with pytest.raises(ValueError, match=r"act 'nn.ReLU\(\)': must be True, False or a module"):
        Conv(1, 1, act="nn.ReLU()")


@pytest.mark.parametrize(("k", "p", "padding"), [(3, None, 1), (6, 2, 2), ((1, 5), None, [0, 2]), (1, None, 0)])
def test_autopad(k: int | tuple[int, int], p: int | None, padding: int | list[int]) -> None:
    assert autopad(k, p) == padding


def test_dwconv_groups_are_the_greatest_common_divisor() -> None:
    assert DWConv(12, 18).conv.groups == 6


def test_bottleneck_adds_only_where_widths_agree() -> None:
    assert Bottleneck(8, 8).add
    assert not Bottleneck(8, 8, shortcut=False).add
    assert not Bottleneck(8, 16).add


def test_sppf_equals_spp() -> None:
    spp, sppf = settle(SPP(16, 24, (5, 9, 13))), settle(SPPF(16, 24, 5))
    sppf.load_state_dict(spp.state_dict())
    x = torch.randn(1, 16, 20, 15)
    with torch.no_grad():
        torch.testing.assert_close(sppf(x), spp(x), rtol=0, atol=0)


def test_focus_order() -> None:
    focus = Focus(1, 4)
    focus.conv = nn.Identity()
    x = torch.tensor([[[[0, 1], [2, 3]]]])  # row, column: 00 01 10 11
    assert focus(x).flatten().tolist() == [0, 2, 1, 3]


def test_contract_order() -> None:
    x = torch.arange(8).view(1, 2, 2, 2)  # channel 0: 0 1 / 2 3, channel 1: 4 5 / 6 7
    assert Contract(2)(x).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


@pytest.mark.parametrize("gain", [1, 2, 3])
def test_contract_and_expand_are_inverse(gain: int) -> None:
    x = torch.randn(2, 5, 6 * gain, 4 * gain)
    small = Contract(gain)(x)
    assert small.shape == (2, 5 * gain**2, 6, 4)
    assert torch.equal(Expand(gain)(small), x)


def test_concat() -> None:
    x = [torch.zeros(1, 2, 3, 3), torch.ones(1, 4, 3, 3)]
    assert Concat(1)(x).mean((0, 2, 3)).tolist() == [0, 0, 1, 1, 1, 1]


def test_classify_of_one_map_and_of_several() -> None:
    assert Classify(8, 5)(torch.randn(2, 8, 7, 7)).shape == (2, 5)
    head = Classify(12, 5)
    maps = [torch.randn(2, 8, 7, 7), torch.randn(2, 4, 3, 3)]
    expected = torch.cat([y.mean((2, 3)) for y in maps], 1) @ head.conv.weight.flatten(1).T + head.conv.bias
    torch.testing.assert_close(head(maps), expected)


def test_sum_with_and_without_weights() -> None:
    x = [torch.full((1, 1, 1, 1), value) for value in (1.0, 10.0, 100.0)]
    assert Sum(3)(x).item() == 111
    weighted = Sum(3, weight=True)
    expected = 1 + 20 / (1 + math.exp(0.5)) + 200 / (1 + math.exp(1))
    assert weighted(x).item() == pytest.approx(expected, rel=1e-6)
    weighted(x).sum().backward()
    assert (weighted.w.grad > 0).all()


def test_mixconv_shares_channels() -> None:
    assert [conv.out_channels for conv in MixConv2d(4, 10, (1, 3, 5)).m] == [3, 4, 3]
    assert [conv.out_channels for conv in MixConv2d(4, 20, (1, 3), equal_ch=False).m] == [18, 2]
    with pytest.raises(ValueError, match="1 channels are too few for 2 kernel sizes"):
        MixConv2d(4, 1)


def test_transformer_knows_positions_only_by_content() -> None:
    block = settle(TransformerBlock(8, 8, 4, 1))
    x = torch.randn(1, 8, 2, 3)
    with torch.no_grad():
        torch.testing.assert_close(block(x.flip(3)), block(x).flip(3), rtol=1e-4, atol=1e-5)


def test_c3nam_holds_c3s_state_and_starts_as_c3_with_the_gate_doubled() -> None:
    torch.manual_seed(0)
    plain, ours = C3(32, 64, 2).eval(), C3NAM(32, 64, 2, gain_out=2).eval()
    state = plain.state_dict()
    assert [name for name in ours.state_dict() if ".nam." not in name] == list(state)
    ours.load_state_dict(state, strict=False)
    x = torch.randn(2, 32, 8, 8)
    with torch.no_grad():
        assert (ours(x) - plain(x)).abs().max() < 0.02 * plain(x).std()


def test_bottleneck_nam_is_x_plus_nam_of_the_branch() -> None:
    block = settle(BottleneckNAM(16, 16))
    x = torch.randn(2, 16, 5, 5)
    with torch.no_grad():
        y = block.cv2(block.cv1(x))
        torch.testing.assert_close(block(x), x + y * block.nam.gate(y))


def test_ghost_bottleneck_errors() -> None:
    with pytest.raises(ValueError, match="stride 1 from 8 to 16 channels"):
        GhostBottleneck(8, 16)
