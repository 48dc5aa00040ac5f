"""The order of documents: every one once an epoch, over all lanes, whatever shards and lanes there are."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.loader.order import Order

COUNTS = st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(any)


@given(counts=COUNTS, lanes=st.integers(1, 70), window=st.integers(1, 50), epochs=st.integers(1, 3))
def test_an_epoch_holds_every_document_once(counts: list[int], lanes: int, window: int, epochs: int) -> None:
    order = Order(counts, lanes=lanes, seed=(7,), window=window)
    size = sum(counts)
    visits: list[tuple[int, int]] = []
    for lane in range(lanes):
        own = (lane + 1) * size // lanes - lane * size // lanes
        turns = epochs * own if size >= lanes else -(-(epochs * size - lane) // lanes)
        visits += [order.visit(lane, n) for n in range(turns)]
    seen = Counter(visits)
    assert all(seen[epoch, number] == 1 for epoch in range(epochs) for number in range(size))
    assert len(visits) == epochs * size


def test_epochs_differ_and_seeds_differ() -> None:
    def walk(seed: int, epoch: int) -> list[int]:
        order = Order([50, 50], lanes=1, seed=(seed,))
        return [order.visit(0, epoch * 100 + n)[1] for n in range(100)]

    assert walk(0, 0) != walk(0, 1)
    assert walk(0, 0) != walk(1, 0)
    assert walk(0, 0) == walk(0, 0)
    assert walk(0, 0) != sorted(walk(0, 0))


def test_a_window_of_one_keeps_the_order_of_a_shard() -> None:
    order = Order([20], lanes=1, seed=(0,), window=1)
    assert [order.visit(0, n)[1] for n in range(20)] == list(range(20))


def test_a_lane_of_many_shards_reads_few_of_them() -> None:
    order = Order([10] * 640, lanes=64, seed=(0,), window=20)
    shards = {order.visit(3, n)[1] // 10 for n in range(100)}
    assert len(shards) <= 12


def test_no_document_is_no_order() -> None:
    with pytest.raises(ValueError, match="hold no document"):
        Order([0, 0], lanes=4, seed=(0,))
