"""A document being put together from a record: a picture that cannot be had is left out and noted.

If none of its pictures can be had, the document is refused for the first one's reason: words about pictures that are
not there teach nothing. Pages are the exception: their pictures may be mere ornament. Knows no format.
"""

from __future__ import annotations

from collections.abc import Mapping

from data_pipelines.errors import DocumentError
from data_pipelines.sources.pictures import Pictures, checked
from data_pipelines.sources.source import Entry
from text.document import Control, Document, Image, Phrase, Segment, Text

__all__ = ["Draft"]

MAX_SEGMENTS = 100_000


class Draft:
    """Segments so far."""

    def __init__(self, key: str, pictures: Pictures | None = None, *, needs_pictures: bool = True) -> None:
        self.key = key
        self._pictures = pictures or Pictures(())
        self._needs_pictures = needs_pictures
        self._segments: list[Segment] = []
        self._notes: list[str] = []
        self._missing: DocumentError | None = None

    def words(self, text: str, *, loss: bool = True, phrases: tuple[Phrase, ...] = ()) -> None:
        """Words, unless there are none."""
        if text.strip():
            self._add(Text(text, loss, phrases))

    def control(self, name: str) -> None:
        """A special token."""
        self._add(Control(name))

    def picture(self, source: str | bytes, meta: Mapping[str, object] | None = None) -> bool:
        """A picture by its bytes or by its name; whether it could be had."""
        try:
            data = self._pictures.find(self.key, source) if isinstance(source, str) else source
            checked(self.key, data)
        except DocumentError as error:
            self.miss(error)
            return False
        self._add(Image(data, meta=meta or {}))
        return True

    def miss(self, error: DocumentError) -> None:
        """A picture that cannot be had."""
        self._missing = self._missing or error
        self.note(f"left out: {error.reason}")

    def note(self, kind: str) -> None:
        """Something was left out or changed."""
        self._notes.append(kind)

    def entry(self, meta: Mapping[str, object]) -> Entry:
        """The document. Raises: DocumentError if nothing is in it, or none of the pictures it needs."""
        if self._missing and self._needs_pictures and not any(isinstance(segment, Image) for segment in self._segments):
            raise self._missing
        if not self._segments:
            raise DocumentError(self.key, "no segments", "neither words nor pictures")
        return Entry(self.key, Document(tuple(self._segments), meta), tuple(self._notes))

    def _add(self, segment: Segment) -> None:
        if len(self._segments) >= MAX_SEGMENTS:
            raise DocumentError(self.key, "too many segments", f"more than {MAX_SEGMENTS}")
        self._segments.append(segment)
