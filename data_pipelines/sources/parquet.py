"""Rows of parquet files by number: only the row groups a slice needs are read. Knows no column's meaning."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.naming import clean_key
from data_pipelines.sources.keys import unique_keys
from data_pipelines.sources.lines import MAX_NAME, stem
from data_pipelines.sources.rows import Row

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

__all__ = ["ParquetRows", "column_names", "open_parquet"]

BATCH = 64  # rows made into Python values at once; pages with embedded pictures are large


@dataclass(frozen=True)
class ParquetRows:
    """Files with the numbers after each one's last row."""

    files: tuple[tuple[Path, str], ...]
    """Path, and what its rows are called."""
    ends: tuple[int, ...]

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def read(self, start: int, stop: int) -> Iterator[Row]:
        """See Rows."""
        while start < stop:
            which = bisect_right(self.ends, start)
            path, name = self.files[which]
            offset = self.ends[which - 1] if which else 0
            until = min(stop, self.ends[which])
            for number, record in enumerate(_slice(path, start - offset, until - offset), start - offset):
                yield Row(f"{name}-{number:08d}", record)
            start = until


def open_parquet(paths: tuple[Path, ...]) -> ParquetRows:
    """Count the rows of files, by their footers.

    Raises: ValueError for a missing extra, and for what is no parquet; OSError.
    """
    names = unique_keys(clean_key(stem(path))[:MAX_NAME] for path in paths)
    counts = [_file(path).metadata.num_rows for path in paths]
    return ParquetRows(tuple(zip(paths, names, strict=True)), tuple(accumulate(counts)))


def column_names(path: Path) -> list[str]:
    """Names of a file's columns. Raises: as `open_parquet`."""
    names: list[str] = _file(path).schema_arrow.names
    return names


def _slice(path: Path, start: int, stop: int) -> Iterator[dict[str, object]]:
    file = _file(path)
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    ends = list(accumulate(sizes))
    groups = [number for number, end in enumerate(ends) if end > start and end - sizes[number] < stop]
    number = ends[groups[0]] - sizes[groups[0]]
    for batch in file.iter_batches(BATCH, row_groups=groups):
        low, high = max(start - number, 0), min(stop - number, batch.num_rows)
        if low < high:
            yield from batch.slice(low, high - low).to_pylist()
        number += batch.num_rows


def _file(path: Path) -> ParquetFile:
    try:
        from pyarrow.lib import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ValueError("reading parquet needs the extra `data`: pip install 'kosmos-mllm[data]'") from None
    try:
        return ParquetFile(path)
    except ArrowInvalid as error:
        raise ValueError(f"{path} is no parquet file: {error}") from None
