"""A body becomes a prompt: template, order, names, what the model can do."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from serving.engine.wire import Ready
from serving.http.errors import ApiError
from serving.http.questions import Question, read_question
from tests.serving.live import data_url, picture_bytes
from text.document import Control, Document, Image, Text
from vision.image import open_image, resize

MODEL = Ready(name="m", context_length=99, image_size=16, resize="crop", grounding=False, chat_template=None)
PICTURE = {"type": "image_url", "image_url": {"url": data_url(picture_bytes())}}


def read(model: Ready, *messages: object, **fields: object) -> Question:
    body = {"model": "m", "messages": messages, **fields}
    return read_question(json.dumps(body).encode(), served=("m", "n"), model=model, max_beam_tokens=300)


def user(*content: object) -> dict[str, object]:
    return {"role": "user", "content": list(content)}


def words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def kinds(document: Document) -> list[object]:
    return ["picture" if isinstance(segment, Image) else segment for segment in document.segments]


def test_words_and_pictures_keep_their_order() -> None:
    question = read(MODEL, user(words("See"), PICTURE, words("and"), PICTURE))
    assert kinds(question.document) == [Text("See", False), "picture", Text("and", False), "picture"]


def test_a_picture_is_made_as_the_eye_wants_it() -> None:
    (image,) = read(MODEL, user(PICTURE)).document.images
    assert np.array_equal(np.asarray(image.source), resize(open_image(picture_bytes()), 16, "crop"))


def test_the_checkpoints_own_template_lays_the_chat_out() -> None:
    template = "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}:"
    messages = [{"role": "developer", "content": "Be brief"}, user(words("Who?"))]
    question = read(replace(MODEL, chat_template=template), *messages)
    assert question.document.segments == (Text("[system]Be brief[user]Who?:", False),)


def test_grounding_is_for_models_that_can() -> None:
    question = read(replace(MODEL, grounding=True), user(PICTURE, words("A dog")), grounding=True)
    assert kinds(question.document) == ["picture", Control("<grounding>"), Text("A dog", False)]
    with pytest.raises(ApiError) as refusal:
        read(MODEL, user(words("A dog")), grounding=True)
    assert (refusal.value.status, refusal.value.param) == (400, "grounding")


def test_a_template_that_fails_is_a_refusal_and_no_crash() -> None:
    with pytest.raises(ApiError) as refusal:
        read(replace(MODEL, chat_template="{{ 1 / 0 }}"), user(words("A dog")))
    assert refusal.value.status == 400


def test_each_name_of_the_model_is_taken() -> None:
    for name in ("m", "n"):
        body = {"model": name, "messages": [user(words("A dog"))]}
        question = read_question(json.dumps(body).encode(), served=("m", "n"), model=MODEL, max_beam_tokens=0)
        assert question.request.model == name


def test_a_search_too_large_is_refused_before_any_picture_is_opened() -> None:
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    for fields in ({"num_beams": 4, "max_tokens": 76}, {"num_beams": 4, "min_tokens": 10**6}):
        with pytest.raises(ApiError) as refusal:
            read(MODEL, user(broken), **fields)
        assert (refusal.value.code, refusal.value.param) == ("too_many_beams", "num_beams")
    assert read(MODEL, user(words("A dog")), num_beams=4, max_tokens=75)
    assert read(MODEL, user(words("A dog")), num_beams=3, min_tokens=10**6), "no more than the model's 99 tokens each"
