"""The case `memory`: what a long run of the whole loader keeps, from reading to packed batches, in this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kosmos.bench.data_corpus import write_pairs
from kosmos.bench.data_loader import our_batches, pairs_loader
from kosmos.bench.figure import Figure

if TYPE_CHECKING:
    from kosmos.bench.data import DataBench

__all__ = ["memory_case"]

SHARDS = 4
MEGABYTE = 2**20
SETTLED = 0.1  # share of the run after which memory is looked at first: by then every lane has read ahead


def memory_case(bench: DataBench, folder: Path) -> Figure:
    """Resident memory while documents become batches: the end beside the start, the peak as its spread."""
    paths = write_pairs(folder, bench.data, documents=min(bench.documents, bench.long_run), shards=SHARDS)
    seen: list[float] = []
    taken = 0
    for pairs in our_batches(pairs_loader(paths)):
        taken += pairs
        if taken >= SETTLED * bench.long_run:
            seen.append(_resident_megabytes())
        if taken >= bench.long_run:
            break
    return Figure(
        bench="data",
        case="memory",
        unit="MB",
        ours=seen[-1],
        spread={"ours": (min(seen), max(seen))},
        limit=seen[0],
        notes={"documents": taken, "at the start": seen[0], "at the end": seen[-1], "peak": max(seen)},
    )


def _resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE
