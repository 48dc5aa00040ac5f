"""Text in a field of records: JSON lines, JSON, or a column of parquet. One document a record."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from data_pipelines.sources.draft import Draft
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.picture_records import PICTURE_FIELDS
from data_pipelines.sources.record_files import open_records
from data_pipelines.sources.records import kept, string_of
from data_pipelines.sources.rows import Row
from data_pipelines.sources.source import Converted, Entry, Opened, Options

__all__ = ["TextRecords"]

# Fields of formats that say more.
OTHERS = ("segments", "seq", *PICTURE_FIELDS, "images", "conversations", "messages", "instruction")


class TextRecords:
    """A field `text`, or the one the user names."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        return "text" in first.record and not first.parts and not any(name in first.record for name in OTHERS)

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source."""
        return Converted(open_records(first), partial(_entries, field=options.text))


def _entries(row: Row, field: str) -> Iterator[Entry]:
    draft = Draft(row.key)
    draft.words(string_of(row.key, row.record, field))
    yield draft.entry(kept(row.record, besides=(field,)))
