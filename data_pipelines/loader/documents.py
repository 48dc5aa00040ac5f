"""Documents of a component by number: many shards behind one sequence, a few of them open at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from contextlib import AbstractContextManager
from itertools import accumulate

from data_pipelines.mixture import Component
from data_pipelines.shard import Sample, Shard, open_shard
from data_pipelines.stores import expand, is_local, local_copy

__all__ = ["COPIES", "OPEN_SHARDS", "Documents"]

OPEN_SHARDS = 128  # of a stream's components together; each takes a file descriptor
COPIES = 32  # of shards that lie elsewhere, each as large as a shard


class Documents:
    """What a component holds. Pickles; every process opens shards of its own."""

    def __init__(self, component: Component, *, open_shards: int = OPEN_SHARDS) -> None:
        """Counts documents from indexes, or from headers where there is none.

        Args:
            open_shards: at most so many at a time.
        Raises: OSError, ShardError for shards that cannot be read; ValueError where nothing is left to read.
        """
        self.name = component.name
        self.shards = tuple(expand(component.shards))
        self._most = open_shards if all(map(is_local, self.shards)) else min(open_shards, COPIES)
        counts = [_count(shard) for shard in self.shards]
        used = component.documents(sum(counts))
        if not used:
            raise ValueError(f"component {self.name!r} holds no document in {len(self.shards)} shards; give others")
        self._starts = (0, *accumulate(counts))
        self._first = used.start
        spans = zip(self._starts, counts, strict=False)
        self.counts = tuple(_overlap(used, start, start + count) for start, count in spans)
        self._open: OrderedDict[int, tuple[AbstractContextManager[Shard], Shard]] = OrderedDict()

    def __len__(self) -> int:
        return sum(self.counts)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __getitem__(self, number: int) -> Sample:
        """Document `number` in the plain order of shards. Raises: IndexError, ShardError, OSError."""
        if not 0 <= number < len(self):
            raise IndexError(f"component {self.name!r} has {len(self)} documents, no document {number}")
        place = self._first + number
        shard = bisect_right(self._starts, place) - 1
        return self._shard(shard)[place - self._starts[shard]]

    def shard_of(self, number: int) -> str:
        """Path of the shard that holds document `number`."""
        return self.shards[bisect_right(self._starts, self._first + number) - 1]

    def _shard(self, shard: int) -> Shard:
        if shard not in self._open:
            while len(self._open) >= self._most:
                _, (context, _) = self._open.popitem(last=False)
                context.__exit__(None, None, None)
            context = open_shard(self.shards[shard])
            opened = context.__enter__()
            counted = self._starts[shard + 1] - self._starts[shard]
            if (found := len(opened)) != counted:
                context.__exit__(None, None, None)
                raise OSError(
                    f"{self.shards[shard]} holds {found} documents and held {counted} when the run began;"
                    " shards must not change under a run: write changed ones to another folder"
                )
            self._open[shard] = context, opened
        self._open.move_to_end(shard)
        return self._open[shard][1]


def _overlap(used: range, start: int, end: int) -> int:
    return max(0, min(used.stop, end) - max(used.start, start))


def _count(path: str) -> int:
    """How many documents a shard holds."""
    if not is_local(path):
        try:
            with local_copy(f"{path}.idx") as index:  # spares a copy of the whole shard
                return index.stat().st_size // 8 - 1
        except OSError:
            pass  # no index there
    with open_shard(path) as shard:
        return len(shard)
