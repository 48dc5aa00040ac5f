"""OBELICS: `images` and `texts` of one length, one of them filled at every place; parquet, or JSON lines.

A picture is its bytes, Hugging Face's `{"bytes", "path"}`, or an address: never fetched, but looked up in a folder by
the path of the address (`example.org/a/b.jpg`) or its last part. Source: dataset card of HuggingFaceM4/OBELICS.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from urllib.parse import urlsplit

from data_pipelines.errors import DocumentError
from data_pipelines.sources.draft import Draft
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.pictures import Pictures
from data_pipelines.sources.record_files import open_records, pictures_of
from data_pipelines.sources.records import kept, list_of
from data_pipelines.sources.rows import Row
from data_pipelines.sources.source import Converted, Entry, Opened, Options

__all__ = ["Obelics"]

META = ("metadata", "general_metadata")


class Obelics:
    """Places filled in turn."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        return "images" in first.record and "texts" in first.record

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source."""
        return Converted(open_records(first), partial(_entries, pictures=pictures_of(first, options)))


def _entries(row: Row, pictures: Pictures) -> Iterator[Entry]:
    images, texts = list_of(row.key, row.record, "images"), list_of(row.key, row.record, "texts")
    if len(images) != len(texts):
        raise DocumentError(row.key, "malformed record", f"{len(images)} places for pictures, {len(texts)} for words")
    known = _parsed(row.key, row.record.get("metadata"))
    of_place = known if isinstance(known, list) and len(known) == len(images) else [None] * len(images)
    draft = Draft(row.key, pictures)
    for image, text, meta in zip(images, texts, of_place, strict=True):
        if isinstance(text, str):
            draft.words(text)
        elif image is not None:
            _add_picture(row.key, image, kept(meta) if isinstance(meta, Mapping) else {}, draft, pictures)
    general = _parsed(row.key, row.record.get("general_metadata"))
    yield draft.entry({**kept(row.record, besides=META), **(kept(general) if isinstance(general, Mapping) else {})})


def _add_picture(key: str, image: object, meta: Mapping[str, object], draft: Draft, pictures: Pictures) -> None:
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes):
        draft.picture(image, meta)
    elif isinstance(image, str):
        draft.picture(_looked_up(key, image, pictures), {**meta, "address": image})
    else:
        draft.miss(DocumentError(key, "picture not found", f"{type(image).__name__} is no picture"))


def _looked_up(key: str, address: str, pictures: Pictures) -> bytes | str:
    """The picture of an address where it lies in a folder; else the address itself, which will not be found."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    if not parts.netloc:
        return address
    for name in (f"{parts.netloc}{parts.path}", parts.path.rpartition("/")[2]):
        try:
            return pictures.find(key, name)
        except DocumentError:
            continue
    return address


def _parsed(key: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DocumentError(key, "broken JSON", f"metadata: {error}") from None
