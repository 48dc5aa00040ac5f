"""`SHARD.tar.idx`: where each sample of a tar begins, in Energon's own binary form.

N + 1 unsigned 64-bit integers, little end first: the byte of every sample's first header block, then the byte after the
last sample. Built from header blocks alone. Source: megatron-energon 7.4.1, whose reader opens these files (a test).
"""

from __future__ import annotations

import os
import sys
from array import array
from itertools import pairwise
from pathlib import Path

from data_pipelines.naming import split_name
from data_pipelines.tar import BLOCK, Buffer, members
from data_pipelines.whole_file import whole_file

__all__ = ["index_path", "is_fresh", "read_index", "sample_starts", "write_index"]


def index_path(shard: Path) -> Path:
    """Beside the tar."""
    return shard.with_name(shard.name + ".idx")


def is_fresh(shard: Path) -> bool:
    """Whether there is an index no older than the tar."""
    try:
        return os.stat(index_path(shard)).st_mtime_ns >= os.stat(shard).st_mtime_ns
    except FileNotFoundError:
        return False


def read_index(shard: Path) -> list[int] | None:
    """The index beside a tar; None if there is none, or one that is older than the tar or cannot be its own."""
    if not is_fresh(shard):
        return None
    data = index_path(shard).read_bytes()
    if not data or len(data) % 8:
        return None
    starts = array("Q", data)
    if sys.byteorder == "big":
        starts.byteswap()
    found = starts.tolist()
    whole = found[-1] <= os.stat(shard).st_size and all(place % BLOCK == 0 for place in found)
    return found if whole and all(a < b for a, b in pairwise(found)) else None


def write_index(shard: Path, starts: list[int]) -> None:
    """Put an index beside a tar."""
    numbers = array("Q", starts)
    if sys.byteorder == "big":
        numbers.byteswap()
    with whole_file(index_path(shard)) as file:
        file.write(numbers.tobytes())


def sample_starts(archive: Buffer, shard: str) -> list[int]:
    """Where each sample begins, and where the last one ends.

    Raises: ShardError where the archive is torn.
    """
    starts: list[int] = []
    place = _plain_run(archive, starts)
    end, key = place, _last_key(archive, starts)
    for member in members(archive, shard, place):
        found = _key(member.name)
        if found is None:
            continue
        if found != key:
            starts.append(member.start)
            key = found
        end = member.end
    return [*starts, end]


def _plain_run(archive: Buffer, starts: list[int]) -> int:
    """Index plain ustar files (short names, no extensions) as far as they go, without making an object of any.

    Returns: the byte where something else begins; `members` goes on from there. This loop is why indexing is fast.
    """
    place, stop, prefix, length = 0, len(archive) - BLOCK, b"/", 1
    while place <= stop:
        if archive[place + 156] != 48 or archive[place + 257 : place + 265] != b"ustar\x0000" or archive[place + 345]:
            return place
        name, _, _ = archive[place : place + 100].partition(b"\0")
        size = archive[place + 124 : place + 135]
        if not size.isdigit() or (after := place + BLOCK - (-int(size, 8) // BLOCK * BLOCK)) > stop + BLOCK:
            return place
        if name[:length] != prefix or b"/" in name[length:]:
            folder, slash, base = name.rpartition(b"/")
            stem, dot, part = base.partition(b".")
            if not stem or not dot or not part or name[:2] == b"__":
                return place
            prefix = folder + slash + stem + b"."
            length = len(prefix)
            starts.append(place)
        place = after
    return place


def _last_key(archive: Buffer, starts: list[int]) -> str | None:
    if not starts:
        return None
    name = archive[starts[-1] : starts[-1] + 100].partition(b"\0")[0]
    return _key(name.decode("utf-8", "replace"))


def _key(name: str) -> str | None:
    found = split_name(name)
    return found[0] if found else None
