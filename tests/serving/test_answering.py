"""One request and the model, without processes: when work ends, and what is refused before it begins."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import pytest

from kosmos.options import GenerationOptions
from kosmos.pretrained import Kosmos
from kosmos.session import Session
from serving.engine.answering import answer
from serving.engine.wire import Answered, Ask, Begun, Refused, Said
from tests.models import small_kosmos
from text.document import Document, Text
from text.tokenizer import Tokenizer

LONG = GenerationOptions(max_new_tokens=400, min_new_tokens=400)


@functools.cache
def model(tokenizer: Tokenizer) -> Kosmos:
    return small_kosmos(tokenizer)


def ask(options: GenerationOptions, words: str = "a man") -> Ask:
    return Ask(request=1, document=Document((Text(words, loss=False),)), options=options, shorten=False)


def events(kosmos: Kosmos, question: Ask, *, most: int = 10**6) -> list[Begun | Said | Answered | Refused]:
    return list(answer(kosmos, question, cancelled=lambda: False, max_beam_tokens=most))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_work_ends_at_the_next_token_when_nobody_waits(
    small_tokenizer: Tokenizer, num_beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = itertools.count(1)
    decode, asked = Session.decode, itertools.count(1)
    monkeypatch.setattr(Session, "decode", lambda *arguments: (next(steps), decode(*arguments))[1])
    options = replace(LONG, num_beams=num_beams)
    said = list(answer(model(small_tokenizer), ask(options), cancelled=lambda: next(asked) > 4, max_beam_tokens=10**6))
    assert isinstance(said[-1], Refused)
    assert said[-1].code == "cancelled"
    assert next(steps) <= 5


@pytest.mark.parametrize("num_beams", [1, 3])
def test_every_token_has_its_score_once(small_tokenizer: Tokenizer, num_beams: int) -> None:
    options = GenerationOptions(max_new_tokens=12, num_beams=num_beams, logprobs=2)
    begun, *said, answered = events(model(small_tokenizer), ask(options))
    assert isinstance(begun, Begun)
    assert isinstance(answered, Answered)
    whole = model(small_tokenizer).generate(["a man"], max_new_tokens=12, num_beams=num_beams, logprobs=2)[0]
    scores = [score for event in (*said, answered) for score in event.scores]  # type: ignore[union-attr]
    assert [score.logprob for score in scores] == pytest.approx(whole.logprobs)
    assert [[other.logprob for other in score.top] for score in scores] == [
        pytest.approx([value for _, value in ranked]) for ranked in whole.alternatives
    ]


def test_beams_are_counted_with_their_prompt(small_tokenizer: Tokenizer) -> None:
    options = GenerationOptions(max_new_tokens=10, num_beams=3)
    prompt = len(model(small_tokenizer).encode("a man").ids)
    assert isinstance(events(model(small_tokenizer), ask(options), most=3 * (prompt + 10))[-1], Answered)
    (refused,) = events(model(small_tokenizer), ask(options), most=3 * (prompt + 10) - 1)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.param) == ("too_many_beams", "num_beams")
    alone = replace(options, num_beams=1)
    assert isinstance(events(model(small_tokenizer), ask(alone), most=0)[-1], Answered)


def test_a_prompt_longer_than_the_model_is_the_requests_fault(small_tokenizer: Tokenizer) -> None:
    (refused,) = events(model(small_tokenizer), ask(GenerationOptions(), "water " * 2000))
    assert isinstance(refused, Refused)
    assert (refused.code, refused.param) == ("context_length_exceeded", "messages")
    assert "512" in refused.message
