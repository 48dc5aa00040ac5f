"""A report: a table for people or JSON for machines, what was concluded, and the curves of a plot. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

__all__ = ["Cell", "Curve", "Estimate", "Report", "estimate"]

# Student's t, two-sided 95 %, by degrees of freedom; beyond the table the normal distribution is near enough.
T_95 = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
NORMAL_95 = 1.96
Cell = str | int | float | None


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with the half width of its 95 % interval (None for a single seed)."""

    mean: float
    half_width: float | None
    seeds: int

    def __str__(self) -> str:
        size = abs(self.mean)
        digits = 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 0.1 else 5
        shown = f"{self.mean:.{digits}f}"
        return shown if self.half_width is None else f"{shown} ± {self.half_width:.{digits}f}"


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and Student's interval of one figure over seeds; None where there is no value."""
    if not values:
        return None
    if len(values) == 1:
        return Estimate(values[0], None, 1)
    freedom = len(values) - 1
    factor = T_95[freedom] if freedom < len(T_95) else NORMAL_95
    return Estimate(mean(values), factor * stdev(values) / math.sqrt(len(values)), len(values))


@dataclass(frozen=True)
class Curve:
    """One line of a plot: its panel, its name, and (x, y, half width or None) points."""

    panel: str
    name: str
    points: tuple[tuple[float, float, float | None], ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a folder of runs says about a claim.

    Attributes:
        rows: one a line, by column name.
        verdicts: sentence -> whether the runs bear it out; None where they cannot tell.
        curves: for the plot, with the names of its axes; `logarithmic` ones are named by letter.
        shared_axis: whether all panels show the same heights.
    """

    claim: str
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Cell | Estimate], ...]
    verdicts: Mapping[str, bool | None]
    curves: tuple[Curve, ...] = ()
    axes: tuple[str, str] = ("", "")
    logarithmic: str = ""
    shared_axis: bool = True

    def to_text(self) -> str:
        """A table in Markdown, then the verdicts."""
        shown = [[_shown(row.get(name)) for name in self.columns] for row in self.rows]
        widths = [max(len(line[i]) for line in [list(self.columns), *shown]) for i in range(len(self.columns))]
        lines = [_line(self.columns, widths), "|" + "|".join("-" * (width + 2) for width in widths) + "|"]
        lines += [_line(cells, widths) for cells in shown]
        words = {True: "yes", False: "no", None: "cannot tell"}
        return "\n".join([*lines, "", *(f"{words[held]}: {sentence}" for sentence, held in self.verdicts.items())])

    def to_json(self) -> str:
        """One object a line: every row, then the verdicts."""
        rows = [{"science": self.claim, **{name: _plain(value) for name, value in row.items()}} for row in self.rows]
        return "\n".join(json.dumps(line) for line in [*rows, {"science": self.claim, "verdicts": dict(self.verdicts)}])


def _shown(value: Cell | Estimate) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Cell | Estimate) -> object:
    if isinstance(value, Estimate):
        return {"mean": value.mean, "half_width": value.half_width, "seeds": value.seeds}
    return value


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
