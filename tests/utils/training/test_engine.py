"""The trainer on a toy network: every batch counts, frozen norms stand still, what is not finite goes no further."""

import copy
import itertools
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from utils.datasets import Batch
from utils.torch_utils import ModelEMA, compile_network
from utils.training.engine import MultiScale, Trainer, memory_text, select_amp

CPU = torch.device("cpu")


class Toy(nn.Module):
    """A convolution and a norm; its `raw maps` are one map."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return [self.bn(self.conv(x))]


class EveryOther:
    """A schedule that steps every `accumulate` batches and notes when it was asked."""

    def __init__(self, accumulate):
        self.accumulate, self.asked = accumulate, []

    def apply(self, optimizer, epoch, step):
        self.asked.append((epoch, step))
        return self.accumulate


def criterion(raw, targets):
    loss = ((raw[0].float() ** 2).mean() + (raw[0].float() ** 4).mean()) / 100  # small: gradients are not clipped
    return loss, torch.stack((loss, loss * 2, loss * 3)).detach()


def make_batches(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 2, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return [Batch(x, torch.zeros(0, 6), (), ()) for x in images]


def make_trainer(accumulate=1, lr=0.1, fused=None, **options):
    torch.manual_seed(0)
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, fused=fused)
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return Trainer(model, optimizer, criterion, EveryOther(accumulate), ModelEMA(model), **options)


@pytest.mark.parametrize(("batches", "accumulate", "steps"), [(6, 1, 6), (6, 3, 2), (7, 3, 3), (2, 9, 1), (1, 1, 1)])
def test_no_batch_is_lost(batches, accumulate, steps):
    trainer = make_trainer(accumulate)
    for epoch in range(2):
        trainer.run_epoch(make_batches(batches), epoch, batches)
    assert trainer.ema.updates == 2 * steps
    assert trainer.schedule.asked == [(epoch, epoch * batches + i) for epoch in range(2) for i in range(batches)]


def test_accumulated_gradients_are_the_sum():
    trainer = make_trainer(accumulate=3, lr=0.0)
    gradients = []
    trainer.optimizer.step = lambda: gradients.append(trainer.model.conv.weight.grad.clone())
    batches = make_batches(3)
    trainer.run_epoch(batches, 0, 3)
    reference = make_trainer().model
    for batch in batches:
        criterion(reference(batch.images.float() / 255), None)[0].backward()
    torch.testing.assert_close(gradients[0], reference.conv.weight.grad)


def test_mean_losses_and_what_is_observed():
    trainer, seen = make_trainer(lr=0.0), []
    means = trainer.run_epoch(make_batches(3), 0, 3, lambda i, batch, losses: seen.append((i, losses)))
    assert [i for i, _ in seen] == [0, 1, 2]
    torch.testing.assert_close(seen[-1][1], means)
    torch.testing.assert_close(means / means[0], torch.tensor([1.0, 2, 3]))


def test_gradients_are_clipped():
    trainer = make_trainer()
    trainer.criterion = lambda raw, targets: (raw[0].sum() * 1e6, torch.zeros(3))
    norms = []
    trainer.optimizer.step = lambda: norms.append(
        torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm().item()
    )
    trainer.run_epoch(make_batches(1), 0, 1)
    assert norms[0] == pytest.approx(10, rel=1e-3)


def spoil(trainer, *calls):
    """Lets the loss be NaN at these calls."""
    count = itertools.count()

    def spoiled(raw, targets):
        loss, items = criterion(raw, targets)
        factor = float("nan") if next(count) in calls else 1.0
        return loss * factor, items * factor

    trainer.criterion = spoiled


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_step_without_finite_gradients_is_skipped(caplog, scaled, bad):
    """With a scaler, as on a GPU, and without: weights are those of a run that never saw the batch."""
    trainer, reference = make_trainer(fused=True), make_trainer(fused=True)
    if scaled:
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    spoil(trainer, bad)
    batches = make_batches(3)
    with caplog.at_level("WARNING", "yolov5"):
        losses = trainer.run_epoch(batches, 0, 3)
    good = [batch for i, batch in enumerate(batches) if i != bad]
    expected = reference.run_epoch(good, 0, 2)
    torch.testing.assert_close(trainer.model.conv.weight, reference.model.conv.weight)
    torch.testing.assert_close(losses, expected, rtol=0.05, atol=0)  # norms have seen the batch in between
    assert trainer.skipped == 1
    assert caplog.messages == ["1 of 3 steps skipped in epoch 0: gradients were not finite"]
    if scaled:
        assert trainer.scaler.get_scale() == 1


def test_an_epoch_of_skipped_steps_is_an_error():
    trainer = make_trainer()
    before = trainer.model.conv.weight.clone()
    spoil(trainer, 0, 1, 2)
    with pytest.raises(ValueError, match="diverged in epoch 7: no gradient is finite"):
        trainer.run_epoch(make_batches(3), 7, 3)
    assert torch.equal(trainer.model.conv.weight, before)
    assert trainer.ema.updates == 0


def test_weights_that_are_not_finite_end_the_epoch():
    trainer = make_trainer()
    trainer.model.bn.running_var[1] = float("inf")
    with pytest.raises(ValueError, match=r"diverged in epoch 4: bn\.running_var is not finite"):
        trainer.run_epoch(make_batches(1), 4, 1)


def test_frozen_norms_stand_still():
    trainer = make_trainer()
    trainer.model.bn.requires_grad_(False)
    trainer.run_epoch(make_batches(2), 0, 2)
    assert (trainer.model.bn.running_mean == 0).all()
    assert trainer.model.training


def test_goes_on_exactly():
    whole, cut, resumed = (make_trainer(2) for _ in range(3))
    for epoch in range(4):
        whole.run_epoch(make_batches(3, epoch), epoch, 3)
    for epoch in range(2):
        cut.run_epoch(make_batches(3, epoch), epoch, 3)
    resumed.load_state_dict(cut.state_dict(), cut.ema.ema.state_dict())
    for epoch in range(2, 4):
        resumed.run_epoch(make_batches(3, epoch), epoch, 3)
    for first, second in ((whole.model, resumed.model), (whole.ema.ema, resumed.ema.ema)):
        for name, value in first.state_dict().items():
            torch.testing.assert_close(value, second.state_dict()[name], rtol=0, atol=0)


def test_sizes_are_drawn_from_a_half_to_one_and_a_half():
    resize = MultiScale(seed=1, stride=32)
    sizes = [resize.size(640, number) for number in range(2000)]
    assert set(sizes) == set(range(320, 961, 32))
    assert np.bincount(sizes)[320::32].min() > 50  # of 95 expected
    assert sizes[7:] == [MultiScale(1, 32).size(640, number) for number in range(7, 2000)]
    assert sizes != [MultiScale(2, 32).size(640, number) for number in range(2000)]
    assert {resize.size(64, number) for number in range(100)} == {64, 96}  # never a single cell


@pytest.mark.parametrize("hw", [(128, 128), (96, 128), (160, 64)])
def test_resized_images(hw):
    images = torch.linspace(0, 1, hw[1]).expand(2, 3, *hw)
    for number in range(20):
        resized = MultiScale(0, 32)(images, number)
        size = MultiScale(0, 32).size(max(hw), number)
        assert max(resized.shape[2:]) == size
        assert all(0 <= side - other * size / max(hw) < 32 for side, other in zip(resized.shape[2:], hw, strict=True))
        w = resized.shape[3]
        places = ((torch.arange(w) + 0.5) / w * hw[1] - 0.5).clamp(0, hw[1] - 1) / (hw[1] - 1)
        torch.testing.assert_close(resized[1, 2, 3], places, rtol=0, atol=1e-5)


def test_the_trainer_resizes_by_the_batchs_number():
    trainer, seen = make_trainer(resize=lambda images, number: images[..., : 8 + number]), []
    trainer.model.register_forward_pre_hook(lambda model, inputs: seen.append(inputs[0].shape[3]))
    for epoch in range(2):
        trainer.run_epoch(make_batches(3), epoch, 3)
    assert seen == [8, 9, 10, 11, 12, 13]


def test_a_loss_factor_is_for_gradients_alone():
    gradients, losses = [], []
    for factor in (1, 4):
        trainer = make_trainer(lr=0.0, loss_factor=factor)
        trainer.optimizer.step = lambda trainer=trainer: gradients.append(trainer.model.conv.weight.grad.clone())
        losses.append(trainer.run_epoch(make_batches(1), 0, 1))
    torch.testing.assert_close(gradients[1], gradients[0] * 4)
    assert torch.equal(*losses)


def test_bf16_autocast_keeps_weights_in_fp32():
    trainer = make_trainer(amp_dtype=torch.bfloat16)
    kinds = []
    trainer.criterion = lambda raw, targets: (kinds.append(raw[0].dtype), criterion(raw, targets))[1]
    trainer.run_epoch(make_batches(1), 0, 1)
    assert kinds == [torch.bfloat16]
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


@pytest.mark.parametrize(("choice", "expected"), [("bf16", torch.bfloat16), ("off", None)])
def test_amp_as_named(choice, expected):
    assert select_amp(choice, CPU) is expected


def test_amp_auto_on_a_cpu_is_bf16_or_nothing():
    assert select_amp("auto", CPU) in {torch.bfloat16, None}


def test_amp_errors():
    with pytest.raises(ValueError, match="needs a GPU"):
        select_amp("fp16", CPU)
    with pytest.raises(ValueError, match="must be one of"):
        select_amp("fp8", CPU)


def test_memory_of_a_cpu():
    assert memory_text(CPU) == "0G"


class KnowsFloatOnly(torch.autograd.Function):
    """A pasted function that puts its input into a tensor of its own, in FP32."""

    @staticmethod
    def forward(ctx, x):
        return torch.zeros(x.shape).index_copy_(0, torch.arange(len(x)), x)

    @staticmethod
    def backward(ctx, grad):
        return grad


class Pasted(Toy):
    def forward(self, x):
        return [KnowsFloatOnly.apply(self.conv(x))]


def test_a_block_that_does_not_take_bf16_is_told_of_amp_off():
    batch = make_batches(1)[0]
    trainer = make_trainer(amp_dtype=torch.bfloat16)
    trainer.network = Pasted()
    with pytest.raises(ValueError, match=r"bfloat16: .*--amp off"):
        trainer.backward(batch, 0)
    trainer = make_trainer()
    trainer.network = Pasted()
    assert trainer.backward(batch, 0).isfinite().all()


def test_amp_auto_goes_on_in_fp32(caplog):
    batches = make_batches(3)
    trainer = make_trainer(amp_dtype=torch.bfloat16, may_leave_amp=True)
    trainer.network = trainer.model = Pasted()
    trainer.ema = ModelEMA(trainer.model)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.0)
    gradients = []
    trainer.optimizer.step = lambda: gradients.append(trainer.model.conv.weight.grad.clone())
    with caplog.at_level("WARNING", "yolov5"):
        trainer.run_epoch(batches, 0, 3)
    assert caplog.text.count("--amp off") == 1
    assert trainer.amp_dtype is None
    trainer.model.zero_grad()
    criterion(trainer.model(batches[0].images.float() / 255), None)[0].backward()
    torch.testing.assert_close(gradients[0], trainer.model.conv.weight.grad)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_trains_alike(tmp_path, monkeypatch, caplog):
    """About 20 s of CPU time: a forward and a backward program are compiled."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    caplog.set_level("INFO", "yolov5")
    full, last = make_batches(2), make_batches(1, seed=1)[0]
    batches = [*full, last._replace(images=last.images[:1])]
    plain = make_trainer(amp_dtype=torch.bfloat16)
    compiled = make_trainer(amp_dtype=torch.bfloat16, compiled_for=2)
    compile_network(compiled.model, is_dynamic=False)
    caplog.clear()
    for epoch in range(2):
        losses = [trainer.run_epoch(batches, epoch, 3) for trainer in (plain, compiled)]
        torch.testing.assert_close(*losses, rtol=0.02, atol=0)
    compilations = [message for message in caplog.messages if str(tmp_path) in message]
    assert len(compilations) == 2, "forward and backward, and nothing for the last batch, which is smaller"
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    assert list(compiled.ema.ema.state_dict()) == list(plain.ema.ema.state_dict())
    assert compiled.ema.ema._compiled_call_impl is None

    resumed = make_trainer(amp_dtype=torch.bfloat16, compiled_for=2)
    compile_network(resumed.model, is_dynamic=False)
    resumed.load_state_dict(copy.deepcopy(compiled.state_dict()), copy.deepcopy(compiled.ema.ema.state_dict()))
    for trainer in (compiled, resumed):
        trainer.run_epoch(batches, 2, 3)
    for name, value in compiled.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
