"""Contestants take turns, and the round that warms up does not count."""

import pytest

from kosmos.bench.timing import in_turn


def test_contestants_alternate_and_the_first_round_is_not_counted() -> None:
    calls: list[str] = []
    ticks = iter(range(100))
    timed = in_turn(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, clock=lambda: float(next(ticks))
    )
    assert calls == ["a", "b"] * 3
    assert timed["a"].seconds == (1.0, 1.0)


def test_median_and_spread_are_of_the_rounds() -> None:
    ticks = iter([0.0, 9.0, 0.0, 5.0, 0.0, 1.0, 0.0, 3.0])
    timed = in_turn({"a": lambda: None}, rounds=3, clock=lambda: next(ticks))["a"]
    assert (timed.median, timed.spread) == (3.0, (1.0, 5.0))


def test_no_round_is_refused() -> None:
    with pytest.raises(ValueError, match="rounds=0"):
        in_turn({}, rounds=0)
