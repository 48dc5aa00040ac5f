"""A contestant in a process of its own, for what belongs to a whole process: how floats round to 0, how memory is kept.

It is built there and waits; only one of them computes at a time, as `in_turn` asks them one by one.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType

import torch

__all__ = ["Contestant", "OwnProcess"]

Contestant = Callable[[str], None]
"""One turn, in the number format of that name."""

_built: list[Contestant] = []  # of a process that is a contestant, its own


class OwnProcess:
    """Stays until its `with` block is left.

    Attributes:
        processor_seconds: of each turn, all threads together: on a busy machine they say more than the clock.
    """

    def __init__(self, build: Callable[..., Contestant], *arguments: object, flush_denormals: bool) -> None:
        """
        Args:
            build: a function of a module, called with `arguments` in the new process.
            flush_denormals: numbers below 1e-38 count as 0 there.
        """
        self.processor_seconds: list[float] = []
        self._process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        self._ready = self._process.submit(_start, torch.get_num_threads(), flush_denormals, build, arguments)

    def __enter__(self) -> OwnProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.shutdown(cancel_futures=True)

    def turn(self, number_format: str) -> None:
        """Let it take a turn. Raises: whatever building it or the turn raised."""
        self._ready.result()
        self.processor_seconds.append(self._process.submit(_turn, number_format).result())


def _start(threads: int, flush: bool, build: Callable[..., Contestant], arguments: tuple[object, ...]) -> None:
    # Before anything computes: threads that start later take the flag over.
    torch.set_flush_denormal(flush)
    torch.set_num_threads(threads)
    _built.append(build(*arguments))


def _turn(number_format: str) -> float:
    begun = time.process_time()
    _built[0](number_format)
    return time.process_time() - begun
