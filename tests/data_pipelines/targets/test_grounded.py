"""GRIT: phrases and places come back, wherever in the caption they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipelines.shard import Shard
from tests.data_pipelines.sources.piles import found, photo
from tests.data_pipelines.targets.readback import converted, plain, read_back
from text.document import Box, Control, Document, Image, Phrase, Text
from text.specials import END, GROUNDING

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.25, 0.125, 1.0, 0.75)
PICTURE, TOKEN = Image(photo(1)), Control(GROUNDING)


def _phrase(start: int, end: int, *boxes: Box) -> Phrase:
    return Phrase(start=start, end=end, boxes=boxes)


def test_phrases_with_one_and_several_places_come_back(tmp_path: Path) -> None:
    caption = Text("a dog and two cats", phrases=(_phrase(2, 5, LEFT), _phrase(10, 18, LEFT, RIGHT)))
    document = Document((PICTURE, TOKEN, caption), {"url": "https://example.org", "id": 7})
    report = converted(tmp_path, "grounded", {"k": document})
    (read,) = read_back(tmp_path)
    assert plain(read) == [PICTURE, TOKEN, caption]
    assert {"url": "https://example.org", "id": 7, "width": 12, "height": 8}.items() <= read.meta.items()
    assert report.noted == {}


def test_spans_are_those_of_the_joined_caption(tmp_path: Path) -> None:
    texts = (Text(" A dog.", phrases=(_phrase(3, 6, LEFT),)), Text("A cat", phrases=(_phrase(2, 5, RIGHT),)))
    converted(tmp_path, "grounded", {"k": Document((PICTURE, TOKEN, *texts))})
    (read,) = read_back(tmp_path)
    assert plain(read)[2] == Text(" A dog. A cat", phrases=(_phrase(3, 6, LEFT), _phrase(10, 13, RIGHT)))


def test_a_record_is_that_of_grit(tmp_path: Path) -> None:
    caption = Text("a dog", phrases=(_phrase(2, 5, LEFT),))
    converted(tmp_path, "grounded", {"k": Document((PICTURE, caption))})
    (sample,) = Shard(tmp_path / "out" / "set-0.tar")
    place = [[2, 5, *LEFT, 1.0]]
    record = {"caption": "a dog", "width": 12, "height": 8, "noun_chunks": place, "ref_exps": place}
    assert json.loads(sample.parts["json"]) == record
    assert sample.parts["jpg"] == photo(1)


def test_a_field_of_another_format_does_not_hide_what_it_is(tmp_path: Path) -> None:
    caption = Text("a dog", phrases=(_phrase(2, 5, LEFT),))
    meta = {"captions": ["a dog", "a cat"], "messages": []}
    report = converted(tmp_path, "grounded", {"k": Document((PICTURE, caption), meta)})
    assert found(tmp_path / "out") == "grounded"
    assert report.noted == {"lost: meta": 1}


@pytest.mark.parametrize(
    ("reason", "segments"),
    [
        ("cannot hold: no places of phrases", (PICTURE, Text("a dog"))),
        ("cannot hold: no places of phrases", (PICTURE, Text("a dog", phrases=(_phrase(2, 5),)))),
        (
            "cannot hold: a box outside the picture",
            (PICTURE, Text("a", phrases=(_phrase(0, 1, (0.0, 0.0, 1.5, 1.0)),))),
        ),
        ("cannot hold: words before the picture", (Text("a", phrases=(_phrase(0, 1, LEFT),)), PICTURE)),
    ],
)
def test_what_grit_cannot_hold_is_counted(tmp_path: Path, reason: str, segments: tuple[Text | Image, ...]) -> None:
    assert converted(tmp_path, "grounded", {"k": Document(segments)}).dropped == {reason: 1}


def test_what_grit_loses_is_noted(tmp_path: Path) -> None:
    caption = Text("a dog, a cat", loss=False, phrases=(_phrase(2, 5, LEFT), _phrase(9, 12)))
    report = converted(tmp_path, "grounded", {"k": Document((PICTURE, TOKEN, caption, Control(END)))})
    assert report.noted == {
        "lost: special tokens": 1,
        "lost: which words are learnt": 1,
        "lost: phrases without a place": 1,
    }
