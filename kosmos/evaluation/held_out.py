"""What no model of this house is trained on: the validation photographs of Flickr8k, and four whole books."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_pipelines.creation import plan
from data_pipelines.errors import DocumentError
from data_pipelines.sources.source import Options
from text.document import Document, Text

__all__ = ["Photograph", "held_out_books", "held_out_photographs"]


class Photograph(NamedTuple):
    """An encoded picture and what five people said of it."""

    picture: bytes
    captions: tuple[str, ...]


def held_out_photographs(data: Path) -> list[Photograph]:
    """All of them, in order. Raises: FileNotFoundError if they are not in the folder."""
    shards = sorted((data / "flickr8k").glob("val-*.tar"))
    if not shards:
        raise FileNotFoundError(2, "no val-*.tar there; give the folder of the data by --data", data / "flickr8k")
    return [_photograph(document) for document in _documents(shards, Options(captions="captions"))]


def held_out_books(data: Path) -> list[str]:
    """Pieces of the books, in order."""
    documents = _documents([data / "text" / "books-val.jsonl.gz"], Options())
    return [s.text for document in documents for s in document.segments if isinstance(s, Text)]


def _photograph(document: Document) -> Photograph:
    captions = document.meta.get("captions")
    source = document.images[0].source
    assert isinstance(source, bytes)
    return Photograph(source, tuple(captions) if isinstance(captions, list) else ())


def _documents(paths: list[Path], options: Options) -> Iterator[Document]:
    opened = plan(paths, options).opened
    for entry in opened.read(0, len(opened)):
        if isinstance(entry.document, DocumentError):
            raise entry.document
        yield entry.document
