"""Packing: documents into batches of so many rows, by best fit over a window of documents read ahead.

Longest first, each into the fullest batch that still has room (best fit decreasing). What then fits nowhere is cut to
fill the rooms that are left, if it may be cut: words may, a picture must not lose its caption. No document runs from
one batch into the next: a piece is a sequence of its own. Source: Johnson, "Near-optimal bin packing algorithms", 1973.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

__all__ = ["Sized", "pack"]


class Sized(Protocol):
    """What has rows."""

    @property
    def length(self) -> int:
        """Rows."""
        ...


ItemT = TypeVar("ItemT", bound=Sized)


def pack(
    items: Sequence[ItemT], rows: int, batches: int, cut: Callable[[ItemT, int], tuple[ItemT, ItemT] | None]
) -> list[list[ItemT]] | int:
    """Share items out over at most `batches` batches.

    Args:
        items: each of at most `rows` rows.   rows: of a batch.
        cut: a head of at most so many rows and the rest, or None for what must stay whole.
    Returns: the batches, none of them empty; or the number of rows that find no room.
    Raises: ValueError for an item longer than a batch.
    """
    filled: list[list[ItemT]] = [[] for _ in range(batches)]
    rooms = [(rows, batch) for batch in range(batches)]  # (rows left, batch), ascending
    left: list[ItemT] = []
    for item in sorted(items, key=lambda item: -item.length):
        if item.length > rows:
            raise ValueError(f"a document of {item.length} rows does not fit a batch of {rows}; split it first")
        at = bisect_left(rooms, (item.length, -1))
        if at == len(rooms):
            left.append(item)
        else:
            _place(item, at, rooms, filled)
    homeless = sum(_rows_left(_fill_with(item, rooms, filled, cut)) for item in left)
    return homeless or [batch for batch in filled if batch]


def _place(item: ItemT, at: int, rooms: list[tuple[int, int]], filled: list[list[ItemT]]) -> None:
    room, batch = rooms.pop(at)
    filled[batch].append(item)
    insort(rooms, (room - item.length, batch))


def _fill_with(
    item: ItemT,
    rooms: list[tuple[int, int]],
    filled: list[list[ItemT]],
    cut: Callable[[ItemT, int], tuple[ItemT, ItemT] | None],
) -> ItemT | None:
    """Cut an item over the largest rooms. Returns: what is left of it."""
    while item.length > rooms[-1][0]:
        found = cut(item, rooms[-1][0])
        if found is None:
            return item
        head, item = found
        _place(head, len(rooms) - 1, rooms, filled)
    _place(item, bisect_left(rooms, (item.length, -1)), rooms, filled)
    return None


def _rows_left(item: ItemT | None) -> int:
    return item.length if item is not None else 0
