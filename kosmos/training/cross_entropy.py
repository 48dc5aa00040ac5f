"""Cross-entropy whose logits are never whole in memory: a chunk of rows at a time, both gradients on the way.

Whole logits of 2,048 rows and 65,037 words are 508 MB in fp32, and their log-softmax and its gradients as much again
each. Here a chunk becomes losses and, at once, its share of both gradients, so the backward pass only scales them (as
Liger Kernel does, arXiv 2410.10989). The other way, logits made again in the backward pass, multiplies by the head four
times instead of three, and saves little: the head's gradient is the first thing a backward pass makes and keeps.
Legend: L rows that are asked for, C rows of a chunk, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple  # Any: the context that torch hands to an autograd function

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from kosmos.transformer.kernels.training import are_plain, load_training_rows

__all__ = ["cross_entropy", "rows_at_once"]

LOGITS_AT_ONCE = 1 << 25  # 128 MB in fp32; of smaller chunks, adding to the head's gradient would take a notable share


def rows_at_once(vocab_size: int) -> int:
    """Rows of a chunk whose logits fit the room there is for them."""
    return max(1, LOGITS_AT_ONCE // vocab_size)


def cross_entropy(
    hidden_LD: Tensor,
    head_VD: Tensor,
    targets_L: Tensor,
    weights_L: Tensor,
    *,
    label_smoothing: float = 0.0,
    chunk: int | None = None,
) -> Tensor:
    """Weighted sum of nats, in fp32 or better; `F.cross_entropy` of the whole logits is the reference.

    Products run in the dtype of autocast, else of `hidden_LD`, and gradients of chunks are added in fp32 or better.

    Args:
        head_VD: the matrix that makes logits; often the embedding too.
        targets_L: int, the word each row should give; each must be in the vocabulary.
        weights_L: what each row counts.
        label_smoothing: share of each target spread evenly over the vocabulary.
        chunk: at most so many rows at once; `rows_at_once` where None.
    Raises: ValueError for a chunk of no rows.
    """
    chunk = rows_at_once(head_VD.shape[0]) if chunk is None else chunk
    if chunk < 1:
        raise ValueError(f"chunk={chunk} rows at once; give at least 1")
    manner = _Manner(_product_dtype(hidden_LD), label_smoothing, chunk)
    if torch.is_grad_enabled():
        total: Tensor = _CrossEntropy.apply(hidden_LD, head_VD, targets_L, weights_L, manner)
        return total
    return (_losses(_Inputs(hidden_LD, head_VD, targets_L, weights_L), manner) * weights_L).sum()


class _Manner(NamedTuple):
    """How to compute: in which dtype, towards what, in which portions."""

    dtype: torch.dtype
    label_smoothing: float
    chunk: int


class _Inputs(NamedTuple):
    hidden_LD: Tensor
    head_VD: Tensor
    targets_L: Tensor
    weights_L: Tensor


class _Gradients(NamedTuple):
    """Of the weighted sum; None where nobody asks."""

    hidden_LD: Tensor | None
    head_VD: Tensor | None


NO_GRADIENTS = _Gradients(None, None)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_LD: Tensor, head_VD: Tensor, targets_L: Tensor, weights_L: Tensor, manner: _Manner
    ) -> Tensor:
        inputs = _Inputs(hidden_LD, head_VD, targets_L, weights_L)
        ctx.gradients = _zeros(inputs, ctx.needs_input_grad)
        losses_L = _losses(inputs, manner, ctx.gradients)
        ctx.manner = manner
        ctx.save_for_backward(*inputs, losses_L)
        return (losses_L * weights_L).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *saved, losses_L = ctx.saved_tensors
        inputs, gradients = _Inputs(*saved), ctx.gradients
        # Scaled in place and handed over: a copy of the head's gradient would cost as much as all chunks.
        ctx.gradients = None
        if gradients is None:  # a graph that was kept is walked once more
            gradients = _zeros(inputs, ctx.needs_input_grad)
            _losses(inputs, ctx.manner, gradients)
        hidden_LD, head_VD = (None if part is None else part.mul_(grad) for part in gradients)
        return hidden_LD, head_VD, None, losses_L * grad, None


def _losses(inputs: _Inputs, manner: _Manner, gradients: _Gradients = NO_GRADIENTS) -> Tensor:
    """Nats of each row [L]; adds to `gradients` what each chunk brings."""
    hidden_LD, head_VD = inputs.hidden_LD.to(manner.dtype), inputs.head_VD.to(manner.dtype)
    inputs = inputs._replace(hidden_LD=hidden_LD, head_VD=head_VD)
    losses_L = torch.empty(len(hidden_LD), dtype=_at_least_fp32(manner.dtype), device=hidden_LD.device)
    with torch.autocast(hidden_LD.device.type, enabled=False):
        for rows in _chunks(len(hidden_LD), manner.chunk):
            losses_L[rows] = _losses_of_chunk(rows, inputs, manner, gradients)
    return losses_L


def _losses_of_chunk(rows: slice, inputs: _Inputs, manner: _Manner, gradients: _Gradients) -> Tensor:
    """A call of its own, so that the large tensors of one chunk are gone before the next."""
    hidden_CD, targets_C1 = inputs.hidden_LD[rows], inputs.targets_L[rows, None]
    # Not the house's faster products: a race between them, won by another after a restart, would change the run's bits.
    logits_CV = F.linear(hidden_CD, inputs.head_VD)
    if gradients.hidden_LD is None and gradients.head_VD is None:
        return _smoothed(_logprobs(logits_CV), targets_C1, manner.label_smoothing)
    losses_C, slopes_CV = _losses_and_slopes(logits_CV, targets_C1, inputs.weights_L[rows, None], manner)
    if gradients.hidden_LD is not None:
        gradients.hidden_LD[rows] = slopes_CV @ inputs.head_VD
    if gradients.head_VD is not None:
        _add_product(gradients.head_VD, slopes_CV.T, hidden_CD)
    return losses_C


def _chunks(rows: int, chunk: int) -> Iterator[slice]:
    """Even ones, as few as may be."""
    size = -(-rows // max(1, -(-rows // chunk)))
    return (slice(start, start + size) for start in range(0, rows, max(1, size)))


def _losses_and_slopes(
    logits_CV: Tensor, targets_C1: Tensor, weights_C1: Tensor, manner: _Manner
) -> tuple[Tensor, Tensor]:
    """Nats of each row [C], and the gradient of the weighted sum with respect to the logits [C, V], in their place."""
    kernels = load_training_rows() if are_plain(logits_CV, weights_C1) and targets_C1.dtype == torch.int64 else None
    if kernels is not None:
        targets_C, weights_C = targets_C1[:, 0].contiguous(), weights_C1[:, 0].contiguous()
        return kernels.word_losses(logits_CV, targets_C, weights_C, manner.label_smoothing), logits_CV
    logprobs_CV = _logprobs(logits_CV)
    losses_C = _smoothed(logprobs_CV, targets_C1, manner.label_smoothing)
    return losses_C, _slopes(logprobs_CV, targets_C1, weights_C1, manner).to(manner.dtype)


def _logprobs(logits_CV: Tensor) -> Tensor:
    return torch.log_softmax(logits_CV, dim=-1, dtype=_at_least_fp32(logits_CV.dtype))


def _smoothed(logprobs_CV: Tensor, targets_C1: Tensor, label_smoothing: float) -> Tensor:
    """Nats of each row [C] towards its target, a share of which is spread over all words."""
    picked_C = logprobs_CV.gather(1, targets_C1)[:, 0]
    if not label_smoothing:
        return -picked_C
    return -(1 - label_smoothing) * picked_C - label_smoothing * logprobs_CV.mean(dim=-1)


def _slopes(logprobs_CV: Tensor, targets_C1: Tensor, weights_C1: Tensor, manner: _Manner) -> Tensor:
    """Gradient of the weighted sum with respect to the logits [C, V], written over `logprobs_CV`."""
    slopes_CV = logprobs_CV.exp_()
    if manner.label_smoothing:
        slopes_CV.sub_(manner.label_smoothing / slopes_CV.shape[1])
    hit_C1 = torch.full_like(targets_C1, manner.label_smoothing - 1, dtype=slopes_CV.dtype)
    return slopes_CV.scatter_add_(1, targets_C1, hit_C1).mul_(weights_C1)


def _add_product(total_VD: Tensor, left_VC: Tensor, right_CD: Tensor) -> None:
    if total_VD.dtype == right_CD.dtype:
        total_VD.addmm_(left_VC, right_CD)
    else:
        total_VD.add_(left_VC @ right_CD)


def _zeros(inputs: _Inputs, wanted: Sequence[bool]) -> _Gradients:
    hidden_LD, head_VD, *_ = inputs
    return _Gradients(
        torch.zeros_like(hidden_LD) if wanted[0] else None,
        torch.zeros_like(head_VD, dtype=_at_least_fp32(head_VD.dtype)) if wanted[1] else None,
    )


def _product_dtype(hidden_LD: Tensor) -> torch.dtype:
    device = hidden_LD.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_LD.dtype


def _at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
