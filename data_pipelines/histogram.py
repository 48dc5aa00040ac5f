"""Histogram: counts in bins whose edges are fixed beforehand, so that those of shards add up."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Bin", "Histogram"]


class Bin(NamedTuple):
    """Which values it holds (`128-255`, `0.8-0.95`, `4096+`) and how many there were."""

    label: str
    num_values: int


@dataclass(frozen=True)
class Histogram:
    """Bins between `edges`, in order; values below the first edge fall into the first bin.

    Attributes:
        counts: one a bin; the last bin has no upper edge, so there are as many as edges.   total: sum of the values.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    total: float = 0.0

    @staticmethod
    def of(edges: tuple[float, ...], values: list[float]) -> Histogram:
        """Counted values."""
        counts = [0] * len(edges)
        for value in values:
            counts[max(0, bisect_right(edges, value) - 1)] += 1
        return Histogram(edges, tuple(counts), float(sum(values)))

    def __add__(self, other: Histogram) -> Histogram:
        if self.edges != other.edges:
            raise ValueError(f"histograms of other edges do not add up: {self.edges} and {other.edges}")
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Histogram(self.edges, counts, self.total + other.total)

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Of the values themselves; 0 where there are none."""
        return self.total / self.count if self.count else 0.0

    def bins(self) -> Iterator[Bin]:
        """All of them, in order; the upper edge of `0.8-0.95` is not in it."""
        step = 1 if all(float(edge).is_integer() for edge in self.edges) else 0
        for low, high, count in zip(self.edges, (*self.edges[1:], None), self.counts, strict=True):
            if high is None:
                yield Bin(f"{low:g}+", count)
            else:
                yield Bin(f"{low:g}" if step and high == low + 1 else f"{low:g}-{high - step:g}", count)

    def to_record(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {"edges": list(self.edges), "counts": list(self.counts), "mean": round(self.mean, 4)}
