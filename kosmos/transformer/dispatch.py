"""Dispatch: rows put in the order of their experts, and their outputs put back; nothing is padded.

An expert's rows are one slice, so memory grows with rows alone and not with rows times experts times room.
Legend: R rows, D width, E experts, K choices of a row, S choices that are sent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Dispatch", "dispatch"]


@dataclass(frozen=True, kw_only=True)
class Dispatch:
    """Where choices go.

    Attributes:
        slots_S: int64, the sent choices by expert, within one first choices before second and earlier rows first;
            choice k of row r is slot k * R + r.
        counts_E: int64, how many of them are each expert's.
        sent_RK: bool, which choices are among them.
    """

    slots_S: Tensor
    counts_E: Tensor
    sent_RK: Tensor

    def spread(self, x_RD: Tensor) -> Tensor:
        """[R, D] -> [S, D], expert after expert."""
        rows_S = self.slots_S if self.sent_RK.shape[1] == 1 else self.slots_S % len(self.sent_RK)
        return x_RD.index_select(0, rows_S)

    def gather(self, out_SD: Tensor, gates_RK: Tensor) -> Tensor:
        """Each row's outputs times their gates, summed in the order of its choices: [S, D] -> [R, D]."""
        num_rows, num_choices = self.sent_RK.shape
        slots_D = out_SD.new_zeros(num_rows * num_choices, out_SD.shape[1]).index_copy(0, self.slots_S, out_SD)
        weighed_KRD = slots_D.view(num_choices, num_rows, out_SD.shape[1]) * gates_RK.t().unsqueeze(-1).to(out_SD.dtype)
        total_RD = weighed_KRD[0]
        for weighed_RD in weighed_KRD[1:]:  # a sum over an axis may take another order for other numbers of rows
            total_RD = total_RD + weighed_RD
        return total_RD


def dispatch(experts_RK: Tensor, sent_RK: Tensor, num_experts: int, capacity: int | None = None) -> Dispatch:
    """Sort choices by expert.

    Args:
        experts_RK: int64, chosen experts.
        sent_RK: bool, choices that are to be sent at all.
        capacity: choices an expert takes, the first in order; None takes all.
    """
    keys = torch.where(sent_RK, experts_RK, num_experts).t().reshape(-1)
    sorted_keys, order = torch.sort(keys, stable=True)
    counts_E = torch.bincount(keys, minlength=num_experts + 1)[:num_experts]
    if capacity is None:
        kept = order[: int(counts_E.sum())]
        return Dispatch(slots_S=kept, counts_E=counts_E, sent_RK=sent_RK)
    starts = torch.cumsum(counts_E, 0) - counts_E
    known = sorted_keys < num_experts
    place = torch.arange(len(keys), device=keys.device) - starts[sorted_keys.clamp(max=num_experts - 1)]
    fits = known & (place < capacity)
    kept = order[fits]
    sent = torch.zeros_like(known)
    sent[kept] = True
    return Dispatch(
        slots_S=kept, counts_E=counts_E.clamp(max=capacity), sent_RK=sent.view(sent_RK.shape[1], -1).t() & sent_RK
    )
