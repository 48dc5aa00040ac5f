"""Samples of WebDataset tars by number, and the same of files side by side in a folder. Knows no format's meaning."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from data_pipelines.errors import DocumentError, ShardError
from data_pipelines.naming import clean_key, split_name
from data_pipelines.shard import Shard
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.keys import unique_keys
from data_pipelines.sources.pictures import MAX_FILE_BYTES
from data_pipelines.sources.records import parse_object
from data_pipelines.sources.rows import Row, Rows

__all__ = ["FolderSamples", "TarSamples", "open_samples"]


@dataclass(frozen=True)
class TarSamples:
    """Samples of several tars as one list.

    Attributes:
        ends: numbers after each tar's last sample.
        renamed: keys that came before and got a number.
    """

    paths: tuple[Path, ...]
    ends: tuple[int, ...]
    renamed: Mapping[int, str]

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def read(self, start: int, stop: int) -> Iterator[Row | DocumentError]:
        """See Rows."""
        for number in range(start, stop):
            which = bisect_right(self.ends, number)
            yield self._row(number, which, number - (self.ends[which - 1] if which else 0))

    def _row(self, number: int, which: int, place: int) -> Row | DocumentError:
        try:
            sample = _shard(self.paths[which])[place]
        except DocumentError as error:  # a part that comes twice
            return DocumentError(self.renamed.get(number) or clean_key(error.key), error.reason, error.detail)
        return _row(self.renamed.get(number) or clean_key(sample.key), sample.parts, sample.key)


@dataclass(frozen=True)
class FolderSamples:
    """Files that share a name up to its first dot, as a tar would hold them."""

    samples: tuple[tuple[str, tuple[Path, ...]], ...]

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, start: int, stop: int) -> Iterator[Row | DocumentError]:
        """See Rows."""
        for key, paths in self.samples[start:stop]:
            large = next((path for path in paths if os.stat(path).st_size > MAX_FILE_BYTES), None)
            if large is not None:
                yield DocumentError(key, "file too large", f"{large.name}: more than {MAX_FILE_BYTES} bytes")
            else:
                yield _row(key, {_part(path): path.read_bytes() for path in paths}, key)


def open_samples(first: Glimpse) -> Rows:
    """The samples of the tars of a source, or of its files side by side.

    Raises: ShardError for a torn tar; OSError.
    """
    tars = first.having("tar")
    return _open_tars(tars) if tars else _open_folder(first)


def _open_tars(paths: tuple[Path, ...]) -> TarSamples:
    names: list[str] = []
    ends: list[int] = []
    for path in paths:
        found = list(_keys(path))
        if len(found) != len(_shard(path)):  # a stranger may put any index beside a tar
            raise ShardError(str(path), 0, "index does not fit the tar")
        names += found
        ends.append(len(names))
    keys = zip(unique_keys(names), names, strict=True)
    renamed = {number: key for number, (key, name) in enumerate(keys) if key != clean_key(name)}
    return TarSamples(paths, tuple(ends), renamed)


def _keys(path: Path) -> Iterator[str]:
    """The key of every sample, from headers alone."""
    found = (split_name(member.name) for member in _shard(path).members())
    return (key for key, _ in groupby(name[0] for name in found if name is not None))


def _open_folder(first: Glimpse) -> FolderSamples:
    groups: dict[tuple[Path, str], list[Path]] = {}
    for path in first.files:
        if found := split_name(path.name):
            groups.setdefault((path.parent, found[0]), []).append(path)
    roots = [path for path in first.paths if path.is_dir()]
    keys = unique_keys(_wanted(folder, stem, roots) for folder, stem in groups)
    return FolderSamples(tuple(zip(keys, map(tuple, groups.values()), strict=True)))


def _wanted(folder: Path, stem: str, roots: list[Path]) -> str:
    root = next((root for root in roots if folder.is_relative_to(root)), folder)
    return (folder / stem).relative_to(root).as_posix()


def _row(key: str, parts: Mapping[str, bytes], name: str) -> Row | DocumentError:
    try:
        return Row(key, parse_object(key, parts["json"]) if "json" in parts else {}, parts, name)
    except DocumentError as error:
        return error


def _part(path: Path) -> str:
    found = split_name(path.name)
    assert found is not None, path
    return found[1]


def _shard(path: Path) -> Shard:
    known = os.stat(path)
    return _open_shard(path, known.st_size, known.st_mtime_ns)


@lru_cache(maxsize=2)
def _open_shard(path: Path, size: int, changed: int) -> Shard:
    return Shard(path)
