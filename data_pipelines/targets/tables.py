"""Parquet files that appear whole, written a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

from data_pipelines.targets.target import Place
from data_pipelines.whole_file import whole_file

__all__ = ["Columns", "table"]

Columns: TypeAlias = Mapping[str, str]
"""Kind of each column by name: `text`, `texts`, `bytes` (lists may have gaps)."""
ROWS = 256  # a group; documents with pictures are large


@contextmanager
def table(place: Place, columns: Columns) -> Iterator[Callable[[Mapping[str, object]], None]]:
    """A function that adds a row to `NAME.parquet`.

    Raises: ValueError if the extra `data` is not installed.
    """
    try:
        import pyarrow
        from pyarrow.parquet import ParquetWriter
    except ImportError:
        raise ValueError("writing parquet needs the extra `data`: pip install 'kosmos-mllm[data]'") from None
    kinds = {
        "text": pyarrow.string(),
        "texts": pyarrow.list_(pyarrow.string()),
        "bytes": pyarrow.list_(pyarrow.binary()),
    }
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    rows: list[Mapping[str, object]] = []
    with whole_file(place.folder / f"{place.name}.parquet") as file, ParquetWriter(file, schema) as writer:

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            rows.clear()

        def add(row: Mapping[str, object]) -> None:
            rows.append(row)
            if len(rows) == ROWS:
                flush()

        yield add
        flush()
