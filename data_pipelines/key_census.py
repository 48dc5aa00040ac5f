"""Which keys come in more than one shard, for any number of documents in little memory.

Keys are kept as 128-bit hashes, parted by their first byte into files of a temporary folder, and one file is sorted
at a time: 28 bytes a document on disk, a 256th of that in memory.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["KeyCensus", "Keys", "hashed"]

_ROW = np.dtype([("high", ">u8"), ("low", ">u8"), ("shard", "<u4"), ("start", "<u8")])

Keys = tuple[bytes, Sequence[int]]
"""Of one shard: 16 bytes of hash a document, and the byte each begins at."""


def hashed(keys: Iterable[str]) -> bytes:
    """16 bytes a key."""
    return b"".join(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest() for key in keys)


class KeyCensus:
    """Shards are added in order; within a shard each key comes once. The folder goes away with the `with` block."""

    def __enter__(self) -> KeyCensus:
        self._folder = tempfile.TemporaryDirectory(prefix="kosmos-keys-")
        self._shards = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def add(self, keys: Keys) -> None:
        """Keys of the next shard."""
        hashes, starts = keys
        rows = np.empty(len(starts), _ROW)
        both = np.frombuffer(hashes, ">u8").reshape(-1, 2)
        rows["high"], rows["low"], rows["shard"], rows["start"] = both[:, 0], both[:, 1], self._shards, starts
        rows = rows[np.argsort(rows["high"])]
        firsts, edges = np.unique(rows["high"] >> np.uint64(56), return_index=True)
        for byte, group in zip(firsts, np.split(rows, edges)[1:], strict=True):
            with open(Path(self._folder.name) / f"{int(byte):03d}", "ab") as file:
                file.write(group.tobytes())
        self._shards += 1

    def repeated(self) -> Mapping[int, list[int]]:
        """Documents whose key an earlier shard has: the bytes they begin at, by number of shard."""
        found: dict[int, list[int]] = defaultdict(list)
        for path in sorted(Path(self._folder.name).iterdir()):
            for number, start in _repeated(np.fromfile(path, _ROW)):
                found[number].append(start)
        return {number: sorted(starts) for number, starts in sorted(found.items())}


def _repeated(rows: NDArray[np.void]) -> Iterator[tuple[int, int]]:
    rows = rows[np.lexsort((rows["start"], rows["shard"], rows["low"], rows["high"]))]
    same = (rows["high"][1:] == rows["high"][:-1]) & (rows["low"][1:] == rows["low"][:-1])
    for row in rows[1:][same]:
        yield int(row["shard"]), int(row["start"])
