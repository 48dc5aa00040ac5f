"""Blend: which component of a mixture a lane reads next; deterministic, and its state is two integers a component.

The component that is furthest behind its share comes next, in documents or in tokens. Every lane starts at an offset
of its own, or all lanes would begin with the same component. Source of the rule: weighted fair queueing, as smooth
weighted round-robin has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
        return replace(self, documents=_added(self.documents, component, 1), rows=_added(self.rows, component, rows))


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
        shares = np.asarray(self.weights) / sum(self.weights)
        offsets = np.random.default_rng((*self.seed, lane)).random(len(shares)) * self.scale
        behind = shares * (sum(counts) + self.scale * len(shares)) - counts + offsets * shares
        return int(np.argmax(behind))


def _added(counts: Sequence[int], at: int, more: int) -> tuple[int, ...]:
    return tuple(count + more * (place == at) for place, count in enumerate(counts))
