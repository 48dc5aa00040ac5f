"""Report: what became of every document, counted. Nothing leaves a pipeline without standing in one.

Reports of shards add up to that of a run. `read == written + all that was dropped` is an invariant verbs check.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Report", "Tally", "total"]

EXAMPLES = 5  # keys kept for each reason


@dataclass(frozen=True, kw_only=True)
class Report:
    """Counts of documents.

    Attributes:
        read, written: documents in and out.
        dropped: documents that went no further, by reason.   examples: the first few of each, by reason.
        noted: what was changed or seen without dropping a document (a picture left out, a tag stripped), by kind.
    """

    read: int = 0
    written: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    noted: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __add__(self, other: Report) -> Report:
        reasons = {**self.examples, **other.examples}
        examples = {
            reason: (*self.examples.get(reason, ()), *other.examples.get(reason, ()))[:EXAMPLES] for reason in reasons
        }
        return Report(
            read=self.read + other.read,
            written=self.written + other.written,
            dropped=dict(Counter(self.dropped) + Counter(other.dropped)),
            noted=dict(Counter(self.noted) + Counter(other.noted)),
            examples=examples,
        )

    @property
    def balanced(self) -> bool:
        """Whether every document read is accounted for."""
        return self.read == self.written + sum(self.dropped.values())

    def to_record(self) -> dict[str, object]:
        """Plain values for JSON, reasons in order."""
        return {
            "read": self.read,
            "written": self.written,
            "dropped": dict(sorted(self.dropped.items())),
            "noted": dict(sorted(self.noted.items())),
            "examples": {reason: list(keys) for reason, keys in sorted(self.examples.items())},
        }

    def to_json(self) -> str:
        """One line."""
        return json.dumps(self.to_record(), ensure_ascii=False)

    @staticmethod
    def from_json(line: str) -> Report:
        """What `to_json` wrote."""
        return Report.from_record(json.loads(line))

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Report:
        """What `to_record` gave. Raises: KeyError for anything else."""
        return Report(
            read=record["read"],
            written=record["written"],
            dropped=record["dropped"],
            noted=record["noted"],
            examples={reason: tuple(keys) for reason, keys in record["examples"].items()},
        )

    def to_text(self) -> str:
        """Lines for people."""
        lines = [f"{self.read:,} documents read, {self.written:,} written, {sum(self.dropped.values()):,} dropped"]
        for title, counts in (("dropped", self.dropped), ("noted", self.noted)):
            for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
                named = ", ".join(map(_printable, self.examples.get(reason, ())[:3]))
                lines.append(f"  {title} {count:,}: {reason}{f'  ({named})' if named else ''}")
        return "\n".join(lines)


def _printable(key: str) -> str:
    """Without what could move a terminal's cursor: keys are a stranger's."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in key)


class Tally:
    """A report being made."""

    def __init__(self) -> None:
        self._read = self._written = 0
        self._dropped: Counter[str] = Counter()
        self._noted: Counter[str] = Counter()
        self._examples: dict[str, tuple[str, ...]] = {}

    def read(self, count: int = 1) -> None:
        """Documents came in."""
        self._read += count

    def wrote(self, count: int = 1) -> None:
        """Documents went out."""
        self._written += count

    def drop(self, reason: str, key: str) -> None:
        """A document goes no further."""
        self._dropped[reason] += 1
        self._example(reason, key)

    def note(self, kind: str, key: str, count: int = 1) -> None:
        """Something was changed or seen, so many times, in a document that stays."""
        self._noted[kind] += count
        self._example(kind, key)

    def _example(self, reason: str, key: str) -> None:
        self._examples[reason] = (*self._examples.get(reason, ()), key)[:EXAMPLES]

    def report(self) -> Report:
        """All so far."""
        return Report(
            read=self._read,
            written=self._written,
            dropped=dict(self._dropped),
            noted=dict(self._noted),
            examples=dict(self._examples),
        )


def total(reports: Iterable[Report]) -> Report:
    """The sum."""
    whole = Report()
    for report in reports:
        whole = whole + report
    return whole
