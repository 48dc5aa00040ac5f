"""Places in the queue are counted from the moment a request is prepared."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from kosmos.options import GenerationOptions
from serving.engine.settings import EngineSettings
from serving.engine.supervisor import Engine, EngineUnavailable, QueueFull
from text.document import Document, Text

DOCUMENT = Document((Text("a man", loss=False),))


@pytest.mark.parametrize("max_waiting", [0, 2])
def test_no_more_requests_are_prepared_than_may_wait(max_waiting: int) -> None:
    engine = Engine(EngineSettings(max_waiting=max_waiting))
    engine.state = "ready"
    with ExitStack() as places:
        for _ in range(1 + max_waiting):
            places.enter_context(engine.place())
        with pytest.raises(QueueFull), engine.place():
            pass
        with pytest.raises(QueueFull):
            engine.submit(DOCUMENT, GenerationOptions(), shorten=True)
    with engine.place():
        pass


def test_a_place_is_given_back_when_a_preparation_fails() -> None:
    engine = Engine(EngineSettings(max_waiting=0))
    with pytest.raises(EngineUnavailable), engine.place():
        pass
    engine.state = "ready"
    for _ in range(3):
        with pytest.raises(ValueError), engine.place():
            raise ValueError("no picture")
