"""What is wrong with a document of a shard: every finding with its place and one of a few fixed reasons.

Looks at all that is stored: names, JSON, which pictures are meant, their checksums, and whether they decode within
the limits of `vision.image`. Nothing is unpickled, whatever a part is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from blake3 import blake3

from data_pipelines.errors import DocumentError
from data_pipelines.naming import clean_key, is_portable
from data_pipelines.schema import PICTURE_PARTS, document_of_parts
from data_pipelines.shard import MAX_MEMBER_BYTES
from data_pipelines.survey import Found
from data_pipelines.tar import Buffer, header
from text.document import Document, Image, Text
from vision.image import open_image

__all__ = [
    "DUPLICATE",
    "NOT_ADJACENT",
    "NOT_PORTABLE",
    "STRAY",
    "UNSAFE",
    "Finding",
    "is_refused",
    "is_unsafe",
    "inspect_document",
]

DUPLICATE = "duplicate key"
NOT_ADJACENT = "members not adjacent"
NOT_PORTABLE = "key is not portable"
STRAY = "file of no document"
UNSAFE = "unsafe name"

_REFUSED = ("pkl", "pickle", "pyd", "pt", "pth")  # what webdataset's readers unpickle: code of strangers
_PART = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


@dataclass(frozen=True)
class Finding:
    """Something wrong.

    Attributes:
        key: of the document, or the name of the file; empty where neither can be told.
        offset: byte of the header in question, or of a tear.   reason: a fixed word.   detail: what was seen.
    """

    shard: str
    key: str
    offset: int
    reason: str
    detail: str = ""

    def to_record(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def is_unsafe(name: str) -> bool:
    """Whether unpacking a file of this name might write outside of the folder."""
    return name[:1] in ("/", "\\") or name[1:2] == ":" or ".." in name.replace("\\", "/").split("/")


def is_refused(part: str) -> bool:
    """Whether readers of such shards would run what a part of this name holds."""
    return part.rpartition(".")[2] in _REFUSED


def inspect_document(found: Found, archive: Buffer, shard: str, *, decode: bool) -> list[Finding]:
    """All that is wrong with one document, by place.

    Args:
        decode: whether pictures are decoded; slow, and the only way to know.
    """
    faults = [*_name_faults(found), *_member_faults(found)]
    if all(member.size <= MAX_MEMBER_BYTES for member in found.members.values()):
        faults += _content_faults(found, found.contents(archive), decode=decode)
    findings = [Finding(shard, found.key, place, reason, detail) for place, reason, detail in faults]
    return sorted(findings, key=lambda finding: finding.offset)


_Fault = tuple[int, str, str]


def _name_faults(found: Found) -> Iterator[_Fault]:
    if found.repeated:
        yield found.start, DUPLICATE, "an earlier document of this shard has it"
    if found.apart is not None:
        yield found.apart.start, NOT_ADJACENT, found.apart.name
    if is_unsafe(found.key):
        yield found.start, UNSAFE, found.key
    elif not is_portable(found.key):
        yield found.start, NOT_PORTABLE, "letters, digits, _ - / and at most 90 bytes"


def _member_faults(found: Found) -> Iterator[_Fault]:
    for part, member in found.members.items():
        if is_refused(part):
            yield member.start, "forbidden part", member.name
        elif not _fits(found.key, part):
            yield member.start, "part name is not portable", member.name
        if not member.size:
            yield member.start, "empty file", member.name
        elif member.size > MAX_MEMBER_BYTES:
            yield member.start, "oversized file", f"{member.size} bytes, more than {MAX_MEMBER_BYTES}"


def _fits(key: str, part: str) -> bool:
    """Whether plain ustar can hold the name."""
    try:
        return bool(_PART.fullmatch(part)) and bool(header(f"{clean_key(key)}.{part}", 0))
    except ValueError:
        return False


def _content_faults(found: Found, parts: Mapping[str, bytes], *, decode: bool) -> Iterator[_Fault]:
    try:
        document = document_of_parts(found.key, parts)
    except DocumentError as error:
        yield found.start, error.reason, error.detail
        return
    if found.beside_tear and _may_be_half(document, parts):
        yield found.start, "beside a tear", "the lost bytes may have held its picture or its words"
    meant = _parts_of_pictures(document, parts)
    for part, stated in meant.items():
        place = found.members[part].start
        if stated is not None and stated != blake3(parts[part]).hexdigest():
            yield place, "checksum mismatch", found.members[part].name
        if decode and (wrong := _undecodable(parts[part])):
            yield place, "undecodable image", wrong
    for part, member in found.members.items():
        if part not in meant and _is_picture(part):
            yield member.start, "unreferenced image", member.name


def _parts_of_pictures(document: Document, parts: Mapping[str, bytes]) -> dict[str, object]:
    """The part each picture of a document came from, and the checksum stated for it."""
    # A picture holds the very bytes of its part. Python keeps one object for all empty ones, so pictures come last.
    names = {id(parts[part]): part for part in sorted(parts, key=_is_picture)}
    return {names[id(image.source)]: image.meta.get("blake3") for image in document.images}


def _may_be_half(document: Document, parts: Mapping[str, bytes]) -> bool:
    """A page lists its pictures, so a whole one is known to be; half of a pair may be missing unseen."""
    kinds = {type(segment) for segment in document.segments}
    return b'"segments"' not in parts.get("json", b"") and not {Image, Text} <= kinds


def _is_picture(part: str) -> bool:
    return part.rpartition(".")[2] in PICTURE_PARTS


def _undecodable(data: bytes) -> str:
    try:
        open_image(data)
    except ValueError as error:
        return str(error)
    return ""
