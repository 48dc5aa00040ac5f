"""Grounded captions: phrases of a caption with the places they stand for, as GRIT has them.

`noun_chunks` and `ref_exps` are lists of `[start, end, x0, y0, x1, y1, score]`: characters of the caption, end
exclusive, and fractions of the picture. In img2dataset samples, or in records that name or hold their picture.
Source: microsoft/unilm, kosmos-2/README (GrIT).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from data_pipelines.errors import DocumentError
from data_pipelines.schema import PICTURE_PARTS
from data_pipelines.sources.draft import Draft
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.pictures import Pictures
from data_pipelines.sources.record_files import open_records, pictures_of
from data_pipelines.sources.records import kept, list_of, string_of
from data_pipelines.sources.rows import Row
from data_pipelines.sources.source import Converted, Entry, Opened, Options
from text.document import Box, Phrase
from text.specials import GROUNDING

__all__ = ["Grounded"]

NOUNS, EXPRESSIONS = "noun_chunks", "ref_exps"
NAMES = ("image", "image_path", "file_name", "key")


class Grounded:
    """A picture, `<grounding>`, and its caption with phrases: referring expressions, or noun chunks without those."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        return NOUNS in first.record or EXPRESSIONS in first.record

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source."""
        return Converted(open_records(first), partial(_entries, pictures=pictures_of(first, options)))


def _entries(row: Row, pictures: Pictures) -> Iterator[Entry]:
    caption = string_of(row.key, row.record, "caption")
    draft = Draft(row.key, pictures)
    draft.picture(_picture(row))
    draft.control(GROUNDING)
    field = EXPRESSIONS if row.record.get(EXPRESSIONS) else NOUNS
    draft.words(caption, phrases=_phrases(row.key, caption, list_of(row.key, row.record, field), draft))
    yield draft.entry(kept(row.record, besides=("caption",)))


def _picture(row: Row) -> bytes | str:
    part = next((part for part in PICTURE_PARTS if part in row.parts), None)
    if part is not None:
        return row.parts[part]
    for name in NAMES:
        value = row.record.get(name)
        if isinstance(value, (bytes, str)):
            return value if name != "key" or isinstance(value, bytes) else f"{value}.jpg"
    raise DocumentError(row.key, "no picture", f"none beside it, and none of {', '.join(NAMES)} in its record")


def _phrases(key: str, caption: str, entries: Sequence[object], draft: Draft) -> tuple[Phrase, ...]:
    """Spans in order, each with all its boxes; one that overlaps the span before it is left out and noted."""
    boxes: dict[tuple[int, int], list[Box]] = {}
    for entry in entries:
        span, box = _place(key, entry, len(caption))
        boxes.setdefault(span, []).append(box)
    phrases: list[Phrase] = []
    for (start, end), places in sorted(boxes.items(), key=lambda item: (item[0][0], -item[0][1])):
        if phrases and start < phrases[-1].end:
            draft.note("left out: phrase inside another")
        else:
            phrases.append(Phrase(start=start, end=end, boxes=tuple(places)))
    return tuple(phrases)


def _place(key: str, entry: object, length: int) -> tuple[tuple[int, int], Box]:
    """Span and box of `[start, end, x0, y0, x1, y1, score]`."""
    if not isinstance(entry, list) or len(entry) < 6 or not all(isinstance(one, (int, float)) for one in entry[:6]):
        raise DocumentError(key, "malformed phrases", f"seven numbers are expected, not {str(entry)[:80]}")
    start, end, x0, y0, x1, y1 = (float(min(max(one, -1), length + 1)) for one in entry[:6])  # 10**400 is no float
    if not (0 <= start < end <= length and start.is_integer() and end.is_integer()):
        raise DocumentError(key, "malformed phrases", f"span {entry[:2]} in {length} characters")
    if not (0 <= x0 <= x1 <= 1 and 0 <= y0 <= y1 <= 1):
        raise DocumentError(key, "malformed phrases", f"box {entry[2:6]}, fractions from 0 to 1 are expected")
    return (int(start), int(end)), (x0, y0, x1, y1)
