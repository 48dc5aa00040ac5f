"""Tasks over a Ray cluster: the one of RAY_ADDRESS, else one started on this machine. Only `execution` calls this."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

__all__ = ["spread_with_ray"]

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")
AHEAD = 4  # tasks handed over for each core, so that none waits for us
RETRIES = 3  # of a task whose node or worker died


def spread_with_ray(work: Callable[[TaskT], ResultT], tasks: Sequence[TaskT], workers: int) -> Iterator[ResultT]:
    """Results as they come. A task whose node dies is run again elsewhere: it writes whole files or none.

    Args:
        workers: tasks that run at once; 0 for as many as the cluster has cores.
    Raises: ValueError if ray is not installed; whatever a task raises.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("--engine ray needs the extra `ray`: pip install 'kosmos-mllm[ray]'") from None
    started = not ray.is_initialized()
    if started:
        ray.init(address=os.environ.get("RAY_ADDRESS"), include_dashboard=False, log_to_driver=False)
    try:
        # Handed over as an argument, once: ray takes plain functions only, and `work` may be a partial one.
        remote: Any = ray.remote(max_retries=3)(_work_on)
        shared = ray.put(work)
        cores = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
        most = workers or AHEAD * max(1, int(cores))
        left = iter(tasks)
        running: list[ray.ObjectRef[ResultT]] = []
        while True:
            while len(running) < most and (task := next(left, None)) is not None:
                running.append(remote.remote(shared, task))
            if not running:
                return
            done, running = ray.wait(running, num_returns=1)
            yield from ray.get(done)
    finally:
        if started:
            ray.shutdown()


def _work_on(work: Callable[[TaskT], ResultT], task: TaskT) -> ResultT:
    return work(task)
