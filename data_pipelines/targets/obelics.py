"""OBELICS' parquet with the pictures in it: `images` and `texts` of one length, one of them filled at every place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from data_pipelines.targets.files import to_json
from data_pipelines.targets.tables import table
from data_pipelines.targets.target import Place, WriteDocument, lost, pictures_of
from text.document import Document, Image, Text

__all__ = ["open_obelics"]

COLUMNS = {"images": "bytes", "texts": "texts", "metadata": "text", "general_metadata": "text"}


@contextmanager
def open_obelics(place: Place) -> Iterator[WriteDocument]:
    """`NAME.parquet`. Holds every document."""
    with table(place, COLUMNS) as add:

        def write(key: str, document: Document) -> Sequence[str]:
            places = [segment for segment in document.segments if isinstance(segment, (Image, Text))]
            data = iter(picture.data for picture in pictures_of(key, document))
            add(
                {
                    "images": [next(data) if isinstance(segment, Image) else None for segment in places],
                    "texts": [segment.text if isinstance(segment, Text) else None for segment in places],
                    "metadata": to_json(
                        [dict(segment.meta) if isinstance(segment, Image) else None for segment in places]
                    ),
                    "general_metadata": to_json(dict(document.meta)),
                }
            )
            return lost(document)

        yield write
