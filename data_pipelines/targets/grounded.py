"""Grounded captions as GRIT has them: `KEY.jpg`, and `KEY.json` with phrases of its caption and their places.

Source: microsoft/unilm, kosmos-2/README (GrIT).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from data_pipelines.errors import DocumentError
from data_pipelines.shard import ShardWriter
from data_pipelines.sources.pictures import checked
from data_pipelines.targets.files import to_json
from data_pipelines.targets.target import Place, WriteDocument, lost, the_pair
from text.document import Box, Control, Document, Text
from text.specials import GROUNDING

__all__ = ["open_grounded"]

OF_OTHERS = ("segments", "captions", "qas", "conversations", "messages", "text_list", "texts")
"""Fields that would make a record of another format of it."""
SCORE = 1.0  # a detector's certainty; documents keep none
BETWEEN = " "  # the texts of a caption


@contextmanager
def open_grounded(place: Place) -> Iterator[WriteDocument]:
    """`NAME.tar` and its index. Holds documents of one picture and a caption with phrases after it."""
    with ShardWriter(place.folder / f"{place.name}.tar") as shard:

        def write(key: str, document: Document) -> Sequence[str]:
            picture, _ = the_pair(key, document)
            width, height = checked(key, picture.data)
            meta = {name: value for name, value in document.meta.items() if name not in OF_OTHERS}
            spans = _spans(key, document)
            # Which are nouns and which are expressions is not known any more: readers of either find all.
            record = {
                **meta,
                "caption": BETWEEN.join(text.text for text in _texts(document)),
                "width": width,
                "height": height,
                "noun_chunks": spans,
                "ref_exps": spans,
            }
            shard.write_parts(key, {picture.ending: picture.data, "json": to_json(record).encode()})
            return _lost(document)

        yield write


def _texts(document: Document) -> list[Text]:
    return [segment for segment in document.segments if isinstance(segment, Text)]


def _spans(key: str, document: Document) -> list[list[float]]:
    """`[start, end, x0, y0, x1, y1, score]` for each box of each phrase.

    Raises: DocumentError for a document without any, and for a box that leaves its picture.
    """
    spans: list[list[float]] = []
    start = 0
    for text in _texts(document):
        for phrase in text.phrases:
            if not all(map(_is_inside, phrase.boxes)):
                raise DocumentError(key, "cannot hold: a box outside the picture")
            spans += [[start + phrase.start, start + phrase.end, *box, SCORE] for box in phrase.boxes]
        start += len(text.text) + len(BETWEEN)
    if not spans:
        raise DocumentError(key, "cannot hold: no places of phrases")
    return spans


def _is_inside(box: Box) -> bool:
    x0, y0, x1, y1 = box
    return 0 <= x0 <= x1 <= 1 and 0 <= y0 <= y1 <= 1


def _lost(document: Document) -> list[str]:
    """As of any format, but `<grounding>` and the places are what this one is for."""
    segments = [one for one in document.segments if not (isinstance(one, Control) and one.name == GROUNDING)]
    notes = [kind for kind in lost(Document(tuple(segments))) if kind != "lost: places of phrases"]
    if not all(phrase.boxes for text in _texts(document) for phrase in text.phrases):
        notes.append("lost: phrases without a place")
    return [*notes, *(["lost: meta"] if any(name in OF_OTHERS for name in document.meta) else [])]
