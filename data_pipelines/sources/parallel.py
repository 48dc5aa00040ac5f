"""Parallel text: the same words in several languages, one document a row.

Records with a field a language (`{"en": ..., "de": ...}`), tables parted by tabs, and files whose lines stand side by
side (Moses: `corpus.en`, `corpus.de`). A document has a text for each language, as `languages` in its meta says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_pipelines.errors import DocumentError
from data_pipelines.sources.glimpse import Glimpse, ending
from data_pipelines.sources.lines import MAX_LINE_BYTES, Lines, count_lines, read_beginning
from data_pipelines.sources.record_files import open_records
from data_pipelines.sources.records import kept
from data_pipelines.sources.rows import Row
from data_pipelines.sources.source import Converted, Entry, Opened, Options
from text.document import Document, Text

__all__ = ["ParallelLines", "ParallelRecords", "is_language", "parallel_document"]

# ISO 639-1, with a script or a region where a data set adds one (zh-Hant, pt_BR).
_CODES = """af am ar as az be bg bn bs ca cs cy da de el en eo es et eu fa fi fr ga gd gl gu ha he hi hr ht hu hy id ig
is it ja jv ka kk km kn ko ku ky la lb ln lo lt lv mg mi mk ml mn mr ms mt my nb ne nl nn no ny oc or pa pl ps pt qu ro
ru sa sd si sk sl sn so sq sr st su sv sw ta te tg th tk tl tr tt ug uk ur uz vi wo xh yi yo zh zu"""
LANGUAGES = frozenset(_CODES.split())
_LANGUAGE = re.compile(r"([a-z]{2})(?:[-_][A-Za-z]{2,4})?")


class ParallelRecords:
    """JSON lines, JSON or parquet with a field for each language."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        return not first.parts and len(_languages(first.record)) >= 2

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source."""
        return Converted(open_records(first), partial(_record_entries, wanted=options.languages))


class ParallelLines:
    """Files side by side, one a language by their ending; or one table of columns parted by tabs."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        side_by_side = len(first.files) >= 2 and all(is_language(ending(path)) for path in first.files)
        return first.only("tsv") or (side_by_side and len(set(map(ending, first.files))) == len(first.files))

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source. Raises: ValueError for files of unlike length and columns without a language."""
        if tables := first.having("tsv"):
            named = _head(tables)
            has_header = all(map(is_language, named))
            columns = named if has_header else options.languages
            if len(columns) < 2:
                raise ValueError(f"{tables[0]} does not say its languages; give them in order by --languages en,de")
            return _Table(count_lines(tables, header=int(has_header)), columns, options.languages or columns)
        languages = options.languages or tuple(ending(path) for path in first.files)
        files = [next((path for path in first.files if ending(path) == one), None) for one in languages]
        lines = tuple(count_lines((path,), blank=True) for path in files if path is not None)
        if len(lines) != len(languages) or len({len(one) for one in lines}) != 1:
            counts = {path.name: len(count_lines((path,), blank=True)) for path in first.files}
            raise ValueError(f"files side by side need one of equal length for each of {languages}, not {counts}")
        return _SideBySide(lines, languages)


def _head(tables: Sequence[Path]) -> tuple[str, ...]:
    """Cells of the first line, which names the columns or does not.

    Raises: ValueError for tables whose columns are named otherwise.
    """
    lines = [(path, read_beginning(path, MAX_LINE_BYTES, line=True).decode("utf-8-sig", "replace")) for path in tables]
    heads = [(path, tuple(line.rstrip("\r\n").split("\t"))) for path, line in lines if line]
    path, named = heads[0] if heads else (tables[0], ())
    for other, cells in heads:
        if cells != named and (all(map(is_language, cells)) or all(map(is_language, named))):
            raise ValueError(f"{path} has the columns {named} and {other} has {cells}; create from one kind at a time")
    return named


@dataclass(frozen=True)
class _Table:
    """Lines with a column for each of `columns`, of which `wanted` are taken."""

    lines: Lines
    columns: tuple[str, ...]
    wanted: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.lines)

    def read(self, start: int, stop: int) -> Iterator[Entry]:
        """See Opened."""
        for key, line in self.lines.read(start, stop):
            try:
                cells = _decoded(key, line).split("\t")
                if len(cells) != len(self.columns):
                    raise DocumentError(key, "malformed record", f"{len(cells)} columns, not {len(self.columns)}")
                yield parallel_document(key, dict(zip(self.columns, cells, strict=True)), self.wanted, {})
            except DocumentError as error:
                yield Entry(key, error)


@dataclass(frozen=True)
class _SideBySide:
    """One file a language, of equal length."""

    files: tuple[Lines, ...]
    languages: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files[0])

    def read(self, start: int, stop: int) -> Iterator[Entry]:
        """See Opened."""
        for row in zip(*(lines.read(start, stop) for lines in self.files), strict=True):
            key = row[0][0]
            try:
                texts = [_decoded(key, line) for _, line in row]
                yield parallel_document(key, dict(zip(self.languages, texts, strict=True)), self.languages, {})
            except DocumentError as error:
                yield Entry(key, error)


def parallel_document(
    key: str, texts: Mapping[str, object], wanted: Sequence[str], meta: Mapping[str, object]
) -> Entry:
    """A document of the wanted languages.

    Raises: DocumentError: `language missing`.
    """
    words = {language: texts.get(language) for language in wanted}
    if len(words) < 2:
        raise DocumentError(key, "language missing", f"only {list(words)}")
    if missing := [name for name, text in words.items() if not isinstance(text, str) or not text.strip()]:
        raise DocumentError(key, "language missing", ", ".join(missing))
    segments = tuple(Text(str(text).strip()) for text in words.values())
    return Entry(key, Document(segments, {**meta, "languages": list(words)}))


def _record_entries(row: Row, wanted: tuple[str, ...]) -> Iterator[Entry]:
    found = _languages(row.record)
    languages = wanted or tuple(name for name in found if isinstance(row.record[name], str))
    yield parallel_document(row.key, row.record, languages, kept(row.record, besides={*found, *languages}))


def _languages(record: Mapping[str, object]) -> list[str]:
    """Fields that are named after a language and hold words (or are columns)."""
    return [name for name, value in record.items() if is_language(name) and (value is None or isinstance(value, str))]


def is_language(name: str) -> bool:
    """Whether a name is a language's code: two letters, perhaps a script or a region."""
    found = _LANGUAGE.fullmatch(name)
    return found is not None and found[1] in LANGUAGES


def _decoded(key: str, line: bytes | DocumentError) -> str:
    if isinstance(line, DocumentError):
        raise line
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(key, "text is not UTF-8", str(error)) from None
