"""Words alone, as JSON lines with a field `text`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from data_pipelines.errors import DocumentError
from data_pipelines.targets.files import json_lines
from data_pipelines.targets.target import Place, WriteDocument, lost, words_of
from text.document import Document

__all__ = ["open_plain_text"]


@contextmanager
def open_plain_text(place: Place) -> Iterator[WriteDocument]:
    """`NAME.jsonl`. Holds documents that have words; their pictures are lost."""
    with json_lines(place) as add:

        def write(key: str, document: Document) -> Sequence[str]:
            words = words_of(document, "\n")
            if not words:
                raise DocumentError(key, "cannot hold: no words")
            add({**document.meta, "key": key, "text": words})
            return [*lost(document), *(["lost: pictures"] if document.images else [])]

        yield write
