"""A small job for the tests of execution: copies shards, drops some documents, and stops where a test wants it to.

Run as a program it is a process that can be killed: `python -m tests.data_pipelines.copying SOURCES OUT POINT NUMBER`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from data_pipelines import shard as shards
from data_pipelines.execution import Execution, run_tasks
from data_pipelines.report import Report, Tally
from data_pipelines.shard import ShardWriter, open_shard

__all__ = ["ONE_PROCESS", "POINTS", "REACHED", "Copy", "copies", "copy_shard", "run_copies", "write_sources"]

POINTS = ("started", "half written", "without index", "without marker", "told")
REACHED = b"reached\n"
ONE_PROCESS = Execution()


@dataclass(frozen=True)
class Copy:
    """One task; it tells standard output that it reached `stop_at` and then waits to be killed."""

    source: Path
    target: Path
    stop_at: str = ""


def copy_shard(task: Copy) -> Report:
    """Every document but those whose key ends in 7."""
    tally = Tally()
    _reach("started", task.stop_at)
    with _index_reaches(task.stop_at), open_shard(str(task.source)) as shard, ShardWriter(task.target) as writer:
        for number, sample in enumerate(shard):
            tally.read()
            if number == len(shard) // 2:
                _reach("half written", task.stop_at)
            if sample.key.endswith("7"):
                tally.drop("ends in 7", sample.key)
                continue
            writer.write_parts(sample.key, sample.parts)
            tally.wrote()
    _reach("without marker", task.stop_at)
    return tally.report()


def copies(sources: Path, out: Path, *, stop_at: str = "", number: int = -1) -> dict[str, Copy]:
    """A task for every source; the one of that number stops."""
    found = sorted(sources.glob("*.tar"))
    return {
        source.stem: Copy(source, out / source.name, stop_at if place == number else "")
        for place, source in enumerate(found)
    }


def run_copies(sources: Path, out: Path, execution: Execution = ONE_PROCESS) -> Report:
    """The whole job."""
    return run_tasks(copy_shard, copies(sources, out), out, job={"sources": str(sources)}, execution=execution)


def write_sources(folder: Path, *, shards: int = 6, documents: int = 40) -> Path:
    """Shards of small documents."""
    for number in range(shards):
        with ShardWriter(folder / f"source-{number:03}.tar") as writer:
            for place in range(documents):
                key = f"{number:03}-{place:04}"
                writer.write_parts(key, {"json": f'{{"segments":[{{"text":"{key} says hello"}}]}}'.encode()})
    return folder


def _reach(point: str, stop_at: str) -> None:
    if point == stop_at:
        os.write(1, REACHED)
        signal.pause()


def _index_reaches(stop_at: str) -> mock._patch[object]:
    write_index = shards.write_index

    def stopping(path: Path, starts: list[int]) -> None:
        _reach("without index", stop_at)
        write_index(path, starts)

    return mock.patch.object(shards, "write_index", stopping)


def _main(arguments: Sequence[str]) -> None:
    sources, out, stop_at, number = Path(arguments[0]), Path(arguments[1]), arguments[2], int(arguments[3])

    def told(done: int, tasks: int, report: Report) -> None:
        if done == number:
            _reach("told", stop_at)

    tasks = copies(sources, out, stop_at=stop_at, number=number)
    run_tasks(copy_shard, tasks, out, job={"sources": str(sources)}, execution=Execution(workers=2, told=told))


if __name__ == "__main__":
    _main(sys.argv[1:])
