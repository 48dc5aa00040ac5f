"""Shards: ordinary WebDataset tars, read by memory map and written so that the same documents give the same bytes.

Samples are runs of members with one key; the key is a name up to the first dot of its last part, as WebDataset and
Energon have it. A writer puts the index beside the tar, and both appear whole or not at all. Source of the naming rule:
webdataset's format notes. Knows nothing of what documents mean.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from data_pipelines.errors import DocumentError, ShardError
from data_pipelines.index import index_path, read_index, sample_starts, write_index
from data_pipelines.naming import split_name
from data_pipelines.schema import document_of_parts, parts_of_document
from data_pipelines.stores import local_copy
from data_pipelines.tar import END, Buffer, Member, header, members, padded
from data_pipelines.whole_file import whole_file
from text.document import Document

__all__ = ["MAX_MEMBER_BYTES", "Sample", "Shard", "ShardWriter", "open_shard", "read_documents"]

MAX_MEMBER_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Sample:
    """The members of one key.

    Attributes:
        parts: contents by part name, in order.   shard, start: where it stands, in bytes.
    """

    key: str
    parts: Mapping[str, bytes]
    shard: str = ""
    start: int = 0

    def document(self) -> Document:
        """What it says. Raises: DocumentError."""
        return document_of_parts(self.key, self.parts)


@contextmanager
def open_shard(path: str, *, allow_pipe: bool = False) -> Iterator[Shard]:
    """A shard at a path or address.

    Raises: OSError if it is not there; ShardError if it is no tar.
    """
    with local_copy(path, allow_pipe=allow_pipe) as local:
        shard = Shard(local, name=path)
        try:
            yield shard
        finally:
            shard.close()


class Shard:
    """An open tar of this machine: samples in order, or by number through its index."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        """
        Args:
            name: what to call it in messages and samples (its path).
        """
        self.path, self.name = path, name or str(path)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.archive: Buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self._starts: list[int] | None = None

    def __iter__(self) -> Iterator[Sample]:
        return _samples(self.archive, self.name, 0, len(self.archive))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def starts(self) -> list[int]:
        """The byte each sample begins at, then the byte the last one ends at; from the index beside it if fresh."""
        if self._starts is None:
            self._starts = read_index(self.path) or sample_starts(self.archive, self.name)
        return self._starts

    def __getitem__(self, number: int) -> Sample:
        """Sample `number`.

        Raises: IndexError; ShardError if the index is not that of this tar; DocumentError where two documents of one
            key stand side by side, which an index counts as one.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"{self.name} has {len(self)} samples, no sample {number}")
        start, end = self.starts[number], self.starts[number + 1]
        samples = _samples(self.archive, self.name, start, end)
        sample = next(samples, None)
        if sample is None or sample.start != start:
            raise ShardError(self.name, start, "index does not fit the tar")
        if next(samples, None) is not None:
            raise DocumentError(sample.key, "duplicate key", f"{self.name}, byte {start}")
        return sample

    def members(self) -> Iterator[Member]:
        """Where every member stands."""
        return members(self.archive, self.name)

    def close(self) -> None:
        """Let go of the file."""
        if isinstance(self.archive, mmap.mmap):
            self.archive.close()


def _samples(archive: Buffer, shard: str, start: int, end: int) -> Iterator[Sample]:
    key, first, parts = None, start, dict[str, bytes]()
    for member in members(archive, shard, start, end):
        found = split_name(member.name)
        if found is None:
            continue
        if member.size > MAX_MEMBER_BYTES:
            raise ShardError(shard, member.start, f"member larger than {MAX_MEMBER_BYTES} bytes")
        if found[0] != key or found[1] in parts:
            if key is not None:
                yield Sample(key, parts, shard, first)
            key, first, parts = found[0], member.start, {}
        parts[found[1]] = archive[member.data : member.data + member.size]
    if key is not None:
        yield Sample(key, parts, shard, first)


def read_documents(path: str, *, allow_pipe: bool = False) -> Iterator[tuple[str, Document | DocumentError]]:
    """Key and document of every sample of a shard; what is wrong with one stands in its place."""
    with open_shard(path, allow_pipe=allow_pipe) as shard:
        for sample in shard:
            try:
                yield sample.key, sample.document()
            except DocumentError as error:
                yield sample.key, error


@dataclass
class ShardWriter:
    """Writes one shard and its index; on leaving the `with` block both are there, after an error neither is."""

    path: Path
    _starts: list[int] = field(default_factory=list)
    _place: int = 0

    def __enter__(self) -> ShardWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._whole = whole_file(self.path)
        self._file = self._whole.__enter__()
        self._last = ""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._file.write(END)
            self._starts.append(self._place)
            # The index first: a tar without its index is whole, an index without its tar would be a lie.
            index_path(self.path).unlink(missing_ok=True)
        self._whole.__exit__(kind, error, trace)
        if kind is None:
            write_index(self.path, self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def write(self, key: str, document: Document) -> None:
        """Add a document. Raises: DocumentError, and then nothing was written."""
        self.write_parts(key, parts_of_document(key, document))

    def write_parts(self, key: str, parts: Mapping[str, bytes]) -> None:
        """Add a sample as it is. Raises: DocumentError for the key before it or a name a header cannot hold."""
        if key == self._last:
            raise DocumentError(key, "duplicate key", "would melt into the sample before it")
        try:
            blocks = [(header(f"{key}.{part}", len(data)), data) for part, data in parts.items()]
        except ValueError as error:
            raise DocumentError(key, "key is not portable", str(error)) from None
        self._starts.append(self._place)
        self._last = key
        for block, data in blocks:
            self._file.write(block)
            self._file.write(data)
            self._file.write(bytes(padded(len(data)) - len(data)))
            self._place += len(block) + padded(len(data))
