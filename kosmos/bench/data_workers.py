"""The cases `create-workers` and `filter-workers`: the same work with two processes and with one.

Timed by the clock on the wall, so other work on the machine counts. What two processes that do nothing but count get
done beside one is measured in the same turns and is the limit: 2 on an idle machine, less on a busy one. The processor
time of all processes, two workers over one, stands beside: it says what sharing the work costs, however busy they are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from data_pipelines.creation import create, plan
from data_pipelines.execution import Execution
from data_pipelines.filtering import filter_shards
from data_pipelines.report import Report
from data_pipelines.rules.table import choose_rules
from data_pipelines.sources.source import Options
from kosmos.bench.data_corpus import write_pairs
from kosmos.bench.figure import Figure
from kosmos.bench.rates import rate_figure
from kosmos.bench.timing import in_turn

if TYPE_CHECKING:
    from kosmos.bench.data import DataBench

__all__ = ["create_case", "filter_case"]

SHARDS = 8
CREATED, FILTERED = 10, 5
"""Times the documents of other cases: starting two processes takes half a second, which real work hides."""
RULES = "captions"
COUNT = 60_000_000  # a second or two


def create_case(bench: DataBench, folder: Path) -> Figure:
    """Pairs to documents."""
    source = folder / "source"
    documents = CREATED * bench.documents
    paths = write_pairs(source, bench.data, documents=documents, shards=SHARDS)

    def run(out: Path, workers: int) -> Report:
        creation = plan([source], Options(), per_shard=documents // len(paths))
        return create(creation, out, Execution(workers=workers))

    return _case("create-workers", run, bench, folder, documents)


def filter_case(bench: DataBench, folder: Path) -> Figure:
    """The rules for captions, which open every picture."""
    documents = FILTERED * bench.documents
    paths = write_pairs(folder / "source", bench.data, documents=documents, shards=SHARDS)

    def run(out: Path, workers: int) -> Report:
        execution = Execution(workers=workers)
        return filter_shards([str(path) for path in paths], out, choose_rules(RULES), execution=execution)

    return _case("filter-workers", run, bench, folder, documents)


def _case(name: str, run: Callable[[Path, int], Report], bench: DataBench, folder: Path, documents: int) -> Figure:
    turns = count()
    spent: dict[int, list[float]] = {1: [], 2: []}

    def fresh(workers: int) -> None:
        before = _processor_seconds()
        report = run(folder / f"out-{next(turns)}", workers)
        spent[workers].append(_processor_seconds() - before)
        if not report.balanced or report.read < documents // SHARDS * SHARDS:
            raise AssertionError(f"not every document was read: {report.to_text()}")

    contestants = {
        "ours": partial(fresh, 2),
        "one worker": partial(fresh, 1),
        "one counts": partial(_count_in_processes, 1),
        "two count": partial(_count_in_processes, 2),
    }
    timed = in_turn(contestants, bench.rounds)
    one, two = timed.pop("one counts").median, timed.pop("two count").median
    limit = 2 * one / two * documents / timed["one worker"].median
    notes = {"processor time of 2 over 1": median(spent[2]) / median(spent[1])}
    return rate_figure(name, "documents/s", documents, timed, limit=limit, notes=notes)


def _processor_seconds() -> float:
    """Of this process and all that it waited for."""
    return sum(os.times()[:4])


def _count_in_processes(processes: int) -> None:
    """Each of them counts as far, whatever the others do."""
    command = [sys.executable, "-c", f"for _ in range({COUNT}): pass"]
    running = [subprocess.Popen(command) for _ in range(processes)]
    for process in running:
        process.wait()
