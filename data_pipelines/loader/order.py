"""Order: which document comes n-th in a lane; a pure function, so that a position is one integer.

In every epoch the shards stand in another order, and the documents are shuffled within windows of that order (seeded
permutations: no reservoir, nothing to save). Lane l of L then takes the l-th of L equal stretches, so a lane reads few
shards when there are many, and no lane is idle when there are few. Fewer documents than lanes are dealt in turn.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

__all__ = ["WINDOW", "Order"]

WINDOW = 8192  # documents shuffled among each other; a whole small set, some shards of a large one


class Order:
    """The documents of one component as every lane visits them."""

    def __init__(self, counts: Sequence[int], *, lanes: int, seed: Sequence[int], window: int = WINDOW) -> None:
        """
        Args:
            counts: documents of each shard, in order.
            seed: numbers that no other component has.
            window: documents shuffled among each other; 1 leaves every shard in its own order.
        Raises: ValueError if there is no document at all.
        """
        self.size = sum(counts)
        if not self.size:
            raise ValueError(f"{len(counts)} shards hold no document; give shards with documents")
        self._counts, self._lanes, self._seed, self._window = tuple(counts), lanes, tuple(seed), window
        self._firsts = (0, *accumulate(counts))
        self._epoch = -1
        self._shards: NDArray[np.int64] = np.empty(0, np.int64)
        self._ends: list[int] = []
        self._shuffled: tuple[int, int, NDArray[np.int64]] = (-1, -1, np.empty(0, np.int64))

    def visit(self, lane: int, n: int) -> tuple[int, int]:
        """The lane's n-th visit, n from 0.

        Returns: epoch, and the document's number in the plain order of shards.
        """
        first, last = lane * self.size // self._lanes, (lane + 1) * self.size // self._lanes
        if self.size < self._lanes:
            epoch, place = divmod(n * self._lanes + lane, self.size)
        else:
            epoch, place = divmod(n, last - first)
            place += first
        window, within = divmod(place, self._window)
        return epoch, self._number(epoch, int(self._window_order(epoch, window)[within]))

    def _window_order(self, epoch: int, window: int) -> NDArray[np.int64]:
        """Places of the epoch's shard order in the order in which this window visits them."""
        if self._shuffled[:2] != (epoch, window):
            start = window * self._window
            size = min(self._window, self.size - start)
            order = start + np.random.default_rng((*self._seed, 1, epoch, window)).permutation(size)
            self._shuffled = epoch, window, order
        return self._shuffled[2]

    def _number(self, epoch: int, place: int) -> int:
        """The document at a place of the epoch's shard order."""
        if epoch != self._epoch:
            self._shards = np.random.default_rng((*self._seed, 0, epoch)).permutation(len(self._counts))
            self._ends = list(accumulate(self._counts[shard] for shard in self._shards))
            self._epoch = epoch
        at = bisect_right(self._ends, place)
        shard = int(self._shards[at])
        return self._firsts[shard] + place - (self._ends[at] - self._counts[shard])
