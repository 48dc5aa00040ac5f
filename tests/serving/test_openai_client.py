"""The official client talks to a real server with a real (random) model, and gets what the Python API gives."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam
from PIL import Image

from tests.serving.live import LiveServer, data_url, picture_bytes


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def about(picture: bytes | None, words: str) -> list[ChatCompletionMessageParam]:
    if picture is None:
        return [{"role": "user", "content": words}]
    image = {"url": data_url(picture), "detail": "auto"}
    content = [{"type": "image_url", "image_url": image}, {"type": "text", "text": words}]
    return [{"role": "user", "content": content}]  # type: ignore[list-item,misc]


def text_of(completion: ChatCompletion) -> str:
    text = completion.choices[0].message.content
    assert text is not None
    return text


def test_the_served_model_is_listed(client: OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == ["small"]


def test_an_answer_about_a_picture_is_the_one_python_gives(client: OpenAI, checkpoint: Path) -> None:
    from kosmos.pretrained import load

    # A photograph larger than the eye: the server shrinks it before the engine sees it, and nothing may change.
    file = picture_bytes("JPEG", width=301, height=200)
    completion = client.chat.completions.create(
        model="small", messages=about(file, "A photo of"), max_tokens=12, logprobs=True, top_logprobs=3
    )
    model = load(checkpoint, dtype="float32")
    image = Image.open(io.BytesIO(file))
    expected = model.generate([[image, "A photo of"]], max_new_tokens=12, logprobs=3)[0]
    choice = completion.choices[0]
    assert choice.message.content == expected.text
    assert choice.finish_reason == expected.finish_reason
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [score.logprob for score in choice.logprobs.content] == pytest.approx(expected.logprobs, abs=1e-4)
    assert all(len(score.top_logprobs) == 3 for score in choice.logprobs.content)
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == len(model.encode([image, "A photo of"]).ids)
    assert completion.usage.completion_tokens == len(expected.ids)


def test_another_picture_gives_another_answer(client: OpenAI) -> None:
    answers = {
        text_of(
            client.chat.completions.create(
                model="small", messages=about(picture_bytes(seed=seed), "A photo of"), max_tokens=16
            )
        )
        for seed in (1, 2, 3)
    }
    assert len(answers) == 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_every_format_of_the_web_is_read(client: OpenAI, kind: str) -> None:
    completion = client.chat.completions.create(
        model="small", messages=about(picture_bytes(kind), "A photo of"), max_tokens=2
    )
    assert completion.choices[0].finish_reason == "length"


def test_a_stream_is_the_plain_answer_in_pieces(client: OpenAI) -> None:
    messages = about(picture_bytes(), "A photo of")
    plain = client.chat.completions.create(model="small", messages=messages, max_tokens=16)
    chunks = list(
        client.chat.completions.create(
            model="small", messages=messages, max_tokens=16, stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces).strip() == text_of(plain)
    assert sum(bool(piece) for piece in pieces) > 3, "the words came one by one"
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == plain.choices[0].finish_reason
    assert chunks[-1].usage == plain.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize("num_beams", [1, 2])
def test_each_chunk_of_a_stream_has_the_logprobs_of_its_own_words(client: OpenAI, num_beams: int) -> None:
    ask = partial(
        client.chat.completions.create,
        model="small",
        messages=about(picture_bytes(), "A photo of"),
        max_tokens=16,
        logprobs=True,
        top_logprobs=2,
        extra_body={"num_beams": num_beams},
    )
    plain = ask(stream=False).choices[0].logprobs
    assert plain is not None
    assert plain.content is not None
    assert len(plain.content) == 16
    streamed, with_words = [], 0
    for chunk in ask(stream=True):
        choice = chunk.choices[0]
        scores = (choice.logprobs and choice.logprobs.content) or []
        streamed += scores
        if choice.delta.content:
            assert "".join(score.token for score in scores).strip() == choice.delta.content.strip()
            with_words += 1
    assert streamed == plain.content
    assert with_words > 3 or num_beams > 1


def test_a_stream_that_asks_for_no_logprobs_has_none(client: OpenAI) -> None:
    chunks = client.chat.completions.create(model="small", messages=about(None, "A dog"), max_tokens=3, stream=True)
    assert all(chunk.choices[0].logprobs is None for chunk in chunks)


def test_a_stream_without_the_option_has_no_usage(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(model="small", messages=about(None, "A dog"), max_tokens=3, stream=True)
    )
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_a_seed_repeats_a_drawn_answer(client: OpenAI) -> None:
    def draw(seed: int) -> str:
        return text_of(
            client.chat.completions.create(
                model="small", messages=about(None, "A dog"), max_tokens=12, temperature=1.0, top_p=0.9, seed=seed
            )
        )

    assert draw(7) == draw(7)
    assert len({draw(seed) for seed in range(4)}) > 1


def test_a_stop_string_ends_the_answer_unseen(client: OpenAI) -> None:
    messages = about(None, "A photo of")
    whole = text_of(client.chat.completions.create(model="small", messages=messages, max_tokens=12))
    stop = whole[5:7]
    completion = client.chat.completions.create(model="small", messages=messages, max_tokens=12, stop=[stop, "@@@"])
    assert completion.choices[0].finish_reason == "stop"
    assert text_of(completion) == whole[: whole.index(stop)].strip()


def test_our_own_options_reach_the_model(client: OpenAI, checkpoint: Path) -> None:
    from kosmos.pretrained import load

    completion = client.chat.completions.create(
        model="small",
        messages=about(None, "A photo of"),
        max_completion_tokens=10,
        extra_body={"num_beams": 3, "length_penalty": 0.5, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    )
    expected = load(checkpoint, dtype="float32").generate(
        ["A photo of"],
        max_new_tokens=10,
        num_beams=3,
        length_penalty=0.5,
        no_repeat_ngram_size=2,
        repetition_penalty=1.3,
    )[0]
    assert text_of(completion) == expected.text


def test_earlier_turns_count(client: OpenAI, checkpoint: Path) -> None:
    from kosmos.chat import Turn, document_of_chat
    from kosmos.pretrained import load
    from text.document import Text

    first = client.chat.completions.create(model="small", messages=about(None, "A dog"), max_tokens=5)
    # The answer goes back as the client holds it, with every field it has.
    answer: ChatCompletionMessageParam = first.choices[0].message.model_dump()  # type: ignore[assignment]
    messages = [*about(None, "A dog"), answer, *about(None, "It is")]
    second = client.chat.completions.create(model="small", messages=messages, max_tokens=8)
    turns = [
        Turn(role="user", content=(Text("A dog"),)),
        Turn(role="assistant", content=(Text(text_of(first)),)),
        Turn(role="user", content=(Text("It is"),)),
    ]
    expected = load(checkpoint, dtype="float32").generate([document_of_chat(turns)], max_new_tokens=8)[0]
    assert text_of(second) == expected.text


def test_grounding_is_asked_for_by_a_field_and_never_by_a_typed_tag(client: OpenAI) -> None:
    def prompt_tokens(words: str, **more: bool) -> int:
        completion = client.chat.completions.create(
            model="small", messages=about(None, words), max_tokens=1, extra_body=more
        )
        assert completion.usage is not None
        return completion.usage.prompt_tokens

    assert prompt_tokens("A dog", grounding=True) == prompt_tokens("A dog") + 1
    assert prompt_tokens("<grounding> A dog") > prompt_tokens("A dog") + 1, "typed, it is spelt out"
