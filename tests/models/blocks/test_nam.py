"""NAM and all its variants: the mathematics against a direct statement, gradients, sizes, folding, the penalty."""

import copy
import itertools
import logging

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models.common
from models.blocks import nam as attention
from models.blocks.nam import ChannelSwish, NAMAttention, NAMSpatial, PixelNorm, linear_interp_matrix, resize_to
from models.blocks.sparsity import SparsityPenalty, nam_penalty, scale_factors
from models.edit.transfer import transfer_weights
from models.yolo import Model
from utils.data.config import Hyp
from utils.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.loss import ComputeLoss
from utils.torch_utils import ModelEMA, initialize_weights
from utils.training.engine import Trainer

VARIANTS = [
    {},
    {"gradient": True},
    {"gain": "C"},
    {"gain_out": 2},
    {"gain": "C", "gain_out": 2, "gradient": True},
    {"gain": 3.5, "gain_out": 0.5},
    {"no_spatial": False},
    {"no_spatial": False, "grid": 5, "gain": "C", "gain_out": 2, "gradient": True},
]
each_variant = pytest.mark.parametrize("kwargs", VARIANTS, ids=str)
CHANNEL_VARIANTS = [kwargs for kwargs in VARIANTS if "no_spatial" not in kwargs]


def settle(block: nn.Module) -> nn.Module:
    """The block as in a model, its norms with numbers as after a training, in evaluation."""
    initialize_weights(block)
    torch.manual_seed(0)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d | PixelNorm):
            nn.init.uniform_(module.weight, -1, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.3, 3)
    return block.eval()


def nam_by_formula(x: Tensor, bn: nn.BatchNorm2d, mean: Tensor, var: Tensor) -> Tensor:
    """NAM's channel attention a channel at a time, in double precision."""
    gamma, beta = bn.weight.double(), bn.bias.double()
    total = sum(abs(float(g)) for g in gamma)
    out = torch.empty_like(x, dtype=torch.float64)
    for c in range(x.shape[1]):
        normed = gamma[c] * (x[:, c].double() - mean[c]) / torch.sqrt(var[c].double() + bn.eps) + beta[c]
        out[:, c] = x[:, c] / (1 + torch.exp(-abs(gamma[c]) / total * normed))
    return out


def test_nam_names_its_state_as_the_recipe_does() -> None:
    names = [f"Channel_Att.bn2.{x}" for x in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
    assert list(NAMAttention(4).state_dict()) == names


def test_nam_equals_its_formula_in_evaluation() -> None:
    nam = settle(NAMAttention(6))
    bn = nam.Channel_Att.bn2
    x = torch.randn(2, 6, 5, 4) * 3
    with torch.no_grad():
        expected = nam_by_formula(x, bn, bn.running_mean, bn.running_var)
        torch.testing.assert_close(nam(x).double(), expected, rtol=1e-5, atol=1e-6)


def test_nam_equals_its_formula_in_training_with_the_batch_statistics() -> None:
    nam = settle(NAMAttention(6)).train()
    x = torch.randn(2, 6, 5, 4) * 3 + 1
    mean, var = x.double().mean((0, 2, 3)), x.double().var((0, 2, 3), unbiased=False)
    with torch.no_grad():
        expected = nam_by_formula(x, nam.Channel_Att.bn2, mean, var)
        torch.testing.assert_close(nam(x).double(), expected, rtol=1e-5, atol=1e-6)
    assert nam.Channel_Att.bn2.num_batches_tracked == 1


def test_nam_weights_have_no_gradient_and_gamma_learns_through_the_norm() -> None:
    nam = settle(NAMAttention(3)).double()
    bn, x = nam.Channel_Att.bn2, torch.randn(2, 3, 4, 4, dtype=torch.float64)
    w = (bn.weight.abs() / bn.weight.abs().sum()).detach()[:, None, None]
    nam(x).sum().backward()
    normed = (x - bn.running_mean[:, None, None]) / torch.sqrt(bn.running_var + bn.eps)[:, None, None]
    with torch.no_grad():
        gate = torch.sigmoid(w * (bn.weight[:, None, None] * normed + bn.bias[:, None, None]))
        expected = (x * gate * (1 - gate) * w * normed).sum((0, 2, 3))
    torch.testing.assert_close(bn.weight.grad, expected)


def test_nam_weighs_channels_by_share() -> None:
    nam = NAMAttention(3)
    nn.init.zeros_(nam.Channel_Att.bn2.weight)
    nam.Channel_Att.bn2.weight.data[1:] = torch.tensor([-1.0, 3.0])
    assert nam.Channel_Att.weights().flatten().tolist() == [0, 0.25, 0.75]


@pytest.mark.parametrize("training", [True, False])
def test_nam_without_any_gamma_halves(training: bool) -> None:
    nam = NAMAttention(4).train(training)
    nn.init.zeros_(nam.Channel_Att.bn2.weight)
    nn.init.ones_(nam.Channel_Att.bn2.bias)
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    y = nam(x)
    torch.testing.assert_close(y, x / 2)
    y.sum().backward()
    assert torch.isfinite(x.grad).all()
    nam.fuse()
    torch.testing.assert_close(nam(x), x / 2)


@pytest.mark.parametrize("channels", [1, 7, 256])
def test_nam_fused_equals_nam(channels: int) -> None:
    nam = settle(NAMAttention(channels))
    x = torch.randn(2, channels, 6, 5)
    with torch.no_grad():
        before = nam(x)
        nam.fuse()
        nam.fuse()  # a second time changes nothing
        assert (nam(x) - before).abs().max() < 1e-6
    assert isinstance(nam.Channel_Att, ChannelSwish)
    assert not nam.training
    assert sorted(nam.state_dict()) == ["Channel_Att.a", "Channel_Att.b"]


def test_nam_is_a_swish_per_channel_once_fused() -> None:
    nam = settle(NAMAttention(5))
    nam.fuse()
    a, b = nam.Channel_Att.a, nam.Channel_Att.b
    assert a.shape == b.shape == (5, 1, 1)
    x = torch.randn(1, 5, 2, 2)
    torch.testing.assert_close(nam(x), x / (1 + torch.exp(-(a * x + b))))


@pytest.mark.parametrize("fused", [False, True])
def test_nam_keeps_the_type_of_its_input_and_a_fine_gate_under_bf16(fused: bool) -> None:
    nam = settle(NAMAttention(64))
    if fused:
        nam.fuse()
    x = torch.randn(1, 64, 4, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = nam(x.bfloat16())
    assert y.dtype == torch.bfloat16
    with torch.no_grad():
        torch.testing.assert_close(y, nam(x.bfloat16().float()).bfloat16(), rtol=2**-7, atol=0)


def test_nam_keeps_memory_format() -> None:
    x = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    assert NAMAttention(8)(x).is_contiguous(memory_format=torch.channels_last)


# Variants -------------------------------------------------------------------------------------------------------------


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def numbers(value: Tensor) -> np.ndarray:
    return value.detach().double().numpy()


def by_statement(nam: NAMAttention, x: Tensor, kwargs: dict) -> np.ndarray:
    """What the docstring says, in numpy, channel by channel and place by place; for maps of grid x grid places."""
    y, training = numbers(x), nam.training
    gain, gain_out = kwargs.get("gain", 1), kwargs.get("gain_out", 1)
    bn, out = nam.Channel_Att.bn2, np.empty_like(y)
    gamma, beta = numbers(bn.weight), numbers(bn.bias)
    for c in range(y.shape[1]):
        mean, var = (
            (y[:, c].mean(), y[:, c].var()) if training else (bn.running_mean[c].item(), bn.running_var[c].item())
        )
        z = gamma[c] * (y[:, c] - mean) / np.sqrt(var + bn.eps) + beta[c]
        w = abs(gamma[c]) / np.abs(gamma).sum()
        out[:, c] = gain_out * y[:, c] * sigmoid((len(gamma) if gain == "C" else gain) * w * z)
    if kwargs.get("no_spatial", True):
        return out
    norm, y, out = nam.Spatial_Att.bn, out, np.empty_like(out)
    lam, beta, means, variances = (
        numbers(v).reshape(norm.side, norm.side) for v in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    for i, j in itertools.product(range(norm.side), repeat=2):
        mean, var = (y[..., i, j].mean(), y[..., i, j].var()) if training else (means[i, j], variances[i, j])
        z = lam[i, j] * (y[..., i, j] - mean) / np.sqrt(var + norm.eps) + beta[i, j]
        w = abs(lam[i, j]) / np.abs(lam).sum()
        out[..., i, j] = gain_out * y[..., i, j] * sigmoid((lam.size if gain == "C" else gain) * w * z)
    return out


@pytest.mark.parametrize("training", [False, True])
@each_variant
def test_variant_is_what_its_docstring_states(kwargs: dict, training: bool) -> None:
    nam = settle(NAMAttention(6, **{**kwargs, "grid": 5})).train(training)
    x = torch.randn(3, 6, 5, 5)
    with torch.no_grad():
        expected = by_statement(nam, x, kwargs)
        np.testing.assert_allclose(nam(x).numpy(), expected, rtol=1e-4, atol=2e-6)


def test_recipe_import_gives_this_block() -> None:
    assert models.common.NAMAttention is attention.NAMAttention


@each_variant
@pytest.mark.parametrize("hw", [(1, 1), (7, 4), (20, 20), (33, 64)])
def test_any_size_and_no_image(kwargs: dict, hw: tuple[int, int]) -> None:
    nam = settle(NAMAttention(8, **kwargs))
    with torch.no_grad():
        assert nam(torch.randn(2, 8, *hw)).isfinite().all()
        assert nam(torch.randn(0, 8, *hw)).shape == (0, 8, *hw)
    nam.train()
    x = torch.randn(2, 8, *hw, requires_grad=True)
    y = nam(x)
    (y * torch.randn_like(y)).sum().backward()
    assert all(p.grad.isfinite().all() for p in nam.parameters())
    assert x.grad.isfinite().all()


@each_variant
def test_gradients_are_those_of_differences(kwargs: dict) -> None:
    """In evaluation and double precision; without `gradient` they are those at fixed w."""
    nam = settle(NAMAttention(3, **{**kwargs, "grid": 2})).double()
    x = torch.randn(2, 3, 3, 2, dtype=torch.float64)
    names = [name for name, _ in nam.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in nam.parameters()]
    if kwargs.get("gradient"):

        def run(*values: Tensor) -> Tensor:
            return torch.func.functional_call(nam, dict(zip(names, values, strict=True)), (x,))

        assert torch.autograd.gradcheck(run, values)
        return
    gamma = nam.Channel_Att.bn2.weight
    nam(x).sum().backward()
    found = gamma.grad.clone()
    frozen = copy.deepcopy(nam)
    w = nam.Channel_Att.weights().clone()
    frozen.Channel_Att.weights = lambda: w
    with torch.no_grad():
        for c in range(3):
            step = torch.zeros(3, dtype=torch.float64)
            step[c] = 1e-6
            values = []
            for sign in (1, -1):
                frozen.Channel_Att.bn2.weight.copy_(gamma + sign * step)
                values.append(frozen(x).sum())
            assert found[c].item() == pytest.approx(((values[0] - values[1]) / 2e-6).item(), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("no_spatial", [True, False])
def test_gradient_through_w_changes_gammas_gradient(no_spatial: bool) -> None:
    plain, through = (settle(NAMAttention(4, no_spatial=no_spatial, gradient=on)) for on in (False, True))
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(plain(x), through(x))
    gradients = []
    for nam in (plain, through):
        nam(x).square().sum().backward()
        gradients.append([p.grad for name, p in nam.named_parameters() if name.endswith("weight")])
    for a, b in zip(*gradients, strict=True):
        assert not torch.allclose(a, b, rtol=1e-2)


@each_variant
def test_a_second_time_gives_the_same_bits(kwargs: dict) -> None:
    nam = settle(NAMAttention(16, **kwargs)).train()

    def gradients() -> list[Tensor]:
        nam.zero_grad()
        x = torch.linspace(-1, 1, 2 * 16 * 8 * 12).sin().view(2, 16, 8, 12).requires_grad_()
        y = nam(x)
        (y * torch.arange(y.numel()).cos().view(y.shape)).sum().backward()
        return [y.detach(), x.grad, *(p.grad for p in nam.parameters())]

    torch.use_deterministic_algorithms(True)
    try:
        first, second = gradients(), gradients()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("no_spatial", [True, False])
def test_gain_out_2_starts_as_identity_and_the_published_gate_at_a_half(no_spatial: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 256, 20, 20)
    with torch.no_grad():
        gate = NAMAttention(256, gain_out=2, no_spatial=no_spatial).gate(x)
        assert (gate - 1).abs().max() < 0.03
        published = NAMAttention(256).train().gate(x)
    assert published.mean().item() == pytest.approx(0.5, abs=1e-4)
    assert published.std().item() == pytest.approx(0.001, abs=1e-4)


def test_gain_c_makes_the_mean_weight_one() -> None:
    channel = settle(NAMAttention(10, gain="C")).Channel_Att
    assert (channel.gain * channel.weights()).mean().item() == pytest.approx(1)


@each_variant
def test_gate_and_rest(kwargs: dict) -> None:
    nam = settle(NAMAttention(6, **kwargs))
    x = torch.randn(2, 6, 9, 7)
    with torch.no_grad():
        torch.testing.assert_close(nam(x), x * nam.gate(x))
        for norm in (m for m in nam.modules() if isinstance(m, nn.BatchNorm2d | PixelNorm)):
            norm.weight.zero_()
        torch.testing.assert_close(nam.gate(x), torch.full_like(x, nam.rest))


# Folding --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 16, 512])
@pytest.mark.parametrize("kwargs", CHANNEL_VARIANTS, ids=str)
def test_each_channel_variant_folds(kwargs: dict, channels: int) -> None:
    nam = settle(NAMAttention(channels, **kwargs))
    x = torch.randn(2, channels, 6, 5)
    with torch.no_grad():
        before = nam(x)
        assert nam.fuse()
        part = nam.Channel_Att
        assert (nam(x) - before).abs().max() < 1e-6 * max(1, x.abs().max())
        torch.testing.assert_close(nam(x), x * kwargs.get("gain_out", 1) * torch.sigmoid(part.a * x + part.b))
    assert isinstance(part, ChannelSwish)
    assert not list(nam.parameters())


def test_the_spatial_part_says_that_it_stays_and_is_exact(caplog, tiny_with) -> None:
    settings = tiny_with([-1, 1, "NAMAttention", [32, {"no_spatial": False, "grid": 4}]])
    model = settle(Model(settings, verbose=False))
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad(), caplog.at_level(logging.DEBUG, "yolov5"):
        before = model(x)[0]
        model.fuse()
        torch.testing.assert_close(model(x)[0], before, rtol=1e-4, atol=1e-4)
    assert "model.5: NAM's spatial part depends on the image's size and is not folded" in caplog.text
    assert isinstance(model.model[5].Spatial_Att, NAMSpatial)
    block, y = settle(NAMAttention(6, no_spatial=False)), torch.randn(2, 6, 9, 7)
    with torch.no_grad():
        before = block(y)
        assert not block.fuse()
        assert (block(y) - before).abs().max() < 1e-6


# Places ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_out", "n_in"), [(1, 1), (20, 20), (7, 20), (80, 20), (3, 1)])
def test_hats_are_linear_interpolation(n_out: int, n_in: int) -> None:
    matrix = linear_interp_matrix(n_out, n_in, torch.zeros(()))
    torch.testing.assert_close(matrix.sum(1), torch.ones(n_out))
    signal = torch.randn(1, 1, n_in)
    expected = nn.functional.interpolate(signal, n_out, mode="linear", align_corners=False)
    torch.testing.assert_close(matrix @ signal[0, 0], expected[0, 0], rtol=1e-5, atol=1e-5)
    if n_out == n_in:
        assert torch.equal(matrix, torch.eye(n_in))


def test_spread_is_bilinear() -> None:
    grid = torch.randn(5, 6)
    expected = nn.functional.interpolate(grid[None, None], (13, 4), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(resize_to(grid, 13, 4), expected, rtol=1e-5, atol=1e-5)


def test_pixel_norm_is_a_batch_norm_over_places_at_its_own_size() -> None:
    torch.manual_seed(0)
    ours, theirs = PixelNorm(4), nn.BatchNorm1d(16)
    for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        nn.init.normal_(parameter)
        other.data.copy_(parameter)
    for training in (True, True, False):
        ours.train(training), theirs.train(training)
        x = torch.randn(3, 5, 4, 4) * 2 + 1
        expected = theirs(x.reshape(15, 16)).view(3, 5, 4, 4)
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(getattr(ours, name), buffer)


def test_the_gate_of_a_place_does_not_change_with_the_size() -> None:
    part = settle(NAMAttention(4, no_spatial=False, grid=4)).Spatial_Att
    nn.init.constant_(part.bn.running_mean, 0.2)
    nn.init.constant_(part.bn.running_var, 0.7)
    for value in (part.bn.weight, part.bn.bias):
        nn.init.constant_(value, 0.3)
    with torch.no_grad():
        small, large = (part.gate(torch.ones(1, 4, side, side)) for side in (4, 40))
    torch.testing.assert_close(small[..., :1, :1], large[..., 10:11, 10:11])


def test_pixel_norm_needs_two_values() -> None:
    with pytest.raises(ValueError, match=r"NAMAttention.* 2 "):
        PixelNorm(2)(torch.randn(1, 1, 2, 2))


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"out_channels": 16}, "8 .* 16"),
        ({"no_spatial": 16}, "no_spatial 16"),
        ({"gradient": "yes"}, "gradient 'yes'"),
        ({"gain": "c"}, "gain 'c'"),
        ({"gain": 0}, "gain 0"),
        ({"gain": float("nan")}, "gain nan"),
        ({"gain": True}, "gain True"),
        ({"gain_out": -1}, "gain_out -1"),
        ({"gain_out": "C"}, "gain_out C"),
        ({"no_spatial": False, "grid": 0}, "grid 0.* 1 .*1024"),
        ({"no_spatial": False, "grid": 2.5}, "grid 2.5"),
    ],
)
def test_nam_errors(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NAMAttention(8, **kwargs)
    NAMAttention(8, 8)


# In a model -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [[32], [], [{"gain_out": 2}], [32, None, True, "C", 2, True], [32, {"no_spatial": False, "gain": "C", "grid": 6}]],
    ids=str,
)
def test_a_row_chooses_the_variant_and_a_checkpoint_keeps_it(tiny_with, tmp_path, args: list) -> None:
    model = Model(tiny_with([-1, 1, "NAMAttention", args]), verbose=False)
    nam = model.model[5]
    assert (nam.Spatial_Att is None) == ("grid" not in str(args))
    assert nam.Channel_Att.gain == (16 if "C" in str(args) else 1)
    path = tmp_path / "net.pt"
    save_checkpoint(path, Checkpoint(model.yaml, ("a", "b"), model.state_dict()))
    again = Model(load_checkpoint(path).yaml, verbose=False)
    again.load_state_dict(load_checkpoint(path).state)
    assert again.model[5].rest == nam.rest


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([-1, 1, "NAMAttention", [32, {"gian": 2}]], "gian"),
        ([-1, 1, "NAMAttention", [{"gain": "D"}]], "gain 'D'"),
        ([-1, 1, "NAMAttention", [16]], "16"),
        ([-1, 1, "C3NAM", [32, {"gain_out": 0}]], "gain_out 0"),
        ([-1, 1, "Conv", [32, {1: 2}]], "Conv"),
    ],
)
def test_a_wrong_row_is_named(tiny_with, row: list, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Model(tiny_with(row), verbose=False)
    assert "row 5" in str(caught.value)


YAMLS = [
    f"yolov5{size}-{kind}"
    for size in "ns"
    for kind in ("NAM-p3p5", "NAM-backbone", "NAM-identity", "NAM-open", "C3NAM")
]


@pytest.mark.parametrize("name", YAMLS)
def test_each_yaml_trains_a_step_and_folds(name: str) -> None:
    torch.manual_seed(0)
    model = Model(f"{name}.yaml", nc=4, verbose=False).train()
    factors = scale_factors(model)
    assert len(factors) == {"NAM-p3p5": 3, "C3NAM": 11}.get(name[8:], 1)
    loss = ComputeLoss(model, hyp=Hyp.from_yaml("hyp.scratch-low.yaml"))
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.4, 0.6], [1, 3, 0.3, 0.6, 0.2, 0.1]])
    total, _ = loss(model(torch.rand(2, 3, 64, 64)), targets)
    total.backward()
    assert all(factor.grad.abs().sum() > 0 for factor in factors)
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = model.eval()(x)[0]
        torch.testing.assert_close(model.fuse()(x)[0], expected, rtol=1e-4, atol=1e-3)
    assert all(type(part) is ChannelSwish for n, part in model.named_modules() if n.endswith("Channel_Att"))


def test_half_of_what_a_pretrained_network_has_is_kept_by_identity_start(shared) -> None:
    """The published gate halves the features of P5; with gain_out 2 they stay, and so does what is found."""
    checkpoint = load_checkpoint(shared / "weights" / "yolov5n.pt")
    plain = Model(checkpoint.yaml, verbose=False).eval()
    plain.load_state_dict(checkpoint.state)
    x = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        expected = plain(x)[1][2]
        far = {}
        for kind in ("NAM", "NAM-identity"):
            model = Model(f"yolov5n-{kind}.yaml", verbose=False).eval()
            transfer_weights(checkpoint, model)
            far[kind] = (model(x)[1][2] - expected).abs().max().item()
    assert far["NAM-identity"] < 0.1 * far["NAM"]


# The penalty ----------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A convolution and NAM of both parts; its raw maps are one map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.nam = nn.Conv2d(3, 6, 3), NAMAttention(6, no_spatial=False, grid=4)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.nam(self.conv(x))]


class Steps:
    """A schedule of one step a batch."""

    def apply(self, optimizer: torch.optim.Optimizer, epoch: int, number: int) -> int:
        return 1


class Images:
    """A batch of four images."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randint(0, 256, (4, 3, 16, 16), generator=generator, dtype=torch.uint8)
        self.targets = torch.zeros(0, 6)


def criterion(raw: list[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
    loss = (raw[0] - 1).square().mean()
    return loss, loss.detach().expand(3)


def trained(p: float) -> list[float]:
    """The L1 norms of gamma and lambda after forty steps with a penalty of strength p."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    trainer = Trainer(net, optimizer, criterion, Steps(), ModelEMA(net), penalty=nam_penalty(net, p))
    trainer.run_epoch((Images(i) for i in range(40)), 0, 40)
    return [factor.abs().sum().item() for factor in scale_factors(net)]


def test_gammas_and_lambdas_shrink_with_p() -> None:
    norms = np.array([trained(p) for p in (0.0, 0.01, 0.1, 0.3)])  # (4, 2)
    assert (np.diff(norms, axis=0) < 0).all()
    assert norms[3, 0] < 0.6 * norms[0, 0]


def test_penalty_is_p_times_the_sum_of_sizes_for_each_image() -> None:
    net = Net()
    nn.init.constant_(net.nam.Channel_Att.bn2.weight, -2.0)
    penalty = nam_penalty(net, 0.5)
    assert isinstance(penalty, SparsityPenalty)
    assert penalty().item() == pytest.approx(0.5 * (6 * 2 + 16 * 1))
    penalty().backward()
    assert net.nam.Channel_Att.bn2.weight.grad.tolist() == [-0.5] * 6
    trainer = Trainer(
        net,
        torch.optim.SGD(net.parameters()),
        lambda raw, targets: (raw[0].sum() * 0, torch.zeros(3)),
        Steps(),
        ModelEMA(net),
        penalty=penalty,
    )
    net.zero_grad()
    trainer.backward(Images(0), 0)
    assert net.nam.Channel_Att.bn2.weight.grad.tolist() == [-0.5 * 4] * 6


def test_no_penalty_where_there_is_nothing_to_shrink(caplog) -> None:
    assert nam_penalty(Net(), 0.0) is None
    with caplog.at_level(logging.WARNING, "yolov5"):
        assert nam_penalty(nn.Conv2d(3, 3, 1), 0.1) is None
        assert nam_penalty(Net().requires_grad_(False), 0.1) is None
    assert caplog.text.count("changes nothing") == 2
