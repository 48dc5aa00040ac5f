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
    """Where each sample begins, and where the last file ends.

    Raises: ShardError where the archive is torn.
    """
    starts: list[int] = []
    place = _plain_run(archive, starts)
    end, key = place, _last_key(archive, starts)
    for member in members(archive, shard, place):
        found = _key(member.name)
        if found is not None and found != key:
            starts.append(member.start)
            key = found
        end = member.end
    return [*starts, end]


def _plain_run(archive: Buffer, starts: list[int]) -> int:
    """Index plain ustar files (short ASCII names, no extensions) as far as they go, without making an object of any.

    Returns: the byte where something else begins; `members` goes on from there. This loop is why indexing is fast.
    """
    place, stop, prefix, length = 0, len(archive), b"/", 1
    while place + BLOCK <= stop:
        block = archive[place : place + 346]  # as far as the first letter of the prefix field
        size = block[124:135]
        if block[156] != 48 or block[257:265] != b"ustar\x0000" or block[345] or block[135] > 32 or not size.isdigit():
            return place
        try:
            after = place + BLOCK - (-int(size, 8) // BLOCK * BLOCK)
        except ValueError:  # an 8 or a 9
            return place
        if after > stop:
            return place
        if not block.startswith(prefix) or block.find(b"/", length, 100) >= 0:
            name = block[:100].partition(b"\0")[0]
            folder, slash, base = name.rpartition(b"/")
            stem, dot, part = base.partition(b".")
            if not stem or not dot or not part or name[:2] == b"__" or not name.isascii():
                return place
            found = folder + slash + stem + b"."
            if found != prefix:  # the same where a slash stands in what follows the name's end
                starts.append(place)
                prefix, length = found, len(found)
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
