"""Gopher's rules against texts that repeat themselves.

Source: Rae et al. 2021, "Scaling Language Models" (arXiv 2112.11446v2), appendix A.1.1 and table A1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from data_pipelines.rules.rule import Candidate, Verdict

__all__ = ["duplicate_lines", "duplicate_n_grams", "duplicate_paragraphs", "top_n_gram"]

_BLANK_LINE = re.compile(r"\n\s*\n")


def duplicate_lines(candidate: Candidate, threshold: float) -> Verdict:
    """Drop texts of which a larger share of lines stood before."""
    return candidate.document if _share_repeated(candidate.lines) <= threshold else "lines repeated"


def duplicate_paragraphs(candidate: Candidate, threshold: float) -> Verdict:
    """Drop texts of which a larger share of paragraphs stood before."""
    paragraphs = [stripped for part in _BLANK_LINE.split(candidate.text) if (stripped := part.strip())]
    return candidate.document if _share_repeated(paragraphs) <= threshold else "paragraphs repeated"


def top_n_gram(candidate: Candidate, threshold: float, *, n: int) -> Verdict:
    """Drop texts of whose characters the commonest n words in a row make up a larger share."""
    counts = Counter(_n_grams(candidate.words, n))
    most = max(counts.values(), default=0)
    if most < 2:
        return candidate.document
    # Of equally common ones the longest, so that their order decides nothing.
    repeated = max(most * sum(map(len, gram)) for gram, count in counts.items() if count == most)
    return candidate.document if repeated <= threshold * _characters(candidate) else f"same {n} words repeated"


def duplicate_n_grams(candidate: Candidate, threshold: float, *, n: int) -> Verdict:
    """Drop texts of whose characters a larger share lie in n words in a row that stood before."""
    words, seen, covered = candidate.words, set[tuple[str, ...]](), set[int]()
    for place, gram in enumerate(_n_grams(words, n)):
        if gram in seen:
            covered.update(range(place, place + n))
        seen.add(gram)
    repeated = sum(len(words[place]) for place in covered)
    return candidate.document if repeated <= threshold * _characters(candidate) else f"runs of {n} words repeated"


def _share_repeated(parts: Sequence[str]) -> float:
    return 1 - len(set(parts)) / len(parts) if parts else 0.0


def _n_grams(words: Sequence[str], n: int) -> Sequence[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(n)), strict=False))


def _characters(candidate: Candidate) -> int:
    return sum(map(len, candidate.words))
