"""Models without a checkpoint: every parameter a small random number, in the dtype that a bench asks for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["fill_randomly"]

SCALE = 0.02  # activations stay finite through any of our depths


@torch.no_grad()
def fill_randomly(module: nn.Module, dtype: torch.dtype, seed: int = 0) -> None:
    """Give a module on the meta device real memory: parameters uniform in +-0.02, whole-number buffers 0, 1, 2 ...

    Tensors that are shared stay shared only if the module ties them again afterwards.
    """
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(_random(parameter, dtype, generator), requires_grad=False))
        for name, buffer in list(part.named_buffers(recurse=False)):
            if buffer.is_floating_point():
                setattr(part, name, _random(buffer, dtype, generator))
            else:
                steps = torch.arange(buffer.shape[-1] if buffer.ndim else 1, dtype=buffer.dtype)
                setattr(part, name, steps.expand(buffer.shape).clone() if buffer.ndim else steps[0])


def _random(like: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return torch.empty(like.shape, dtype=dtype).uniform_(-SCALE, SCALE, generator=generator)
