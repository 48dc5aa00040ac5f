"""Caption lists of Flickr8k and Flickr30k: `picture.jpg#0<tab>caption`, or tables of picture and caption.

The tables are `image,caption` (Flickr8k) and `image_name| comment_number| comment` (Flickr30k); pictures in a folder.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from functools import partial
from io import StringIO
from pathlib import Path

from data_pipelines.sources.captions import caption_entries
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.pictures import Pictures
from data_pipelines.sources.record_files import pictures_of
from data_pipelines.sources.records import string_of, strings_of
from data_pipelines.sources.rows import Row
from data_pipelines.sources.source import Converted, Entry, Opened, Options
from data_pipelines.sources.whole_files import open_whole, read_whole

__all__ = ["Flickr"]

_NUMBERED = re.compile(r"\S[^\t]*\.\w+#\d+\t")
_TABLE = re.compile(r"(image|image_name|filename)\s*([,|])\s*(?:comment_number\s*\|\s*)?(caption|comment)\s*", re.I)


class Flickr:
    """Lines of one picture need not stand together; a document for each picture, in the order they are first named."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        return bool(_NUMBERED.match(first.line) or _TABLE.fullmatch(first.line))

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source."""
        rows = open_whole(first.having("txt", "token", "csv"), _pictures)
        return Converted(rows, partial(_entries, options=options, pictures=pictures_of(first, options)))


def _entries(row: Row, options: Options, pictures: Pictures) -> Iterator[Entry]:
    name = string_of(row.key, row.record, "image")
    captions = strings_of(row.key, row.record, "captions")
    yield from caption_entries(row, captions, options, picture=name, pictures=pictures)


def _pictures(path: Path) -> Sequence[object]:
    """Pictures with their captions.

    Raises: ValueError for a list of another form.
    """
    try:
        text = read_whole(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None
    head, _, body = text.partition("\n")
    table = _TABLE.fullmatch(head.strip())
    found: dict[str, list[str]] = {}
    try:
        for name, caption in _table(body, table[2]) if table else _numbered(path, text):
            found.setdefault(name, []).append(caption)
    except csv.Error as error:
        raise ValueError(f"{path} is a broken table: {error}") from None
    return [{"image": name, "captions": captions} for name, captions in found.items()]


def _table(body: str, divider: str) -> Iterator[tuple[str, str]]:
    if divider == ",":
        yield from ((cells[0], cells[1]) for cells in csv.reader(StringIO(body)) if len(cells) >= 2)
        return
    for line in body.splitlines():
        if line.strip():
            # No quoting in this one, and a row of the release lacks its second bar: the caption is what comes last.
            yield line.partition(divider)[0].strip(), line.rpartition(divider)[2].strip()


def _numbered(path: Path, text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        name, tab, caption = line.partition("\t")
        if line.strip() and not tab:
            raise ValueError(f"{path}, line {number}: no tab between picture and caption in {line[:60]!r}")
        if line.strip():
            yield name.rpartition("#")[0] or name, caption
