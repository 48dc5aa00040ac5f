"""The cases `index`, `read` and `memory`: tars by their headers, raw documents in order, and what a long run keeps.

Peers: Python's tarfile for the index, webdataset for reading. Limits: the header blocks at known places, and a plain
read of the same files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.index import sample_starts
from data_pipelines.naming import split_name
from data_pipelines.shard import Shard, read_documents
from data_pipelines.tar import BLOCK
from kosmos.bench.data_corpus import write_pairs
from kosmos.bench.figure import Figure
from kosmos.bench.rates import rate_figure
from kosmos.bench.timing import in_turn

if TYPE_CHECKING:
    from kosmos.bench.data import DataBench

__all__ = ["index_case", "memory_case", "read_case", "webdataset_reading"]

SHARDS = 4
READ_BYTES = 2**20
MEGABYTE = 2**20
SETTLED = 0.05  # share of the run after which memory is looked at first


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


def memory_case(bench: DataBench, folder: Path) -> Figure:
    """Resident memory while documents are read and understood: the end beside the start, the peak as its spread."""
    paths = write_pairs(folder, bench.data, documents=min(bench.documents, bench.long_run), shards=SHARDS)
    seen: list[float] = []
    every = max(1, bench.long_run // 1_000)
    for number, _ in zip(range(bench.long_run), _endlessly(paths), strict=False):
        if number >= SETTLED * bench.long_run and number % every == 0:
            seen.append(_resident_megabytes())
    return Figure(
        bench="data",
        case="memory",
        unit="MB",
        ours=seen[-1],
        spread={"ours": (min(seen), max(seen))},
        limit=seen[0],
        notes={"documents": bench.long_run, "at the start": seen[0], "at the end": seen[-1], "peak": max(seen)},
    )


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


def _endlessly(paths: Sequence[Path]) -> Iterator[object]:
    for path in cycle(paths):
        yield from read_documents(str(path))


def _resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE
