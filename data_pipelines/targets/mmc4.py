"""MMC4's JSON lines: texts, and pictures in base 64 with the number of the text each one stands before."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from data_pipelines.errors import DocumentError
from data_pipelines.targets.files import json_lines
from data_pipelines.targets.target import Place, WriteDocument, lost, pictures_of
from text.document import Document, Image, Text

__all__ = ["open_mmc4"]

KEPT = ("raw_url", "matched_sim")
MOVED = "moved: picture after the last words now stands before them"


@contextmanager
def open_mmc4(place: Place) -> Iterator[WriteDocument]:
    """`NAME.jsonl`. Holds documents that have words."""
    with json_lines(place) as add:

        def write(key: str, document: Document) -> Sequence[str]:
            texts = [segment.text for segment in document.segments if isinstance(segment, Text)]
            if not texts:
                raise DocumentError(key, "cannot hold: no words")
            before = _places(document)
            pictures = [
                {
                    **{name: image.meta[name] for name in KEPT if name in image.meta},
                    "image_name": f"{key}.{number}.{picture.ending}",
                    "matched_text_index": min(before[number], len(texts) - 1),
                    "image_base64": base64.b64encode(picture.data).decode(),
                }
                for number, (image, picture) in enumerate(zip(document.images, pictures_of(key, document), strict=True))
            ]
            add({**document.meta, "text_list": texts, "image_info": pictures})
            return [*lost(document), *([MOVED] if any(place >= len(texts) for place in before) else [])]

        yield write


def _places(document: Document) -> list[int]:
    """For each picture, how many texts come before it."""
    places, texts = [], 0
    for segment in document.segments:
        if isinstance(segment, Image):
            places.append(texts)
        texts += isinstance(segment, Text)
    return places
