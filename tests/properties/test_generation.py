"""What a prompt gets depends on that prompt alone: not on its neighbours, the batch, the chunks or the cache."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kosmos import session
from kosmos.pretrained import Kosmos
from tests.models import picture, small_kosmos
from text.tokenizer import Tokenizer

PROMPTS: list[Any] = [
    "a man",
    [picture(1), "A photo of"],
    "two dogs is sitting in a field of grass, and then home. The old sailor looked over a wall",
    [picture(2), "one", picture(3), "and another of"],
    [picture(1)],
    "the woman was walking near the water " * 6,
]

draws = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@functools.cache
def model(tokenizer: Tokenizer, *, deterministic: bool = False, positions: Any = "xpos") -> Kosmos:
    kosmos = small_kosmos(tokenizer, positions=positions, xpos_block=32)
    kosmos.network.set_deterministic(on=deterministic)
    return kosmos


@draws
@given(order=st.lists(st.integers(0, len(PROMPTS) - 1), min_size=1, max_size=8), batch_size=st.integers(1, 8))
def test_deterministic_answers_are_bit_equal_alone_and_in_any_batch(
    small_tokenizer: Tokenizer, order: list[int], batch_size: int
) -> None:
    kosmos = model(small_tokenizer, deterministic=True)
    together = kosmos.generate([PROMPTS[i] for i in order], max_new_tokens=6, batch_size=batch_size)
    for index, answer in zip(order, together, strict=True):
        alone = _alone(small_tokenizer, index)
        assert (answer.ids, answer.logprobs) == (alone.ids, alone.logprobs)


@functools.cache
def _alone(tokenizer: Tokenizer, index: int) -> Any:
    return model(tokenizer, deterministic=True).generate([PROMPTS[index]], max_new_tokens=6)[0]


@draws
@given(
    order=st.lists(st.integers(0, len(PROMPTS) - 1), min_size=2, max_size=8),
    options=st.sampled_from(
        [
            {},
            {"temperature": 0.8, "seed": 3},
            {"temperature": 1.2, "top_k": 7, "top_p": 0.9, "min_p": 0.01, "seed": 5},
            {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
            {"num_beams": 3, "length_penalty": 0.7},
            {"stop": ("e",)},
        ]
    ),
)
@pytest.mark.parametrize("positions", ["xpos", "sinusoidal"])
def test_a_list_of_prompts_gets_what_each_gets_alone(
    small_tokenizer: Tokenizer, positions: str, order: list[int], options: dict[str, Any]
) -> None:
    kosmos = model(small_tokenizer, positions=positions)
    together = kosmos.generate([PROMPTS[i] for i in order], max_new_tokens=8, **options)
    for index, answer in zip(order, together, strict=True):
        alone = kosmos.generate([PROMPTS[index]], max_new_tokens=8, **options)[0]
        assert answer.ids == alone.ids
        assert answer.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        assert (answer.text, answer.finish_reason) == (alone.text, alone.finish_reason)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_prefill_in_chunks_gives_the_same_answer(
    small_tokenizer: Tokenizer, deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kosmos = model(small_tokenizer, deterministic=deterministic)
    whole = kosmos.generate(PROMPTS, max_new_tokens=6)
    monkeypatch.setattr(session.Session.prefill, "__kwdefaults__", {"max_rows": 7})
    chunked = kosmos.generate(PROMPTS, max_new_tokens=6)
    for one, other in zip(whole, chunked, strict=True):
        assert one.ids == other.ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=0 if deterministic else 1e-4)


@pytest.mark.parametrize("deterministic", [False, True])
def test_scores_are_what_generation_reported(small_tokenizer: Tokenizer, deterministic: bool) -> None:
    """Generation reads a cache, scoring a whole sequence; the log-probabilities agree (to the bit in that mode)."""
    kosmos = model(small_tokenizer, deterministic=deterministic)
    answer = kosmos.generate([PROMPTS[1]], max_new_tokens=12)[0]
    encoded = kosmos.encode(PROMPTS[1])
    weights = (*encoded.loss_weights, *(1.0 for _ in answer.ids))
    whole = replace(encoded, ids=encoded.ids + answer.ids, loss_weights=weights)
    packed = kosmos.processor.collate([whole])
    with torch.inference_mode():
        hidden = kosmos.network(packed)[len(encoded.ids) - 1 : -1]
        logprobs = torch.log_softmax(kosmos.network.logits(hidden).float(), dim=-1)
    scored = logprobs.gather(1, torch.tensor(answer.ids)[:, None])[:, 0].tolist()
    assert answer.logprobs == pytest.approx(scored, abs=0 if deterministic else 1e-4)


def test_streamed_pieces_add_up_to_the_generated_text(small_tokenizer: Tokenizer) -> None:
    kosmos = model(small_tokenizer)
    for options in ({}, {"temperature": 1.0, "seed": 1}, {"stop": ("a",)}, {"num_beams": 2}):
        for prompt in PROMPTS:
            pieces = list(kosmos.stream(prompt, max_new_tokens=20, **options))
            assert "".join(pieces) == kosmos.generate([prompt], max_new_tokens=20, **options)[0].text
