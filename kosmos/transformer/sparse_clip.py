"""SparseClip: one clipping factor for dense and expert gradients, whose norms would otherwise not compare.

Source: TorchScale (arXiv 2211.13184): an expert sees some of the rows, so its gradient enters the norm divided by
sqrt(max(ranks, experts)); then all gradients, the experts' too, are scaled by the same factor.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from kosmos.transformer.experts import experts_of

__all__ = ["sparse_clip"]

EPS = 1e-6  # as torch's clip_grad_norm_


@torch.no_grad()
def sparse_clip(module: nn.Module, max_norm: float) -> Tensor:
    """Scale every gradient of `module` in place so that their global norm is at most `max_norm`.

    Dense gradients must already be added up over ranks; where experts are split, all ranks must call.

    Returns: the norm before [], fp32.
    """
    squares, seen = [], set[int]()
    for experts in experts_of(module):
        own = [part for part in (experts.fc1, experts.norm, experts.fc2) if part is not None]
        gradients = [parameter.grad for part in own for parameter in part.parameters()]
        seen.update(id(gradient) for gradient in gradients)
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        squares.append(_square(gradients) / max(ranks, experts.config.num_experts))
    everything = [parameter.grad for parameter in module.parameters()]
    squares.append(_square([gradient for gradient in everything if id(gradient) not in seen]))
    norm = torch.stack(squares).sum().sqrt()
    factor = (max_norm / (norm + EPS)).clamp(max=1.0)
    for gradient in everything:
        if gradient is not None:
            _local(gradient).mul_(factor)
    return norm


def _square(gradients: list[Tensor | None]) -> Tensor:
    """Squared norm of whole gradients; what other ranks hold of them is added up."""
    total = torch.zeros(())
    split = None
    for gradient in gradients:
        if gradient is not None:
            total = total + _local(gradient).float().square().sum().to(total.device)
            split = gradient.device_mesh.get_group() if isinstance(gradient, DTensor) else split
    if split is not None:
        dist.all_reduce(total, group=split)
    return total


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
