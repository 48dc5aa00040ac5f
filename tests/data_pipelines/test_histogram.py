"""Histograms put every value into one bin, and add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.histogram import Histogram

EDGES = (0, 1, 2, 4, 8)


def test_bins_hold_their_lower_edge_and_say_what_they_hold() -> None:
    found = Histogram.of(EDGES, [0, 1, 2, 3, 4, 7.9, 8, 100, -1])
    assert [tuple(one) for one in found.bins()] == [("0", 2), ("1", 1), ("2-3", 2), ("4-7", 2), ("8+", 2)]
    assert [one.label for one in Histogram.of((0, 0.5, 2), []).bins()] == ["0-0.5", "0.5-2", "2+"]


@given(st.lists(st.integers(-5, 50)), st.lists(st.integers(-5, 50)))
def test_parts_add_up_to_the_whole(first: list[float], second: list[float]) -> None:
    whole = Histogram.of(EDGES, [*first, *second])
    assert Histogram.of(EDGES, first) + Histogram.of(EDGES, second) == whole
    assert whole.count == len(first) + len(second)


def test_histograms_of_other_bins_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="edges"):
        Histogram.of((0, 1), []) + Histogram.of((0, 2), [])
