"""Plain text files: a document each, or for each paragraph (parted by blank lines), or for each line.

Source: `sample_by` of Hugging Face datasets' text reader, whose words these are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.errors import DocumentError
from data_pipelines.sources.draft import Draft
from data_pipelines.sources.entities import is_marked
from data_pipelines.sources.flickr import Flickr
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.keys import unique_keys
from data_pipelines.sources.lines import Lines, count_lines, read_beginning, stem
from data_pipelines.sources.rows import Row
from data_pipelines.sources.source import Converted, Entry, Opened, Options
from data_pipelines.sources.whole_files import open_whole, read_whole

__all__ = ["TextFiles"]

MAX_DOCUMENT_BYTES = 64 * 2**20


class TextFiles:
    """Files that end in .txt (or .txt.gz), without pictures of the same name."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        return first.only("txt") and not Flickr().matches(first) and not is_marked(first.line)

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source."""
        files = first.having("txt") or first.files
        if options.sample_by == "line":
            return _LineDocuments(count_lines(files))
        if options.sample_by == "paragraph":
            return Converted(open_whole(files, _paragraphs), _entries)
        return _FileDocuments(files, tuple(unique_keys(stem(path) for path in files)))


@dataclass(frozen=True)
class _FileDocuments:
    """Each file is a document."""

    files: tuple[Path, ...]
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, start: int, stop: int) -> Iterator[Entry]:
        """See Opened."""
        for key, path in zip(self.keys[start:stop], self.files[start:stop], strict=True):
            data = read_beginning(path, MAX_DOCUMENT_BYTES + 1)
            if len(data) > MAX_DOCUMENT_BYTES:
                detail = f"over {MAX_DOCUMENT_BYTES} bytes; --sample-by paragraph or line"
                yield Entry(key, DocumentError(key, "text too large", detail))
            else:
                yield _entry(key, data, path.name)


@dataclass(frozen=True)
class _LineDocuments:
    """Each line that is not blank is a document."""

    lines: Lines

    def __len__(self) -> int:
        return len(self.lines)

    def read(self, start: int, stop: int) -> Iterator[Entry]:
        """See Opened."""
        for key, line in self.lines.read(start, stop):
            yield Entry(key, line) if isinstance(line, DocumentError) else _entry(key, line, "")


def _entry(key: str, data: bytes, name: str) -> Entry:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Entry(key, DocumentError(key, "text is not UTF-8", str(error)))
    draft = Draft(key)
    draft.words(text.strip())
    try:
        return draft.entry({"source": name} if name else {})
    except DocumentError as error:
        return Entry(key, error)


def _paragraphs(path: Path) -> Sequence[object]:
    """What stands between blank lines, as records; bytes, so that one that is no UTF-8 spoils no other."""
    pieces = re.split(rb"\r?\n(?:[ \t]*\r?\n)+", read_whole(path))
    return [{"paragraph": piece} for piece in pieces if piece.strip()]


def _entries(row: Row) -> Iterator[Entry]:
    paragraph = row.record["paragraph"]
    assert isinstance(paragraph, bytes)
    yield _entry(row.key, paragraph, "")
