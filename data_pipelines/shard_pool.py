"""One question to every shard, answers in the order of the shards: here, in several processes, or on a Ray cluster.

For verbs that look and write nothing of their own (`lint`, `info`, `index`); what writes shards goes through
`execution`, which can be killed and go on.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

from data_pipelines.execution import Engine

__all__ = ["each_shard"]

TaskT = TypeVar("TaskT")
AnswerT = TypeVar("AnswerT")


def each_shard(
    ask: Callable[[TaskT], AnswerT], tasks: Sequence[TaskT], *, workers: int = 1, engine: Engine = "local"
) -> Iterator[AnswerT]:
    """`ask(task)` of every task, in order.

    Args:
        ask: picklable.
    Raises: whatever `ask` raises; OSError if a worker was killed.
    """
    if engine == "ray":
        yield from _on_ray(ask, tasks, workers)
    elif workers <= 1 or len(tasks) <= 1:
        yield from map(ask, tasks)
    else:
        # Spawned: a fork of a process with threads (image libraries) may hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context) as pool:
            try:
                yield from pool.map(ask, tasks, chunksize=max(1, min(16, len(tasks) // (8 * workers))))
            except BrokenProcessPool:
                raise OSError("a worker process was killed (out of memory?); take fewer --workers") from None


def _on_ray(ask: Callable[[TaskT], AnswerT], tasks: Sequence[TaskT], workers: int) -> Iterator[AnswerT]:
    from data_pipelines.ray_engine import spread_with_ray

    early: dict[int, AnswerT] = {}  # answers that came before those of earlier shards
    wanted = 0
    for number, answer in spread_with_ray(partial(_numbered, ask), list(enumerate(tasks)), workers):
        early[number] = answer
        while wanted in early:
            yield early.pop(wanted)
            wanted += 1


def _numbered(ask: Callable[[TaskT], AnswerT], task: tuple[int, TaskT]) -> tuple[int, AnswerT]:
    return task[0], ask(task[1])
