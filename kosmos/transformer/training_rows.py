"""GELU with the norm behind it, and dropout with the sum behind it, each in one pass over the rows of a training step.

Where the compiled kernels cannot serve (no gradient wanted, another device or format, no compiler) torch's own
operations give the same; which numbers are dropped differs, how many does not.
Legend: R rows, W width.
"""

from __future__ import annotations

from typing import Any  # the context that torch hands to an autograd function

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from kosmos.transformer.kernels.training import Dropping, TrainingRows, are_plain, load_training_rows

__all__ = ["activated_norm", "add_dropped", "dropped"]


def activated_norm(x_RW: Tensor, norm: nn.Module) -> Tensor:
    """norm(gelu(x)); GELU by the exact error function."""
    kernels = _kernels(x_RW)
    if kernels is not None and type(norm) is nn.LayerNorm and x_RW.shape[-1] % kernels.lanes == 0:
        gain_W, shift_W = norm.weight, norm.bias
        if x_RW.is_contiguous() and norm.normalized_shape == x_RW.shape[-1:] and are_plain(gain_W, shift_W):
            normed_RW: Tensor = _ActivatedNorm.apply(x_RW, gain_W, shift_W, norm.eps)
            return normed_RW
    plain_RW: Tensor = norm(F.gelu(x_RW))
    return plain_RW


def add_dropped(stream_RW: Tensor, x_RW: Tensor, rate: float, training: bool) -> Tensor:
    """stream + dropout(x)."""
    if not training or rate == 0.0:
        return stream_RW + x_RW
    if _kernels(stream_RW, x_RW) is None or stream_RW.shape != x_RW.shape or not x_RW.is_contiguous():
        return stream_RW + F.dropout(x_RW, rate, training)
    added_RW: Tensor = _AddDropped.apply(stream_RW, x_RW, Dropping.drawn(rate))
    return added_RW


def dropped(x_RW: Tensor, rate: float, training: bool) -> Tensor:
    """dropout(x)."""
    if not training or rate == 0.0 or _kernels(x_RW) is None or not x_RW.is_contiguous():
        return F.dropout(x_RW, rate, training)
    out_RW: Tensor = _AddDropped.apply(None, x_RW, Dropping.drawn(rate))
    return out_RW


def _kernels(*tensors: Tensor) -> TrainingRows | None:
    return load_training_rows() if torch.is_grad_enabled() and are_plain(*tensors) else None


class _ActivatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RW: Tensor, gain_W: Tensor, shift_W: Tensor, eps: float) -> Tensor:
        kernels = load_training_rows()
        assert kernels is not None
        normed_RW, statistics_2R = kernels.activated_norm(x_RW.flatten(0, -2), gain_W, shift_W, eps)
        ctx.save_for_backward(x_RW, gain_W, statistics_2R)
        return normed_RW.view_as(x_RW)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes_RW: Tensor) -> tuple[Tensor | None, ...]:
        kernels = load_training_rows()
        assert kernels is not None
        x_RW, gain_W, statistics_2R = ctx.saved_tensors
        rows_RW, slopes = x_RW.flatten(0, -2), slopes_RW.contiguous().flatten(0, -2)
        grad_RW, gain_grad_W, shift_grad_W = kernels.activated_norm_backward(rows_RW, gain_W, slopes, statistics_2R)
        return grad_RW.view_as(x_RW), gain_grad_W, shift_grad_W, None


class _AddDropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stream_RW: Tensor | None, x_RW: Tensor, dropping: Dropping) -> Tensor:
        kernels = load_training_rows()
        assert kernels is not None
        ctx.dropping = dropping
        return kernels.add_dropped(None if stream_RW is None else stream_RW.contiguous(), x_RW, dropping)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes_RW: Tensor) -> tuple[Tensor | None, ...]:
        kernels = load_training_rows()
        assert kernels is not None
        wanted = slopes_RW if ctx.needs_input_grad[0] else None
        return wanted, kernels.add_dropped(None, slopes_RW.contiguous(), ctx.dropping), None
