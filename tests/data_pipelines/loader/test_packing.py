"""Packing: every document once, no batch over its rows, hardly a row empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.loader.packing import pack


@given(lengths=st.lists(st.integers(1, 64), max_size=200), rows=st.integers(64, 200))
def test_every_document_is_in_one_batch_that_holds_it(lengths: list[int], rows: int) -> None:
    batches = pack(lengths, rows)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in batch) <= rows for batch in batches)
    # Two half-empty batches could have been one.
    assert sum(2 * sum(lengths[index] for index in batch) <= rows for batch in batches) <= 1


def test_documents_of_many_lengths_fill_batches() -> None:
    draw = np.random.default_rng(0)
    lengths = draw.integers(20, 1500, 300).tolist()
    batches = pack(lengths, 2048)
    assert sum(lengths) / (2048 * len(batches)) > 0.98


def test_a_document_longer_than_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit a batch of 10"):
        pack([11], 10)
