"""Attention with dropout: without dropout it is attention, with it the formula with the weights that were dropped."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from kosmos.transformer import attention
from kosmos.transformer.attention import PackedAttention
from kosmos.transformer.dropped_attention import QUERIES, attend_dropped
from kosmos.transformer.groups import padded_groups
from kosmos.transformer.kernels.training import load_training_rows

HEADS = 3
TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}
pytestmark = pytest.mark.skipif(load_training_rows() is None, reason="no compiled kernels")
lengths = st.lists(st.integers(1, 2 * QUERIES + 40), min_size=1, max_size=4)


def rows(count: int, width: int) -> Tensor:
    return torch.randn(count, HEADS, width, requires_grad=True)


def dropped(inputs: tuple[Tensor, ...], lengths: list[int], rate: float, seed: int = 7) -> Tensor:
    torch.manual_seed(seed)
    return attend_dropped(*inputs, padded_groups(lengths, "cpu"), rate)


def by_formula(inputs: tuple[Tensor, ...], lengths: list[int], factors: list[Tensor]) -> Tensor:
    """Sequence by sequence; `factors` [H, T, T] of the weights."""
    outputs = []
    for query, key, value, factor in zip(*(x.split(lengths) for x in inputs), factors, strict=True):
        scores = torch.einsum("qhk,thk->hqt", query, key) * query.shape[-1] ** -0.5
        scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), float("-inf"))
        outputs.append(torch.einsum("hqt,thk->qhk", scores.softmax(-1) * factor, value))
    return torch.cat(outputs)


def factors_of(lengths: list[int], rate: float, seed: int = 7) -> list[Tensor]:
    """What weights are multiplied by: equal weights of values that are each other's basis show it."""
    found = []
    longest = max(lengths)
    values = torch.cat([torch.eye(length, longest) for length in lengths])[:, None].repeat(1, HEADS, 1)
    nothing = torch.zeros_like(values)
    mixed = dropped((nothing, nothing, values), lengths, rate, seed)
    for length, own in zip(lengths, mixed.split(lengths), strict=True):
        seen = torch.arange(1, length + 1)[:, None, None]
        found.append((own[..., :length] * seen).transpose(0, 1))
    return found


@given(lengths)
def test_without_dropout_it_is_attention(lengths: list[int]) -> None:
    torch.manual_seed(0)
    inputs = tuple(rows(sum(lengths), 16) for _ in range(3))
    mixed = dropped(inputs, lengths, 0.0)
    wanted = by_formula(inputs, lengths, [torch.ones(HEADS, length, length) for length in lengths])
    assert_close(mixed, wanted, **TOLERANCE)
    slopes = torch.randn_like(mixed)
    for ours, theirs in zip(
        torch.autograd.grad(mixed, inputs, slopes), torch.autograd.grad(wanted, inputs, slopes), strict=True
    ):
        assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("lengths", [[5], [QUERIES + 1, 7, 9, 2 * QUERIES + 3], [40, 50, 60], [QUERIES] * 2])
def test_with_dropout_it_is_the_formula_with_some_weights_gone(lengths: list[int]) -> None:
    torch.manual_seed(0)
    inputs = tuple(rows(sum(lengths), 16) for _ in range(3))
    mixed = dropped(inputs, lengths, 0.25)
    wanted = by_formula(inputs, lengths, factors_of(lengths, 0.25))
    assert_close(mixed, wanted, **TOLERANCE)
    slopes = torch.randn_like(mixed)
    for ours, theirs in zip(
        torch.autograd.grad(mixed, inputs, slopes), torch.autograd.grad(wanted, inputs, slopes), strict=True
    ):
        assert_close(ours, theirs, **TOLERANCE)


def test_the_share_dropped_is_the_rate_and_the_rest_makes_up_for_it() -> None:
    (factors,) = factors_of([200], 0.1)
    seen = torch.ones(200, 200).tril().bool()
    values = factors[:, seen]
    assert float((values == 0).float().mean()) == pytest.approx(0.1, abs=0.006)
    assert_close(values[values > 0], torch.full_like(values[values > 0], 1 / 0.9))


def test_every_head_sequence_and_seed_drops_others() -> None:
    first, second = factors_of([150, 150], 0.5)
    masks = [head > 0 for factor in (first, second) for head in factor]
    masks += [head > 0 for head in factors_of([150, 150], 0.5, seed=8)[0]]
    seen = torch.ones(150, 150).tril().bool()
    for place, mask in enumerate(masks):
        for other in masks[place + 1 :]:
            assert float((mask == other)[seen].float().mean()) == pytest.approx(0.5, abs=0.03)


def test_threads_change_no_bit() -> None:
    torch.manual_seed(0)
    inputs = tuple(rows(300, 16) for _ in range(3))
    alone = dropped(inputs, [300], 0.1)
    torch.set_num_threads(2)
    try:
        assert torch.equal(dropped(inputs, [300], 0.1), alone)
    finally:
        torch.set_num_threads(1)


def test_packed_attention_takes_it_in_training_and_torch_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(attention, "attend_dropped", lambda q, k, v, groups, rate: taken.append(rate) or q)
    query, key, value = (rows(12, 16) for _ in range(3))
    PackedAttention([5, 7], dropout=0.1).attend(0, query, key, value)
    assert taken == [0.1]
    plain = PackedAttention([5, 7]).attend(0, query, key, value)
    assert len(taken) == 1
    wanted = F.scaled_dot_product_attention(*(x[:5].transpose(0, 1) for x in (query, key, value)), is_causal=True)
    assert_close(plain[:5], wanted.transpose(0, 1), **TOLERANCE)
    PackedAttention([12], dropout=0.1).attend(0, query.double(), key.double(), value.double())
    assert len(taken) == 1
