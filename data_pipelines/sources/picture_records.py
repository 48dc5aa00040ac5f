"""Records that name a picture, or hold it, beside a caption or a question with its answer: JSON lines, JSON, parquet.

What `metadata.jsonl` is in a folder of Hugging Face's `imagefolder`, and how most question sets are passed on.
Source: huggingface.co/docs/datasets, image_dataset; visualqa.org (`answers` of several people).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from data_pipelines.errors import DocumentError
from data_pipelines.sources.captions import caption_entries, question_entries
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.pictures import Pictures
from data_pipelines.sources.record_files import open_records, pictures_of
from data_pipelines.sources.records import list_of, strings_of
from data_pipelines.sources.rows import Row
from data_pipelines.sources.source import Converted, Entry, Opened, Options

__all__ = ["PICTURE_FIELDS", "PictureRecords", "picture_of"]

PICTURE_FIELDS = ("image", "image_path", "file_name")
CAPTION_FIELDS = ("caption", "captions", "text")
QUESTION, ANSWERS = "question", ("answer", "answers", "multiple_choice_answer")
OTHERS = ("segments", "seq", "conversations", "messages", "noun_chunks", "ref_exps", "instruction")  # say more


class PictureRecords:
    """A picture and its captions, or a picture and a question; as `Captioned`, but a line or row each."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        known = first.record
        asks = QUESTION in known and any(name in known for name in ANSWERS)
        says = asks or any(name in known for name in CAPTION_FIELDS)
        shows = any(name in known for name in PICTURE_FIELDS)
        return shows and says and not first.parts and not any(name in known for name in OTHERS)

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source."""
        entries = partial(_entries, options=options, pictures=pictures_of(first, options))
        return Converted(open_records(first), entries)


def picture_of(row: Row) -> bytes | str | None:
    """A record's picture: its name, its bytes, or an object of both, as parquet files of Hugging Face have it."""
    for name in PICTURE_FIELDS:
        value = row.record.get(name)
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, (bytes, str)) and value:
            return value
    return None


def _entries(row: Row, options: Options, pictures: Pictures) -> Iterator[Entry]:
    picture = picture_of(row)
    if picture is None:
        raise DocumentError(row.key, "no picture", f"none of {', '.join(PICTURE_FIELDS)} in its record")
    if options.questions or (QUESTION in row.record and not options.captions):
        asked = list_of(row.key, row.record, options.questions) if options.questions else [row.record]
        yield from question_entries(row, asked, options, picture=picture, pictures=pictures)
        return
    field = options.captions or next((name for name in CAPTION_FIELDS if name in row.record), CAPTION_FIELDS[0])
    captions = strings_of(row.key, row.record, field)
    yield from caption_entries(row, captions, options, picture=picture, pictures=pictures)
