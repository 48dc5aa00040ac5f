"""Sampling: each option does what its name says, for its own row alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kosmos.options import GenerationOptions
from kosmos.sampling import choose_tokens, constrain, repeated_ngram_endings, top_logprobs

EOS = 2


def draws(logits: torch.Tensor, count: int = 400, **fields: object) -> set[int]:
    options = GenerationOptions(temperature=1.0, **fields)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    return {choose_tokens(logits[None], [options], [generator])[0] for _ in range(count)}


def test_temperature_zero_takes_the_largest_logit_and_the_first_of_equals() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0]])
    assert choose_tokens(logits, [GenerationOptions()], [torch.Generator()]) == [1]


def test_top_k_keeps_the_k_best() -> None:
    assert draws(torch.tensor([2.0, 1.9, 1.8, 1.7, 1.6]), top_k=3) == {0, 1, 2}


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert draws(logits, top_p=0.75) == {0, 1}
    assert draws(logits, top_p=0.01) == {0}
    assert draws(logits, top_p=1.0) == {0, 1, 2, 3}


def test_min_p_drops_what_is_far_below_the_best() -> None:
    assert draws(torch.tensor([0.5, 0.3, 0.15, 0.05]).log(), min_p=0.25) == {0, 1, 2}


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.6, 0.3, 0.1])
    options = GenerationOptions(temperature=1.0)
    generator = torch.Generator().manual_seed(1)
    logits = probabilities.log().expand(4000, 3)
    counts = torch.bincount(torch.tensor(choose_tokens(logits, [options] * 4000, [generator] * 4000)), minlength=3)
    assert torch.allclose(counts / 4000, probabilities, atol=0.03)


def test_a_row_draws_the_same_alone_and_among_others() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(2))
    options = [
        GenerationOptions(temperature=0.7, top_p=0.9),
        GenerationOptions(temperature=1.5, top_k=5),
        GenerationOptions(),
    ]
    together = choose_tokens(logits, options, [torch.Generator().manual_seed(row) for row in range(3)])
    alone = [
        choose_tokens(logits[row : row + 1], [options[row]], [torch.Generator().manual_seed(row)])[0]
        for row in range(3)
    ]
    assert together == alone


def test_the_coldest_temperature_is_greedy_and_not_a_nan() -> None:
    options = GenerationOptions(temperature=1e-45, seed=0)
    logits = torch.tensor([[1.0, 30.0, -5.0]])
    assert choose_tokens(logits, [options], [torch.Generator().manual_seed(0)]) == [1]


def test_repetition_penalty_shrinks_seen_tokens_whatever_their_sign() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0, -1.0]])
    penalised = constrain(logits, [GenerationOptions(repetition_penalty=2.0)], [[0, 1, 0]], [0], EOS)
    assert penalised.tolist() == [[1.0, -4.0, 1.0, -1.0]]
    assert logits.tolist() == [[2.0, -2.0, 1.0, -1.0]], "the input must not change"


def test_min_new_tokens_forbids_the_end_until_then() -> None:
    options = GenerationOptions(min_new_tokens=2)
    logits = torch.zeros(1, 4)
    assert constrain(logits, [options], [[]], [1], EOS)[0, EOS] == float("-inf")
    assert constrain(logits, [options], [[]], [2], EOS)[0, EOS] == 0.0


def test_no_repeat_ngram_forbids_what_would_complete_one() -> None:
    assert repeated_ngram_endings([5, 6, 7, 5, 6], 3) == [7]
    assert repeated_ngram_endings([5, 6, 7, 5, 6], 0) == []
    assert repeated_ngram_endings([4, 4], 1) == [4, 4]
    options = GenerationOptions(no_repeat_ngram_size=2)
    assert constrain(torch.zeros(1, 8), [options], [[3, 4, 3]], [0], EOS)[0, 4] == float("-inf")


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 4))
def test_a_history_never_repeats_an_ngram_if_its_endings_are_avoided(history: list[int], size: int) -> None:
    kept: list[int] = []
    for token in history:
        if token not in repeated_ngram_endings(kept, size):
            kept.append(token)
    ngrams = [tuple(kept[i : i + size]) for i in range(len(kept) - size + 1)]
    assert len(ngrams) == len(set(ngrams))


def test_top_logprobs_come_best_first() -> None:
    assert [token for token, _ in top_logprobs(torch.tensor([0.1, 0.7, 0.2]).log(), 2)] == [1, 2]
    assert top_logprobs(torch.zeros(3), 0) == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"max_new_tokens": 0},
        {"min_new_tokens": 5, "max_new_tokens": 4},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"min_p": 1.5},
        {"num_beams": 2, "temperature": 0.5},
        {"stop": ("",)},
        {"logprobs": 21},
        {"max_new_tokens": 1.5},
        {"temperature": "1"},
        {"stop": (1,)},
        {"stop": None},
        {"seed": 2**70},
        {"seed": 1.5},
    ],
)
def test_an_option_out_of_range_is_refused_by_name(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        GenerationOptions(**fields)  # type: ignore[arg-type]
