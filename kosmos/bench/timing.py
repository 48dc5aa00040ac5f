"""Contestants in turn: every round runs each of them once, so a disturbance of the machine meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Timed", "in_turn"]

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Timed:
    """Seconds of one contestant, a round each."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The fastest and the slowest round, in seconds."""
        return min(self.seconds), max(self.seconds)


def in_turn(
    contestants: Mapping[Name, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[Name, Timed]:
    """Time every contestant once a round; one more round before, which warms up, does not count.

    Raises: ValueError for less than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds}; give at least 1")
    seconds: dict[Name, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            start = clock()
            run()
            taken = clock() - start
            if number:
                seconds[name].append(taken)
    return {name: Timed(tuple(values)) for name, values in seconds.items()}
