"""Documents in parquet: one row each, pictures as bytes in a column. Nothing is lost; `create` reads it back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from data_pipelines.targets.files import to_json
from data_pipelines.targets.segments import segment_records
from data_pipelines.targets.tables import table
from data_pipelines.targets.target import Place, WriteDocument, pictures_of, words_of
from text.document import Document

__all__ = ["open_parquet"]

COLUMNS = {"key": "text", "text": "text", "segments": "text", "images": "bytes", "meta": "text"}


@contextmanager
def open_parquet(place: Place) -> Iterator[WriteDocument]:
    """`NAME.parquet`: `text` holds all words, for those who want no more; `segments` and `meta` are JSON."""
    with table(place, COLUMNS) as add:

        def write(key: str, document: Document) -> Sequence[str]:
            pictures = pictures_of(key, document)
            names = [f"{number}.{picture.ending}" for number, picture in enumerate(pictures)]
            add(
                {
                    "key": key,
                    "text": words_of(document, "\n"),
                    "segments": to_json(segment_records(key, document, names)),
                    "images": [picture.data for picture in pictures],
                    "meta": to_json(dict(document.meta)),
                }
            )
            return ()

        yield write
