"""Shards as one long list of samples, any of them at once by its number."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import accumulate
from types import TracebackType

from data_pipelines.shard import Sample, Shard, open_shard

__all__ = ["ShardSet"]

MAX_OPEN = 64  # an open shard holds a file; a shard of elsewhere, a copy of it


class ShardSet:
    """Samples of many shards, numbered through in the order of the shards. Not for several threads at once.

    Attributes:
        paths: of the shards.   counts: samples in each, from its index.
    """

    def __init__(self, paths: Sequence[str], counts: Sequence[int] | None = None, *, allow_pipe: bool = False) -> None:
        """
        Args:
            counts: where they are known, no shard is opened before it is needed.
        Raises: OSError; ShardError for a torn shard.
        """
        self.paths = tuple(paths)
        self._allow_pipe = allow_pipe
        self._open = OrderedDict[int, tuple[Shard, Callable[[], None]]]()
        self.counts = tuple(len(self._shard(place)) for place in range(len(paths))) if counts is None else tuple(counts)
        self._ends = list(accumulate(self.counts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> Sample:
        """Sample `number` of all. Raises: IndexError; OSError; ShardError."""
        if not 0 <= number < len(self):
            raise IndexError(f"there are {len(self)} documents, no document {number}")
        place = bisect_right(self._ends, number)
        return self._shard(place)[number - self._ends[place] + self.counts[place]]

    def __enter__(self) -> ShardSet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, close in self._open.values():
            close()
        self._open.clear()

    def _shard(self, place: int) -> Shard:
        if place in self._open:
            self._open.move_to_end(place)
            return self._open[place][0]
        while len(self._open) >= MAX_OPEN:
            self._open.popitem(last=False)[1][1]()
        stack = ExitStack()
        shard = stack.enter_context(open_shard(self.paths[place], allow_pipe=self._allow_pipe))
        self._open[place] = shard, stack.close
        return shard
