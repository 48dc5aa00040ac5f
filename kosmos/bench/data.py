"""The bench `data`: reading, indexing, decoding and loading beside what people use, and one worker beside two.

Single-process cases take one thread and are timed by the processor time of this process, so that other work on the
machine counts little; cases of several processes by the clock on the wall. All sides of a case take turns in one run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from kosmos.bench.data_decoding import large_case, small_case
from kosmos.bench.data_loader import loader_case
from kosmos.bench.data_memory import memory_case
from kosmos.bench.data_packing import fill_case
from kosmos.bench.data_reading import index_case, read_case
from kosmos.bench.data_workers import create_case, filter_case
from kosmos.bench.figure import Figure

__all__ = ["DATA_CASES", "DataBench", "run_data"]


@dataclass(frozen=True, kw_only=True)
class DataBench:
    """What to measure.

    Attributes:
        data: folder of real data; where there is none, pictures are drawn.
        rounds: how often every contestant takes its turn.
        peers: run webdataset, tarfile and Pillow beside us.
        documents: of the shards that are read.   pictures: decoded a turn.   long_run: documents of case `memory`.
        clock: of the cases that run in one process.
    """

    data: Path
    rounds: int = 5
    peers: bool = True
    cases: tuple[str, ...] = ()
    documents: int = 4_000
    pictures: int = 600
    long_run: int = 100_000
    clock: Callable[[], float] = time.process_time


Case: TypeAlias = Callable[[DataBench, Path], Figure]

_CASES: Mapping[str, Case] = {
    "index": index_case,
    "read": read_case,
    "memory": memory_case,
    "decode-small": small_case,
    "decode-large": large_case,
    "loader": loader_case,
    "fill": fill_case,
    "create-workers": create_case,
    "filter-workers": filter_case,
}
DATA_CASES = tuple(_CASES)


def run_data(bench: DataBench) -> Iterator[Figure]:
    """Measure and give one figure a case."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for case in bench.cases or DATA_CASES:
            with tempfile.TemporaryDirectory(prefix="kosmos-bench-") as folder:
                yield _CASES[case](bench, Path(folder))
    finally:
        torch.set_num_threads(threads)
