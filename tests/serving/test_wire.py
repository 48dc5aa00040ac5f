"""What is sent between the processes arrives as it was, and as nothing but data."""

from __future__ import annotations

import math
import pickle
from multiprocessing import Pipe

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from kosmos.options import GenerationOptions
from serving.engine.wire import (
    Answered,
    Ask,
    Begun,
    Cancel,
    GroundedPhrase,
    LoadFailed,
    Ready,
    Refused,
    Said,
    Stop,
    TokenScore,
    receive,
    send,
)
from text.document import Control, Document, Image, Text

READY = Ready(name="m", context_length=9, image_size=8, resize="crop", grounding=True, chat_template=None)
SCORE = TokenScore(
    token="\ufffd",
    spelling=(195,),
    logprob=-0.5,
    top=(TokenScore(token="a", spelling=(97,), logprob=-math.inf),),
)
PHRASE = GroundedPhrase(phrase="a 😀", start=2, end=5, boxes=((0.0, 0.25, 0.5, 1.0),))
ANSWERED = Answered(request=1, text="it's a 😀", finish_reason="stop", tokens=4, scores=(SCORE,), phrases=(PHRASE,))


@pytest.mark.parametrize(
    "record",
    [
        READY,
        ANSWERED,
        Cancel(request=3),
        Stop(),
        LoadFailed(message="no such model"),
        Begun(request=1, prompt_tokens=20),
        Said(request=1, text="\u2028 \u0000 ü"),
        Said(request=1, text="a", scores=(SCORE, SCORE)),
        Refused(request=1, code="c", message="m", param=None),
    ],
)
def test_a_record_arrives_as_it_was(
    record: Ready | Answered | Cancel | Stop | LoadFailed | Begun | Said | Refused,
) -> None:
    here, there = Pipe()
    send(here, record)
    assert receive(there) == record


@given(
    words=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=3),
    seed=st.integers(0, 2**32),
)
def test_a_question_arrives_pixel_for_pixel(words: list[str], sizes: list[tuple[int, int]], seed: int) -> None:
    draw = np.random.default_rng(seed)
    pictures = [draw.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]
    texts = [Text(text, loss=False) for text in words]
    images = [Image(PillowImage.fromarray(pixels)) for pixels in pictures]
    options = GenerationOptions(stop=("a", "b"), seed=seed, temperature=0.1)
    document = Document((*texts, Control("<grounding>"), *images, Text("end", loss=False)))
    here, there = Pipe()
    send(here, Ask(request=7, document=document, options=options, shorten=True))
    arrived = receive(there)
    assert isinstance(arrived, Ask)
    assert (arrived.request, arrived.options, arrived.shorten) == (7, options, True)
    plain = [segment for segment in arrived.document.segments if not isinstance(segment, Image)]
    assert plain == [*texts, Control("<grounding>"), Text("end", loss=False)]
    for image, pixels in zip(arrived.document.images, pictures, strict=True):
        assert np.array_equal(np.asarray(image.source), pixels)


def test_a_pickle_is_not_understood() -> None:
    here, there = Pipe()
    here.send_bytes(pickle.dumps(print))
    with pytest.raises(ValueError):
        receive(there)


def test_a_picture_that_is_still_a_file_does_not_travel() -> None:
    here, _ = Pipe()
    document = Document((Image("/etc/passwd"),))
    with pytest.raises(TypeError, match="opened pictures"):
        send(here, Ask(request=1, document=document, options=GenerationOptions(), shorten=False))
