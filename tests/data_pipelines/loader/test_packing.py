"""Packing: every item once and whole, or cut where it may be; no batch over its rows; hardly a row empty."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.loader.packing import pack


@dataclass(frozen=True)
class Item:
    """Rows `start` to `start + length` of a document."""

    name: int
    length: int
    start: int = 0


def _items(lengths: list[int]) -> list[Item]:
    return [Item(name, length) for name, length in enumerate(lengths)]


def _whole(item: Item, room: int) -> None:
    return None


def _cut(item: Item, room: int) -> tuple[Item, Item] | None:
    if room < 2:
        return None
    return replace(item, length=room), replace(item, length=item.length - room, start=item.start + room)


@given(lengths=st.lists(st.integers(1, 64), max_size=100), rows=st.integers(64, 200), batches=st.integers(1, 40))
def test_every_row_is_in_one_batch_that_holds_it(lengths: list[int], rows: int, batches: int) -> None:
    for cut in (_whole, _cut):
        found = pack(_items(lengths), rows, batches, cut)
        if isinstance(found, int):
            assert 0 < found <= sum(lengths)
            continue
        assert len(found) <= batches
        assert all(batch and sum(item.length for item in batch) <= rows for batch in found)
        seen = Counter((item.name, item.start + row) for batch in found for item in batch for row in range(item.length))
        assert seen == Counter((name, row) for name, length in enumerate(lengths) for row in range(length))
        if cut is _whole:
            assert all(item.start == 0 for batch in found for item in batch)


def test_documents_of_many_lengths_fill_batches() -> None:
    lengths = np.random.default_rng(0).integers(20, 1500, 300).tolist()
    batches = -(-sum(lengths) // 2048) + 1
    assert isinstance(pack(_items(lengths), 2048, batches, _whole), list)


def test_what_fits_nowhere_is_cut_if_it_may_be() -> None:
    items = _items([60, 60, 60])
    assert pack(items, 100, 2, _whole) == 60
    assert pack(items, 100, 2, _cut) == [
        [Item(0, 60), Item(2, 20, 40)],
        [Item(1, 60), Item(2, 40)],
    ]


def test_a_document_longer_than_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit a batch of 10"):
        pack(_items([11]), 10, 5, _whole)
