"""Figure: one measured result, as a line of JSON for machines or a row of a table for people. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Figure", "Unit", "table"]

Unit = Literal["tokens/s", "documents/s", "images/s", "s", "MB", "tokens", "share"]
LESS_IS_BETTER = ("s", "MB", "tokens")  # times, sizes, lengths from which we win


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What we reach in one case, beside peers and limits; medians.

    Attributes:
        unit: rates are better high, times, sizes and lengths low.
        spread: (smallest, largest) of each contestant by name, `ours` among them.
        limit: the best this machine could do with the same weights, in the same unit.
        read_limit: the best it could do by reading as many bytes and nothing else; None where reading does not rule.
        notes: what else was measured, by name.
    """

    bench: str
    case: str
    unit: Unit
    ours: float
    peers: Mapping[str, float] = field(default_factory=dict)
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    limit: float
    read_limit: float | None = None
    notes: Mapping[str, float] = field(default_factory=dict)

    def better_than(self, other: float) -> float:
        """How many times better ours is than `other`; above 1 is better, for times and sizes too."""
        return other / self.ours if self.unit in LESS_IS_BETTER else self.ours / other

    def to_json(self) -> str:
        """One line."""
        record: dict[str, object] = {
            "bench": self.bench,
            "case": self.case,
            "unit": self.unit,
            "ours": _rounded(self.ours),
            "peers": {name: _rounded(value) for name, value in self.peers.items()},
            "ratio": {name: _rounded(self.better_than(value)) for name, value in self.peers.items()},
            "limit": _rounded(self.limit),
            "share_of_limit": _rounded(self.better_than(self.limit)),
            "spread": {name: [_rounded(value) for value in ends] for name, ends in self.spread.items()},
        }
        if self.read_limit is not None:
            record["read_limit"] = _rounded(self.read_limit)
            record["share_of_read_limit"] = _rounded(self.better_than(self.read_limit))
        if self.notes:
            record["notes"] = {name: _rounded(value) for name, value in self.notes.items()}
        return json.dumps(record)


def table(figures: Sequence[Figure]) -> str:
    """Rows for people: the case, ours, then every peer and limit with how many times better ours is."""
    lines = []
    for figure in figures:
        low, high = figure.spread.get("ours", (figure.ours, figure.ours))
        lines.append(f"{figure.case:18} ours {figure.ours:8.2f} {figure.unit}  ({low:.2f} to {high:.2f})")
        others = dict(figure.peers) | {"limit": figure.limit}
        if figure.read_limit is not None:
            others["plain read"] = figure.read_limit
        lines += [
            f"{'':18}   {name:24} {value:8.2f} {figure.unit:9} ours is {figure.better_than(value):.2f} of it"
            for name, value in others.items()
        ]
        lines += [f"{'':18}   {name:24} {value:8.4g}" for name, value in figure.notes.items()]
    return "\n".join(lines)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
