"""Reports: intervals as a statistics library gives them, tables for people, lines for machines, plots that repeat."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import stats

from kosmos.science.plot import plot
from kosmos.science.report import Curve, Report, estimate

REPORT = Report(
    claim="toy",
    columns=("scheme", "64"),
    rows=({"scheme": "xPos", "64": estimate([1.0, 2.0, 3.0])}, {"scheme": "RoPE", "64": None}),
    verdicts={"xPos is best": True, "it is fast": None},
    curves=(Curve("left", "xPos", ((1.0, 2.0, 0.5), (2.0, 3.0, None))), Curve("right", "xPos", ((1.0, 1.0, None),))),
    axes=("length", "loss"),
    logarithmic="x",
)


@pytest.mark.parametrize("values", [[1.0, 2.5], [1.0, 2.0, 4.0], [float(n * n) for n in range(11)]])
def test_an_interval_is_students(values: list[float]) -> None:
    found = estimate(values)
    assert found is not None
    low, high = stats.t.interval(0.95, len(values) - 1, loc=found.mean, scale=stats.sem(values))
    assert found.half_width == pytest.approx((high - low) / 2, rel=1e-3)


def test_one_seed_has_no_interval_and_none_has_no_estimate() -> None:
    assert str(estimate([2.5])) == "2.500"
    assert estimate([]) is None


def test_a_table_shows_estimates_and_verdicts() -> None:
    lines = REPORT.to_text().splitlines()
    assert lines[0] == "| scheme | 64            |"
    assert lines[2] == "| xPos   | 2.000 ± 2.484 |"
    assert lines[3] == "| RoPE   | -             |"
    assert lines[-2:] == ["yes: xPos is best", "cannot tell: it is fast"]


def test_every_line_of_json_is_an_object() -> None:
    first, second, last = map(json.loads, REPORT.to_json().splitlines())
    assert first["64"]["seeds"] == 3
    assert second == {"science": "toy", "scheme": "RoPE", "64": None}
    assert last["verdicts"] == {"xPos is best": True, "it is fast": None}


def test_equal_reports_draw_equal_pictures(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        plot(REPORT, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.svg").stat().st_size > 1000
