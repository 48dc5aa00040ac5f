"""What can be wrong with a shard, as exceptions that name the place.

ShardError      the tar itself: torn, truncated, another format (names shard and byte)
DocumentError   one document: broken JSON, a picture that is not there (names its key)
"""

from __future__ import annotations

__all__ = ["DocumentError", "ShardError"]


class ShardError(ValueError):
    """A tar cannot be read from `offset` on.

    Attributes:
        reason: one of a few fixed words, so that reports can count (`truncated`, `torn header` ...).
    """

    def __init__(self, shard: str, offset: int, reason: str) -> None:
        super().__init__(f"{shard}, byte {offset}: {reason}")
        self.shard, self.offset, self.reason = shard, offset, reason

    def __reduce__(self) -> tuple[type[ShardError], tuple[str, int, str]]:
        return ShardError, (self.shard, self.offset, self.reason)


class DocumentError(ValueError):
    """A document cannot be used.

    Attributes:
        key: the document's.
        reason: one of a few fixed words, the same for every document with this fault.
        detail: what was seen.
    """

    def __init__(self, key: str, reason: str, detail: str = "") -> None:
        super().__init__(f"document {key!r}: {reason}{f' ({detail})' if detail else ''}")
        self.key, self.reason, self.detail = key, reason, detail

    def __reduce__(self) -> tuple[type[DocumentError], tuple[str, str, str]]:
        return DocumentError, (self.key, self.reason, self.detail)
