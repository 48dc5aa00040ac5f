"""The feed-forward of each expert on its slice of the sorted rows, its backward written by hand.

A slice stays in the processor's cache from the first product to the last, and experts are computed side by side.
By hand, because autograd would fill a gradient of all experts for each expert; kept for backward are the products
before the GELU alone, as what follows is cheap to make again inside the cache.
Legend: S sorted rows, N rows of one expert, D width, F feed-forward width, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from kosmos.transformer.expert_products import Stack
from kosmos.transformer.gradient_room import GradientRoom
from kosmos.transformer.kernels.fp32 import fp32_linear
from kosmos.transformer.side_by_side import side_by_side

__all__ = ["by_slices"]

# bound once: finding the right overload anew takes longer than a small product
_gelu_backward = torch.ops.aten.gelu_backward.default
_norm_backward = torch.ops.aten.native_layer_norm_backward.default
Result = TypeVar("Result")


class _Manner(NamedTuple):
    """What all experts share: numbers of the inner norm and of dropout (0 outside training), room for gradients."""

    eps: float
    dropout: float
    room: GradientRoom


def by_slices(
    x_SD: Tensor, counts: Sequence[int], stack: Stack, *, eps: float, dropout: float, room: GradientRoom | None = None
) -> Tensor:
    """[S, D] -> [S, D]; expert e has the next `counts[e]` rows.

    Args:
        room: of the layer, for the gradients of its experts.
    """
    manner = _Manner(eps, dropout, room or GradientRoom())
    if torch.is_grad_enabled():
        out_SD: Tensor = _Slices.apply(x_SD, list(counts), manner, *stack.to(x_SD.dtype))
        return out_SD
    out_SD, masks = torch.empty_like(x_SD), _masks(x_SD, counts, stack, dropout)
    ones, xs, outs = stack.each(), x_SD.split(list(counts)), out_SD.split(list(counts))

    def forward(e: int) -> None:
        _forward_of_one(ones[e].to(x_SD.dtype), xs[e], masks[e], outs[e], eps)

    _of_each(forward, x_SD, counts, stack)
    return out_SD


class _Slices(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_SD: Tensor, counts: list[int], manner: _Manner, *parts: Tensor | None) -> Tensor:
        stack, out_SD = _stack(parts), torch.empty_like(x_SD)
        masks = _masks(x_SD, counts, stack, manner.dropout)
        ones, xs, outs = stack.each(), x_SD.split(counts), out_SD.split(counts)

        def forward(e: int) -> Tensor:
            return _forward_of_one(ones[e], xs[e], masks[e], outs[e], manner.eps)

        ctx.counts, ctx.manner = counts, manner
        ctx.save_for_backward(x_SD, *stack, *masks, *_of_each(forward, x_SD, counts, stack))
        return out_SD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SD: Tensor) -> tuple[Tensor | None, ...]:
        counts, (x_SD, *rest) = ctx.counts, ctx.saved_tensors
        stack, masks, befores = _stack(rest[:6]), rest[6 : 6 + len(counts)], rest[6 + len(counts) :]
        wanted = zip(stack, ctx.needs_input_grad[3:], strict=True)
        grads = _stack([_wanted(part, wants, ctx.manner.room) for part, wants in wanted])
        grad_x_SD = torch.empty_like(x_SD)
        ones, intos = stack.each(), grads.each(len(counts))
        rows = [
            _Rows(*parts)
            for parts in zip(*(part.split(counts) for part in (x_SD, grad_SD.contiguous(), grad_x_SD)), strict=True)
        ]

        def backward(e: int) -> None:
            if counts[e]:
                _backward_of_one(ones[e], intos[e], befores[e], masks[e], rows[e], ctx.manner.eps)
            else:
                _fill_with_zeros(intos[e])

        _of_each(backward, x_SD, counts, stack)
        return grad_x_SD, None, None, *grads


def _of_each(work: Callable[[int], Result], x_SD: Tensor, counts: Sequence[int], stack: Stack) -> list[Result]:
    """What `work` gives for each expert; a GPU has one after another and goes on by itself."""
    if x_SD.device.type != "cpu":
        return [work(expert) for expert in range(len(counts))]
    products = 2 * stack.widen_EFD[0].numel()
    return side_by_side(work, [count * products for count in counts])


class _Rows(NamedTuple):
    """One expert's rows, the gradients of their outputs, and where their own gradients are to be written."""

    x_ND: Tensor
    grad_ND: Tensor
    grad_x_ND: Tensor


class _Inner(NamedTuple):
    """What lies between the two products of an expert, with what its backward needs."""

    active_NF: Tensor
    mean: Tensor | None
    rstd: Tensor | None
    out: Tensor


def _stack(parts: Sequence[Any]) -> Stack:
    return Stack(*parts)


def _wanted(part: Tensor | None, wanted: bool, room: GradientRoom) -> Tensor | None:
    return room.like(part) if part is not None and wanted else None


def _masks(x_SD: Tensor, counts: Sequence[int], stack: Stack, dropout: float) -> Sequence[Tensor | None]:
    """Of each expert, drawn before the experts are computed, who take their turns in no fixed order."""
    if not dropout:
        return [None] * len(counts)
    mask_SF = F.dropout(x_SD.new_ones(len(x_SD), stack.widen_EFD.shape[1]), dropout)
    return torch.split(mask_SF, list(counts))


def _forward_of_one(one: Stack, x_ND: Tensor, mask_NF: Tensor | None, out_ND: Tensor, eps: float) -> Tensor:
    """Fill the outputs of one expert's rows; returns the product before the GELU."""
    before_NF = fp32_linear(x_ND, one.widen_EFD, one.widen_bias_EF)
    if len(x_ND):
        inner_NF = _inner(before_NF, mask_NF, one, eps).out
        out_ND.copy_(fp32_linear(inner_NF, one.narrow_EDF, one.narrow_bias_ED))
    return before_NF


def _inner(before_NF: Tensor, mask_NF: Tensor | None, one: Stack, eps: float) -> _Inner:
    active_NF = F.gelu(before_NF)
    if mask_NF is not None:
        active_NF *= mask_NF
    if one.scale_EF is None:
        return _Inner(active_NF, None, None, active_NF)
    out, mean, rstd = torch.native_layer_norm(active_NF, active_NF.shape[-1:], one.scale_EF, one.shift_EF, eps)
    return _Inner(active_NF, mean, rstd, out)


def _backward_of_one(
    one: Stack, into: Stack, before_NF: Tensor, mask_NF: Tensor | None, rows: _Rows, eps: float
) -> None:
    """Fill the gradients of one expert and of its rows, in place; a parameter that wants none has None in `into`."""
    inner = _inner(before_NF, mask_NF, one, eps)
    _fill_product(rows.grad_ND, inner.out, into.narrow_EDF, into.narrow_bias_ED)
    grad_NF = torch.mm(rows.grad_ND, one.narrow_EDF)
    if one.scale_EF is not None:
        grad_NF = _through_norm(grad_NF, inner, one, into)
    if mask_NF is not None:
        grad_NF = grad_NF * mask_NF
    grad_NF = _gelu_backward(grad_NF, before_NF)
    _fill_product(grad_NF, rows.x_ND, into.widen_EFD, into.widen_bias_EF)
    torch.mm(grad_NF, one.widen_EFD, out=rows.grad_x_ND)


def _through_norm(grad_NF: Tensor, inner: _Inner, one: Stack, into: Stack) -> Tensor:
    wanted = [True, into.scale_EF is not None, into.shift_EF is not None]
    shape = grad_NF.shape[-1:]
    grad_NF, *of_norm = _norm_backward(
        grad_NF, inner.active_NF, shape, inner.mean, inner.rstd, one.scale_EF, one.shift_EF, wanted
    )
    for target, value in zip((into.scale_EF, into.shift_EF), of_norm, strict=True):
        if target is not None:
            target.copy_(value)
    return grad_NF


def _fill_product(grad_NO: Tensor, x_NI: Tensor, weight_OI: Tensor | None, bias_O: Tensor | None) -> None:
    if weight_OI is not None:
        torch.mm(grad_NO.t(), x_NI, out=weight_OI)
    if bias_O is not None:
        torch.sum(grad_NO, 0, out=bias_O)


def _fill_with_zeros(into: Stack) -> None:
    for grad in into:
        if grad is not None:
            grad.zero_()
