"""What every foreign format offers: documents by number, so that any slice of a source can be read by any worker.

A format is a `Source`: it recognises itself at first sight and opens. Most are rows and a function: `Rows` know how
records lie in files (lines, tars, parquet ...), the function knows what one record means. Knows no format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeAlias

from data_pipelines.errors import DocumentError
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.rows import Row, Rows
from text.document import Document

__all__ = ["Converted", "Each", "Entry", "Opened", "Options", "SampleBy", "Source"]

Each: TypeAlias = Literal["picture", "caption"]
SampleBy: TypeAlias = Literal["document", "paragraph", "line"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may say of a source.

    Attributes:
        captions, questions: the field of a record that holds captions, or questions with answers.
        each: one document a picture (the first caption, or all questions in turn), or one a caption or question.
        verbatim: captions stay as released, instead of being put as people write them.
        images: folder or tar of the pictures that records name (beside the records, if not said).
        text: the field that holds the words.
        languages: of parallel text, in the order wanted.
        sample_by: what of a plain text file is a document.
        split: of a source that names splits, the one wanted.
    """

    captions: str | None = None
    questions: str | None = None
    each: Each = "picture"
    verbatim: bool = False
    images: Path | None = None
    text: str = "text"
    languages: tuple[str, ...] = ()
    sample_by: SampleBy = "document"
    split: str | None = None


class Entry(NamedTuple):
    """A document of a source, or what is wrong with it.

    Attributes:
        key: portable, and no other document's of the source.
        notes: what was left out or changed without dropping it, by kind.
    """

    key: str
    document: Document | DocumentError
    notes: tuple[str, ...] = ()


class Opened(Protocol):
    """A source by number. Entry `number` may give several documents (a picture with five captions)."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Iterator[Entry]:
        """The documents of entries `start` to `stop`, the same whatever was read before."""
        ...


class Source(Protocol):
    """A format of others."""

    def matches(self, first: Glimpse) -> bool:
        """Whether a source looks like this format; no two formats may say yes."""
        ...

    def open(self, first: Glimpse, options: Options) -> Opened:
        """Raises: ValueError, OSError."""
        ...


@dataclass(frozen=True)
class Converted:
    """Rows, and what one means; the function is picklable and raises DocumentError for a row it cannot use."""

    rows: Rows
    entries: Callable[[Row], Iterator[Entry]]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, start: int, stop: int) -> Iterator[Entry]:
        """See Opened."""
        for row in self.rows.read(start, stop):
            if isinstance(row, DocumentError):
                yield Entry(row.key, row)
                continue
            try:
                yield from self.entries(row)
            except DocumentError as error:
                yield Entry(row.key, error)
