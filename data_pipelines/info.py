"""What is in shards, from their indexes and headers: contents are read of one document only, the one that is shown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from data_pipelines.errors import DocumentError, ShardError
from data_pipelines.execution import Engine
from data_pipelines.naming import split_name
from data_pipelines.shard import Shard, open_shard
from data_pipelines.shard_pool import each_shard
from text.document import Control, Image, Segment

__all__ = ["Info", "info"]

SHOWN_CHARACTERS = 300  # of a text segment
SHOWN_SEGMENTS = 20
MAX_PARTS = 100  # kinds of parts counted one by one; names of a stranger may all differ
OTHERS = "(others)"
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, kw_only=True)
class Info:
    """Counts of one shard or several.

    Attributes:
        size: of the tars, in bytes.
        parts: files by what follows the key, numbers written as N (`N.jpg`).
        part_sizes: of contents, in bytes, by the same.
        first_key, last_key: in the order of the shards.
        sample: the first document as it reads, a line a segment.
        torn: one sentence for each shard that cannot be read to its end; its documents are not counted.
    """

    shards: int = 0
    documents: int = 0
    size: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)
    part_sizes: Mapping[str, int] = field(default_factory=dict)
    first_key: str = ""
    last_key: str = ""
    sample: tuple[str, ...] = ()
    torn: tuple[str, ...] = ()

    def __add__(self, other: Info) -> Info:
        return Info(
            shards=self.shards + other.shards,
            documents=self.documents + other.documents,
            size=self.size + other.size,
            parts=Counter(self.parts) + Counter(other.parts),
            part_sizes=Counter(self.part_sizes) + Counter(other.part_sizes),
            first_key=self.first_key or other.first_key,
            last_key=other.last_key or self.last_key,
            sample=self.sample or other.sample,
            torn=self.torn + other.torn,
        )

    def to_record(self) -> dict[str, object]:
        """Plain values for JSON; counts largest first."""
        record = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for counted in ("parts", "part_sizes"):
            record[counted] = dict(sorted(record[counted].items(), key=lambda item: (-item[1], item[0])))
        return {**record, "sample": list(self.sample), "torn": list(self.torn)}


def info(paths: Sequence[str], *, workers: int = 1, engine: Engine = "local", allow_pipe: bool = False) -> Info:
    """Add up shards.

    Args:
        paths: as `stores.expand` gives them.
    Raises: OSError for a shard that cannot be fetched.
    """
    whole = Info()
    for one in each_shard(partial(_info_of_one, allow_pipe=allow_pipe), paths, workers=workers, engine=engine):
        whole = whole + one
    return whole


def _info_of_one(path: str, *, allow_pipe: bool) -> Info:
    with open_shard(path, allow_pipe=allow_pipe) as shard:
        outline = Info(shards=1, size=len(shard.archive))
        try:
            return _counted(shard, outline)
        except ShardError as error:
            return replace(outline, torn=(str(error),))


def _counted(shard: Shard, outline: Info) -> Info:
    parts, sizes = Counter[str](), Counter[str]()
    first = last = ""
    for member in shard.members():
        name = split_name(member.name)
        if name is None:
            continue
        first, last = first or name[0], name[0]
        part = _NUMBER.sub("N", name[1])
        part = part if part in parts or len(parts) < MAX_PARTS else OTHERS
        parts[part] += 1
        sizes[part] += member.size
    return replace(
        outline,
        documents=len(shard),
        parts=parts,
        part_sizes=sizes,
        first_key=first,
        last_key=last,
        sample=_sample(shard),
    )


def _sample(shard: Shard) -> tuple[str, ...]:
    if not len(shard):
        return ()
    sample = shard[0]
    try:
        segments = sample.document().segments
    except DocumentError as error:
        return (str(error),)
    lines = [_line(segment) for segment in segments[:SHOWN_SEGMENTS]]
    if len(segments) > SHOWN_SEGMENTS:
        lines.append(f"... {len(segments) - SHOWN_SEGMENTS} more segments")
    return tuple(lines)


def _line(segment: Segment) -> str:
    if isinstance(segment, Image):
        size = len(segment.source) if isinstance(segment.source, bytes) else 0
        return f"[picture, {size:,} bytes]"
    if isinstance(segment, Control):
        return segment.name
    words = segment.text.replace("\n", " ")
    return words if len(words) <= SHOWN_CHARACTERS else f"{words[:SHOWN_CHARACTERS]} ..."
