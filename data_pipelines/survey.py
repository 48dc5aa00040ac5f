"""What stands in a shard, broken or not: its documents by their members, the tears, and files that belong to nothing.

Members of a key that stand apart are brought together where that is unambiguous: where no part comes twice. A key
that comes back with a part it had before begins another document. Headers only; contents are never touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from data_pipelines.naming import split_name
from data_pipelines.salvage import AFTER_END, Tear, salvage
from data_pipelines.tar import Buffer, Member

__all__ = ["Found", "Survey", "survey"]


@dataclass
class Found:
    """The members of a document.

    Attributes:
        members: by part name, in the order they stand in.
        apart: its first member that does not stand with the others, if there is one.
        repeated: an earlier document of the shard has its key.
        beside_tear: bytes next to it are lost, and members of it may be among them.
    """

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    apart: Member | None = None
    repeated: bool = False
    beside_tear: bool = False

    @property
    def start(self) -> int:
        """Its first byte."""
        return next(iter(self.members.values())).start

    def contents(self, archive: Buffer) -> Mapping[str, bytes]:
        """Its parts, read."""
        return {part: archive[member.data : member.data + member.size] for part, member in self.members.items()}


@dataclass(frozen=True)
class Survey:
    """All of a shard, each in order of place.

    Attributes:
        strays: files whose names belong to no document.
    """

    documents: list[Found]
    tears: list[Tear]
    strays: list[Member]


def survey(archive: Buffer, shard: str) -> Survey:
    """Look at every header. Holds one record a member, so memory goes with the number of files of one shard."""
    whole = Survey([], [], [])
    latest: dict[str, Found] = {}
    current: Found | None = None
    after_tear = False
    for found in salvage(archive, shard):
        if isinstance(found, Tear):
            whole.tears.append(found)
            if found.reason != AFTER_END:
                after_tear = True
                if current is not None:
                    current.beside_tear = True
            continue
        name = split_name(found.name)
        if name is None:
            whole.strays.append(found)
            continue
        current = _place(found, *name, latest, current)
        current.beside_tear |= after_tear
        after_tear = False
        if len(current.members) == 1:
            whole.documents.append(current)
    return whole


def _place(member: Member, key: str, part: str, latest: dict[str, Found], current: Found | None) -> Found:
    """Put a member into the document it belongs to: the latest of its key, or a new one."""
    known = latest.get(key)
    if known is None or part in known.members:
        known = latest[key] = Found(key, repeated=known is not None)
    elif known is not current and known.apart is None:
        known.apart = member
    known.members[part] = member
    return known
