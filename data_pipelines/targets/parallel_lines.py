"""Parallel text as a table parted by tabs: a column a language, named in the first line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from data_pipelines.errors import DocumentError
from data_pipelines.sources.parallel import is_language
from data_pipelines.targets.captions import BROKEN_LINES, on_one_line
from data_pipelines.targets.target import Place, WriteDocument
from data_pipelines.targets.translations import lost_translation, translations
from data_pipelines.whole_file import whole_file
from text.document import Document

__all__ = ["open_parallel_lines"]


@contextmanager
def open_parallel_lines(place: Place) -> Iterator[WriteDocument]:
    """`NAME.tsv`. Holds parallel text of the languages of its first document, in their order."""
    columns: list[str] = []
    with whole_file(place.folder / f"{place.name}.tsv") as file:

        def write(key: str, document: Document) -> Sequence[str]:
            texts = translations(key, document)
            if not all(map(is_language, texts)):
                raise DocumentError(key, "cannot hold: a language without a code of two letters", ", ".join(texts))
            if columns and columns != list(texts):
                raise DocumentError(key, "cannot hold: other languages than the first document's", ", ".join(texts))
            cells = [on_one_line(text) for text in texts.values()]
            if not columns:
                columns.extend(texts)
                file.write("\t".join(columns).encode() + b"\n")
            file.write("\t".join(cells).encode() + b"\n")
            return [*lost_translation(document), *([BROKEN_LINES] if cells != list(texts.values()) else [])]

        yield write
