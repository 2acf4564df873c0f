"""Devices, fusion, summary, moving average and early stop, against plain formulas."""

import copy
import logging
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.flop_counter import FlopCounterMode

from utils.general import ROOT
from utils.processes.cores import CoreWatch
from utils.torch_utils import (
    EarlyStopping,
    FlopCounter,
    ModelEMA,
    ThreadLimit,
    compile_network,
    fuse_conv_and_bn,
    initialize_weights,
    largest_stride,
    model_info,
    select_device,
    time_sync,
)
from utils.training.run_files import STOPPER


class Toy(nn.Module):
    """Convolution, norm, activation, and a second convolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU()
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.out(self.act(self.bn(self.conv(x))))


@pytest.fixture
def toy():
    torch.manual_seed(0)
    return Toy()


# Devices --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch):
    """Lets torch say that the machine has so many GPUs; a list of those that became the current one."""
    current = []

    def pretend(count):
        monkeypatch.setattr(torch.cuda, "set_device", current.append)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        return current

    return pretend


@pytest.mark.parametrize(
    ("name", "count", "device"),
    [
        ("", 0, "cpu"),
        ("", 2, "cuda:0"),
        ("cpu", 2, "cpu"),
        ("CPU ", 0, "cpu"),
        ("0", 1, "cuda:0"),
        ("1", 2, "cuda:1"),
        ("10", 11, "cuda:10"),
        ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
        ("1, 0", 2, "cuda:1"),
    ],
)
def test_device(gpus, monkeypatch, name, count, device):
    current = gpus(count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "left as it is")
    assert select_device(name) == torch.device(device)
    assert current == ([] if device == "cpu" else [torch.device(device)])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "left as it is"


@pytest.mark.parametrize(
    ("name", "count", "devices"),
    [("", 0, ["cpu", "cpu"]), ("", 3, ["cuda:0", "cuda:1"]), ("2,0", 3, ["cuda:2", "cuda:0"]), ("cpu", 2, ["cpu"] * 2)],
)
def test_each_process_has_a_device_of_its_own(gpus, name, count, devices):
    gpus(count)
    assert [
        str(select_device(name, local_rank=rank, processes=len(devices))) for rank in range(len(devices))
    ] == devices


def test_v61s_words_for_a_device(gpus):
    gpus(2)
    assert select_device("1", batch_size=16, newline=False) == torch.device("cuda:1")
    assert select_device("0", 16) == torch.device("cuda:0")
    assert select_device(torch.device("cuda:1")) == torch.device("cuda:1")
    assert select_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize(("name", "count"), [("", 1), ("1", 2)])
def test_more_processes_than_gpus(gpus, name, count):
    gpus(count)
    with pytest.raises(ValueError, match="fewer GPUs than processes"):
        select_device(name, local_rank=1, processes=2)


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("0", 0, "no GPU 0, this machine has no GPU that torch can use"),
        ("1", 1, "no GPU 1, this machine has GPU 0 only"),
        ("0,3", 2, "no GPU 3, this machine has GPU 0 to 1"),
        ("0,0", 2, "twice"),
        ("gpu", 1, "must be"),
        ("0,", 1, "must be"),
        ("-1", 1, "must be"),
        ("²", 1, "must be"),
        ("mps", 1, "no Apple GPU"),
    ],
)
def test_device_that_is_none(gpus, name, count, message):
    current = gpus(count)
    with pytest.raises(ValueError, match=f"--device {name}.*{message}"):
        select_device(name)
    assert not current


@pytest.mark.parametrize(
    ("device", "count", "waited_for"),
    [(None, 0, []), (None, 1, [None]), ("cpu", 1, []), ("cuda:1", 2, [torch.device("cuda:1")])],
)
def test_time_waits_for_the_gpu(gpus, monkeypatch, device, count, waited_for):
    gpus(count)
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    first = time_sync(device and torch.device(device))
    assert waited == waited_for
    assert time_sync(torch.device("cpu")) >= first


# Networks -------------------------------------------------------------------------------------------------------------


def test_initialize_weights(toy):
    before = copy.deepcopy(toy.state_dict())
    initialize_weights(toy)
    assert (toy.bn.eps, toy.bn.momentum, toy.act.inplace) == (1e-3, 0.03, True)
    for name, value in toy.state_dict().items():
        assert torch.equal(value, before[name])


def test_layers_of_their_own_do_not_work_in_place():
    model = nn.Module()
    model.model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.SiLU(), nn.SiLU()), Toy())
    initialize_weights(model)
    found = [module.inplace for module in model.modules() if isinstance(module, nn.ReLU | nn.SiLU)]
    assert found == [False, False, False, True]


@pytest.mark.parametrize(
    "options", [{}, {"bias": True}, {"groups": 4, "padding": (1, 2)}, {"stride": 2, "dilation": 2}]
)
def test_fused_gives_the_same(options):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 3, **{"bias": False, **options})
    bn = nn.BatchNorm2d(8, eps=1e-3)
    with torch.no_grad():
        for value, low in ((bn.weight, -2), (bn.bias, -2), (bn.running_mean, -2), (bn.running_var, 0.1)):
            value.uniform_(low, 2)
    bn.eval()
    x, before = torch.randn(2, 4, 12, 12), conv.weight.clone()
    fused = fuse_conv_and_bn(conv, bn)
    torch.testing.assert_close(fused(x), bn(conv(x)))
    assert torch.equal(conv.weight, before)
    assert not any(parameter.requires_grad for parameter in fused.parameters())


def test_model_info_counts(toy):
    # By hand: at 64 px the first gives 8 x 32 x 32 of 27 products, the second 4 x 32 x 32 of 8.
    flops = 2 * 32 * 32 * (8 * 27 + 4 * 8)
    toy.out.requires_grad_(False)
    parameters, fixed = 8 * 27 + 16 + 36, 36
    expected = f"5 layers, {parameters} parameters, {parameters - fixed} gradients, {flops / 1e9 * 10000:.1f} GFLOPs"
    assert model_info(toy, 6400) == expected


def test_model_info_scales_to_sizes_that_no_stride_divides(toy):
    toy.stride = torch.tensor([8.0, 16, 32])
    gflops = [float(model_info(toy, size).split()[-2]) for size in (6400, 6401)]
    assert gflops[0] == gflops[1]


def test_model_info_disturbs_nothing(toy):
    toy.eval()
    toy.conv.weight.grad = torch.ones_like(toy.conv.weight)
    before, rng = copy.deepcopy(toy.state_dict()), torch.get_rng_state()
    model_info(toy)
    assert not toy.training
    assert not toy.bn.training
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(toy.conv.weight.grad, torch.ones(8, 3, 3, 3))
    for name, value in toy.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_model_info_of_a_module_that_fails():
    class Fails(nn.Module):
        def forward(self, x):
            raise KeyError("no such thing")

    assert model_info(Fails()) == "1 layers, 0 parameters, 0 gradients, GFLOPs unknown"


def test_operations_are_those_that_torch_counts(toy):
    image = torch.zeros(2, 3, 32, 64)
    with FlopCounter() as counter, FlopCounterMode(display=False) as expected:
        toy(image)
    assert counter.flops == expected.get_total_flops() > 0


# Compiling ------------------------------------------------------------------------------------------------------------


def test_without_a_compiler_one_line_says_so(tmp_path):
    code = (
        "from torch import nn; from utils.torch_utils import compile_network; compile_network(nn.Conv2d(3, 4, 1), True)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CXX"}
    environment |= {"PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ValueError: --compile: ")
    assert "g++" in last


def test_an_exported_file_is_not_compiled():
    exported = nn.Conv2d(3, 4, 1)
    exported.metadata = "of the file"
    with pytest.raises(ValueError, match="--compile"):
        compile_network(exported, is_dynamic=True)


# Moving average -------------------------------------------------------------------------------------------------------


def train_a_little(model):
    """Another set of weights and statistics."""
    model.train()
    model(torch.randn(2, 3, 8, 8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


def test_ema_is_the_formula(toy):
    ema = ModelEMA(toy, decay=0.9, tau=5)
    expected = {name: value.double() for name, value in toy.state_dict().items()}
    for u in range(1, 12):
        train_a_little(toy)
        ema.update(toy)
        decay = 0.9 * (1 - math.exp(-u / 5))
        for name, value in toy.state_dict().items():
            mixed = decay * expected[name] + (1 - decay) * value.double()
            expected[name] = mixed if value.is_floating_point() else value.double()
    assert ema.updates == 11
    assert int(ema.ema.bn.num_batches_tracked) == 11
    for name, value in ema.ema.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_ema_equals_torchs(toy):
    decay = 0.9999 * (1 - math.exp(-1 / 2000))
    reference = AveragedModel(
        toy, avg_fn=lambda average, value, _: decay * average + (1 - decay) * value, use_buffers=True
    )
    reference.n_averaged.fill_(1)  # or the first update would only copy
    ema = ModelEMA(toy)
    train_a_little(toy)
    ema.update(toy)
    reference.update_parameters(toy)
    for name, value in ema.ema.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, reference.module.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_ema_is_fp32_whatever_the_model_is(toy):
    ema = ModelEMA(toy.half())
    weights = ema.ema.conv.weight.clone()
    with torch.no_grad():
        toy.conv.weight.add_(1)
    for _ in range(3):
        ema.update(toy)
    assert {v.dtype for v in ema.ema.state_dict().values()} == {torch.float32, torch.int64}
    assert not torch.equal(ema.ema.conv.weight, weights)


def test_ema_is_a_copy_for_evaluation(toy):
    ema = ModelEMA(toy)
    train_a_little(toy)
    assert not ema.ema.training
    assert not any(parameter.requires_grad for parameter in ema.ema.parameters())
    assert not torch.equal(ema.ema.conv.weight, toy.conv.weight)
    assert toy.training
    assert toy.conv.weight.requires_grad


def test_ema_goes_on_where_it_was(toy):
    first, other = ModelEMA(toy), ModelEMA(Toy())
    for ema in (first, other):  # the second has tensors that are replaced after this
        ema.update(toy)
    other.ema.load_state_dict(copy.deepcopy(first.ema.state_dict()))
    train_a_little(toy)
    for ema in (first, other):
        ema.update(toy)
    assert other.updates == 2
    for name, value in first.ema.state_dict().items():
        assert torch.equal(value, other.ema.state_dict()[name])


def test_ema_equals_state_dicts_moved_by_hand(toy):
    """Bit for bit, through replaced tensors, another type, a buffer that no file has, and another network."""
    toy.register_buffer("scratch", torch.zeros(2), persistent=False)
    ema = ModelEMA(toy)
    expected = copy.deepcopy(ema.ema.state_dict())
    changes = [
        lambda: None,
        lambda: toy.load_state_dict(copy.deepcopy(toy.state_dict()), assign=True),
        lambda: ema.ema.load_state_dict(copy.deepcopy(ema.ema.state_dict()), assign=True),
        toy.half,
        toy.float,
    ]
    other = copy.deepcopy(toy)
    for u, (model, change) in enumerate([*((toy, change) for change in changes), (other, lambda: None)], 1):
        if next(model.parameters()).dtype == torch.float32:
            train_a_little(model)
        change()
        toy.scratch += 1
        ema.update(model)
        weight = 1 - 0.9999 * (1 - math.exp(-u / 2000))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name].lerp_(value.float(), weight)
            else:
                expected[name].copy_(value)
            assert torch.equal(ema.ema.state_dict()[name], expected[name]), (u, name)
    assert (ema.ema.scratch == 0).all()


def test_ema_moves_what_is_shared_once(toy):
    toy.again = toy.out
    ema = ModelEMA(toy, decay=0.5, tau=1e-9)
    before = ema.ema.out.weight.clone()
    train_a_little(toy)
    ema.update(toy)
    torch.testing.assert_close(ema.ema.out.weight, (before + toy.out.weight) / 2)


def test_ema_makes_state_dicts_no_more(toy, monkeypatch):
    ema = ModelEMA(toy)
    monkeypatch.setattr(nn.Module, "state_dict", None)
    ema.update(toy)


# Early stop -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patience", "fitnesses", "stops_at", "best"),
    [
        (3, [0.1, 0.2, 0.3, 0.2, 0.1, 0.0], 5, 2),
        (3, [0.5] * 9, 3, 0),  # a plateau ends too
        (3, [0.0] * 9, 3, 0),
        (2, [0.1, 0.0, 0.2, 0.1, 0.3, 0.0, 0.0], 6, 4),
        (1, [0.1, 0.2, 0.2], 2, 1),
        (0, [0.5] + [0.1] * 50, None, 0),
        (3, [float("nan")] * 5, 3, None),
        (3, [float("nan"), 0.1, 0.2], None, 2),
    ],
)
def test_early_stop(patience, fitnesses, stops_at, best):
    stopper = EarlyStopping(patience)
    stops = [epoch for epoch, fitness in enumerate(fitnesses) if stopper(epoch, fitness)]
    assert (stops[0] if stops else None) == stops_at
    assert stopper.best_epoch == best
    assert stopper.best_fitness == (-math.inf if best is None else fitnesses[best])


def test_early_stop_goes_on_where_it_was():
    first, other = EarlyStopping(4), EarlyStopping(4)
    for epoch, fitness in enumerate([0.1, 0.4, 0.2]):
        first(epoch, fitness)
    vars(other).update({name: getattr(first, name) for name in STOPPER})
    assert (
        [other(epoch, 0.3) for epoch in (3, 4, 5)] == [first(epoch, 0.3) for epoch in (3, 4, 5)] == [False, False, True]
    )
    assert (other.best_epoch, other.best_fitness) == (1, 0.4)


@pytest.mark.parametrize(("strides", "expected"), [([8, 16, 32], 32), ([8, 16, 32, 64], 64), ([8, 16], 32)], ids=str)
def test_largest_stride(strides, expected):
    assert largest_stride(SimpleNamespace(stride=torch.tensor(strides, dtype=torch.float32))) == expected


# Threads --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def torch_threads():
    """A machine on which torch may use four threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield torch.get_num_threads
    torch.set_num_threads(before)


def test_fixed_number_of_threads(torch_threads):
    assert ThreadLimit(0).apply() == 0
    assert torch_threads() == 4
    assert ThreadLimit(3).apply() == torch_threads() == 3


def test_automatic_threads_follow_the_free_cores(torch_threads, monkeypatch, caplog):
    free = iter([8, 8, 2, 1, 3])
    monkeypatch.setattr(CoreWatch, "free", lambda self: (next(free), "as found"))
    limit = ThreadLimit("auto")
    with caplog.at_level(logging.INFO):
        assert [(limit.apply(), torch_threads()) for _ in range(5)] == [(4, 4), (4, 4), (2, 2), (1, 1), (3, 3)]
    assert [record.message.split()[2] for record in caplog.records] == ["4", "2", "1", "3"]  # the changes alone
