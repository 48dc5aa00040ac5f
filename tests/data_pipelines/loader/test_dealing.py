"""Dealing: all batches once, in lane order, however many ranks and workers share them."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.loader.dealing import Dealer


@given(lanes=st.integers(1, 12), first=st.integers(0, 50), ranks=st.integers(1, 7), steps=st.integers(1, 20))
def test_ranks_together_take_every_batch_once(lanes: int, first: int, ranks: int, steps: int) -> None:
    deals = [
        deal
        for rank in range(ranks)
        for deal in islice(Dealer(lanes=lanes, first=first, rank=rank, ranks=ranks).deals(), steps)
    ]
    assert sorted(deal.batch for deal in deals) == list(range(first, first + ranks * steps))
    assert all((deal.lane, deal.turn) == (deal.batch % lanes, deal.batch // lanes) for deal in deals)


@given(lanes=st.integers(1, 12), ranks=st.integers(1, 5), workers=st.integers(1, 6), first=st.integers(0, 30))
def test_workers_together_take_what_the_rank_takes(lanes: int, ranks: int, workers: int, first: int) -> None:
    dealer = Dealer(lanes=lanes, first=first, rank=ranks - 1, ranks=ranks, workers=workers)
    wanted = list(islice(dealer.deals(), 40))
    for worker in range(workers):
        own = [deal for deal in wanted if dealer.worker_of(deal.lane) == worker]
        assert list(islice(dealer.deals_of(worker), len(own))) == own


@given(lanes=st.integers(1, 12), first=st.integers(0, 60))
def test_used_counts_the_batches_of_a_lane_so_far(lanes: int, first: int) -> None:
    dealer = Dealer(lanes=lanes, first=first)
    for lane in range(lanes):
        assert dealer.used(lane) == sum(batch % lanes == lane for batch in range(first))
