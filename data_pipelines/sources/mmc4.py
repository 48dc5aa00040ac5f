"""MMC4: sentences of a page, and pictures matched to them; JSON lines, or OpenFlamingo's tars of the same.

A picture stands before the sentence it is matched to. Its bytes are in `image_base64`, or in a folder by `image_name`.
Source: allenai/mmc4 README; open_flamingo, preprocess_interleaved.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from functools import partial

from data_pipelines.errors import DocumentError
from data_pipelines.sources.draft import Draft
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.pictures import Pictures
from data_pipelines.sources.record_files import open_records, pictures_of
from data_pipelines.sources.records import kept, list_of, strings_of
from data_pipelines.sources.rows import Row
from data_pipelines.sources.source import Converted, Entry, Opened, Options

__all__ = ["Mmc4"]

KEPT = ("raw_url", "matched_sim", "image_name")


class Mmc4:
    """`text_list` and `image_info`."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        return "text_list" in first.record and "image_info" in first.record

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source."""
        return Converted(open_records(first), partial(_entries, pictures=pictures_of(first, options)))


def _entries(row: Row, pictures: Pictures) -> Iterator[Entry]:
    sentences = strings_of(row.key, row.record, "text_list")
    before = _by_sentence(row.key, list_of(row.key, row.record, "image_info"), len(sentences))
    draft = Draft(row.key, pictures)
    waiting: list[str] = []
    for number, sentence in enumerate(sentences):
        for picture in before.get(number, ()):
            draft.words(" ".join(waiting))
            waiting = []
            _add_picture(row.key, picture, draft)
        waiting.append(sentence.strip())
    draft.words(" ".join(waiting))
    yield draft.entry(kept(row.record))


def _by_sentence(key: str, pictures: object, count: int) -> dict[int, list[Mapping[str, object]]]:
    """Pictures by the number of the sentence they belong to."""
    found: dict[int, list[Mapping[str, object]]] = {}
    for picture in pictures if isinstance(pictures, list) else ():
        place = picture.get("matched_text_index") if isinstance(picture, Mapping) else None
        if not isinstance(place, int) or not 0 <= place < count:
            raise DocumentError(key, "malformed record", f"matched_text_index {place!r} of {count} sentences")
        found.setdefault(place, []).append(picture)
    return found


def _add_picture(key: str, picture: Mapping[str, object], draft: Draft) -> None:
    meta = {name: picture[name] for name in KEPT if isinstance(picture.get(name), (str, int, float))}
    encoded, name = picture.get("image_base64"), picture.get("image_name")
    if isinstance(encoded, str):
        try:
            draft.picture(base64.b64decode(encoded, validate=True), meta)
        except ValueError as error:
            draft.miss(DocumentError(key, "picture is no base 64", str(error)))
    elif isinstance(name, str):
        draft.picture(name, meta)
    else:
        draft.miss(DocumentError(key, "picture not found", "neither image_base64 nor image_name"))
