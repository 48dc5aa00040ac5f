"""The cases `index` and `read`: tars by their headers, and raw documents in order.

Peers: Python's tarfile for the index, webdataset for reading. Limits: the header blocks at known places, and a plain
read of the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.index import sample_starts
from data_pipelines.naming import split_name
from data_pipelines.shard import Shard
from data_pipelines.tar import BLOCK
from kosmos.bench.data_corpus import write_pairs
from kosmos.bench.figure import Figure
from kosmos.bench.rates import rate_figure
from kosmos.bench.timing import in_turn

if TYPE_CHECKING:
    from kosmos.bench.data import DataBench

__all__ = ["index_case", "read_case", "webdataset_reading"]

SHARDS = 4
READ_BYTES = 2**20


def index_case(bench: DataBench, folder: Path) -> Figure:
    """Documents a second whose places are found from headers."""
    paths = write_pairs(folder, bench.data, documents=bench.documents, shards=SHARDS)
    shards = [Shard(path) for path in paths]
    places = [[member.data - BLOCK for member in shard.members()] for shard in shards]

    def ours() -> list[list[int]]:
        return [sample_starts(shard.archive, shard.name) for shard in shards]

    def limit() -> None:
        for shard, starts in zip(shards, places, strict=True):
            archive = shard.archive
            for place in starts:
                archive[place : place + BLOCK]

    contestants: dict[str, Callable[[], object]] = {"ours": ours, "limit": limit}
    if bench.peers:
        contestants["tarfile"] = lambda: [_starts_by_tarfile(path) for path in paths]
        if contestants["tarfile"]() != ours():
            raise AssertionError("both sides must find the same places")
    timed = in_turn(contestants, bench.rounds, bench.clock)
    return rate_figure("index", "documents/s", bench.documents, timed)


def read_case(bench: DataBench, folder: Path) -> Figure:
    """Raw documents a second, in order; the limit reads the same files and looks at nothing."""
    paths = write_pairs(folder, bench.data, documents=bench.documents, shards=SHARDS)
    contestants: dict[str, Callable[[], object]] = {
        "ours": lambda: _count(sample for path in paths for sample in _samples(path)),
        "limit": lambda: sum(_read_plainly(path) for path in paths),
    }
    if bench.peers:
        contestants["webdataset"] = lambda: _count(webdataset_reading(paths))
    for name in contestants.keys() - {"limit"}:
        if contestants[name]() != bench.documents:
            raise AssertionError(f"{name} does not read every document")
    timed = in_turn(contestants, bench.rounds, bench.clock)
    return rate_figure("read", "documents/s", bench.documents, timed)


def webdataset_reading(paths: Sequence[Path]) -> Iterator[object]:
    """Raw samples as webdataset gives them, in the order of the shards."""
    import webdataset

    return iter(webdataset.WebDataset([str(path) for path in paths], shardshuffle=False))


def _starts_by_tarfile(path: Path) -> list[int]:
    import tarfile

    starts: list[int] = []
    key, end = None, 0
    with tarfile.open(path) as tar:
        for member in tar:
            found = split_name(member.name)
            if found is None:
                continue
            if found[0] != key:
                starts.append(member.offset)
                key = found[0]
            end = member.offset_data + -(-member.size // BLOCK) * BLOCK
    return [*starts, end]


def _samples(path: Path) -> Iterator[object]:
    shard = Shard(path)
    yield from shard
    shard.close()


def _count(samples: Iterator[object]) -> int:
    return sum(1 for _ in samples)


def _read_plainly(path: Path) -> int:
    buffer, size = bytearray(READ_BYTES), 0
    with open(path, "rb", buffering=0) as file:
        while found := file.readinto(buffer):
            size += found
    return size
