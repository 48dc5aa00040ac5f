"""Pairs as img2dataset writes them: `KEY.jpg`, `KEY.txt`, and what is known of them in `KEY.json`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from data_pipelines.shard import ShardWriter
from data_pipelines.targets.files import to_json
from data_pipelines.targets.target import Place, WriteDocument, lost, the_pair
from text.document import Document

__all__ = ["open_webdataset"]


@contextmanager
def open_webdataset(place: Place) -> Iterator[WriteDocument]:
    """`NAME.tar` and its index. Holds documents of one picture and words after it."""
    with ShardWriter(place.folder / f"{place.name}.tar") as shard:

        def write(key: str, document: Document) -> Sequence[str]:
            picture, words = the_pair(key, document)
            # A record with `segments` would be taken for our own form.
            meta = {name: value for name, value in document.meta.items() if name != "segments"}
            parts = {picture.ending: picture.data, "txt": words.encode()}
            shard.write_parts(key, {**parts, "json": to_json(meta).encode()} if meta else parts)
            return lost(document)

        yield write
