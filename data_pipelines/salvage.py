"""What can still be read of a broken tar: its whole members, and between them the tears, counted in bytes.

After a tear the walk goes on at the next header block whose checksum is right, wherever it stands: where bytes are
missing, nothing is a multiple of 512 any more. A tar inside a lost member would be taken for its own; nothing in its
bytes tells it apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from data_pipelines.errors import ShardError
from data_pipelines.tar import END, Buffer, Member, is_header, members

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
    torn: Tear | None = None
    for found in _walk(archive, shard):
        if torn is not None and isinstance(found, Tear) and torn.lost and found.lost and torn.end == found.start:
            torn = Tear(torn.start, found.end, torn.reason)
            continue
        if torn is not None:
            yield torn
        torn = found if isinstance(found, Tear) else None
        if isinstance(found, Member):
            yield found
    if torn is not None:
        yield torn


def _walk(archive: Buffer, shard: str) -> Iterator[Member | Tear]:
    place, ended = 0, False
    while place < len(archive):
        try:
            place = yield from members(archive, shard, place, check=True)
            reason, again = AFTER_END, _next_header(archive, place)
            ended = archive[place : place + len(END)] == END
        except ShardError as error:
            place, reason, again = error.offset, error.reason, _next_header(archive, error.offset + 1)
            ended = again == len(archive)  # a torn tail says all there is to say about the end
        if _SOMETHING.search(archive, place, again):
            yield Tear(place, again, reason)
        elif again < len(archive):
            yield Tear(again, again, AFTER_END)
        place = again
    if not ended:
        yield Tear(len(archive), len(archive), NO_END)


def _next_header(archive: Buffer, start: int) -> int:
    """The byte of the first header at or after `start`; the archive's length if there is none."""
    place = archive.find(b"ustar", start + _MAGIC_PLACE)
    while place >= 0:
        if is_header(archive, place - _MAGIC_PLACE):
            return place - _MAGIC_PLACE
        place = archive.find(b"ustar", place + 1)
    return len(archive)
