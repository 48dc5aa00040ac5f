"""Rows: records by number as they lie in files (lines, tars, parquet ...), before anybody asks what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from data_pipelines.errors import DocumentError

__all__ = ["Row", "Rows"]


@dataclass(frozen=True)
class Row:
    """One record: plain values of JSON, and the files beside it by part name.

    Attributes:
        key: portable, and no other row's of the source.
        name: what the source itself calls a sample, where it does.
    """

    key: str
    record: Mapping[str, object]
    parts: Mapping[str, bytes] = field(default_factory=dict)
    name: str = ""


class Rows(Protocol):
    """Records by number. Small when pickled: workers open the files themselves."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Iterator[Row | DocumentError]:
        """Records `start` to `stop`; what cannot be read stands in its place."""
        ...
