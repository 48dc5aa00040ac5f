"""Side by side: each thread of the processor does whole pieces of work, the largest first, computing alone.

The other way, all threads inside each product, has them meet hundreds of times a step, where all wait for the slowest.
Products also reach more of the processor when they are not cut up further, and their bits do not depend on how many
threads there are. Knows nothing of what is computed.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["side_by_side"]

FEWEST_OPERATIONS = 1 << 26  # multiply-adds in all: fewer take a millisecond or less, and threads as long to wake
MOST_WAITING = 0.5  # of the time it takes them together: what they may wait for the last piece at the worst
Result = TypeVar("Result")


def side_by_side(work: Callable[[int], Result], operations: Sequence[int]) -> list[Result]:
    """`[work(0), work(1), ...]`, computed at once where that is sooner; no gradient is recorded.

    Args:
        work: one piece; draws no random numbers, and touches nothing that another piece touches.
        operations: multiply-adds of each piece.
    """
    num_threads = torch.get_num_threads()
    if not _worth_it(operations, num_threads):
        with torch.no_grad():
            return [work(piece) for piece in range(len(operations))]
    results: dict[int, Result] = {}
    pieces = iter(sorted(range(len(operations)), key=lambda piece: -operations[piece]))
    inference, pool = torch.is_inference_mode_enabled(), _pool(num_threads, os.getpid())
    for thread in [pool.submit(_take, work, pieces, results, inference) for _ in range(num_threads)]:
        thread.result()
    return [results[piece] for piece in range(len(operations))]


def _worth_it(operations: Sequence[int], num_threads: int) -> bool:
    """Whether there is enough to do, and no piece so large that the other threads would wait for it."""
    total = sum(operations)
    return total >= FEWEST_OPERATIONS and 0 < max(operations) * (num_threads - 1) <= MOST_WAITING * total


def _take(work: Callable[[int], Result], pieces: Iterator[int], results: dict[int, Result], inference: bool) -> None:
    # what a thread records is its own affair in torch; the iterator of a list gives each piece to one thread only
    with torch.inference_mode() if inference else torch.no_grad():
        for piece in pieces:
            results[piece] = work(piece)


@functools.cache
def _pool(num_threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that compute alone; a forked process has none of its parent's and makes its own."""
    started = threading.Barrier(num_threads + 1)

    def start() -> None:
        torch.get_num_threads()  # torch gives a thread its number when first asked, and would overwrite the next line
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(num_threads, "side-by-side", initializer=start)
    for _ in range(num_threads):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(num_threads)  # a thread's number is its own, but new threads start with the last one set
    return pool
