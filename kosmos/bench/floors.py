"""What the machine could do at best: the decoder's matrices with no model around them, bytes read, products multiplied.

Legend: R rows, I input features, O output features.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kosmos.bench.timing import in_turn

__all__ = [
    "RATE_DTYPES",
    "best_matrix_rate",
    "is_bf16_thinkable",
    "matrices_of",
    "multiply_all",
    "read_bytes",
    "square_flops",
    "squares",
]

READ_BUFFER_BYTES = 1 << 30  # larger than any cache
RATE_WIDTH, SMALL_WIDTH, RATE_ROUNDS = 2048, 256, 5
RATE_DTYPES = (torch.float32, torch.bfloat16)
SQUARES = 8  # large products of a turn: a second, about
THINKABLE = 3  # times the time of fp32, beyond which no model is faster in bf16


def matrices_of(decoder: nn.Module) -> list[Tensor]:
    """The weights that one token needs: every linear layer, the head included, in order."""
    return [part.weight for part in decoder.modules() if isinstance(part, nn.Linear)]


def multiply_all(matrices: Sequence[Tensor]) -> Callable[[], None]:
    """Each matrix times one vector by `F.linear`, one after the other, no model code."""
    vectors = {width: torch.ones(1, width, dtype=matrices[0].dtype) for width in {m.shape[1] for m in matrices}}

    def run() -> None:
        for matrix_OI in matrices:
            F.linear(vectors[matrix_OI.shape[1]], matrix_OI)

    return run


def read_bytes() -> tuple[Callable[[], object], int]:
    """A plain read of memory on all threads, and how many bytes one call reads."""
    halves = torch.ones(2, READ_BUFFER_BYTES // 16, dtype=torch.float64)
    return (lambda: torch.dot(halves[0], halves[1])), READ_BUFFER_BYTES


@functools.cache
def best_matrix_rate() -> float:
    """Multiply-adds a second of a square product in the faster of fp32 and bf16.

    A small product finds the faster one: without a bf16 unit a large one in bf16 takes minutes.
    """
    faster = min(RATE_DTYPES, key=_small_square_seconds)
    timed = in_turn({"large": _square_of(RATE_WIDTH, faster)}, RATE_ROUNDS)
    return float(RATE_WIDTH**3 / timed["large"].median)


def is_bf16_thinkable() -> bool:
    """Whether this machine multiplies bf16 fast enough to try a whole model in it."""
    return _small_square_seconds(torch.bfloat16) < THINKABLE * _small_square_seconds(torch.float32)


def squares(dtype: torch.dtype) -> Callable[[], None]:
    """Large square products one after the other, for a turn beside contestants."""
    square = _square_of(RATE_WIDTH, dtype)

    def run() -> None:
        for _ in range(SQUARES):
            square()

    return run


def square_flops() -> int:
    """Of a turn of `squares`; two a multiply-add."""
    return 2 * SQUARES * RATE_WIDTH**3


def _small_square_seconds(dtype: torch.dtype) -> float:
    return in_turn({"small": _square_of(SMALL_WIDTH, dtype)}, RATE_ROUNDS)["small"].median


def _square_of(width: int, dtype: torch.dtype) -> Callable[[], Tensor]:
    square = torch.ones(width, width, dtype=dtype)
    return lambda: square @ square
