"""Which documents a reader of the page asked for; the page's script has the same rules for what it holds itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from data_pipelines.preview.record import Record

__all__ = ["Wanted", "matches"]

KEPT, DROPPED = "kept", "dropped"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the fields above the documents say; empty ones want everything.

    Attributes:
        words: found in text, alternative words of pictures or the key, in any case.
        source: exactly that of the document.
        pictures: `0`, `1`, or `2` for two and more.
        fate: `kept`, `dropped`, `broken`, or exactly the reason a rule gave.
    """

    words: str = ""
    source: str = ""
    pictures: str = ""
    fate: str = ""

    @staticmethod
    def of(query: Mapping[str, str]) -> Wanted:
        """From the fields of a request."""
        known = {name: query[name] for name in ("words", "source", "pictures", "fate") if name in query}
        return Wanted(**known)


def matches(record: Record, wanted: Wanted) -> bool:
    """Whether a document is one of those."""
    if wanted.source and record.get("source") != wanted.source:
        return False
    if wanted.pictures and str(min(int(str(record["pictures"])), 2)) != wanted.pictures:
        return False
    return _has_fate(record, wanted.fate) and wanted.words.casefold() in _words(record)


def _has_fate(record: Record, fate: str) -> bool:
    dropped, broken = str(record.get("dropped") or ""), "fault" in record
    general = {"": True, KEPT: not dropped and not broken, DROPPED: bool(dropped), "broken": broken}
    return general.get(fate, dropped == fate)


def _words(record: Record) -> str:
    segments = record["segments"]
    found = [str(record["key"])]
    for segment in segments if isinstance(segments, list) else ():
        found += [str(segment[name]) for name in ("text", "alt") if segment.get(name)]
    return "\n".join(found).casefold()
