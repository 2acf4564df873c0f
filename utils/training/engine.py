"""Train a model for an epoch; save and restore all state that a resumed run needs.

The trainer knows neither files nor options: it takes its parts and returns numbers. utils/evaluation/evaluate.py
evaluates the network.

Shapes: B images of a batch, H and W of the network's input, T targets of a batch.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from utils.base.constants import AMP_CHOICES
from utils.data.sampling import DRAW_SCALE
from utils.datasets import Batch
from utils.dist import SINGLE, DistEnv
from utils.general import LOGGER, make_divisible, one_line
from utils.torch_utils import ModelEMA, fast_dtype, to_device
from utils.training.optim import Schedule

TYPE_NAMES = ("BFloat16", "bfloat16", "BF16", "Half", "float16")  # in torch's errors on types
MAX_GRADIENT_NORM = 10.0
SYNC_EVERY = 32  # batches between two looks at the device's numbers, each of which makes the host wait

Criterion = Callable[[list[Tensor], Tensor], tuple[Tensor, Tensor]]
BatchObserver = Callable[[int, Batch, Tensor | None], None]


def select_amp(choice: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype for autocast, None for FP32; `auto` selects what the device computes fast and safely.

    That is bf16 if the hardware has it, as CPUs with AVX-512 BF16 or AMX do; fp16 on older GPUs with tensor cores.
    """
    if choice not in AMP_CHOICES:
        raise ValueError(f"--amp {choice}: must be one of {', '.join(AMP_CHOICES)}")
    if choice == "fp16" and device.type == "cpu":
        raise ValueError("--amp fp16 needs a GPU; a CPU takes --amp bf16, or off")
    if choice != "auto":
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[choice]
    return fast_dtype(device)


class AmpTypeError(ValueError):
    """A part of the network or the loss does not support autocast's dtype."""


@contextmanager
def explained_types(amp_dtype: torch.dtype | None) -> Iterator[None]:
    """Raise AmpTypeError, which names --amp off, if the network or the loss does not support autocast's dtype.

    Pasted blocks and losses, custom autograd functions above all, may support FP32 only.
    """
    try:
        yield
    except (RuntimeError, TypeError) as error:
        if amp_dtype is None or not any(name in str(error) for name in TYPE_NAMES):
            raise
        kind = str(amp_dtype).removeprefix("torch.")
        raise AmpTypeError(
            f"training in {kind}: {one_line(error)}. A block or a loss of your own may know FP32 only: use --amp off"
        ) from error


class TrainingDiverged(ValueError):
    """The weights, or all gradients of an epoch, are not finite."""


@dataclass(frozen=True)
class MultiScale:
    """Draws the image size of each batch between 0.5 and 1.5 times its own, in multiples of the stride.

    The draw depends on the seed and the batch's number, so a resumed run draws the same. The minimum is two strides:
    below, a level of the network has a single cell.
    """

    seed: int
    stride: int

    def size(self, imgsz: int, number: int) -> int:
        """Return the longest side of a batch that was loaded at imgsz."""
        rng = np.random.default_rng((self.seed, number, 0, DRAW_SCALE))
        least = max(imgsz // 2, 2 * self.stride)
        return int(rng.integers(least, imgsz * 3 // 2 + self.stride)) // self.stride * self.stride

    def __call__(self, images: Tensor, number: int) -> Tensor:
        """Resize images (B, 3, H, W) bilinearly, each side rounded up to a multiple of the stride."""
        h, w = images.shape[2:]
        longest = max(h, w)
        size = self.size(longest, number)
        hw = [make_divisible(side * size / longest, self.stride) for side in (h, w)]
        return images if hw == [h, w] else F.interpolate(images, hw, mode="bilinear", align_corners=False)


@dataclass
class Progress:
    """Position within an epoch: what `Trainer.run_epoch` needs to resume, besides the trainer's own state."""

    epoch: int
    batch_count: int  # of the epoch
    batches: int = 0  # that are done
    pending: int = 0  # of them, since the last optimizer step; their gradients are in the model
    steps: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros(3))  # of the finite losses
    counted: Tensor = field(default_factory=lambda: torch.zeros(()))  # batches with finite losses

    def to(self, device: torch.device) -> "Progress":
        """Move the sums to a device."""
        self.total, self.counted = self.total.to(device), self.counted.to(device)
        return self


class Trainer:
    """Trains a model batch by batch: forward, loss, gradients, accumulated steps, moving average.

    A step with gradients that are not finite is skipped and counted in `skipped`. No batch is lost: what is accumulated
    at the end of an epoch makes one more step.

    Of several `ranks` each trains on its part of every batch, with a criterion whose losses average to the whole's.
    Gradients are reduced once per step, overlapped with the last backward pass. Weights and moving averages are equal
    on all ranks at any time; statistics of batch norms are averaged at the end of an epoch.

    `progress` is the position within the current or last epoch. `observe` may raise to interrupt it; `state_dict` then
    holds what is needed to resume with the next batch.

    Args:
        resize: resize(images, number) changes the size of a batch's images; numbers count from the run's start.
        loss_factor: Multiplies the gradients but not the logged losses; 4 if an image stands for four.
        penalty: Returns a value that is added to the loss of each image; not logged either.
        compiled_for: The number of images in a full batch of a compiled network. Any other number, such as that of an
            epoch's last batch, is computed uncompiled: to compile takes longer than such a batch.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        criterion: Criterion,
        schedule: Schedule,
        ema: ModelEMA,
        amp_dtype: torch.dtype | None = None,
        *,
        resize: Callable[[Tensor, int], Tensor] | None = None,
        loss_factor: float = 1.0,
        penalty: Callable[[], Tensor] | None = None,
        ranks: DistEnv = SINGLE,
        may_leave_amp: bool = False,
        compiled_for: int | None = None,
    ) -> None:
        self.model, self.optimizer, self.criterion = model, optimizer, criterion
        self.schedule, self.ema, self.amp_dtype = schedule, ema, amp_dtype
        self.resize, self.loss_factor, self.penalty, self.ranks = resize, loss_factor, penalty, ranks
        self.compiled_for = compiled_for
        self.device = next(model.parameters()).device
        self.network = model
        self.may_leave_amp = may_leave_amp and ranks.size == 1  # for FP32, at the first batch
        if ranks.size > 1:
            self.network = shared_network(model, self.device)
            ema.ema.load_state_dict(model.state_dict())
        # On a GPU the scaler skips steps with gradients that are not finite without making the host wait. Only fp16
        # needs its scale, which is one otherwise.
        self.scales = amp_dtype == torch.float16
        self.scaler = torch.amp.GradScaler(
            self.device.type, init_scale=2.0**16 if self.scales else 1.0, enabled=self.device.type == "cuda"
        )
        self.skipped = 0
        self.progress: Progress | None = None
        self._loaded: Progress | None = None  # of an epoch that was broken off, until that is taken up
        self.epoch_skipped = torch.zeros((), dtype=torch.int64, device=self.device)

    def run_epoch(
        self, batches: Iterable[Batch], epoch: int, batch_count: int, observe: BatchObserver | None = None
    ) -> Tensor:
        """Train on the `batch_count` batches of an epoch; return the mean box, obj and cls loss, (3,) on the CPU.

        Of an interrupted epoch whose `progress` was loaded, `batches` are the remaining ones. Batches without a finite
        loss are left out of the mean. Each rank sees the losses of its own part until the epoch ends.

        Args:
            batches: The batches.
            epoch: Index of the epoch.
            batch_count: Batches of the whole epoch.
            observe: observe(i, batch, means) is called after each batch; means, the losses so far, are given only now
                and then.

        Raises:
            TrainingDiverged: if all steps were skipped or a weight is not finite.
        """
        self.train_mode()
        done = self._loaded
        if done is None or not self.first_batch(epoch, batch_count):
            self.optimizer.zero_grad()
            self.epoch_skipped.zero_()
            done = Progress(epoch, batch_count).to(self.device)
        self.progress, self._loaded = done, None
        for i, batch in enumerate(batches, done.batches):
            number = epoch * batch_count + i
            accumulate = self.schedule.apply(self.optimizer, epoch, number)
            done.pending += 1
            is_last = i + 1 == batch_count
            is_step = done.pending >= accumulate or is_last
            items = self.backward(batch, number, is_step)
            is_finite = items.isfinite().all()
            done.total += torch.where(is_finite, items, 0)
            done.counted += is_finite
            if is_step:
                self.step()
                done.steps += 1
                done.pending = 0
            done.batches = i + 1
            if observe is not None:
                is_free = self.device.type == "cpu" or i % SYNC_EVERY == 0 or is_last
                observe(i, batch, (done.total / done.counted).cpu() if is_free else None)
        self.check_finite(epoch, done.steps)
        self.share_statistics()
        return self.ranks.mean_(done.total / done.counted).cpu()

    def first_batch(self, epoch: int, batch_count: int) -> int:
        """Return the first batch of an epoch; not 0 if it was interrupted."""
        loaded = self._loaded
        is_of_epoch = loaded is not None and (loaded.epoch, loaded.batch_count) == (epoch, batch_count)
        return loaded.batches if loaded is not None and is_of_epoch else 0

    def train_mode(self) -> None:
        """Set training mode, except for batch norms of frozen layers, whose statistics must not change."""
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, _NormBase) and module.affine and not module.weight.requires_grad:
                module.eval()

    def backward(self, batch: Batch, number: int, is_step: bool = True) -> Tensor:
        """Accumulate the gradients of a batch; return its box, obj and cls loss, (3,) on the device.

        is_step: an optimizer step follows, so the gradients are reduced over the ranks.
        """
        try:
            items = self._backward(batch, number, is_step)
        except AmpTypeError as error:
            if not self.may_leave_amp:
                raise
            LOGGER.warning(f"{error}, as --amp auto does from here on")
            self.may_leave_amp, self.amp_dtype = False, None
            self.optimizer.zero_grad()  # of this batch, the first one
            items = self._backward(batch, number, is_step)
        self.may_leave_amp = False
        return items

    def _backward(self, batch: Batch, number: int, is_step: bool) -> Tensor:
        images = batch.images.to(self.device, non_blocking=True)  # (B, 3, H, W) uint8
        targets = to_device(batch.targets, self.device)  # (T, 6)
        images = images.to(torch.float32, memory_format=torch.channels_last).div_(255)
        if self.resize is not None:
            images = self.resize(images, number)
        is_local = self.ranks.size > 1 and not is_step
        with self.network.no_sync() if is_local else nullcontext(), explained_types(self.amp_dtype):
            with torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
                if self.compiled_for in (None, len(images)):
                    raw = self.network(images)
                else:
                    with torch.compiler.set_stance("force_eager"):
                        raw = self.network(images)
            loss, items = self.criterion(raw, targets)
            if self.penalty is not None:
                loss = loss + self.penalty() * len(images)
            factor = self.loss_factor * self.ranks.size  # the mean of gradients is taken, not their sum
            self.scaler.scale(loss * factor).backward()
        return items

    def step(self) -> None:
        """Clip the gradients, step the optimizer and update the moving average."""
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        self.epoch_skipped += ~norm.isfinite()
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update(None if self.scales else 1.0)
            self.ema.update(self.model)
        elif norm.isfinite():
            self.optimizer.step()
            self.ema.update(self.model)
        self.optimizer.zero_grad()

    def check_finite(self, epoch: int, steps: int) -> None:
        """Count and log skipped steps of an epoch; raise TrainingDiverged if all were or a weight is not finite."""
        skipped = int(self.epoch_skipped)
        self.skipped += skipped
        state = {name: value for name, value in self.model.state_dict().items() if value.is_floating_point()}
        finite = torch.stack([value.isfinite().all() for value in state.values()]).tolist()
        wrong = next((name for name, is_finite in zip(state, finite, strict=True) if not is_finite), "no gradient")
        if skipped == steps or not all(finite):
            raise TrainingDiverged(
                f"training diverged in epoch {epoch}: {wrong} is {'finite' if all(finite) else 'not finite'}; last.pt "
                "holds the epoch before. Try a lower lr0 (in the --hyp file), --amp off, or look for wrong labels"
            )
        if skipped:
            usual = ", of which fp16 needs some to find its scale" if self.scales else ""
            LOGGER.warning(f"{skipped} of {steps} steps skipped in epoch {epoch}: gradients were not finite{usual}")

    def share_statistics(self) -> None:
        """Average the statistics of batch norms over the ranks, of the model and of the moving average."""
        if self.ranks.size == 1:
            return
        norms = (m for network in (self.model, self.ema.ema) for m in network.modules() if isinstance(m, _NormBase))
        found = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var) if buffer is not None]
        flat = self.ranks.mean_(torch.cat([buffer.flatten().float() for buffer in found]))
        for buffer, values in zip(found, flat.split([buffer.numel() for buffer in found]), strict=True):
            buffer.copy_(values.view_as(buffer))

    @property
    def learning_rates(self) -> list[float]:
        """Return the rates of the optimizer's groups: norm weights, decayed weights, biases."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, object]:
        """Return all that `load_state_dict` needs to resume exactly, as plain data, without the average's weights."""
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "amp": str(self.amp_dtype),
            "updates": self.ema.updates,
            "skipped": self.skipped,
            "rng": rng,
            "partial": self._partial_state(),
        }

    def _partial_state(self) -> dict[str, object] | None:
        """Return the interrupted epoch as plain data; None between epochs."""
        if self.progress is None:
            return None
        scale = self.scaler.get_scale()
        return {
            **vars(self.progress),
            "epoch_skipped": self.epoch_skipped,
            "gradients": {
                name: parameter.grad / scale
                for name, parameter in self.model.named_parameters()
                if parameter.grad is not None and self.progress.pending
            },
        }

    def end_epoch(self) -> None:
        """Mark the epoch as complete: `state_dict` no longer contains it."""
        self.progress = None

    def share_progress(self) -> None:
        """Synchronize the ranks within an epoch before rank 0 saves it; a collective call."""
        if self.ranks.size == 1 or self.progress is None:
            return
        self.share_statistics()
        self.ranks.mean_(self.progress.total)
        self.ranks.mean_(self.progress.counted)
        if not self.progress.pending:
            return
        for parameter in self.model.parameters():
            if parameter.requires_grad:  # in some ranks a layer may have had nothing to learn
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.ranks.mean_(own.detach())

    def load_state_dict(self, state: dict, ema_state: dict[str, Tensor]) -> None:
        """Restore the state from `state_dict`, and the moving average's weights."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self.scaler.is_enabled() and state["amp"] == str(self.amp_dtype):
            self.scaler.load_state_dict(state["scaler"])
        self.ema.ema.load_state_dict(ema_state)
        self.ema.updates, self.skipped = state["updates"], state["skipped"]
        if state.get("partial"):
            self._load_partial(dict(state["partial"]))
        torch.set_rng_state(state["rng"]["cpu"])
        if "cuda" in state["rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["rng"]["cuda"], self.device)

    def _load_partial(self, state: dict) -> None:
        """Restore the interrupted epoch."""
        gradients = state.pop("gradients")
        self.epoch_skipped.copy_(state.pop("epoch_skipped"))
        self._loaded = Progress(**state).to(self.device)
        self.optimizer.zero_grad()
        scale = self.scaler.get_scale()
        for name, parameter in self.model.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter.device) * scale


def shared_network(model: nn.Module, device: torch.device) -> DistributedDataParallel:
    """Wrap the model so that gradients are averaged over the processes; all start with rank 0's weights."""
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)
    warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")  # that there are none is no fault
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)  # and advises to keep it
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,  # `share_statistics` averages them, once an epoch
        gradient_as_bucket_view=True,
        find_unused_parameters=True,  # a layer that nobody reads has no gradient, which is allowed
    )


def memory_text(device: torch.device) -> str:
    """Format the GPU memory reserved by this process, `3.21G`; `0G` on a CPU."""
    return f"{torch.cuda.memory_reserved(device) / 1e9 if device.type == 'cuda' else 0:.3g}G"
