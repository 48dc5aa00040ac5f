"""In which number format matrix products of training run: float32, or bfloat16 where this machine gains by it.

Weights, their average and the optimiser stay in float32 either way. Knows nothing of models.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Literal

import torch
import torch.nn.functional as F

__all__ = ["Precision", "autocast", "chosen_precision"]

Precision = Literal["auto", "float32", "bfloat16"]
WORTH_ROUNDING = 1.5  # bfloat16 drops 16 bits of every product, so it must clearly win
ROWS, WIDTH, FFN_WIDTH, ROUNDS = 1300, 256, 1024, 7  # a rank's share of a step of `tiny`


def chosen_precision(
    requested: Precision,
    device: torch.device = torch.device("cpu"),  # noqa: B008  (immutable)
) -> Literal["float32", "bfloat16"]:
    """`requested`, or for `auto` bfloat16 on a GPU and else the faster forward and backward of one feed-forward layer.

    Processors without bfloat16 tiles are slower with it, which no flag says reliably; so it is measured.
    """
    if requested != "auto":
        return requested
    if device.type != "cpu":
        return "bfloat16"
    return "bfloat16" if _seconds(torch.bfloat16) * WORTH_ROUNDING < _seconds(torch.float32) else "float32"


def autocast(precision: str, device: str = "cpu") -> AbstractContextManager[object]:
    """The context in which losses are computed, on a kind of device."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def _seconds(dtype: torch.dtype) -> float:
    """Best of some rounds, processor time, so that a busy machine does not decide."""
    rows_RD = torch.full((ROWS, WIDTH), 0.1, dtype=dtype, requires_grad=True)
    weight_FD = torch.full((FFN_WIDTH, WIDTH), 0.1, dtype=dtype, requires_grad=True)
    found = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        torch.autograd.backward(F.linear(rows_RD, weight_FD).sum())
        found.append(time.process_time() - begun)
    return min(found)
