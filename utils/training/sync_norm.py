"""Batch norm over the images of all processes, on any device.

torch's own works on GPUs only; this one is plain autograd over gloo. Outputs and gradients equal those of one process
with the whole batch.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from utils.dist import DistEnv
from utils.general import LOGGER


def synchronized(model: nn.Module, device: torch.device, ranks: DistEnv) -> nn.Module:
    """Replace the model's batch norms by synchronized ones; names and weights are unchanged."""
    if ranks.size == 1:
        LOGGER.warning("--sync-bn changes nothing: there is one process; see torchrun")
        return model
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, child in model.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(model, name, SyncNorm2d.of(child))
        else:
            synchronized(child, device, ranks)
    return model


class SumOfRanks(torch.autograd.Function):
    """Sum a tensor over all processes; the gradient is summed too."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        """Return the sum; the input is unchanged."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        """Return the sum of the gradients."""
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class SyncNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d with mean and variance over the images of all processes in training."""

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> "SyncNorm2d":
        """Build one from a batch norm's parameters, statistics and settings."""
        if not norm.affine or not norm.track_running_stats or norm.momentum is None:
            raise ValueError(f"--sync-bn: on CPUs {norm} needs weights, statistics and a momentum")
        found = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        found._parameters, found._buffers, found.training = norm._parameters, norm._buffers, norm.training
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (B, C, H, W); same shape and dtype."""
        if not self.training:
            return super().forward(x)
        values = x.float()
        count = values.numel() // values.shape[1]
        sums = SumOfRanks.apply(torch.cat((values.sum((0, 2, 3)), values.new_tensor([float(count)]))))
        total, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        # Of the deviations, not of the squares, whose difference would lose the digits of a large mean.
        deviation = values - mean[:, None, None]
        variance = SumOfRanks.apply(deviation.square().sum((0, 2, 3))) / total
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * total / (total - 1).clamp(min=1), self.momentum)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return torch.addcmul(self.bias[:, None, None], deviation, scale[:, None, None]).to(x.dtype)
