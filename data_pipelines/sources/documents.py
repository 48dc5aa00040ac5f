"""Documents in records: `seq` or our own `segments`, a list of words and names of pictures in reading order.

Pictures lie in a folder or a tar, or in a column `images` of parquet (as `convert --to parquet` writes them).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial

from data_pipelines.errors import DocumentError
from data_pipelines.schema import document_of_parts
from data_pipelines.sources.draft import Draft
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.pictures import Pictures
from data_pipelines.sources.record_files import open_records, pictures_of
from data_pipelines.sources.records import kept, list_of
from data_pipelines.sources.rows import Row
from data_pipelines.sources.source import Converted, Entry, Opened, Options
from text.document import Control, Text

__all__ = ["Documents"]

SEGMENTS = ("segments", "seq")


class Documents:
    """Reading order is the order of the list."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        return any(name in first.record for name in SEGMENTS) and not first.parts

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source."""
        return Converted(open_records(first), partial(_entries, pictures=pictures_of(first, options)))


def _entries(row: Row, pictures: Pictures) -> Iterator[Entry]:
    record = _unpacked(row)
    field = next((name for name in SEGMENTS if name in record), SEGMENTS[0])
    columns = record.get("images")
    embedded = iter(columns if isinstance(columns, list) else ())
    draft = Draft(row.key, pictures)
    for entry in list_of(row.key, record, field):
        if isinstance(entry, Mapping) and isinstance(entry.get("image"), str):
            meta = {name: value for name, value in entry.items() if name not in ("image", "blake3")}
            held = next(embedded, None)
            draft.picture(held if isinstance(held, bytes) else entry["image"], meta)
        else:
            _add(row.key, entry, draft)
    own = record.get("meta")
    own = own if isinstance(own, Mapping) else {}
    yield draft.entry({**kept(record, besides=(field, "images", "text")), **own})


def _add(key: str, entry: object, draft: Draft) -> None:
    """Words or a control, held against the schema by the reader of shards."""
    read = document_of_parts(key, {"json": json.dumps({"segments": [entry]}).encode()})
    for segment in read.segments:
        if isinstance(segment, Text):
            draft.words(segment.text, loss=segment.loss, phrases=segment.phrases)
        elif isinstance(segment, Control):
            draft.control(segment.name)


def _unpacked(row: Row) -> Mapping[str, object]:
    """A record whose `segments` and `meta` are JSON in a column, as they are in a line."""
    found: dict[str, object] = dict(row.record)
    for name in ("segments", "meta"):
        if isinstance(value := found.get(name), str):
            try:
                found[name] = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise DocumentError(row.key, "broken JSON", f"{name}: {error}") from None
    return found
