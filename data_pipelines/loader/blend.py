"""Blend: which component of a mixture a lane reads next; deterministic, and its state is two integers a component.

The component that is furthest behind its share comes next, in documents or in tokens. Every lane starts at an offset
of its own, or all lanes would begin with the same component. Source of the rule: weighted fair queueing, as smooth
weighted round-robin has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

__all__ = ["Blend", "Taken"]


@dataclass(frozen=True)
class Taken:
    """What a lane has taken so far of each component: documents (bad ones too), and rows."""

    documents: tuple[int, ...]
    rows: tuple[int, ...]

    def plus(self, component: int, rows: int) -> Taken:
        """One document more."""
        return Taken(_added(self.documents, component, 1), _added(self.rows, component, rows))

    def usual(self, component: int) -> int:
        """Rows of a component's documents so far, on average; 0 before the first."""
        return self.rows[component] // max(1, self.documents[component])


@dataclass(frozen=True, kw_only=True)
class Blend:
    """Shares of components.

    Attributes:
        weights: of each component, any scale.   by: what the weights count.
        scale: what is a usual amount at once, in the same unit; lanes begin up to so much apart.
    """

    weights: tuple[float, ...]
    by: Literal["document", "token"]
    seed: tuple[int, ...]
    scale: float = 1.0

    def start(self) -> Taken:
        """Nothing taken yet."""
        return Taken((0,) * len(self.weights), (0,) * len(self.weights))

    def next(self, lane: int, taken: Taken) -> int:
        """The component that is furthest behind; of equals the first."""
        if len(self.weights) == 1:
            return 0
        counts = taken.documents if self.by == "document" else taken.rows
        total = sum(counts) + self.scale * len(counts)
        shares, offsets = _shares(self.weights), _offsets((*self.seed, lane), len(counts))
        behind = [
            share * (total + offset * self.scale) - count
            for share, offset, count in zip(shares, offsets, counts, strict=True)
        ]
        return behind.index(max(behind))

    def passed_over(self, taken: Taken, component: int) -> Taken:
        """A document more that cannot be used. It counts as a usual one, or a component of bad ones, ever behind its
        share of rows, would be all that is read."""
        return taken.plus(component, taken.usual(component) or max(1, int(self.scale)))


@lru_cache(maxsize=1024)
def _shares(weights: tuple[float, ...]) -> tuple[float, ...]:
    largest = max(weights)  # the sum of very large weights would be infinite
    total = sum(weight / largest for weight in weights)
    return tuple(weight / largest / total for weight in weights)


@lru_cache(maxsize=1024)
def _offsets(seed: tuple[int, ...], count: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng(seed).random(count).tolist())


def _added(counts: tuple[int, ...], at: int, more: int) -> tuple[int, ...]:
    return (*counts[:at], counts[at] + more, *counts[at + 1 :])
