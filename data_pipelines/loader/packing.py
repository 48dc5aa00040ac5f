"""Packing: documents into batches of so many rows, by best fit over a window of documents read ahead.

No document crosses from one batch into the next. Longest first, each into the fullest batch that still has room (best
fit decreasing): with a few hundred documents in the window hardly a row stays empty. Source: Johnson, "Near-optimal bin
packing algorithms", 1973. Knows lengths alone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

__all__ = ["pack"]


def pack(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Which documents share a batch.

    Args:
        lengths: rows of each document, each at most `rows`.
        rows: of a batch.
    Returns: indices into `lengths`, in order within a batch; every index once.
    Raises: ValueError for a document longer than a batch.
    """
    batches: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (rows left, batch), ascending
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[index]
        if length > rows:
            raise ValueError(f"a document of {length} rows does not fit a batch of {rows}; split it first")
        at = bisect_left(rooms, (length, -1))
        if at == len(rooms):
            batches.append([])
            room, batch = rows, len(batches) - 1
        else:
            room, batch = rooms.pop(at)
        batches[batch].append(index)
        insort(rooms, (room - length, batch))
    return [sorted(batch) for batch in batches]
