"""Where bad documents go: what could be saved of them as a tar, and a line of JSON about each.

    train-000000.tar.quarantined   000000.json, 000000.0.jpg ...: members of the first bad document, and so on
    train-000000.jsonl             of each: shard, offset, key, reasons, where its members were saved; of each tear and
                                   each file of no document: shard, offset, reason, bytes lost

Documents are numbered, because their keys may be what is wrong with them. The tar's ending keeps it out of what a
folder of shards stands for, and a part that readers would unpickle gets an ending that they do not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from data_pipelines.inspection import STRAY, Finding, is_refused
from data_pipelines.shard import MAX_MEMBER_BYTES, ShardWriter
from data_pipelines.survey import Found, Survey
from data_pipelines.tar import Buffer
from data_pipelines.whole_file import whole_file

__all__ = ["Judged", "write_quarantine"]

Judged: TypeAlias = tuple[Found, list[Finding]]
"""A document and all that was found."""

_PLAIN_PART = re.compile(r"[a-z0-9_-][a-z0-9_.-]{0,60}")


def write_quarantine(path: Path, bad: Sequence[Judged], whole: Survey, archive: Buffer, shard: str) -> None:
    """Put away what is wrong with one shard; nothing is written if nothing is.

    Args:
        path: of both files, without ending.
        bad: documents to put away, in order.   whole: the shard's survey, for its tears and strays.
    """
    if bad:
        with ShardWriter(path.with_name(path.name + ".tar.quarantined")) as writer:
            for number, (found, _) in enumerate(bad):
                writer.write_parts(f"{number:06d}", _contents(found, archive))
    lines = [line for _, line in sorted(_lines(bad, whole, shard), key=lambda placed: placed[0])]
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path.with_name(path.name + ".jsonl")) as file:
            file.writelines(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)


def _lines(bad: Sequence[Judged], whole: Survey, shard: str) -> Iterator[tuple[int, dict[str, object]]]:
    """Each with the byte it is about."""
    for number, (found, findings) in enumerate(bad):
        yield (
            found.start,
            {
                "shard": shard,
                "offset": found.start,
                "key": found.key,
                "reason": findings[0].reason,
                "findings": [f"{finding.reason}: {finding.detail}" for finding in findings],
                "files": [member.name for member in found.members.values()],
                "saved": [f"{number:06d}.{name}" for name in _saved_names(found).values()],
            },
        )
    for tear in whole.tears:
        line = {"shard": shard, "offset": tear.start, "key": "", "reason": tear.reason, "bytes_lost": tear.lost}
        yield tear.start, line
    for stray in whole.strays:
        yield stray.start, {"shard": shard, "offset": stray.start, "key": stray.name, "reason": STRAY}


def _contents(found: Found, archive: Buffer) -> Mapping[str, bytes]:
    members = found.members
    return {
        name: archive[members[part].data : members[part].data + members[part].size]
        for part, name in _saved_names(found).items()
    }


def _saved_names(found: Found) -> Mapping[str, str]:
    """What parts are called in the quarantine; those too large to be held at once are left in the source."""
    names = {}
    for number, (part, member) in enumerate(found.members.items()):
        if member.size <= MAX_MEMBER_BYTES:
            plain = part if _PLAIN_PART.fullmatch(part) else f"part{number}"
            names[part] = f"{plain}.refused" if is_refused(part) else plain
    return names
