"""The feed-forwards of all experts over rows sorted by expert, three ways that give the same.

`by_slices` runs each expert on its slice, which stays in the processor's cache from the first product to the last;
`by_groups` leaves the loop to torch's grouped product (GPUs); `by_tiles` has rows in tiles of one size, for bits that
do not depend on company. Legend: S sorted rows, N rows of one expert, D width, F feed-forward width, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from kosmos.transformer.gradient_room import GradientRoom
from kosmos.transformer.kernels.fp32 import fp32_linear
from kosmos.transformer.linear import DETERMINISTIC_ROWS

__all__ = ["Stack", "by_groups", "by_slices", "by_tiles", "groups_suit"]

GROUPED_BYTES = 16  # grouped_mm wants rows that start at such multiples
OUTPUTS_AT_A_TIME = 512
GROUPED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# bound once: finding the right overload anew takes longer than a small product
_gelu_backward = torch.ops.aten.gelu_backward.default
_norm_backward = torch.ops.aten.native_layer_norm_backward.default


class Stack(NamedTuple):
    """Parameters of all experts; scale and shift of the inner norm are None without one."""

    widen_EFD: Tensor
    widen_bias_EF: Tensor
    scale_EF: Tensor | None
    shift_EF: Tensor | None
    narrow_EDF: Tensor
    narrow_bias_ED: Tensor

    def to(self, dtype: torch.dtype) -> Stack:
        """All of it in another dtype, with its gradient."""
        return _stack([None if part is None else part.to(dtype) for part in self])

    def each(self, num_experts: int | None = None) -> list[Stack]:
        """One expert's parameters after another's, without the leading axis; their number where none may be here."""
        num_experts = len(self.widen_EFD) if num_experts is None else num_experts
        split = ([None] * num_experts if part is None else part.unbind(0) for part in self)
        return [_stack(parts) for parts in zip(*split, strict=True)]


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
    if torch.is_grad_enabled():
        out_SD: Tensor = _Slices.apply(
            x_SD, list(counts), _Manner(eps, dropout, room or GradientRoom()), *stack.to(x_SD.dtype)
        )
        return out_SD
    out_SD = torch.empty_like(x_SD)
    for one, x_ND, out_ND in zip(stack.each(), x_SD.split(list(counts)), out_SD.split(list(counts)), strict=True):
        if len(x_ND):
            out_ND.copy_(_one_expert(x_ND, one.to(x_SD.dtype), eps, dropout, product=fp32_linear))
    return out_SD


def by_tiles(x_SD: Tensor, counts: Sequence[int], stack: Stack, *, eps: float, dropout: float) -> Tensor:
    """[S, D] -> [S, D], in tiles of `DETERMINISTIC_ROWS` rows of one expert, zeros filling its last one."""
    parts = [x_SD[:0]]
    for one, x_ND in zip(stack.each(), x_SD.split(list(counts)), strict=True):
        if len(x_ND):
            padded_ND = F.pad(x_ND, (0, 0, 0, -len(x_ND) % DETERMINISTIC_ROWS))
            tiles = [
                _one_expert(tile, one.to(x_SD.dtype), eps, dropout) for tile in padded_ND.split(DETERMINISTIC_ROWS)
            ]
            parts.append(torch.cat(tiles)[: len(x_ND)])
    return torch.cat(parts)


def groups_suit(x_SD: Tensor, stack: Stack) -> bool:
    """Whether torch's grouped product takes these shapes and this dtype."""
    bytes_each = x_SD.element_size()
    aligned = all(size * bytes_each % GROUPED_BYTES == 0 for size in stack.widen_EFD.shape[1:])
    return x_SD.dtype in GROUPED_DTYPES and aligned


def by_groups(x_SD: Tensor, counts_E: Tensor, stack: Stack, *, eps: float, dropout: float) -> Tensor:
    """[S, D] -> [S, D] without asking the device how many rows an expert has."""
    if not len(x_SD):
        return x_SD
    stack = stack.to(x_SD.dtype)
    ends_E = torch.cumsum(counts_E, 0).to(torch.int32)
    expert_S = torch.searchsorted(ends_E, torch.arange(len(x_SD), device=x_SD.device, dtype=torch.int32), right=True)
    wide_SF = _grouped_linear(x_SD, ends_E, expert_S, stack.widen_EFD, stack.widen_bias_EF)
    wide_SF = F.dropout(F.gelu(wide_SF), dropout, dropout > 0)
    if stack.scale_EF is not None and stack.shift_EF is not None:
        wide_SF = F.layer_norm(wide_SF, wide_SF.shape[-1:], eps=eps) * stack.scale_EF[expert_S]
        wide_SF = wide_SF + stack.shift_EF[expert_S]
    return _grouped_linear(wide_SF, ends_E, expert_S, stack.narrow_EDF, stack.narrow_bias_ED)


def _grouped_linear(x: Tensor, ends_E: Tensor, expert_S: Tensor, weight_EOI: Tensor, bias_EO: Tensor) -> Tensor:
    # the sum with the bias hands the product's backward a gradient of its own: it refuses expanded ones
    out: Tensor = F.grouped_mm(x.contiguous(), weight_EOI.transpose(1, 2), offs=ends_E)
    return out + bias_EO[expert_S]


def _one_expert(
    x_ND: Tensor,
    one: Stack,
    eps: float,
    dropout: float,
    *,
    product: Callable[[Tensor, Tensor, Tensor], Tensor] = F.linear,
) -> Tensor:
    wide_NF = F.gelu(product(x_ND, one.widen_EFD, one.widen_bias_EF))
    wide_NF = F.dropout(wide_NF, dropout, dropout > 0)
    if one.scale_EF is not None:
        wide_NF = F.layer_norm(wide_NF, wide_NF.shape[-1:], one.scale_EF, one.shift_EF, eps)
    return product(wide_NF, one.narrow_EDF, one.narrow_bias_ED)


class _Slices(torch.autograd.Function):
    """By hand, because autograd would fill a gradient of all experts for each expert.

    Kept for backward are the products before the GELU alone: what follows is cheap to make again inside the cache.
    """

    @staticmethod
    def forward(ctx: Any, x_SD: Tensor, counts: list[int], manner: _Manner, *parts: Tensor | None) -> Tensor:
        stack, out_SD, kept = _stack(parts), torch.empty_like(x_SD), []
        for one, x_ND, out_ND in zip(stack.each(), x_SD.split(counts), out_SD.split(counts), strict=True):
            before_NF, mask_NF = fp32_linear(x_ND, one.widen_EFD, one.widen_bias_EF), None
            if manner.dropout:
                mask_NF = F.dropout(torch.ones_like(before_NF), manner.dropout)
            if len(x_ND):
                inner_NF = _inner(before_NF, mask_NF, one, manner.eps).out
                out_ND.copy_(fp32_linear(inner_NF, one.narrow_EDF, one.narrow_bias_ED))
            kept += [before_NF, mask_NF]
        ctx.counts, ctx.manner = counts, manner
        ctx.save_for_backward(x_SD, *stack, *kept)
        return out_SD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SD: Tensor) -> tuple[Tensor | None, ...]:
        x_SD, *rest = ctx.saved_tensors
        stack, kept = _stack(rest[:6]), rest[6:]
        wanted = ctx.needs_input_grad[3:]
        grads = _stack([_wanted(part, wants, ctx.manner.room) for part, wants in zip(stack, wanted, strict=True)])
        grad_x_SD = torch.empty_like(x_SD)
        rows = (part.split(ctx.counts) for part in (x_SD, grad_SD.contiguous(), grad_x_SD))
        for one, into, before_NF, mask_NF, *of_rows in zip(
            stack.each(), grads.each(len(ctx.counts)), kept[::2], kept[1::2], *rows, strict=True
        ):
            if len(before_NF):
                _backward_of_one(one, into, before_NF, mask_NF, *of_rows, eps=ctx.manner.eps)
            else:
                for grad in into:
                    if grad is not None:
                        grad.zero_()
        return grad_x_SD, None, None, *grads


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


def _inner(before_NF: Tensor, mask_NF: Tensor | None, one: Stack, eps: float) -> _Inner:
    active_NF = F.gelu(before_NF)
    if mask_NF is not None:
        active_NF *= mask_NF
    if one.scale_EF is None:
        return _Inner(active_NF, None, None, active_NF)
    out, mean, rstd = torch.native_layer_norm(active_NF, active_NF.shape[-1:], one.scale_EF, one.shift_EF, eps)
    return _Inner(active_NF, mean, rstd, out)


def _backward_of_one(
    one: Stack,
    into: Stack,
    before_NF: Tensor,
    mask_NF: Tensor | None,
    x_ND: Tensor,
    grad_ND: Tensor,
    grad_x_ND: Tensor,
    *,
    eps: float,
) -> None:
    """Fill the gradients of one expert and of its rows, in place; a parameter that wants none has None in `into`."""
    inner = _inner(before_NF, mask_NF, one, eps)
    _fill_product(grad_ND, inner.out, into.narrow_EDF, into.narrow_bias_ED)
    grad_NF = torch.mm(grad_ND, one.narrow_EDF)
    if one.scale_EF is not None:
        wanted = [True, into.scale_EF is not None, into.shift_EF is not None]
        grad_NF, *of_norm = _norm_backward(
            grad_NF,
            inner.active_NF,
            grad_NF.shape[-1:],
            inner.mean,
            inner.rstd,
            one.scale_EF,
            one.shift_EF,
            wanted,
        )
        for target, value in zip((into.scale_EF, into.shift_EF), of_norm, strict=True):
            if target is not None:
                target.copy_(value)
    if mask_NF is not None:
        grad_NF = grad_NF * mask_NF
    grad_NF = _gelu_backward(grad_NF, before_NF)
    _fill_product(grad_NF, x_ND, into.widen_EFD, into.widen_bias_EF)
    torch.mm(grad_NF, one.widen_EFD, out=grad_x_ND)


def _fill_product(grad_NO: Tensor, x_NI: Tensor, weight_OI: Tensor | None, bias_O: Tensor | None) -> None:
    if weight_OI is not None:
        # MKL is a sixth slower where few rows make a gradient of many outputs in one go
        for grad_NB, weight_BI in zip(
            grad_NO.split(OUTPUTS_AT_A_TIME, 1), weight_OI.split(OUTPUTS_AT_A_TIME), strict=True
        ):
            torch.mm(grad_NB.t(), x_NI, out=weight_BI)
    if bias_O is not None:
        torch.sum(grad_NO, 0, out=bias_O)
