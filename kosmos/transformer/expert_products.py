"""The feed-forwards of all experts over rows sorted by expert: by groups on a GPU, by tiles for the same bits always.

`by_groups` leaves the loop over experts to torch's grouped product; `by_tiles` has rows in tiles of one size, for bits
that do not depend on company. `by_slices` in `expert_slices.py` is the third way, and all give the same.
Legend: S sorted rows, N rows of one expert, D width, F feed-forward width, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kosmos.transformer.linear import DETERMINISTIC_ROWS

__all__ = ["Stack", "by_groups", "by_tiles", "groups_suit"]

GROUPED_BYTES = 16  # grouped_mm wants rows that start at such multiples
GROUPED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


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
        return Stack(*(None if part is None else part.to(dtype) for part in self))  # type: ignore[arg-type]

    def each(self, num_experts: int | None = None) -> list[Stack]:
        """One expert's parameters after another's, without the leading axis; their number where none may be here."""
        num_experts = len(self.widen_EFD) if num_experts is None else num_experts
        split = ([None] * num_experts if part is None else part.unbind(0) for part in self)
        return [Stack(*parts) for parts in zip(*split, strict=True)]


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


def _one_expert(x_ND: Tensor, one: Stack, eps: float, dropout: float) -> Tensor:
    wide_NF = F.gelu(F.linear(x_ND, one.widen_EFD, one.widen_bias_EF))
    wide_NF = F.dropout(wide_NF, dropout, dropout > 0)
    if one.scale_EF is not None:
        wide_NF = F.layer_norm(wide_NF, wide_NF.shape[-1:], one.scale_EF, one.shift_EF, eps)
    return F.linear(wide_NF, one.narrow_EDF, one.narrow_bias_ED)
