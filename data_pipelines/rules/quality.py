"""Gopher's rules for the quality of a text.

Source: Rae et al. 2021, "Scaling Language Models" (arXiv 2112.11446v2), appendix A.1.1, quality filtering.
"""

from __future__ import annotations

from data_pipelines.rules.rule import Candidate, Verdict

__all__ = [
    "STOP_WORDS",
    "alphabetic",
    "bullets",
    "ellipses",
    "max_word_length",
    "min_word_length",
    "stop_words",
    "symbols",
]

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_BULLETS = ("•", "‣", "◦", "-", "*", "●")
_ELLIPSES = ("...", "…")


def min_word_length(candidate: Candidate, threshold: float) -> Verdict:
    """Drop texts whose words are shorter in the mean, in characters."""
    return candidate.document if _mean_length(candidate) >= threshold else "words too short in the mean"


def max_word_length(candidate: Candidate, threshold: float) -> Verdict:
    """Drop texts whose words are longer in the mean, in characters."""
    return candidate.document if _mean_length(candidate) <= threshold else "words too long in the mean"


def symbols(candidate: Candidate, threshold: float) -> Verdict:
    """Drop texts with more hash signs, or more ellipses, a word."""
    hashes, ellipses = candidate.text.count("#"), sum(map(candidate.text.count, _ELLIPSES))
    limit = threshold * len(candidate.words)
    return candidate.document if max(hashes, ellipses) <= limit else "too many symbols"


def bullets(candidate: Candidate, threshold: float) -> Verdict:
    """Drop texts of which a larger share of lines begin with a bullet."""
    count = sum(line.startswith(_BULLETS) for line in candidate.lines)
    return candidate.document if count <= threshold * len(candidate.lines) else "nothing but a list"


def ellipses(candidate: Candidate, threshold: float) -> Verdict:
    """Drop texts of which a larger share of lines end in an ellipsis."""
    count = sum(line.endswith(_ELLIPSES) for line in candidate.lines)
    return candidate.document if count <= threshold * len(candidate.lines) else "too many cut lines"


def alphabetic(candidate: Candidate, threshold: float) -> Verdict:
    """Drop texts of which a smaller share of words hold a letter."""
    count = sum(any(map(str.isalpha, word)) for word in candidate.words)
    return candidate.document if count >= threshold * len(candidate.words) else "too few words with letters"


def stop_words(candidate: Candidate, threshold: float) -> Verdict:
    """Drop texts with fewer different ones of the eight commonest English words."""
    found = STOP_WORDS.intersection(word.lower() for word in candidate.words)
    return candidate.document if len(found) >= threshold else "no running English"


def _mean_length(candidate: Candidate) -> float:
    return sum(map(len, candidate.words)) / max(1, len(candidate.words))
