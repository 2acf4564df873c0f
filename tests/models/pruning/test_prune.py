"""Channels taken out: what is nothing to the output leaves no trace, what is tied goes together, files come back."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from models import common
from models.blocks.nam import NAMChannel
from models.edit.insertion import with_insertions
from models.experimental import network_of
from models.pruning.channels import Axis, map_channels
from models.pruning.prune import Rule, choose, cut, kept_gain, kept_whole, lowest, norm_names, prune, rank, recalibrate
from models.pruning.rules import blocks
from models.spec.pruned import check_pruned, narrow_layer
from models.spec.rows import load_model_yaml
from models.yolo import Model
from tests.models.files import as_trained
from utils.data.config import Hyp
from utils.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, strip_optimizer
from utils.general import ROOT
from utils.loss import ComputeLoss

PEERS = ("SE", "ECA", "CBAM", "CoordAttention", "SimAM", "EMA", "GAM", "ConvControl", "HalfControl", "SiluControl")
FREE = Rule(min_channels=1)


def built(content) -> Model:
    torch.manual_seed(0)
    return as_trained(Model(content, verbose=False, warn=False))


def narrow_yaml(cfg: str) -> dict:
    """A yaml's content at a small width and depth."""
    content, _ = load_model_yaml(str(ROOT / "models" / cfg))
    return content | {"width_multiple": 0.0625, "depth_multiple": 0.1, "nc": 3}


@torch.no_grad()
def silence(model: Model, families, masks) -> None:
    """Sets gamma and beta of all norms of the channels of the masks to zero."""
    state, norms = model.state_dict(), norm_names(model)
    for family, mask in zip(families, masks, strict=True):
        for axis in (axis for axis in family.places if axis.tensor in norms):
            places = torch.from_numpy(family.places[axis][mask].ravel())
            for name in (axis.tensor, axis.tensor.replace(".weight", ".bias")):
                state[name][places] = 0


@torch.no_grad()
def raw_maps(model: Model) -> list[torch.Tensor]:
    """The raw maps of a fixed noise."""
    side = 2 * int(model.stride.max())
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    return model(images.to(next(model.parameters()).dtype))[1]


def difference(a: Model, b: Model) -> float:
    """How far the outputs of two models are apart at most."""
    return max(float((x - y).abs().max()) for x, y in zip(raw_maps(a), raw_maps(b), strict=True))


def pruned_without_trace(content: dict, rule: Rule = FREE, ratio: float = 0.3):
    """A model some of whose channels are silent, and the same without them, in FP64."""
    model = built(content).double()
    channels = map_channels(model)
    ranked = rank(model, channels, rule)
    families, masks = [family for family, _ in ranked.families], choose(ranked, ratio, rule)
    loud = raw_maps(model)
    silence(model, families, masks)
    changes = [float((x - y).abs().max()) for x, y in zip(loud, raw_maps(model), strict=True)]
    assert min(changes) > 1e-3, "before they are silent the channels matter"
    return model, cut(model, channels, families, masks)


def structures() -> list[str]:
    """A yaml for each structure there is: those of n, s, m, l and x differ by their multiples alone."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "models").rglob("yolo*.yaml")):
        content, _ = load_model_yaml(path)
        found.setdefault(str((content["backbone"], content["head"])), path.relative_to(ROOT / "models").as_posix())
    return list(found.values())


# Exactness ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cfg", structures())
def test_silent_channels_leave_no_trace(cfg):
    model, pruned = pruned_without_trace(narrow_yaml(cfg))
    smaller = pruned.model.double()
    assert difference(model, smaller) < 1e-9
    assert pruned.ratio == pytest.approx(0.3, abs=0.01)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, smaller))
    assert 0.3 * before < after < 0.8 * before


@pytest.mark.parametrize("block", PEERS)
def test_other_attention(block, tiny_with):
    content = tiny_with([-1, 1, "Conv", [64, 3, 1]], [-1, 1, block, []], [-1, 1, "Conv", [64, 3, 1]])
    model, pruned = pruned_without_trace(content)
    assert difference(model, pruned.model.double()) < 1e-9
    lost = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in pruned.model.parameters())
    assert lost > 0
    is_whole = pruned.model.model.channels[6] == model.model.channels[6]
    assert is_whole == (block in ("ECA", "CBAM", "EMA"))  # those that mix channels by their numbers


@pytest.mark.parametrize(
    "row",
    [
        [-1, 1, "NAMAttention", [32, {"no_spatial": False, "gain": "C", "gain_out": 2}]],
        [-1, 1, "NAMAttention", [32, {"gradient": True}]],
        [-1, 2, "Bottleneck", [32]],
        [-1, 2, "BottleneckCSP", [32]],
        [-1, 2, "C3NAM", [32, True, {"gain": "C"}]],
        [-1, 1, "C3SPP", [32, [3, 5]]],
        [-1, 1, "C3Ghost", [32]],
        [-1, 1, "GhostBottleneck", [32]],
        [-1, 1, "CrossConv", [32, 3, 1, 1, 1.0, True]],
        [-1, 1, "MixConv2d", [32, [1, 3]]],
        [-1, 1, "DWConv", [32, 3, 1]],
        [-1, 1, "nn.BatchNorm2d", []],
        [-1, 1, "nn.Conv2d", [16, 16, 1, 1, 0, 1, 4]],
        [-1, 1, "nn.ConvTranspose2d", [16, 16, 1]],
        [-1, 1, "nn.GroupNorm", [4, 16]],
        [-1, 1, "nn.Softmax2d", []],
    ],
    ids=lambda row: row[2],
)
def test_blocks(row, tiny_with):
    model, pruned = pruned_without_trace(tiny_with(row, [-1, 1, "Conv", [32, 3, 1]]))
    assert difference(model, pruned.model.double()) < 1e-9
    assert pruned.removed


def test_contract_repeats_channels(tiny_with):
    rows = [-1, 1, "Conv", [32, 3, 1]], [-1, 1, "Contract", [2]], [-1, 1, "Conv", [64, 1, 1]]
    model, pruned = pruned_without_trace(tiny_with(*rows))
    assert difference(model, pruned.model.double()) < 1e-9
    assert pruned.model.model.channels[6] == 4 * pruned.model.model.channels[5] < model.model.channels[6]


@pytest.mark.parametrize("cfg", ["yolov5n.yaml", "yolov5n-C3NAM.yaml", "yolov5n-NAM-p3p5.yaml"])
@pytest.mark.parametrize("criterion", ["gamma", "l1", "random"])
def test_criteria(cfg, criterion):
    model, pruned = pruned_without_trace(narrow_yaml(cfg), Rule(criterion, min_channels=1))
    assert difference(model, pruned.model.double()) < 1e-9


# Ties -----------------------------------------------------------------------------------------------------------------


def families_of(model: Model) -> dict[Axis, object]:
    return {axis: family for family in map_channels(model).families for axis in family.places}


def test_residual_ties_a_bottleneck(tiny):
    found = families_of(built(tiny()))  # row 4 is a C3 whose first path adds up
    assert found[Axis("model.4.cv1.conv.weight", 0)] is found[Axis("model.4.m.0.cv2.conv.weight", 0)]
    assert found[Axis("model.4.cv1.conv.weight", 0)] is found[Axis("model.4.m.1.cv1.conv.weight", 1)]
    assert found[Axis("model.4.cv2.conv.weight", 0)] is not found[Axis("model.4.cv1.conv.weight", 0)]


def test_nam_and_detect_follow(tiny):
    model = built(tiny())
    family = families_of(model)[Axis("model.5.Channel_Att.bn2.weight", 0)]
    assert family is families_of(model)[Axis("model.4.cv3.conv.weight", 0)] or family.name == "4.cv3.conv"
    assert Axis("model.6.m.1.weight", 1) in family.places
    head = families_of(model)[Axis("model.6.m.1.weight", 0)]
    assert head.reason
    assert not family.reason


def test_concat_keeps_its_offsets():
    """The second input's channels lie behind those of the first in what reads both."""
    model = built(narrow_yaml("yolov5n.yaml"))
    rows = model.rows
    concat = next(row for row in rows if row.content[2] == "Concat")
    first, second = (model.model.channels[source] for source in concat.sources)
    reader = f"model.{concat.index + 1}.cv1.conv.weight"
    families = [family for family in map_channels(model).families if Axis(reader, 1) in family.places]
    places = sorted(np.concatenate([family.places[Axis(reader, 1)].ravel() for family in families]).tolist())
    assert places == list(range(first + second))
    skipped = next(family for family in families if concat.sources[1] in family.rows)
    assert set(skipped.places[Axis(reader, 1)].ravel().tolist()) == set(range(first, first + second))


def test_transformer_is_kept_whole():
    content = narrow_yaml("hub/yolov5s-transformer.yaml")
    model = built(content)
    lines = kept_whole(model, rank(model, map_channels(model), FREE))
    assert any("C3TR" in line for line in lines)
    assert not kept_whole(*(lambda m: (m, rank(m, map_channels(m), FREE)))(built(narrow_yaml("yolov5n.yaml"))))


def test_a_users_block_is_kept_whole(tiny_with, monkeypatch):
    """One that shuffles channels, which nothing here knows."""

    class Shuffle(nn.Module):
        def forward(self, x):
            return x[:, torch.arange(x.shape[1] - 1, -1, -1)]

    monkeypatch.setattr(common, "Shuffle", Shuffle, raising=False)
    rows = [-1, 1, "Conv", [32, 3, 1]], [-1, 1, "Shuffle", []], [-1, 1, "Conv", [32, 3, 1]]
    model, pruned = pruned_without_trace(tiny_with(*rows))
    assert difference(model, pruned.model.double()) < 1e-9
    assert [pruned.model.model.channels[i] for i in (5, 6)] == [16, 16]
    assert pruned.model.model.channels[7] < 16


class Swap(nn.Module):
    """Halves of the channels change places, told by their number; `how` they are parted."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x):
        half = x.shape[1] // 2
        parts = {"slice": lambda: (x[:, :half], x[:, half:]), "chunk": lambda: x.chunk(2, 1)}[self.how]()
        return torch.cat(parts[::-1], 1)


@pytest.mark.parametrize("how", ["slice", "chunk"])
def test_channels_that_a_users_block_parts_stay(tiny_with, monkeypatch, how):
    """Where half of them ends is in the block's code, which would part those that are left elsewhere."""
    monkeypatch.setattr(common, "Swap", Swap, raising=False)
    rows = [-1, 1, "Conv", [32, 3, 1]], [-1, 1, "Swap", [how]], [-1, 1, "Conv", [32, 3, 1]]
    model, pruned = pruned_without_trace(tiny_with(*rows))
    assert difference(model, pruned.model.double()) < 1e-9
    assert [pruned.model.model.channels[i] for i in (5, 6)] == [16, 16]
    assert pruned.model.model.channels[7] < 16


class Held(nn.Module):
    """Knows how many channels it was made for."""

    def forward(self, x):
        return x.view(x.shape[0], 16, *x.shape[2:])


def test_a_block_that_takes_no_fewer_channels_is_named(tiny_with, monkeypatch):
    monkeypatch.setattr(common, "Held", Held, raising=False)
    model = built(tiny_with([-1, 1, "Conv", [32, 3, 1]], [-1, 1, "Held", []], [-1, 1, "Conv", [32, 3, 1]]))
    rule = Rule("random", min_channels=1, per_layer=True)
    with pytest.raises(ValueError, match=r"does not run: .*row 6 .*Held.* does not fit its input.*; --keep with the"):
        prune(model, 0.3, rule)
    assert prune(model, 0.3, replace(rule, keep=(5, 6))).removed


def test_model_is_left_as_it_is(nano):
    before = copy.deepcopy(nano.state_dict())
    prune(nano, 0.3, Rule())
    assert not nano.training
    assert all(torch.equal(value, before[name]) for name, value in nano.state_dict().items())


@pytest.mark.parametrize(
    ("shape", "other", "expected"),
    [
        ((2, 3), (2, 3), [([0], [0]), ([1], [1])]),
        ((2, 6), (2, 2, 3), [([0], [0]), ([1], [1, 2])]),
        ((2, 3, 4), (6, 4), [([0, 1], [0]), ([2], [1])]),
        ((5, 1, 1), (5,), [([0], [0]), ([1], []), ([2], [])]),
        ((4,), (1, 4), [([0], [0, 1])]),
    ],
)
def test_blocks_of_axes(shape, other, expected):
    assert blocks(shape, other) == expected


# Choice ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranked_by(nano):
    """The ranked families of `nano` by a rule."""
    channels = map_channels(nano)
    return lambda rule: rank(nano, channels, rule)


def test_ratio_0_is_identity(nano):
    pruned = prune(nano, 0.0, Rule())
    assert pruned.removed == 0
    assert "pruned" not in pruned.model.yaml
    assert difference(nano, pruned.model) == 0


def test_global_takes_the_lowest():
    rising = [np.array([0.1, 0.2, 5.0]), np.array([0.15, 0.3, 0.4])]
    assert lowest(rising, np.array([1, 1]), 3) == [2, 1]
    assert lowest(rising, np.array([3, 1]), 2) == [0, 2]
    assert lowest([], np.array([]), 0) == []


def test_gamma_is_what_goes(ranked_by):
    """Of the channels that may go by network slimming none that stays is below one that went, up to the floors."""
    rule = Rule("gamma", min_channels=1)
    ranked = ranked_by(rule)
    masks = choose(ranked, 0.2, rule)
    scores = [scores for _, scores in ranked.families]
    gone = np.concatenate([s[mask] for s, mask in zip(scores, masks, strict=True)])
    kept = np.concatenate([s[~mask] for s, mask in zip(scores, masks, strict=True)])
    assert gone.max() <= kept.min()
    assert len(gone) == round(0.2 * ranked.channels)


def test_nam_ranks_by_its_own_gamma(nano, ranked_by):
    nam = next(module for module in nano.modules() if isinstance(module, NAMChannel))
    gamma = nam.bn2.weight.detach().abs().double().numpy()
    ranked = ranked_by(Rule("nam"))
    scores = next(s for family, s in ranked.families if any("Channel_Att" in axis.tensor for axis in family.places))
    assert scores == pytest.approx(gamma / gamma.mean())


def test_per_layer(ranked_by):
    rule = Rule("l1", per_layer=True)
    for mask in choose(ranked_by(rule), 0.25, rule):
        assert mask.sum() == min(round(0.25 * len(mask)), len(mask) - 8)


def test_floor_and_round(ranked_by):
    for per_layer in (False, True):
        rule = Rule("random", per_layer, min_channels=12, round_to=8)
        for mask in choose(ranked_by(rule), 0.4, rule):
            assert (~mask).sum() >= min(16, len(mask))
            assert (~mask).sum() % 8 == 0


def test_keep(nano):
    rule = Rule(min_channels=1, keep=(0, len(nano.model) - 1))
    pruned = prune(nano, 0.3, rule)
    assert pruned.model.model.channels[0] == nano.model.channels[0]
    for ours, theirs in zip(pruned.model.head.m, nano.head.m, strict=True):
        assert ours.weight.shape == theirs.weight.shape
    with pytest.raises(ValueError, match="--keep 99: the model's rows are 0 to 2"):
        prune(nano, 0.3, Rule(keep=(99,)))


def test_seeds(ranked_by):
    first, same, other = (choose(ranked_by(r), 0.2, r) for r in (Rule("random", seed=i) for i in (1, 1, 2)))
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("ratio", "rule", "message"),
    [
        (1.0, Rule(), "--ratio 1: a share of the channels"),
        (-0.1, Rule(), "--ratio -0.1: a share"),
        (0.99, Rule(), "--ratio 0.99: .* --min-channels 8 and --round 1 let .* go at most"),
        (0.5, Rule(min_channels=64), "--min-channels 64"),
        (0.1, Rule("best"), "--criterion best: must be one of nam, gamma, l1, random"),
        (0.1, Rule(min_channels=0), "--min-channels 0: 1 or more"),
        (0.1, Rule(round_to=0), "--round 0: 1 or more"),
    ],
)
def test_refused(nano, ratio, rule, message):
    with pytest.raises(ValueError, match=message) as caught:
        prune(nano, ratio, rule)
    assert "\n" not in str(caught.value)


# NAM's gain -----------------------------------------------------------------------------------------------------------


def test_kept_channels_are_gated_as_before():
    torch.manual_seed(0)
    whole, part = NAMChannel(8, "C"), NAMChannel(5, "C")
    nn.init.uniform_(whole.bn2.weight, -1, 1)
    kept = np.array([True, True, False, True, False, True, True, False])
    part.bn2.weight.data = whole.bn2.weight.data[kept]
    part.gain = kept_gain(whole, kept)
    x = torch.randn(2, 8, 3, 3)
    assert torch.allclose(part.eval()(x[:, kept]), whole.eval()(x)[:, kept], atol=1e-6)
    nn.init.zeros_(whole.bn2.weight)
    assert kept_gain(whole, kept) == 8.0


# Round trip -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halved(nano):
    return prune(nano, 0.5, Rule("random")).model


def test_file_comes_back(halved, tmp_path):
    path = tmp_path / "net.pt"
    save_checkpoint(path, Checkpoint(halved.yaml, tuple(halved.names), halved.state_dict()))
    loaded = network_of(path, load_checkpoint(path), "cpu", fuse=False)
    assert difference(halved, loaded) == 0
    assert loaded.model.channels == halved.model.channels
    fused = network_of(path, load_checkpoint(path), "cpu", fuse=True)
    assert difference(halved, fused) < 1e-3
    strip_optimizer(path)
    assert difference(halved, network_of(path, load_checkpoint(path), "cpu", fuse=True)) < 0.1


def test_other_classes(halved):
    """A fine-tune on a data set of other classes has a head of its own."""
    model = Model(halved.yaml, nc=5, verbose=False)
    assert [conv.out_channels for conv in model.head.m] == [30] * 3
    assert [conv.in_channels for conv in model.head.m] == [conv.in_channels for conv in halved.head.m]


def test_pruned_again(nano, halved):
    twice = prune(halved, 0.3, Rule("l1")).model
    assert difference(twice, Model_of(twice)) == 0
    counts = [sum(p.numel() for p in model.parameters()) for model in (nano, halved, twice)]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == 3


def Model_of(model: Model) -> Model:
    """The model built anew from its yaml, with its weights."""
    again = Model(model.yaml, verbose=False).eval()
    again.load_state_dict(model.state_dict())
    return again


def test_trains_a_step(halved):
    model = copy.deepcopy(halved).train()
    hyp = Hyp.from_yaml("data/hyps/hyp.scratch-low.yaml").scaled(model.head.nl, model.nc, 64)
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.3, 0.4], [1, 2, 0.3, 0.6, 0.5, 0.5]])
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    before = [p.detach().clone() for p in model.parameters()]
    images = torch.rand(2, 3, 64, 64)
    ComputeLoss(model, hyp=hyp)(model(images), targets)[0].sum().backward()
    optimizer.step()
    moved = [not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)]
    assert sum(moved) > 0.9 * len(moved)


def test_recalibrate(nano):
    model = copy.deepcopy(nano)
    images = torch.rand(8, 3, 64, 64)
    recalibrate(model, [images])
    first = model.model[0]
    with torch.no_grad():
        y = first.conv(images)
    assert torch.allclose(first.bn.running_mean, y.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(first.bn.running_var, y.transpose(0, 1).flatten(1).var(1), rtol=1e-4)
    assert first.bn.momentum == nano.model[0].bn.momentum
    assert not any(module.training for module in model.modules())
    with pytest.raises(ValueError, match="no images"):
        recalibrate(model, [])


# Records that are wrong -----------------------------------------------------------------------------------------------

RECORD = {"outputs": {}, "inputs": {}, "gains": {}, "channels": [8, 8, 16, 16, 16, 16, 16]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": 3}, "outputs: a mapping"),
        ({"outputs": {"0.conv": 0}}, "0.conv: 0 is not possible"),
        ({"outputs": {"0.conv": True}}, "True is not possible"),
        ({"outputs": {"0.conv": 99}}, "99 of 8 channels out"),
        ({"outputs": {"0.act": 4}}, "0.act is no convolution, norm or linear layer"),
        ({"outputs": {"7.conv": 4}}, "in none of the 7 rows"),
        ({"inputs": {"0.bn": 4}}, "4 of no channels in"),
        ({"inputs": {"1.conv": 4}}, "row 1 .*does not fit its input"),
        ({"outputs": {"0.conv": 4, "0.bn": 4}, "inputs": {"1.conv": 4}}, "gives 4 channels where"),
        ({"gains": {"5.Channel_Att": float("inf")}}, "inf is not possible"),
        ({"gains": {"5": 0.5}}, "5 is no NAM"),
        ({"channels": [8]}, "7 whole numbers are wanted"),
        ({"more": 1}, "a mapping with outputs, inputs, gains, channels is wanted"),
    ],
)
def test_wrong_record(tiny, change, message):
    with pytest.raises(ValueError, match=message):
        Model(tiny(pruned={**RECORD, **change}), verbose=False)


def test_groups_are_not_narrowed(tiny_with):
    content = tiny_with([-1, 1, "nn.Conv2d", [16, 16, 1, 1, 0, 1, 4]])
    with pytest.raises(ValueError, match="a convolution in groups, which cannot be narrowed"):
        Model(content | {"pruned": {**RECORD, "outputs": {"5": 4}}}, verbose=False)


def test_no_record():
    assert check_pruned(None, 3, "x.yaml") is None


def test_a_giant_that_claims_to_be_pruned_is_not_built(tmp_path):
    """A layer of 0.6 GB of which a few numbers are said to be left: refused before any of it is made."""
    with torch.device("meta"):
        layer = nn.Conv2d(30_000, 30_000, 1)
    with pytest.raises(ValueError, match="more than"):
        narrow_layer(layer, 0, {**RECORD, "outputs": {"0": 1}})


def test_insertion_comes_first(halved):
    with pytest.raises(ValueError, match="put blocks in before pruning it"):
        with_insertions(halved.yaml, ["NAMAttention@p5"], "net.pt")
