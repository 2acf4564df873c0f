"""The blocks that NAM is compared with, each against a direct statement of its paper, and what all of them keep to."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.blocks import peers as attention_peers
from models.blocks.nam import Gated
from models.blocks.peers import CBAM, ECA, EMA, GAM, SE, CoordAttention, SimAM
from models.yolo import Model

BLOCKS = (SE, ECA, CBAM, CoordAttention, SimAM, EMA, GAM)
each_block = pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.__name__)


def made(kind: type[Gated], channels: int = 16, **kwargs: object) -> Gated:
    """The block with weights large enough to move its gate, its norms as after a training, in evaluation."""
    torch.manual_seed(0)
    block = kind(channels, **kwargs)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return block.eval()


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def arrays(block: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in block.state_dict().items()}


def mlp(state: dict[str, np.ndarray], v: np.ndarray) -> np.ndarray:
    """The perceptron of channels (..., C)."""
    (w1, b1), (w2, b2) = ((state[f"fc.{i}.weight"][:, :, 0, 0], state[f"fc.{i}.bias"]) for i in (0, 2))
    return np.maximum(v @ w1.T + b1, 0) @ w2.T + b2


def conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """A convolution that keeps the size: x (C, H, W), weight (O, C, k, k)."""
    k, (_, h, w) = weight.shape[2], x.shape
    padded = np.pad(x, ((0, 0), (k // 2,) * 2, (k // 2,) * 2))
    out = sum(
        np.einsum("oc,chw->ohw", weight[:, :, i, j], padded[:, i : i + h, j : j + w])
        for i in range(k)
        for j in range(k)
    )
    return out if bias is None else out + bias[:, None, None]


def norm(x: np.ndarray, state: dict[str, np.ndarray], name: str) -> np.ndarray:
    """A batch norm in evaluation, x (C, H, W)."""
    weight, bias, mean, var = (
        state[f"{name}.{k}"][:, None, None] for k in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def softmax(v: np.ndarray) -> np.ndarray:
    return np.exp(v) / np.exp(v).sum()


def stated(block: Gated, x: np.ndarray) -> np.ndarray:
    """The gate of one image (C, H, W), as the paper has it."""
    s, (_, h, w) = arrays(block), x.shape
    if isinstance(block, SE):
        return sigmoid(mlp(s, x.mean((1, 2))))[:, None, None]
    if isinstance(block, ECA):
        kernel, means = s["conv.weight"][0, 0], x.mean((1, 2))
        return sigmoid(np.convolve(np.pad(means, len(kernel) // 2), kernel[::-1], "valid"))[:, None, None]
    if isinstance(block, CBAM):
        channel = sigmoid(mlp(s, x.mean((1, 2))) + mlp(s, x.max((1, 2))))[:, None, None]
        y = x * channel
        return channel * sigmoid(conv(np.stack((y.mean(0), y.max(0))), s["conv.weight"]))
    if isinstance(block, CoordAttention):
        strips = np.concatenate((x.mean(2), x.mean(1)), 1)[:, :, None]  # (C, H + W, 1)
        z = norm(conv(strips, s["shared.0.weight"], s["shared.0.bias"]), s, "shared.1")
        z = z * np.clip(z + 3, 0, 6) / 6
        rows = conv(z[:, :h], s["conv_h.weight"], s["conv_h.bias"])
        columns = conv(z[:, h:], s["conv_w.weight"], s["conv_w.bias"]).transpose(0, 2, 1)
        return sigmoid(rows) * sigmoid(columns)
    if isinstance(block, SimAM):
        squares = (x - x.mean((1, 2), keepdims=True)) ** 2
        return sigmoid(squares / (4 * (squares.sum((1, 2), keepdims=True) / (h * w - 1) + block.e_lambda)) + 0.5)
    if isinstance(block, EMA):
        gates = []
        for u in np.split(x, block.groups):
            strips = conv(np.concatenate((u.mean(2), u.mean(1)), 1)[:, :, None], s["conv1.weight"], s["conv1.bias"])
            a = u * sigmoid(strips[:, :h]) * sigmoid(strips[:, h:].transpose(0, 2, 1))
            mean, var = a.mean((1, 2), keepdims=True), a.var((1, 2), keepdims=True)
            a = (a - mean) / np.sqrt(var + 1e-5) * s["norm.weight"][:, None, None] + s["norm.bias"][:, None, None]
            b = conv(u, s["conv3.weight"], s["conv3.bias"])
            energy = np.einsum("c,chw->hw", softmax(a.mean((1, 2))), b) + np.einsum(
                "c,chw->hw", softmax(b.mean((1, 2))), a
            )
            gates.append(np.broadcast_to(sigmoid(energy), u.shape))
        return np.concatenate(gates)
    channel = sigmoid(mlp(s, x.transpose(1, 2, 0))).transpose(2, 0, 1)
    z = norm(conv(x * channel, s["conv.0.weight"], s["conv.0.bias"]), s, "conv.1")
    return channel * sigmoid(norm(conv(np.maximum(z, 0), s["conv.3.weight"], s["conv.3.bias"]), s, "conv.4"))


def test_all_blocks_are_looked_at() -> None:
    own = {
        v for v in vars(attention_peers).values() if isinstance(v, type) and v.__module__ == attention_peers.__name__
    }
    assert own == set(BLOCKS)


@each_block
def test_gate_is_what_the_paper_states(kind: type[Gated]) -> None:
    block, x = made(kind), torch.randn(2, 16, 9, 7)
    with torch.no_grad():
        y = block(x)
    for image, out in zip(x.double().numpy(), y.double().numpy(), strict=True):
        np.testing.assert_allclose(out, image * stated(block, image), rtol=1e-4, atol=1e-5)


@each_block
def test_size_type_and_no_image(kind: type[Gated]) -> None:
    block = made(kind, 32)
    with torch.no_grad():
        for shape in ((1, 32, 1, 1), (2, 32, 20, 13), (0, 32, 4, 4)):
            assert block(torch.randn(shape)).shape == shape
            assert block(torch.randn(shape)).isfinite().all()
        with torch.autocast("cpu", torch.bfloat16):
            assert block(torch.randn(1, 32, 4, 4).bfloat16()).dtype == torch.bfloat16


@each_block
def test_gradients_reach_all_and_repeat_to_the_bit(kind: type[Gated]) -> None:
    block = made(kind, 64).train()

    def gradients() -> list[Tensor]:
        block.zero_grad()
        x = torch.linspace(-1, 1, 2 * 64 * 8 * 12).sin().view(2, 64, 8, 12).requires_grad_()
        y = block(x)
        (y * torch.arange(y.numel()).cos().view(y.shape)).sum().backward()
        return [y.detach(), x.grad, *(p.grad for p in block.parameters())]

    torch.use_deterministic_algorithms(True)
    try:
        first, second = gradients(), gradients()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(gradient.abs().sum() > 0 for gradient in first[1:])


@each_block
def test_rest_is_the_gate_where_all_weights_are_0(kind: type[Gated]) -> None:
    block = made(kind)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    gate = block.gate(torch.full((1, 16, 4, 4), 2.0))
    torch.testing.assert_close(gate, torch.full_like(gate, block.rest))


@pytest.mark.parametrize(("channels", "kernel"), [(8, 3), (16, 3), (32, 3), (64, 3), (128, 5), (256, 5), (512, 5)])
def test_kernel_of_eca(channels: int, kernel: int) -> None:
    """The paper's t = |log2(C) / 2 + 1 / 2|, cut to a whole number, the next one where that is even."""
    t = int(abs(math.log2(channels) / 2 + 0.5))
    assert kernel == (t if t % 2 else t + 1)
    assert ECA(channels).conv.kernel_size == (kernel,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SE(8, 0), "SE: reduction 0: must be"),
        (lambda: GAM(8, 2.0), "GAM: reduction 2.0: must be"),
        (lambda: CBAM(8, 4), "CBAM: kernel 4: must be an odd whole number"),
        (lambda: ECA(8, 2), "ECA: kernel 2: must be"),
        (lambda: SimAM(8, 0), "SimAM: e_lambda 0: must be"),
        (lambda: EMA(12), "EMA: groups 8: must divide the 12 channels"),
    ],
)
def test_errors(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("args", [[], [32]], ids=str)
@each_block
def test_a_row_of_a_yaml_may_name_it(tiny_with, kind: type[Gated], args: list) -> None:
    model = Model(tiny_with([-1, 1, kind.__name__, args]), verbose=False)
    assert type(model.model[5]) is kind
    raw = model.train()(torch.rand(2, 3, 64, 64))
    sum(y.square().mean() for y in raw).backward()
    assert all(p.grad is not None for p in model.model[5].parameters())
    before = model.eval()(torch.ones(1, 3, 64, 64))[0]
    torch.testing.assert_close(model.fuse()(torch.ones(1, 3, 64, 64))[0], before, rtol=1e-4, atol=1e-3)
