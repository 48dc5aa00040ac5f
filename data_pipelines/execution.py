"""Work over a list of shards: one process here, several, or a Ray cluster; killed anywhere, a rerun goes on.

The unit is `process(task) -> Report`: it writes the task's outputs whole or not at all and counts what became of every
document. A finished task leaves a marker with its report in `OUT/.kosmos/`; a rerun takes markers at their word, so
finished shards are untouched and the sum is the same. Knows nothing of what a task does.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Literal, TypeAlias, TypeVar

from data_pipelines.report import Report
from data_pipelines.whole_file import TEMPORARY, whole_file

__all__ = ["Engine", "Execution", "Told", "keep_job", "run_tasks"]

Engine: TypeAlias = Literal["local", "ray"]
Told: TypeAlias = Callable[[int, int, Report], None]
"""Hears of (tasks done, tasks in all, the sum so far)."""

STATE = ".kosmos"
JOB = "job.json"

TaskT = TypeVar("TaskT")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How work is spread.

    Attributes:
        workers: processes here; with Ray, tasks that run at once (0: as many as the cluster takes).
        engine: `local` or `ray` (the cluster of RAY_ADDRESS, else one started here).
        told: hears of progress.
    """

    workers: int = 1
    engine: Engine = "local"
    told: Told | None = None


@dataclass(frozen=True)
class _Marked(Generic[TaskT]):
    """A task and the name of its marker."""

    name: str
    task: TaskT


def run_tasks(
    process: Callable[[TaskT], Report],
    tasks: Mapping[str, TaskT],
    out: Path,
    *,
    job: Mapping[str, object],
    execution: Execution = Execution(),
) -> Report:
    """Process every task that has no marker yet.

    Args:
        process: picklable; writes what belongs to its task under `out`.
        tasks: by a name that says what it writes (`train-000012`); names order the sum.
        out: folder of outputs and markers.
        job: what decides the outputs (sources, options), plain values. A folder made by another job is refused.
    Returns: the sum over all tasks, markers included.
    Raises: ValueError for a folder of another job; whatever a task raises, with the others' markers kept.
    """
    keep_job(out, job)
    reports = {name: found for name in tasks if (found := _marker(out, name)) is not None}
    waiting = [_Marked(name, task) for name, task in tasks.items() if name not in reports]
    for name, report in _spread(partial(_process_one, process, out), waiting, execution):
        reports[name] = report
        if execution.told is not None:
            execution.told(len(reports), len(tasks), _sum(reports))
    return _sum(reports)


def _sum(reports: Mapping[str, Report]) -> Report:
    whole = Report()
    for name in sorted(reports):  # the order of names, whatever finished first
        whole = whole + reports[name]
    return whole


def keep_job(out: Path, job: Mapping[str, object]) -> None:
    """Make a folder this job's own: nobody else may have written to it, and what a killed run left half goes.

    Raises: ValueError for a file, and for a folder of another job.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, and the output needs a folder; give another name")
    folder = out / STATE
    folder.mkdir(parents=True, exist_ok=True)
    wanted = json.dumps(job, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    path = folder / JOB
    others = path.exists() and path.read_text("utf-8") != wanted
    if others and not _nothing_written(out):
        raise ValueError(f"{out} holds the output of another command or other options; give a new folder ({path})")
    for left in (*out.glob(f"**/*{TEMPORARY}"),):
        left.unlink(missing_ok=True)
    if others or not path.exists():
        with whole_file(path) as file:
            file.write(wanted.encode())


def _nothing_written(out: Path) -> bool:
    """Whether a job failed before it wrote anything, as on a torn first shard; then its folder is free."""
    return not any((out / STATE).glob("*.done.json")) and all(one.name == STATE for one in out.iterdir())


def _marker_path(out: Path, name: str) -> Path:
    plain = name.replace("/", "_")
    if plain != name or len(plain) > 120:
        plain = f"{plain[-100:]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return out / STATE / f"{plain}.done.json"


def _marker(out: Path, name: str) -> Report | None:
    try:
        return Report.from_json(_marker_path(out, name).read_text("utf-8"))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _process_one(process: Callable[[TaskT], Report], out: Path, marked: _Marked[TaskT]) -> tuple[str, Report]:
    report = process(marked.task)
    with whole_file(_marker_path(out, marked.name)) as file:
        file.write(report.to_json().encode())
    return marked.name, report


def _spread(
    work: Callable[[_Marked[TaskT]], tuple[str, Report]], tasks: Sequence[_Marked[TaskT]], execution: Execution
) -> Iterator[tuple[str, Report]]:
    if execution.engine == "ray":
        from data_pipelines.ray_engine import spread_with_ray

        yield from spread_with_ray(work, tasks, execution.workers)
    elif execution.workers <= 1 or len(tasks) <= 1:
        yield from map(work, tasks)
    else:
        yield from _processes(work, tasks, execution.workers)


def _processes(
    work: Callable[[_Marked[TaskT]], tuple[str, Report]], tasks: Sequence[_Marked[TaskT]], workers: int
) -> Iterator[tuple[str, Report]]:
    # Spawned: a fork of a process with threads (tokenizers, image libraries) may hang.
    context = multiprocessing.get_context("spawn")
    count = min(workers, len(tasks))
    with ProcessPoolExecutor(count, mp_context=context, initializer=_begin_worker) as pool:
        left = iter(tasks)
        running: set[Future[tuple[str, Report]]] = set()
        try:
            while True:
                # A few ahead and no more: an interrupted run should not have thousands of tasks to cancel.
                while len(running) < 2 * count and (task := next(left, None)) is not None:
                    running.add(pool.submit(work, task))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            raise OSError("a worker process was killed (out of memory?); run the same command again to go on") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what runs still is not waited for
            raise


def _begin_worker() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's workers outlive a parent that was killed, and would go on writing beside a rerun."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
