"""fp32 products by the fastest way of this machine: `F.linear`, oneDNN for many rows, the compiled one for few.

`F.linear` calls MKL for fp32, which on some processors reaches half of what oneDNN, torch's other library, does with
the same plain weights, and half of what memory gives when there are few rows. Short races decide, once a process.
Legend: R rows, I input features, O output features.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kosmos.transformer.kernels.products import load_products

__all__ = ["fp32_linear", "is_compiled_faster", "is_onednn_faster"]

MANY_ROWS, MANY_WEIGHTS = 16, 1 << 20  # oneDNN compiles a kernel for every new shape, which small products do not repay
FEW_ROWS, FEW_WEIGHTS = 8, 1 << 16
PROBED_ROWS, PROBED_SHAPE, PROBED_WEIGHTS = 74, (4096, 1024), 4
TURNS = 6
WORTH_LEAVING_TORCH = 1.05
Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def fp32_linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """What `F.linear` gives, sooner where that can be: for fp32 on the CPU without a gradient."""
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not _are_plain(x, weight_OI, bias_O):
        return F.linear(x, weight_OI, bias_O)
    rows, numbers = x.numel() // max(x.shape[-1], 1), weight_OI.numel()
    if 0 < rows <= FEW_ROWS and numbers >= FEW_WEIGHTS and weight_OI.is_contiguous() and is_compiled_faster():
        return _by_compiled(x, weight_OI, bias_O)
    if rows >= MANY_ROWS and numbers >= MANY_WEIGHTS and is_onednn_faster():
        return _by_onednn(x, weight_OI, bias_O)
    return F.linear(x, weight_OI, bias_O)


def _are_plain(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> bool:
    """fp32 on the CPU, and a bias that lies in one piece: the other products read it as it lies."""
    tensors = (x, weight_OI) if bias_O is None else (x, weight_OI, bias_O)
    in_one_piece = bias_O is None or (bias_O.is_contiguous() and bias_O.shape == weight_OI.shape[:1])
    return in_one_piece and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)


def _by_onednn(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")
    return out


def _by_compiled(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    products = load_products()
    return F.linear(x, weight_OI, bias_O) if products is None else products.fp32(x, weight_OI, bias_O)


@functools.cache
def is_onednn_faster() -> bool:
    """Whether oneDNN is there, multiplies rightly and wins at the shape of an eye's feed-forward."""
    return torch.backends.mkldnn.is_available() and _beats_torch(_by_onednn, PROBED_ROWS)


@functools.cache
def is_compiled_faster() -> bool:
    """Whether the compiled product is there and wins for one row."""
    return load_products() is not None and _beats_torch(_by_compiled, 1)


def _beats_torch(product: Product, rows: int) -> bool:
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        return _wins(product, rows)


def _wins(product: Product, rows: int) -> bool:
    x_RI = torch.linspace(-1, 1, rows * PROBED_SHAPE[1]).view(rows, -1)
    weights = torch.linspace(-1, 1, PROBED_SHAPE[0] * PROBED_SHAPE[1]).view(PROBED_SHAPE).repeat(PROBED_WEIGHTS, 1, 1)
    bias_O = torch.linspace(-1, 1, PROBED_SHAPE[0])
    try:
        if not torch.allclose(product(x_RI, weights[0], bias_O), F.linear(x_RI, weights[0], bias_O), 1e-3, 1e-3):
            return False
    except (AttributeError, RuntimeError):  # an operator of torch's own compiler, which may go or change its face
        return False
    # each call gets the next weight, or the second would find in the cache what the first one read
    unread, best, best_torch = itertools.cycle(weights), float("inf"), float("inf")
    for _ in range(TURNS):
        start = time.perf_counter()
        product(x_RI, next(unread), bias_O)
        between = time.perf_counter()
        F.linear(x_RI, next(unread), bias_O)
        best, best_torch = min(best, between - start), min(best_torch, time.perf_counter() - between)
    return best * WORTH_LEAVING_TORCH < best_torch
