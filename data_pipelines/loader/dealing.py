"""Dealing: batch b of a run comes from lane b mod the number of lanes, and goes to rank b mod the number of ranks.

So the order of batches does not know how many ranks or workers there are, and a run may go on with other numbers of
both. Where ranks divide lanes, a rank works on its own lanes alone; where not, lanes are packed by several ranks, and
each opens the pictures of its own batches only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count

__all__ = ["Deal", "Dealer"]


@dataclass(frozen=True)
class Deal:
    """A batch: its number in the run, its lane, and its number in the lane."""

    batch: int
    lane: int
    turn: int


@dataclass(frozen=True, kw_only=True)
class Dealer:
    """Whose turn it is.

    Attributes:
        lanes: streams the run is cut into.   first: batches the run has used up.
        rank, ranks: which share of the batches is wanted.   workers: processes that share the lanes of a rank.
    """

    lanes: int
    first: int = 0
    rank: int = 0
    ranks: int = 1
    workers: int = 1

    def deals(self) -> Iterator[Deal]:
        """The batches of this rank, without end."""
        for batch in count(self.first + self.rank, self.ranks):
            turn, lane = divmod(batch, self.lanes)
            yield Deal(batch, lane, turn)

    def worker_of(self, lane: int) -> int:
        """Which worker of this rank has a lane; its lanes are spread evenly."""
        return self.own.index(lane) % self.workers

    def deals_of(self, worker: int) -> Iterator[Deal]:
        """The batches of one worker, without end; none at all for a worker without lanes."""
        if worker < len(self.own):
            yield from (deal for deal in self.deals() if self.worker_of(deal.lane) == worker)

    def used(self, lane: int) -> int:
        """Batches that the run has taken from a lane so far."""
        return (self.first - lane + self.lanes - 1) // self.lanes

    @cached_property
    def own(self) -> list[int]:
        """Lanes this rank visits, ascending."""
        seen: set[int] = set()
        for deal in self.deals():
            if deal.lane in seen:
                return sorted(seen)
            seen.add(deal.lane)
        return []
