"""What can still be read of a broken tar: its whole members, and between them the tears, counted in bytes.

After a tear the walk goes on at the next header block whose checksum is right, wherever it stands: where bytes are
missing, nothing is a multiple of 512 any more. Where a block or more is missing from a file, the next file may be taken
for its contents and lost with it. A tar inside a lost member would be taken for its own; nothing in its
bytes tells it apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from data_pipelines.errors import ShardError
from data_pipelines.tar import BLOCK, END, Buffer, Member, is_header, members

__all__ = ["AFTER_END", "NO_END", "Tear", "salvage"]

AFTER_END = "data after the end"
NO_END = "no end of archive"
_MAGIC_PLACE = 257  # of `ustar` in a header block
_SOMETHING = re.compile(rb"[^\0]")


@dataclass(frozen=True)
class Tear:
    """Bytes `start` to `end` belong to no member that can be read.

    Attributes:
        reason: that of the ShardError met there, or `AFTER_END`; `NO_END` for the missing empty blocks, of no bytes.
    """

    start: int
    end: int
    reason: str

    @property
    def lost(self) -> int:
        """Bytes."""
        return self.end - self.start


def salvage(archive: Buffer, shard: str) -> Iterator[Member | Tear]:
    """Whole members with right checksums and the tears between them, in order; tears that touch are one."""
    last: Member | Tear | None = None
    for found in _walk(archive, shard):
        if isinstance(last, Member) and isinstance(found, Tear) and _is_short(archive, last, found):
            last = Tear(last.start, found.end, found.reason)
        elif (
            isinstance(last, Tear) and isinstance(found, Tear) and last.lost and found.lost and last.end == found.start
        ):
            last = Tear(last.start, found.end, last.reason)
        else:
            if last is not None:
                yield last
            last = found
    if last is not None:
        yield last


def _is_short(archive: Buffer, member: Member, tear: Tear) -> bool:
    """Whether bytes of a member's contents are missing, and not only of its padding.

    So it is if the next header begins within the contents, or if as many zeros of padding as bytes are missing have
    moved up into the contents.
    """
    missing, end = member.end - tear.end, member.data + member.size
    if tear.lost or missing <= 0:
        return False
    return tear.end < end or not _SOMETHING.search(archive, max(member.data, end - missing), end)


def _walk(archive: Buffer, shard: str) -> Iterator[Member | Tear]:
    start, ended = 0, False
    while start < len(archive):
        try:
            place = yield from members(archive, shard, start, check=True)
            again = _next_header(archive, place, len(archive))
            ended = archive[place : place + len(END)] == END
            if _SOMETHING.search(archive, place, again):
                yield Tear(place, again, AFTER_END)
            elif again < len(archive):
                yield Tear(again, again, AFTER_END)
        except ShardError as error:
            # Where bytes of the padding before it are missing, the next header stands a little earlier.
            place = error.offset
            earlier = _next_header(archive, max(start + 1, place - BLOCK + 1), place)
            again = earlier if earlier < place else _next_header(archive, place + 1, len(archive))
            ended = again == len(archive)  # a torn tail says all there is to say about the end
            yield Tear(min(place, again), again, error.reason)
        start = again
    if not ended:
        yield Tear(len(archive), len(archive), NO_END)


def _next_header(archive: Buffer, start: int, stop: int) -> int:
    """The byte of the first header that begins in `start` to `stop`; `stop` if there is none."""
    place = archive.find(b"ustar", start + _MAGIC_PLACE, stop + _MAGIC_PLACE + 4)
    while place >= 0:
        if is_header(archive, place - _MAGIC_PLACE):
            return place - _MAGIC_PLACE
        place = archive.find(b"ustar", place + 1, stop + _MAGIC_PLACE + 4)
    return stop
