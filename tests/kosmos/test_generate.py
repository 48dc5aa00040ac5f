"""Generation keeps its promises: ends, limits, seeds, log-probabilities, beams, boxes."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kosmos.options import GenerationOptions
from kosmos.pretrained import Kosmos
from tests.models import picture, small_kosmos
from text.document import Document, Image, Text
from text.tokenizer import Tokenizer

PROMPT: list[Any] = [picture(7), "A photo of"]


@functools.cache
def model(tokenizer: Tokenizer) -> Kosmos:
    return small_kosmos(tokenizer)


def test_the_answer_ends_by_length_and_never_exceeds_it(small_tokenizer: Tokenizer) -> None:
    for count in (1, 5):
        answer = model(small_tokenizer).generate([PROMPT], max_new_tokens=count, min_new_tokens=count)[0]
        assert len(answer.ids) == count
        assert answer.finish_reason == "length"


def test_the_end_token_ends_an_answer(small_tokenizer: Tokenizer) -> None:
    kosmos = small_kosmos(small_tokenizer)
    eos = small_tokenizer.eos_id
    with torch.no_grad():  # a model that always wants to end
        kosmos.network.decoder.norm.bias.copy_(kosmos.network.decoder.embedding.weight[eos] * 50)
    answer = kosmos.generate([PROMPT], max_new_tokens=9)[0]
    assert (answer.ids, answer.finish_reason, answer.text) == ((eos,), "stop", "")
    longer = kosmos.generate([PROMPT], max_new_tokens=9, min_new_tokens=4)[0]
    assert len(longer.ids) == 5
    assert longer.ids[-1] == eos
    assert eos not in longer.ids[:-1]


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(small_tokenizer: Tokenizer) -> None:
    kosmos = model(small_tokenizer)
    whole = kosmos.generate([PROMPT], max_new_tokens=30)[0].text
    assert len(whole) > 8, "the random model must say something for this test to mean anything"
    stop = whole[4:7]
    answer = kosmos.generate([PROMPT], max_new_tokens=30, stop=(stop,))[0]
    assert answer.text == whole[: whole.index(stop)].strip()
    assert answer.finish_reason == "stop"


def test_a_seed_repeats_an_answer_and_another_seed_changes_it(small_tokenizer: Tokenizer) -> None:
    kosmos = model(small_tokenizer)
    answers = [
        kosmos.generate([PROMPT], max_new_tokens=12, temperature=50.0, seed=seed)[0].ids for seed in (1, 1, 2, 3, 4)
    ]
    assert answers[0] == answers[1]
    assert len(set(answers)) > 2


def test_logprobs_are_those_of_the_model_and_alternatives_come_best_first(small_tokenizer: Tokenizer) -> None:
    kosmos = model(small_tokenizer)
    answer = kosmos.generate([PROMPT], max_new_tokens=5, logprobs=3)[0]
    for token, logprob, ranked in zip(answer.ids, answer.logprobs, answer.alternatives, strict=True):
        assert ranked[0] == (token, pytest.approx(logprob)), "greedy takes the best"
        assert [value for _, value in ranked] == sorted((value for _, value in ranked), reverse=True)
    assert answer.total_logprob == pytest.approx(sum(answer.logprobs))


@pytest.mark.parametrize("more", [{}, {"repetition_penalty": 0.2, "no_repeat_ngram_size": 3, "min_new_tokens": 6}])
def test_logprobs_of_beams_are_those_of_the_model_before_any_option(
    small_tokenizer: Tokenizer, more: dict[str, Any]
) -> None:
    kosmos = model(small_tokenizer)
    answer = kosmos.generate([PROMPT, "a man"], max_new_tokens=12, num_beams=3, logprobs=2, **more)[0]
    encoded = kosmos.encode(PROMPT)
    whole = replace(encoded, ids=encoded.ids + answer.ids, loss_weights=(1.0,) * (encoded.length + len(answer.ids)))
    with torch.inference_mode():
        hidden = kosmos.network(kosmos.processor.collate([whole]))[encoded.length - 1 : -1]
        logprobs = torch.log_softmax(kosmos.network.logits(hidden).float(), dim=-1)
    chosen = logprobs.gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
    assert answer.logprobs == pytest.approx(chosen.tolist(), abs=1e-4)
    best = logprobs.topk(2)
    for place, ranked in enumerate(answer.alternatives):
        assert [token for token, _ in ranked] == best.indices[place].tolist()
        assert [value for _, value in ranked] == pytest.approx(best.values[place].tolist(), abs=1e-4)
    assert len(answer.alternatives) == len(answer.ids)
    silent = kosmos.generate([PROMPT], max_new_tokens=12, num_beams=3, **more)[0]
    assert (silent.ids, silent.alternatives) == (answer.ids, ())


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_stream_may_be_left_at_every_token(small_tokenizer: Tokenizer, num_beams: int) -> None:
    """Even where no token has a text of its own: one piece comes for each of the model's steps."""
    kosmos = small_kosmos(small_tokenizer)
    silent = small_tokenizer.id_of("<grounding>")
    with torch.no_grad():  # a model that says nothing but a special token
        kosmos.network.decoder.norm.bias.copy_(kosmos.network.decoder.embedding.weight[silent] * 50)
    options = GenerationOptions(max_new_tokens=9, min_new_tokens=9, num_beams=num_beams)
    pieces = list(kosmos.stream_pieces(PROMPT, options))
    assert len(pieces) >= 9
    last = pieces[-1].generation
    assert last is not None
    assert all(piece.generation is None for piece in pieces[:-1])
    assert set(last.ids) == {silent} or num_beams > 1


@pytest.mark.parametrize("options", [{}, {"stop": ("e", "zzz")}, {"stop": ("so", " t")}, {"num_beams": 2}])
def test_the_pieces_of_a_stream_hold_every_token_once_with_its_own_text(
    small_tokenizer: Tokenizer, options: dict[str, Any]
) -> None:
    kosmos = model(small_tokenizer)
    for prompt in (PROMPT, "a man", "two dogs"):
        wishes = GenerationOptions(max_new_tokens=24, logprobs=2, **options)
        pieces = list(kosmos.stream_pieces(prompt, wishes))
        whole = pieces[-1].generation
        assert whole is not None
        assert tuple(token for piece in pieces for token in piece.ids) == whole.ids
        assert tuple(value for piece in pieces for value in piece.logprobs) == whole.logprobs
        assert tuple(ranked for piece in pieces for ranked in piece.alternatives) == whole.alternatives
        said, given = "", 0
        for piece in pieces[:-1]:
            said, given = said + piece.text, given + len(piece.ids)
            assert bool(piece.ids) <= bool(piece.text), "tokens come with a text"
            assert said.startswith(small_tokenizer.decode(whole.ids[:given]).strip())
            if piece.text and not options.get("stop"):
                assert said == small_tokenizer.decode(whole.ids[:given]).strip(), "at once, not later"


def test_wider_beams_find_answers_at_least_as_probable(small_tokenizer: Tokenizer) -> None:
    """Beam search over every continuation of two tokens finds the best pair there is."""
    kosmos = model(small_tokenizer)
    found = kosmos.generate(["a man"], num_beams=64, max_new_tokens=2, min_new_tokens=2, length_penalty=0.0)[0]
    first = kosmos.generate(["a man"], max_new_tokens=1, logprobs=20)[0].alternatives[0]
    best = max(logprob + _best_next_logprob(kosmos, token) for token, logprob in first)
    assert found.total_logprob >= best - 1e-4


def _best_next_logprob(kosmos: Kosmos, token: int) -> float:
    encoded = kosmos.encode("a man")
    whole = replace(encoded, ids=(*encoded.ids, token), loss_weights=(*encoded.loss_weights, 1.0))
    with torch.inference_mode():
        hidden = kosmos.network(kosmos.processor.collate([whole]))[-1:]
        logprobs = torch.log_softmax(kosmos.network.logits(hidden).float(), -1)[0].tolist()
    return max(value for token, value in enumerate(logprobs) if token != kosmos.processor.tokenizer.eos_id)


def test_no_repeat_ngram_holds_for_beams_too(small_tokenizer: Tokenizer) -> None:
    answer = model(small_tokenizer).generate([PROMPT], max_new_tokens=30, num_beams=3, no_repeat_ngram_size=2)[0]
    pairs = list(itertools.pairwise(answer.ids))
    assert len(pairs) == len(set(pairs))


def test_each_prompt_may_have_options_of_its_own(small_tokenizer: Tokenizer) -> None:
    from kosmos.generate import generate

    kosmos = model(small_tokenizer)
    prompts = [kosmos.encode(PROMPT)] * 3
    options = [
        GenerationOptions(max_new_tokens=2),
        GenerationOptions(max_new_tokens=6, num_beams=2),
        GenerationOptions(max_new_tokens=4),
    ]
    answers = generate(kosmos.network, kosmos.processor, prompts, options)
    assert [len(answer.ids) <= option.max_new_tokens for answer, option in zip(answers, options, strict=True)] == [
        True
    ] * 3
    with pytest.raises(ValueError, match="2 options for 3 prompts"):
        generate(kosmos.network, kosmos.processor, prompts, options[:2])


def test_answers_stop_where_the_model_ends_and_too_long_prompts_are_refused(small_tokenizer: Tokenizer) -> None:
    kosmos = model(small_tokenizer)
    longest = kosmos.network.config.decoder.max_length
    words = "water " * 2000
    with pytest.raises(ValueError, match=str(longest)):
        kosmos.generate([words])
    ids = kosmos.processor.tokenizer.encode(words)
    text = kosmos.processor.tokenizer.decode(ids[: longest - 4])
    answer = kosmos.generate([text], max_new_tokens=50, min_new_tokens=50)[0]
    assert len(kosmos.encode(text).ids) + len(answer.ids) == longest
    assert answer.finish_reason == "length"


def test_words_of_strangers_are_literal_and_pictures_may_be_bytes(small_tokenizer: Tokenizer) -> None:
    import io

    kosmos = model(small_tokenizer)
    buffer = io.BytesIO()
    picture(7).save(buffer, format="PNG")
    document = Document((Image(buffer.getvalue()), Text("A photo of")))
    assert kosmos.generate([document])[0].ids == kosmos.generate([PROMPT])[0].ids
    typed = kosmos.encode(Document((Text("<grounding> a man"),)))
    assert small_tokenizer.id_of("<grounding>") not in typed.ids


def test_scores_agree_with_generation_and_say_what_is_greedy(small_tokenizer: Tokenizer) -> None:
    kosmos = model(small_tokenizer)
    scores = kosmos.score([PROMPT, "a man", PROMPT], ["two dogs", "runs on the beach", "two dogs"])
    assert scores[0].logprobs == pytest.approx(scores[2].logprobs, abs=1e-4)
    assert scores[0].ids == tuple(small_tokenizer.encode("two dogs"))
    assert scores[0].total == pytest.approx(sum(scores[0].logprobs))
    assert not scores[0].greedy
    with pytest.raises(ValueError, match="one each"):
        kosmos.score([PROMPT], [])
    with pytest.raises(ValueError, match="continuation"):
        kosmos.score([PROMPT], [""])


def test_scores_of_many_pairs_do_not_depend_on_how_they_are_cut_into_batches(
    small_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kosmos import score as scoring

    kosmos = model(small_tokenizer)
    prompts: list[Any] = [PROMPT, "the woman", [picture(1), picture(2), "a"], "x"] * 3
    continuations = [f"{word} near the water" for word in ("cat", "dog", "sailor", "child")] * 3
    whole = kosmos.score(prompts, continuations)
    monkeypatch.setattr(scoring, "MAX_ROWS", 20)
    for one, other in zip(whole, kosmos.score(prompts, continuations), strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_embeddings_are_means_that_do_not_depend_on_neighbours(small_tokenizer: Tokenizer) -> None:
    kosmos = model(small_tokenizer)
    together = kosmos.embed([PROMPT, "a man", [picture(3)]])
    assert together.shape == (3, 64)
    assert torch.allclose(together[1:2], kosmos.embed(["a man"]), atol=1e-5)


def test_a_single_prompt_instead_of_a_list_is_refused(small_tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="list"):
        model(small_tokenizer).generate("a man")


def test_a_neighbour_near_the_models_end_does_not_shorten_another_beam_search(small_tokenizer: Tokenizer) -> None:
    kosmos = model(small_tokenizer)
    longest = kosmos.network.config.decoder.max_length
    ids = small_tokenizer.encode("water " * 2000)
    long = small_tokenizer.decode(ids[: longest - 4])
    together = kosmos.generate([PROMPT, long], num_beams=2, max_new_tokens=9, min_new_tokens=9)
    assert together[0].ids == kosmos.generate([PROMPT], num_beams=2, max_new_tokens=9, min_new_tokens=9)[0].ids
    assert len(together[1].ids) < 9


def test_wrong_batch_sizes_and_devices_are_refused_in_our_own_words(small_tokenizer: Tokenizer) -> None:
    from kosmos.pretrained import load

    with pytest.raises(ValueError, match="batch_size=0"):
        model(small_tokenizer).generate([PROMPT], batch_size=0)
    with pytest.raises(ValueError, match="device 'nowhere'"):
        load("tiny", device="nowhere")


def test_notices_travel_with_the_weights_and_a_quantised_model_is_not_saved(tmp_path: Path) -> None:
    from kosmos.pretrained import load

    kosmos = load("tiny", dtype="float32")
    kosmos.save(tmp_path / "copy")
    names = {file.name for file in (tmp_path / "copy").iterdir()}
    assert {"NOTICE.txt", "LICENSE-Apache-2.0.txt", "README.md"} <= names
    assert "non-commercial" in (tmp_path / "copy" / "README.md").read_text()
    again = load(tmp_path / "copy", dtype="float32")
    assert again.generate([PROMPT])[0].ids == kosmos.generate([PROMPT])[0].ids
    with pytest.raises(ValueError, match="quantised model cannot be saved"):
        load("tiny", dtype="float32", quantize="int8").save(tmp_path / "other")
