"""Files that have to be read whole before their first record is known: JSON lists and tables, caption lists, TMX.

They have a limit of size; JSON lines, tars and parquet have none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from data_pipelines.errors import DocumentError
from data_pipelines.naming import clean_key
from data_pipelines.sources.keys import unique_keys
from data_pipelines.sources.lines import MAX_NAME, read_beginning, stem
from data_pipelines.sources.rows import Row

__all__ = ["Parse", "WholeFiles", "json_list", "load_json", "open_whole", "read_whole"]

MAX_WHOLE_BYTES = 2 * 2**30
Parse: TypeAlias = Callable[[Path], Sequence[object]]
"""The records of a file: objects by field, anything else counts as broken."""


@dataclass(frozen=True)
class WholeFiles:
    """Records of files by number; each process keeps the last file it parsed.

    Attributes:
        files: path, what its records are called, how many there are.
    """

    files: tuple[tuple[Path, str, int], ...]
    parse: Parse

    def __len__(self) -> int:
        return sum(count for _, _, count in self.files)

    def read(self, start: int, stop: int) -> Iterator[Row | DocumentError]:
        """See Rows."""
        first = 0
        for path, name, count in self.files:
            low, high = max(start - first, 0), min(stop - first, count)
            if low < high:
                records = _records(path, self.parse)
                yield from (_row(f"{name}-{number:08d}", records[number]) for number in range(low, high))
            first += count


def open_whole(paths: tuple[Path, ...], parse: Parse) -> WholeFiles:
    """Count the records of files.

    Args:
        parse: picklable.
    Raises: ValueError, OSError.
    """
    names = unique_keys(clean_key(stem(path))[:MAX_NAME] for path in paths)
    return WholeFiles(
        tuple((path, name, len(_records(path, parse))) for path, name in zip(paths, names, strict=True)), parse
    )


def read_whole(path: Path) -> bytes:
    """A file's bytes, unzipped. Raises: ValueError above the limit; OSError."""
    data = read_beginning(path, MAX_WHOLE_BYTES + 1)
    if len(data) > MAX_WHOLE_BYTES:
        raise ValueError(f"{path} has more than {MAX_WHOLE_BYTES} bytes, too many to hold at once; split it")
    return data


def load_json(path: Path) -> object:
    """A parsed file. Raises: ValueError for what is no JSON."""
    try:
        return json.loads(read_whole(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}); JSON lines need the ending .jsonl") from None


def json_list(path: Path) -> Sequence[object]:
    """The records of a JSON file that is a list. Raises: ValueError for another."""
    parsed = load_json(path)
    if not isinstance(parsed, list):
        raise ValueError(f"{path} holds {type(parsed).__name__}, a list of records is expected")
    return parsed


def _records(path: Path, parse: Parse) -> Sequence[object]:
    known = os.stat(path)
    return _parsed(path, parse, known.st_size, known.st_mtime_ns)


@lru_cache(maxsize=1)
def _parsed(path: Path, parse: Parse, size: int, changed: int) -> Sequence[object]:
    return parse(path)


def _row(key: str, record: object) -> Row | DocumentError:
    if not isinstance(record, Mapping):
        return DocumentError(key, "broken JSON", f"an object is wanted, not {type(record).__name__}")
    return Row(key, record)
