"""Indexes for many shards at once; those that are fresh are only counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from data_pipelines.errors import ShardError
from data_pipelines.execution import Engine
from data_pipelines.index import read_index, sample_starts, write_index
from data_pipelines.shard import Shard
from data_pipelines.shard_pool import each_shard
from data_pipelines.stores import is_local

__all__ = ["Indexed", "index_shards"]


@dataclass(frozen=True, kw_only=True)
class Indexed:
    """What was done.

    Attributes:
        written: indexes made anew.   torn: one sentence for each shard that has none because its tar is torn.
    """

    shards: int
    documents: int
    written: int
    torn: tuple[str, ...] = ()

    def to_record(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def index_shards(paths: Sequence[str], *, force: bool = False, workers: int = 1, engine: Engine = "local") -> Indexed:
    """Write an index beside each tar of this machine that has no fresh one.

    Raises: ValueError for a shard of elsewhere; OSError for one that is not there.
    """
    if elsewhere := [path for path in paths if not is_local(path)]:
        raise ValueError(
            f"{elsewhere[0]} is not a file of this machine, so no index can be put beside it; copy it here"
        )
    work = partial(_index_one, force=force)
    found = list(each_shard(work, paths, workers=workers, engine=engine))
    return Indexed(
        shards=len(paths),
        documents=sum(one.documents for one in found),
        written=sum(one.written for one in found),
        torn=tuple(line for one in found for line in one.torn),
    )


def _index_one(path: str, *, force: bool) -> Indexed:
    shard = Shard(Path(path))
    try:
        fresh = None if force else read_index(shard.path)
        starts = fresh or sample_starts(shard.archive, path)
        if fresh is None:
            write_index(shard.path, starts)
        return Indexed(shards=1, documents=len(starts) - 1, written=int(fresh is None))
    except ShardError as error:
        return Indexed(shards=1, documents=0, written=0, torn=(str(error),))
    finally:
        shard.close()
