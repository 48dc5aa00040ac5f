"""What every foreign format offers: a function that writes one document, for one shard, into files of that format.

A document the format cannot hold is refused by a DocumentError before anything of it is written; what is lost of one
that it can hold is returned as notes, so that both are counted. Knows no format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from data_pipelines.errors import DocumentError
from data_pipelines.schema import parts_of_document
from text.document import Control, Document, Image, Text

__all__ = ["EncodedPicture", "OpenTarget", "Place", "WriteDocument", "lost", "pictures_of", "the_pair", "words_of"]

WriteDocument: TypeAlias = Callable[[str, Document], Sequence[str]]
"""Key and document -> notes. Raises: DocumentError."""


@dataclass(frozen=True)
class Place:
    """Where the documents of one shard go.

    Attributes:
        folder: of the whole output.   name: of the shard's files in it.   number: of the shard.
    """

    folder: Path
    name: str
    number: int


OpenTarget: TypeAlias = Callable[[Place], AbstractContextManager[WriteDocument]]
"""Files appear whole when the context is left without an error."""


@dataclass(frozen=True)
class EncodedPicture:
    """A picture's bytes, and the ending of its format."""

    data: bytes
    ending: str


def pictures_of(key: str, document: Document) -> list[EncodedPicture]:
    """The pictures, in reading order. Raises: DocumentError for one of an unknown format."""
    parts = parts_of_document(key, document)
    return [EncodedPicture(data, part.rpartition(".")[2]) for part, data in parts.items() if part != "json"]


def words_of(document: Document, between: str) -> str:
    """All words, with something between those of two segments."""
    return between.join(segment.text.strip() for segment in document.segments if isinstance(segment, Text))


def lost(document: Document, *, turns: bool = False) -> list[str]:
    """What a format without special tokens and places loses of a document.

    Args:
        turns: whether the format keeps apart which words are learnt.
    """
    texts = [segment for segment in document.segments if isinstance(segment, Text)]
    found = {
        "lost: special tokens": any(isinstance(segment, Control) for segment in document.segments),
        "lost: places of phrases": any(text.phrases for text in texts),
        "lost: which words are learnt": not turns and not all(text.loss for text in texts),
    }
    return [kind for kind, is_lost in found.items() if is_lost]


def the_pair(key: str, document: Document) -> tuple[EncodedPicture, str]:
    """The one picture and the words of a document that is a pair of both.

    Raises: DocumentError for any other.
    """
    if len(document.images) != 1:
        raise DocumentError(key, "cannot hold: not one picture", f"{len(document.images)} pictures")
    first = next(segment for segment in document.segments if not isinstance(segment, Control))
    if not isinstance(first, Image):
        raise DocumentError(key, "cannot hold: words before the picture")
    words = words_of(document, " ")
    if not words:
        raise DocumentError(key, "cannot hold: no words")
    return pictures_of(key, document)[0], words
