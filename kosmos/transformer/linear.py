"""Linear: the one matrix product of the house's blocks and output head.

Legend: R rows, I input features, O output features.
Knows nothing of models or dtypes chosen elsewhere: it multiplies the rows it is given by the weight it holds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DETERMINISTIC_ROWS", "Linear", "set_deterministic"]

DETERMINISTIC_ROWS = 32  # every product has this many rows, so its kernel and its order of summing never change


class Linear(nn.Linear):
    """`nn.Linear` that can make each row's result independent of its neighbours (`deterministic`)."""

    deterministic: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """Multiply rows [..., I] by the weight; returns [..., O]."""
        if self.deterministic:
            return _linear_in_tiles(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


def set_deterministic(module: nn.Module, on: bool) -> None:
    """Switch every `Linear` inside `module` to fixed tiles of rows, or back."""
    for part in module.modules():
        if isinstance(part, Linear):
            part.deterministic = on


def _linear_in_tiles(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    rows_RI = x.reshape(-1, x.shape[-1])
    num_rows = rows_RI.shape[0]
    padded_RI = F.pad(rows_RI, (0, 0, 0, -num_rows % DETERMINISTIC_ROWS))
    tiles = [
        F.linear(tile, weight_OI, bias_O)
        for tile in padded_RI.split(DETERMINISTIC_ROWS)
    ]
    out_RO = (
        torch.cat(tiles)[:num_rows]
        if tiles
        else rows_RI.new_empty(0, weight_OI.shape[0])
    )
    return out_RO.reshape(*x.shape[:-1], weight_OI.shape[0])
