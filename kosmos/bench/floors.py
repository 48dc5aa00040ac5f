"""What the machine could do at best: the decoder's matrices with no model around them, bytes read, products multiplied.

Legend: R rows, I input features, O output features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kosmos.bench.timing import in_turn

__all__ = ["best_matrix_rate", "matrices_of", "multiply_all", "read_bytes"]

READ_BUFFER_BYTES = 1 << 30  # larger than any cache
RATE_WIDTH, RATE_ROUNDS = 2048, 5


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


def best_matrix_rate() -> float:
    """Multiply-adds a second of a square product in the faster of fp32 and bf16."""
    squares = {dtype: torch.ones(RATE_WIDTH, RATE_WIDTH, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    timed = in_turn({str(dtype): _square_of(square) for dtype, square in squares.items()}, RATE_ROUNDS)
    return float(RATE_WIDTH**3 / min(entry.median for entry in timed.values()))


def _square_of(square: Tensor) -> Callable[[], Tensor]:
    return lambda: square @ square
