"""NAM's sparsity penalty (arXiv 2111.12419, section 3): p * (sum |gamma| + sum |lambda|), added to the loss."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.blocks.nam import NAMChannel, NAMSpatial
from utils.general import LOGGER


def scale_factors(model: nn.Module) -> list[nn.Parameter]:
    """Return the trainable gammas (C,) and lambdas (S * S,) of all NAM blocks of a network."""
    norms = [module.bn2 for module in model.modules() if isinstance(module, NAMChannel)]
    norms += [module.bn for module in model.modules() if isinstance(module, NAMSpatial)]
    return [norm.weight for norm in norms if norm.weight.requires_grad]


@dataclass(frozen=True)
class SparsityPenalty:
    """p times the L1 norm of scale factors, as a function without arguments."""

    factors: tuple[nn.Parameter, ...]
    p: float

    def __call__(self) -> Tensor:
        """Compute the penalty, a scalar with gradient."""
        return self.p * torch.stack([factor.abs().sum() for factor in self.factors]).sum()


def nam_penalty(model: nn.Module, p: float) -> SparsityPenalty | None:
    """Return the penalty of strength p for a network's NAM blocks; None if p is 0 or there are none."""
    factors = scale_factors(model) if p else []
    if p and not factors:
        LOGGER.warning(f"nam_sparsity {p:g} changes nothing: the model has no NAMAttention that is trained")
    return SparsityPenalty(tuple(factors), p) if factors else None
