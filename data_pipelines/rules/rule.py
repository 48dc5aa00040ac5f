"""What a rule is: a function of a document and a threshold that gives the document back, another one, or a reason.

    def min_words(candidate: Candidate, threshold: float) -> Verdict:
        return candidate.document if len(candidate.words) >= threshold else "too few words"

The same document: kept. Another one: something was left out of it. A string: it goes, and that is why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from text.document import Document, Image, Text

__all__ = ["Candidate", "Judge", "Rule", "Verdict", "keep_pictures", "keep_texts"]

Verdict: TypeAlias = Document | str


@dataclass(frozen=True)
class Candidate:
    """A document before a rule; what several rules look at is worked out once."""

    key: str
    document: Document

    @cached_property
    def text(self) -> str:
        """All words, a line break between segments."""
        return "\n".join(segment.text for segment in self.document.segments if isinstance(segment, Text))

    @cached_property
    def words(self) -> list[str]:
        """What white space parts."""
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not blank, stripped."""
        return [stripped for line in self.text.splitlines() if (stripped := line.strip())]


Judge: TypeAlias = Callable[[Candidate, float], Verdict]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule as the table has it.

    Attributes:
        threshold: its default.
        drops: what it drops or leaves out; `{}` stands for the threshold.
        source: where the rule is from; a threshold that no source gives is called ours.
    """

    judge: Judge
    threshold: float
    drops: str
    source: str


def keep_pictures(candidate: Candidate, keep: Callable[[Image], bool]) -> Document:
    """The document with those pictures only; itself if that is all of them."""
    document = candidate.document
    kept = tuple(segment for segment in document.segments if not isinstance(segment, Image) or keep(segment))
    return document if len(kept) == len(document.segments) else Document(kept, document.meta)


def keep_texts(candidate: Candidate, keep: Callable[[str], bool]) -> Document:
    """The document with those text segments only; itself if that is all of them."""
    document = candidate.document
    kept = tuple(segment for segment in document.segments if not isinstance(segment, Text) or keep(segment.text))
    return document if len(kept) == len(document.segments) else Document(kept, document.meta)
