"""Causal attention with dropout on its weights, for training on a CPU, without ever holding all scores.

torch's fused attention for the CPU drops nothing: with dropout it makes whole squares of scores, weights, random
numbers and masks, and keeps them. Here a block of queries meets the keys up to its own end, scores live as long as
their block, and the backward pass makes them again (as FlashAttention does, arXiv 2205.14135). Products are torch's.
Legend: R rows, N sequences of a group, T their padded length, H heads, K head width, B heads of all sequences at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any  # Any: the context that torch hands to an autograd function

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kosmos.transformer.groups import PaddedGroup
from kosmos.transformer.kernels.training import Dropping, Place, are_plain, load_training_rows

__all__ = ["attend_dropped", "can_attend_dropped"]

QUERIES = 128  # of a block; smaller ones skip more of what lies above the diagonal, larger ones multiply faster
ALONE = 128  # rows from which a sequence is read where it lies; shorter ones are computed side by side
SCORES_AT_ONCE = 1 << 20  # 4 MB, so that they stay in the processor's caches


Compute = Callable[..., tuple[Tensor, ...]]


def can_attend_dropped(query_RHK: Tensor, key_RHK: Tensor, value_RHK: Tensor) -> bool:
    """Whether `attend_dropped` takes these."""
    return are_plain(query_RHK, key_RHK, value_RHK) and load_training_rows() is not None


def attend_dropped(
    query_RHK: Tensor, key_RHK: Tensor, value_RHK: Tensor, groups: Sequence[PaddedGroup], dropout: float
) -> Tensor:
    """Mixed values [R, H, K] of packed rows; each attends to its own sequence up to itself.

    Args:
        groups: all sequences.
        dropout: share of weights dropped; seeded by torch's generator.
    """
    mixed_RHK: Tensor = _Attention.apply(query_RHK, key_RHK, value_RHK, groups, Dropping.drawn(dropout))
    return mixed_RHK


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_RHK: Tensor, key_RHK: Tensor, value_RHK: Tensor, groups: Sequence[PaddedGroup], drop: Dropping
    ) -> Tensor:
        work, log_sums = _Work(drop), list[Tensor]()

        def mix(*tensors_BTK: Tensor) -> tuple[Tensor]:
            mixed_BTK, log_sums_BT = work.forward(*tensors_BTK)
            log_sums.append(log_sums_BT)
            return (mixed_BTK,)

        out_RHK = torch.empty_like(query_RHK, memory_format=torch.contiguous_format)
        for group in groups:
            _compute(group, mix, (query_RHK, key_RHK, value_RHK), (out_RHK,))
        ctx.groups, ctx.dropping = groups, drop
        ctx.save_for_backward(query_RHK, key_RHK, value_RHK, out_RHK, *log_sums)
        return out_RHK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes_RHK: Tensor) -> tuple[Tensor | None, ...]:
        query_RHK, key_RHK, value_RHK, out_RHK, *kept = ctx.saved_tensors
        work, log_sums = _Work(ctx.dropping), iter(kept)

        def rise(query: Tensor, key: Tensor, value: Tensor, out: Tensor, slopes: Tensor) -> tuple[Tensor, ...]:
            return work.backward(query, key, value, out, slopes, next(log_sums))

        inputs = (query_RHK, key_RHK, value_RHK, out_RHK, slopes_RHK.contiguous())
        gradients = tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs[:3])
        for group in ctx.groups:
            _compute(group, rise, inputs, gradients)
        return (*gradients, None, None)


def _compute(group: PaddedGroup, compute: Compute, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Write what `compute` makes of the inputs [B, T, K] to the group's rows of the outputs [R, H, K]."""
    if group.length >= ALONE:
        for start, rows in zip(group.starts, group.lengths, strict=True):
            views = [x_RHK[start : start + rows].transpose(0, 1) for x_RHK in inputs]
            for out_RHK, found_HTK in zip(outputs, _in_portions(compute, views), strict=True):
                out_RHK[start : start + rows] = found_HTK.transpose(0, 1)
        return
    padded = [group.pad(x_RHK).transpose(1, 2).flatten(0, 1) for x_RHK in inputs]
    heads = inputs[0].shape[1]
    for out_RHK, found_BTK in zip(outputs, _in_portions(compute, padded), strict=True):
        rows_RHK = group.unpad(found_BTK.unflatten(0, (-1, heads)).transpose(1, 2))
        out_RHK.index_copy_(0, group.rows, rows_RHK)


def _in_portions(compute: Compute, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Heads of all sequences at hand, as many at once as there is room for."""
    count, length = tensors[0].shape[:2]
    size = max(1, SCORES_AT_ONCE // (min(length, QUERIES) * length))
    found = [compute(*(x_BTK[first : first + size] for x_BTK in tensors)) for first in range(0, count, size)]
    return [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*found, strict=True)]


class _Work:
    """Goes through heads [B, T, K] in a fixed order and numbers their rows on the way, for dropout."""

    def __init__(self, dropping: Dropping) -> None:
        kernels = load_training_rows()
        assert kernels is not None
        self.kernels, self.dropping = kernels, dropping
        self.numbered = 0

    def forward(self, query_BTK: Tensor, key_BTK: Tensor, value_BTK: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed values [B, T, K], and the logarithms of the sums of exponentials [B, T]."""
        out_BTK, log_sums_BT = torch.empty_like(query_BTK), query_BTK.new_empty(query_BTK.shape[:2])
        for first, last, place in self._blocks(query_BTK):
            scores_BQT = torch.bmm(query_BTK[:, first:last], key_BTK[:, :last].transpose(1, 2))
            sums_BQ, log_sums_BT[:, first:last] = self.kernels.softmax(
                scores_BQT, query_BTK.shape[-1] ** -0.5, place, self.dropping
            )
            out_BTK[:, first:last] = torch.bmm(scores_BQT, value_BTK[:, :last]).div_(sums_BQ[..., None])
        return out_BTK, log_sums_BT

    def backward(
        self,
        query_BTK: Tensor,
        key_BTK: Tensor,
        value_BTK: Tensor,
        out_BTK: Tensor,
        slopes_BTK: Tensor,
        log_sums_BT: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries, keys and values."""
        along_BT = (slopes_BTK * out_BTK).sum(-1)
        query_grad, key_grad, value_grad = (torch.empty_like(x) for x in (query_BTK, key_BTK, value_BTK))
        length = query_BTK.shape[1]
        for first, last, place in reversed(list(self._blocks(query_BTK))):
            queries_BQK, rises_BQK = query_BTK[:, first:last], slopes_BTK[:, first:last]
            scores_BQT = torch.bmm(queries_BQK, key_BTK[:, :last].transpose(1, 2))
            slopes_BQT = torch.bmm(rises_BQK, value_BTK[:, :last].transpose(1, 2))
            kept = (log_sums_BT[:, first:last].contiguous(), along_BT[:, first:last].contiguous())
            self.kernels.softmax_backward(
                scores_BQT, slopes_BQT, kept, query_BTK.shape[-1] ** -0.5, place, self.dropping
            )
            query_grad[:, first:last] = torch.bmm(slopes_BQT, key_BTK[:, :last])
            add = torch.Tensor.copy_ if last == length else torch.Tensor.add_  # the last block comes first
            add(key_grad[:, :last], torch.bmm(slopes_BQT.transpose(1, 2), queries_BQK))
            add(value_grad[:, :last], torch.bmm(scores_BQT.transpose(1, 2), rises_BQK))
        return query_grad, key_grad, value_grad

    def _blocks(self, query_BTK: Tensor) -> list[tuple[int, int, Place]]:
        """First and last + 1 of each block of queries, and where its rows stand."""
        count, length = query_BTK.shape[:2]
        number, self.numbered = self.numbered, self.numbered + count * length
        starts = range(0, length, QUERIES)
        return [(start, min(start + QUERIES, length), Place(start, number, length)) for start in starts]
