"""The controls of an ablation: their maths, their size, their place in a yaml; what a network costs."""

import torch
import torch.nn.functional as F
import yaml

from models.blocks.controls import CONTROLS, ConvControl, HalfControl, IdentityControl, SiluControl
from models.common import NAMAttention
from models.yolo import Model
from tools.costs import measure_costs
from utils.general import ROOT
from utils.torch_utils import initialize_weights


def test_maths():
    x = torch.randn(2, 8, 3, 4)
    assert torch.equal(IdentityControl(8)(x), x)
    assert torch.equal(HalfControl(8)(x), x / 2)
    assert torch.equal(SiluControl(8)(x), F.silu(x))
    conv = ConvControl(8)
    initialize_weights(conv)
    assert torch.equal(conv(x), x)  # at first
    with torch.no_grad():
        conv.weight[3], conv.bias[3] = 2, 1
    assert torch.allclose(conv(x)[:, 3], 2 * x[:, 3] + 1)


def test_the_convolution_has_nams_parameters():
    counts = [sum(p.numel() for p in block(64).parameters()) for block in (ConvControl, NAMAttention)]
    assert counts == [128, 128]


def test_each_stands_where_nam_stood():
    text = (ROOT / "models" / "yolov5n-NAM.yaml").read_text(encoding="utf-8")
    torch.manual_seed(0)
    plain = Model("yolov5n.yaml", verbose=False)
    for control in CONTROLS:
        model = Model(yaml.safe_load(text.replace("NAMAttention", control.__name__)), verbose=False)
        assert type(model.model[24]) is control
        extra = 2 * 256 if control is ConvControl else 0
        assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in plain.parameters()) + extra


def test_identity_computes_what_the_plain_network_does():
    text = (ROOT / "models" / "yolov5n-NAM.yaml").read_text(encoding="utf-8")
    plain = Model("yolov5n.yaml", verbose=False).eval()
    model = Model(yaml.safe_load(text.replace("NAMAttention", "IdentityControl")), verbose=False).eval()
    state = {key.replace("model.24.", "model.25."): value for key, value in plain.state_dict().items()}
    model.load_state_dict(state)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(model(x)[0], plain(x)[0])


def test_costs():
    models = {"a": Model("yolov5n.yaml", verbose=False), "b": Model("yolov5n-NAM.yaml", verbose=False)}
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    found = measure_costs(models, 64, torch.device("cpu"), rounds=2)
    assert 0 < found["a"].p50_ms <= found["a"].p95_ms
    assert found["a"].peak_mb is None
    assert {name: cost.parameters for name, cost in found.items()} == counts
    assert counts["b"] == counts["a"] + 2 * 256  # NAM's gamma and beta
    conv = 3 * 16 * 6 * 6 * 32 * 32 / 1e9  # the first layer's alone
    assert conv < found["a"].gmacs < found["b"].gmacs + 1e-9
