"""fp32 products of many rows by a large weight, by whichever of torch's two libraries is faster on this machine.

`F.linear` calls MKL for fp32, which on some processors reaches half of what oneDNN, torch's other library, does with
the same plain weights. A short race decides, once a process; few rows and small weights stay with `F.linear`.
Legend: R rows, I input features, O output features.
"""

from __future__ import annotations

import functools
import itertools
import time

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["onednn_is_faster", "wide_linear"]

FEWEST_ROWS = 16
FEWEST_WEIGHTS = 1 << 20  # oneDNN compiles a kernel for every new shape, which small products do not repay
PROBED_ROWS, PROBED_SHAPE, PROBED_WEIGHTS = 74, (4096, 1024), 4
TURNS = 6
WORTH_LEAVING_TORCH = 1.05


def wide_linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """What `F.linear` gives, sooner where that can be; without a gradient only."""
    suits = (
        weight_OI.dtype == x.dtype == torch.float32
        and weight_OI.device.type == "cpu"
        and weight_OI.numel() >= FEWEST_WEIGHTS
        and x.numel() >= FEWEST_ROWS * x.shape[-1]
        and not torch.is_grad_enabled()
    )
    if suits and onednn_is_faster():
        return _by_onednn(x, weight_OI, bias_O)
    return F.linear(x, weight_OI, bias_O)


def _by_onednn(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")
    return out


@functools.cache
def onednn_is_faster() -> bool:
    """Race both at the shape of an eye's feed-forward; also whether oneDNN is there and multiplies rightly."""
    if not torch.backends.mkldnn.is_available():
        return False
    x_RI = torch.linspace(-1, 1, PROBED_ROWS * PROBED_SHAPE[1]).view(PROBED_ROWS, -1)
    weights = torch.linspace(-1, 1, PROBED_SHAPE[0] * PROBED_SHAPE[1]).view(PROBED_SHAPE).repeat(PROBED_WEIGHTS, 1, 1)
    bias_O = torch.linspace(-1, 1, PROBED_SHAPE[0])
    try:
        if not torch.allclose(_by_onednn(x_RI, weights[0], bias_O), F.linear(x_RI, weights[0], bias_O), 1e-3, 1e-3):
            return False
    except (AttributeError, RuntimeError):  # an operator of torch's own compiler, which may go or change its face
        return False
    unread, best_onednn, best_torch = itertools.cycle(weights), float("inf"), float("inf")
    for _ in range(TURNS):
        start = time.perf_counter()
        _by_onednn(x_RI, next(unread), bias_O)
        between = time.perf_counter()
        F.linear(x_RI, next(unread), bias_O)
        best_onednn, best_torch = (
            min(best_onednn, between - start),
            min(best_torch, time.perf_counter() - between),
        )
    return best_onednn * WORTH_LEAVING_TORCH < best_torch
