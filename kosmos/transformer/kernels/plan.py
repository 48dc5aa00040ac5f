"""ProductPlan: which product multiplies how many rows by a stored weight, found by a short race on this machine.

Machines differ: with AMX or a wide bf16 unit torch's bf16 product wins for many rows, elsewhere fp32 arithmetic is
twice as fast as bf16, and few rows are a matter of reading the weight. Nothing is assumed; all candidates run.
Legend: R rows, I input features, O output features.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from kosmos.transformer.kernels.fp32 import fp32_linear
from kosmos.transformer.kernels.products import load_products

__all__ = ["Method", "ProductPlan", "multiply", "probe_bf16_plan", "race"]

Method = Literal["widen", "dpbf16", "torch", "upcast"]

UPCAST_OUTPUTS = 512
PROBED_ROWS = (1, 2, 4, 8, 16, 64, 256)
PROBED_WIDTH = 2048
FEWEST_TURNS, MOST_TURNS, SECONDS_EACH = 3, 24, 0.03
PROBED_WEIGHTS = 17  # 136 MB in turn: one weight alone would be read from a cache, a model's are not
# "widen" is exact in its products and gives a row the same bits in any company, so a rival must be clearly faster.
WORTH_LEAVING_EXACT = 1.1


@dataclass(frozen=True, kw_only=True)
class ProductPlan:
    """Methods by number of rows: `steps` are (up to this many rows, method), rising; `beyond` serves all others."""

    steps: tuple[tuple[int, Method], ...] = ()
    beyond: Method

    def method(self, rows: int) -> Method:
        """The method for this many rows."""
        for limit, method in self.steps:
            if rows <= limit:
                return method
        return self.beyond


def multiply(method: Method, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """[..., I] times a bf16 weight plus bias; [..., O] in the dtype of x.

    Args:
        method: `torch` rounds x to the weight's dtype; `upcast` turns the weight to the dtype of x (fp32 if x is bf16
            too); `widen` and `dpbf16` are the compiled products.
    """
    if method == "torch":
        bias_O = None if bias_O is None else bias_O.to(weight_OI.dtype)
        return F.linear(x.to(weight_OI.dtype), weight_OI, bias_O).to(x.dtype)
    if method == "upcast":
        return _by_parts_in_fp32(x.float(), weight_OI, bias_O).to(x.dtype)
    products = load_products()
    if products is None or method not in products.methods:
        return multiply("torch", x, weight_OI, bias_O)
    return products.bf16(x, weight_OI, bias_O, method)


def _by_parts_in_fp32(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """Turn a part of the weight to fp32, multiply while it is in a cache, take the next into the same memory."""
    num_out, num_in = weight_OI.shape
    out = x.new_empty(*x.shape[:-1], num_out)
    wide_PI = x.new_empty(min(UPCAST_OUTPUTS, num_out), num_in)
    for first in range(0, num_out, UPCAST_OUTPUTS):
        part_PI = weight_OI[first : first + UPCAST_OUTPUTS]
        wide_PI[: len(part_PI)] = part_PI
        out[..., first : first + len(part_PI)] = fp32_linear(x, wide_PI[: len(part_PI)], None)
    return out if bias_O is None else out.add_(bias_O)


@functools.cache
def probe_bf16_plan() -> ProductPlan:
    """Race every method for bf16 weights at growing numbers of rows (about a second, once a process)."""
    products = load_products()
    methods = (*(products.methods if products else ()), "torch", "upcast")
    weights = torch.full((PROBED_WEIGHTS, PROBED_WIDTH, PROBED_WIDTH), 0.01, dtype=torch.bfloat16)
    winners = [_winner(cast(tuple[Method, ...], methods), weights, rows) for rows in PROBED_ROWS]
    return ProductPlan(steps=tuple(zip(PROBED_ROWS[:-1], winners[:-1], strict=True)), beyond=winners[-1])


def race(runners: Sequence[Callable[[Tensor], object]], weights: Sequence[Tensor], seconds_each: float) -> list[float]:
    """Best processor seconds of one call of each runner; they take turns and walk through the weights.

    One thread and its own clock, so that neighbours on a busy machine do not decide; each call gets the next weight,
    or the second runner would find in the cache what the first one read.
    """
    best, spent = [float("inf")] * len(runners), [0.0] * len(runners)
    unread = itertools.cycle(weights)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for turn in range(MOST_TURNS):
            for index, runner in enumerate(runners):
                if turn >= FEWEST_TURNS and spent[index] > seconds_each:
                    continue
                start = time.thread_time()
                runner(next(unread))
                taken = time.thread_time() - start
                best[index], spent[index] = min(best[index], taken), spent[index] + taken
    finally:
        torch.set_num_threads(threads)
    return best


def _winner(methods: Sequence[Method], weights: Tensor, rows: int) -> Method:
    x_RI = torch.ones(rows, PROBED_WIDTH)
    runners = [functools.partial(_product, method, x_RI) for method in methods]
    with torch.inference_mode():
        seconds = dict(zip(methods, race(runners, list(weights), SECONDS_EACH), strict=True))
    fastest = min(methods, key=seconds.__getitem__)
    if "widen" in seconds and seconds["widen"] <= seconds[fastest] * WORTH_LEAVING_EXACT:
        return "widen"
    return fastest


def _product(method: Method, x_RI: Tensor, weight_OI: Tensor) -> Tensor:
    return multiply(method, x_RI, weight_OI, None)
