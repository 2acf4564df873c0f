"""The search on pretended memory, a trial on the CPU; tests/test_gpu.py has the real thing."""

import logging
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

import train
from models.yolo import Model
from utils import autobatch
from utils.autobatch import DEFAULT_BATCH, auto_batch, largest_batch, on_line, random_batch, run_steps
from utils.data.config import Hyp
from utils.general import ROOT

CPU = torch.device("cpu")
TINY = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 0.5,
    "anchors": [[10, 12, 20, 24], [40, 48, 80, 96]],
    "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]]],
    "head": [[-1, 1, "Conv", [32, 3, 2]], [[2, 3], 1, "Detect", ["nc", "anchors"]]],
}
GIB = 2**30


class Memory:
    """Pretends that a batch takes fixed + each * batch ** power bytes of `total`, and notes what was tried."""

    def __init__(self, total, fixed=1.0, each=1.0, power=1.0, step=0.0):
        self.total, self.fixed, self.each, self.power, self.step = total, fixed, each, power, step
        self.tried = []

    def __call__(self, batch):
        self.tried.append(batch)
        peak = self.fixed + self.each * batch**self.power
        if self.step:
            peak = -(-peak // self.step) * self.step
        return peak if peak <= self.total else None

    def fits(self, batch, budget):
        peak = self(batch)
        return peak is not None and peak <= budget


@pytest.mark.parametrize("most", [1, 2, 7, 100, 1024])
@pytest.mark.parametrize(
    "options",
    [
        {"total": 80.0},
        {"total": 80.0, "fixed": 0.5, "each": 0.37},
        {"total": 3.0},
        {"total": 1e9},
        {"total": 500.0, "power": 1.3},
        {"total": 500.0, "power": 0.7},
        {"total": 100.0, "step": 8.0},  # memory comes in blocks
        {"total": 100.0, "each": 0.0},  # the batch costs nothing
    ],
    ids=str,
)
def test_the_largest_that_fits_is_found(options, most):
    memory, budget = Memory(**options), 0.9 * options["total"]
    found = largest_batch(memory, budget, most)
    tried = memory.tried.copy()
    assert 1 <= found <= most
    assert memory.fits(found, budget)
    assert found == most or not memory.fits(found + 1, budget)
    assert len(set(tried)) == len(tried)  # none is tried twice
    assert max(tried) <= most
    assert len(tried) <= 24


def test_straight_lines_take_few_trials():
    memory = Memory(80.0, fixed=2.0, each=0.11)
    assert largest_batch(memory, 72.0) == 636
    assert memory.tried[:11] == [2**i for i in range(11)]
    assert len(memory.tried) <= 14


@pytest.mark.parametrize("budget", [1.9, 0.0, -5.0])
def test_not_even_one(budget):
    memory = Memory(80.0)
    assert largest_batch(memory, budget) == 0
    assert memory.tried == [1]


def test_memory_that_runs_out_is_as_good_as_a_budget():
    assert largest_batch(Memory(20.0), 1e9) == 19


def test_on_line_by_hand():
    assert on_line((8, 10.0), (16, 18.0), 30.0) == 28
    assert on_line((8, 10.0), (16, 10.0), 30.0) == 0


def test_cpu_takes_sixteen_and_says_why(caplog):
    with caplog.at_level(logging.INFO, "yolov5"):
        assert auto_batch(lambda _: pytest.fail("nothing is tried"), CPU, 640, []) == DEFAULT_BATCH == 16
    assert "only a GPU's memory is measured, and this is a cpu: batch size 16" in caplog.text


@pytest.mark.parametrize("objects", [0, 3, 10])
def test_random_batch_is_one_of_training(objects):
    batch = random_batch(4, 64, objects)
    assert batch.images.shape == (4, 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    assert batch.targets.shape == (objects, 6)
    assert set(batch.targets[:, 0].tolist()) <= {0, 1, 2, 3}
    assert ((batch.targets[:, 2:] > 0) & (batch.targets[:, 2:] < 1)).all()
    assert torch.equal(batch.images, random_batch(4, 64, objects).images)


def factory(model):
    opt = train.parse_opt([])
    hyp = Hyp.from_yaml(ROOT / "data" / "hyps" / "hyp.scratch-low.yaml")
    trainers = []

    def make(batch_size):
        trainers.append(train.build_trainer(opt, hyp, model, 1, 64))
        return trainers[-1]

    return make, trainers


def test_a_trial_is_a_whole_step():
    """Optimizer and moving average take part; the next gradients start from nothing."""
    model = Model(TINY, verbose=False)
    make, trainers = factory(model)
    before = model.model[0].conv.weight.detach().clone()
    run_steps(make(2), random_batch(2, 64, 5))
    (trainer,) = trainers
    assert trainer.ema.updates == 2
    assert not torch.equal(model.model[0].conv.weight, before)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.fixture
def gpu(monkeypatch):
    """torch.cuda as if there were a GPU with 10 GiB, of which 9 are free and half a one is this process's own."""
    fake = SimpleNamespace(peak=0)
    monkeypatch.setattr(autobatch, "free_memory", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (9 * GIB, 10 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: GIB // 2)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: fake.peak)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: nullcontext())
    return fake


@pytest.fixture
def trials(gpu, monkeypatch):
    """The batches tried on the fake GPU, where each image takes a quarter of a GiB."""
    tried = []
    monkeypatch.setattr(autobatch, "random_batch", lambda n, *_: SimpleNamespace(images=range(n)))

    def steps(trainer, batch):
        tried.append(len(batch.images))
        gpu.peak = len(batch.images) * GIB // 4
        if gpu.peak > 9.5 * GIB:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(autobatch, "run_steps", steps)
    return tried


@pytest.mark.parametrize(("images", "expected"), [(5000, 34), (20, 20), (34, 34), (1, 1)])
def test_search_on_a_gpu(trials, caplog, images, expected):
    """0.9 of 9 GiB, and the half that is held already, are 34.4 images; more than there are make no sense."""
    records = [SimpleNamespace(boxes=range(3))] * images
    with caplog.at_level(logging.INFO, "yolov5"):
        found = auto_batch(lambda _: None, torch.device("cuda:0"), 640, records)
    assert found == expected
    assert f"batch size {found} takes {(found / 4 - 0.5) * GIB / 1e9:.2f} of the 9.66 GB" in caplog.text


def test_nothing_fits(trials, gpu, monkeypatch):
    def fails(trainer, batch):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(autobatch, "run_steps", fails)
    with pytest.raises(ValueError, match="not even one image of 640 pixels fits"):
        auto_batch(lambda _: None, torch.device("cuda:0"), 640, [])


def test_other_errors_are_not_taken_for_memory(trials, monkeypatch):
    def fails(trainer, batch):
        raise RuntimeError("a mistake")

    monkeypatch.setattr(autobatch, "run_steps", fails)
    with pytest.raises(RuntimeError, match="a mistake"):
        auto_batch(lambda _: None, torch.device("cuda:0"), 640, [])


@pytest.mark.parametrize("batch_size", [0, -2])
def test_only_minus_one_is_allowed(batch_size):
    with pytest.raises(ValueError, match=f"--batch-size {batch_size}: 1 or more, or -1 for the largest"):
        train.run(batch_size=batch_size)
