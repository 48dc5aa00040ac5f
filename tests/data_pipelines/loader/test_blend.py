"""Blend: shares hold at every moment, in documents and in tokens, and a position gives the same choice again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.loader.blend import Blend

WEIGHTS = st.lists(st.floats(0.05, 10.0, allow_subnormal=False), min_size=1, max_size=5)


@given(weights=WEIGHTS, lane=st.integers(0, 63), steps=st.integers(50, 300))
def test_shares_of_documents_hold(weights: list[float], lane: int, steps: int) -> None:
    blend, taken = Blend(weights=tuple(weights), by="document", seed=(1,)), None
    taken = blend.start()
    for _ in range(steps):
        taken = taken.plus(blend.next(lane, taken), 10)
    for weight, count in zip(weights, taken.documents, strict=True):
        assert abs(count - steps * weight / sum(weights)) <= len(weights) + 1


@given(lane=st.integers(0, 63))
def test_shares_of_tokens_hold_for_documents_of_any_length(lane: int) -> None:
    blend = Blend(weights=(0.75, 0.25), by="token", seed=(1,), scale=500)
    taken = blend.start()
    for _ in range(400):
        component = blend.next(lane, taken)
        taken = taken.plus(component, (20, 500)[component])
    assert abs(taken.rows[0] / sum(taken.rows) - 0.75) < 0.08


def test_a_component_of_bad_documents_does_not_keep_the_others_out() -> None:
    blend = Blend(weights=(0.5, 0.5), by="token", seed=(1,), scale=500)
    taken = blend.start()
    for _ in range(300):
        component = blend.next(0, taken)
        taken = blend.passed_over(taken, 0) if component == 0 else taken.plus(1, 100)
    assert taken.documents[1] > 200


def test_a_bad_document_counts_as_a_usual_one() -> None:
    blend = Blend(weights=(0.5, 0.5), by="token", seed=(1,), scale=500)
    taken = blend.start().plus(0, 40).plus(0, 60)
    assert blend.passed_over(taken, 0).rows == (150, 0)
    assert blend.passed_over(taken, 1).rows == (100, 500)


def test_weights_may_be_as_large_or_small_as_floats_are() -> None:
    blend = Blend(weights=(1.7e308, 1.7e308, 1e-300), by="document", seed=(1,))
    taken = blend.start()
    for _ in range(100):
        taken = taken.plus(blend.next(0, taken), 1)
    assert taken.documents == (50, 50, 0)


def test_lanes_begin_with_different_components() -> None:
    blend = Blend(weights=(0.5, 0.5), by="document", seed=(3,))
    assert {blend.next(lane, blend.start()) for lane in range(16)} == {0, 1}
