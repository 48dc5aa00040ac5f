"""Rates from times: so many documents or pictures a turn, ours beside the others."""

from __future__ import annotations

from collections.abc import Mapping

from kosmos.bench.figure import Figure, Unit
from kosmos.bench.timing import Timed

__all__ = ["rate_figure"]


def rate_figure(
    case: str,
    unit: Unit,
    amount: int,
    timed: Mapping[str, Timed],
    *,
    limit: float | None = None,
    notes: Mapping[str, float] | None = None,
) -> Figure:
    """The figure of a case of the bench `data`.

    Args:
        amount: what every contestant does in a turn, in documents or pictures.
        timed: `ours`, `limit` unless it is given, and the peers.
        limit: the best there could be, in the unit.
    """
    rates = {name: amount / entry.median for name, entry in timed.items()}
    spread = {name: (amount / entry.spread[1], amount / entry.spread[0]) for name, entry in timed.items()}
    own = ("ours", "limit")
    return Figure(
        bench="data",
        case=case,
        unit=unit,
        ours=rates["ours"],
        peers={name: rate for name, rate in rates.items() if name not in own},
        spread={name: ends for name, ends in spread.items() if name != "limit"},
        limit=rates["limit"] if limit is None else limit,
        notes=notes or {},
    )
