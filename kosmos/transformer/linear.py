"""Linear: the one matrix product of the house's blocks and output head.

Legend: R rows, I input features, O output features.
Knows nothing of models or of how dtypes are chosen: it multiplies the rows it is given by the weight it holds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kosmos.transformer.kernels.fp32 import fp32_linear
from kosmos.transformer.kernels.plan import ProductPlan, multiply

__all__ = ["DETERMINISTIC_ROWS", "Linear", "set_deterministic", "set_plan"]

DETERMINISTIC_ROWS = 32  # every product has this many rows, so its kernel and its order of summing never change


class Linear(nn.Linear):
    """`nn.Linear` with two additions, both off by default.

    Attributes:
        deterministic: each row's result has the same bits whatever rows come with it.
        plan: which product multiplies how many rows when no gradient is wanted and the weight is bf16 (a weight may be
            stored in bf16 under fp32 activations; the result has the dtype of the activations).
    """

    deterministic: bool = False
    plan: ProductPlan | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply rows [..., I] by the weight; returns [..., O]."""
        if self.deterministic:
            return _linear_in_tiles(x, self.weight, self.bias)
        weight_OI, bias_O = self.weight, self.bias
        if self.plan is not None and weight_OI.dtype == torch.bfloat16 and not torch.is_grad_enabled():
            return multiply(self.plan.method(x.numel() // max(x.shape[-1], 1)), x, weight_OI, bias_O)
        return fp32_linear(*_alike(x, weight_OI, bias_O))


def set_deterministic(module: nn.Module, on: bool) -> None:
    """Switch every part of `module` that can (each `Linear`, sparse layers) to fixed tiles of rows, or back."""
    for part in module.modules():
        if isinstance(getattr(type(part), "deterministic", None), bool):
            setattr(part, "deterministic", on)  # noqa: B010  (a module's type does not say that it has one)


def set_plan(module: nn.Module, plan: ProductPlan | None) -> None:
    """Give every `Linear` inside `module` this plan; None is torch's own product for all."""
    for part in module.modules():
        if isinstance(part, Linear):
            part.plan = plan


def _alike(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weight and bias in the dtype of x."""
    return x, weight_OI.to(x.dtype), None if bias_O is None else bias_O.to(x.dtype)


def _linear_in_tiles(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    rows_RI = x.reshape(-1, x.shape[-1])
    num_rows = rows_RI.shape[0]
    padded_RI = F.pad(rows_RI, (0, 0, 0, -num_rows % DETERMINISTIC_ROWS))
    tiles = [F.linear(*_alike(tile, weight_OI, bias_O)) for tile in torch.split(padded_RI, DETERMINISTIC_ROWS)]
    out_RO = torch.cat(tiles)[:num_rows]
    return out_RO.reshape(*x.shape[:-1], weight_OI.shape[0])
