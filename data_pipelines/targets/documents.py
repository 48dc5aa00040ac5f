"""Documents as JSON lines: our own `segments`, pictures named by their path in a folder beside. Nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from data_pipelines.targets.files import json_lines, put_picture
from data_pipelines.targets.segments import segment_records
from data_pipelines.targets.target import Place, WriteDocument, pictures_of
from text.document import Document

__all__ = ["open_documents"]


@contextmanager
def open_documents(place: Place) -> Iterator[WriteDocument]:
    """`NAME.jsonl`, pictures under `images/`."""
    with json_lines(place) as add:

        def write(key: str, document: Document) -> Sequence[str]:
            pictures = pictures_of(key, document)
            names = [put_picture(place, key, number, picture) for number, picture in enumerate(pictures)]
            add({"key": key, "segments": segment_records(key, document, names), "meta": dict(document.meta)})
            return ()

        yield write
