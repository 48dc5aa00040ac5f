"""Lines of text files by number, plain or gzipped, without holding more than one in memory.

One pass counts the lines and keeps where every 1,024th begins, so that a slice is found at once. A gzipped file has no
places to jump to: each process goes through it once, onwards from where it last stopped. Blank lines count as nothing.
Knows nothing of what a line means.
"""

from __future__ import annotations

import gzip
import os
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

from data_pipelines.errors import DocumentError
from data_pipelines.naming import clean_key
from data_pipelines.sources.keys import unique_keys
from data_pipelines.sources.records import parse_object
from data_pipelines.sources.rows import Row

__all__ = ["MAX_LINE_BYTES", "MAX_NAME", "JsonLines", "Lines", "count_lines", "open_plain", "read_beginning", "stem"]

MAX_LINE_BYTES = 64 * 2**20  # a page with its pictures in base 64 takes a few million
STRIDE = 1_024
MAX_NAME = 60
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class _File:
    """One file: how many lines, where every 1,024th begins, what its lines are called, and whether blank ones count."""

    path: Path
    count: int
    places: array[int]
    name: str
    blank: bool


@dataclass(frozen=True)
class Lines:
    """The lines of several files as one list; `ends` are the numbers after each file's last line."""

    files: tuple[_File, ...]
    ends: tuple[int, ...]

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def read(self, start: int, stop: int) -> Iterator[tuple[str, bytes | DocumentError]]:
        """Key and bytes (no line end) of lines `start` to `stop`; a line that is too long is an error."""
        while start < stop:
            which = bisect_right(self.ends, start)
            file, until = self.files[which], min(stop, self.ends[which])
            offset = self.ends[which] - file.count
            for number, line in enumerate(_slice(file, start - offset, until - offset), start - offset):
                key = f"{file.name}-{number:08d}"
                yield key, DocumentError(key, "line too long", f"over {MAX_LINE_BYTES} bytes") if line is None else line
            start = until


@dataclass(frozen=True)
class JsonLines:
    """JSON objects, one a line."""

    lines: Lines

    def __len__(self) -> int:
        return len(self.lines)

    def read(self, start: int, stop: int) -> Iterator[Row | DocumentError]:
        """See Rows."""
        for key, line in self.lines.read(start, stop):
            try:
                yield line if isinstance(line, DocumentError) else Row(key, parse_object(key, line))
            except DocumentError as error:
                yield error


def count_lines(paths: tuple[Path, ...], *, header: int = 0, blank: bool = False) -> Lines:
    """The lines of files, counted.

    Args:
        header: lines at the beginning of each file that are no records.
        blank: count blank lines too, where a line's number says what it belongs to.
    Raises: OSError.
    """
    names = unique_keys(clean_key(stem(path))[:MAX_NAME] for path in paths)
    files = tuple(_count(path, name, header, blank) for path, name in zip(paths, names, strict=True))
    return Lines(files, tuple(accumulate(file.count for file in files)))


def open_plain(path: Path) -> BinaryIO:
    """A file to read, unzipped if its name ends in .gz."""
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else open(path, "rb")


def read_beginning(path: Path, most: int, *, line: bool = False) -> bytes:
    """The first `most` bytes of a file, unzipped; or of its first line.

    Raises: OSError.
    """
    try:
        with open_plain(path) as stream:
            return stream.readline(most) if line else stream.read(most)
    except DAMAGED as error:
        raise _damage(str(path), error) from None


def _damage(name: str, error: Exception) -> OSError:
    return OSError(5, f"zipped file is cut short or damaged ({error})", name)


def stem(path: Path) -> str:
    """A file's name without what its format adds: `docs` of `docs.jsonl.gz`."""
    name = path.name.removesuffix(".gz")
    return name.rpartition(".")[0] or name


def _count(path: Path, name: str, header: int, blank: bool) -> _File:
    places, count = array("Q"), 0
    with open_plain(path) as stream:
        for _ in range(header):
            _next(stream)
        place = stream.tell()
        while (line := _next(stream)) != b"":
            if blank or line is None or not line.isspace():
                if count % STRIDE == 0:
                    places.append(place)
                count += 1
            place = stream.tell() if line is None else place + len(line)
    return _File(path, count, places, name, blank)


def _next(stream: BinaryIO) -> bytes | None:
    """The next line with its end; b"" after the last, None for one that is too long (and is passed over)."""
    try:
        line = stream.readline(MAX_LINE_BYTES + 1)
        if len(line) <= MAX_LINE_BYTES:
            return line
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES)
        return None
    except DAMAGED as error:
        raise _damage(stream.name, error) from None


def _slice(file: _File, start: int, stop: int) -> Iterator[bytes | None]:
    number, stream = _resume(file, start)
    while number < stop:
        line = _next(stream)
        if line == b"":
            raise OSError(5, "the file became shorter while it was read", str(file.path))
        if not file.blank and line is not None and line.isspace():
            continue
        if number >= start:
            yield None if line is None else line.rstrip(b"\r\n")
        number += 1
    _rest(file, number, stream)


_Place: TypeAlias = tuple[int, BinaryIO]
_resting: dict[tuple[Path, int, int], _Place] = {}
"""The gzipped file this process last read from, and how far it came: unzipping it again for every slice would take
the square of its length."""


def _resume(file: _File, start: int) -> _Place:
    """The number of a line no later than `start`, and the file open before it."""
    number, stream = _resting.pop(_identity(file.path), (start + 1, None))
    if stream is not None and number <= start:
        return number, stream
    stream = open_plain(file.path)
    jump = 0 if file.path.suffix == ".gz" else start // STRIDE
    stream.seek(file.places[jump])  # in a zipped file too: a header may come before the first record
    return jump * STRIDE, stream


def _rest(file: _File, number: int, stream: BinaryIO) -> None:
    if file.path.suffix != ".gz":
        stream.close()
        return
    for _, other in _resting.values():
        other.close()
    _resting.clear()
    _resting[_identity(file.path)] = number, stream


def _identity(path: Path) -> tuple[Path, int, int]:
    known = os.stat(path)
    return path, known.st_size, known.st_mtime_ns
