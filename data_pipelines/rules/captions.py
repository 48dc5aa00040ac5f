"""Rules for pairs of a picture and its caption.

Sources: Kosmos-1 appendix B.1.2 (special tags) and its released LAION loader (stated sizes); Conceptual Captions
(Sharma et al. 2018, repeated words); DataComp (Gadre et al. 2023, basic filtering: length).
"""

from __future__ import annotations

import re
from collections import Counter

from data_pipelines.rules.rule import Candidate, Verdict

__all__ = ["max_words", "min_characters", "min_words", "repeated_words", "special_tags", "stated_size"]

_SPECIAL_TAG = re.compile(r"<[A-Z][A-Z_]+>")
_SIZES = ("width", "height", "original_width", "original_height")
_FEW_WORDS = 5  # in so few one word easily makes up half


def special_tags(candidate: Candidate, threshold: float) -> Verdict:
    """Drop captions with more placeholders such as `<PERSON>`."""
    found = len(_SPECIAL_TAG.findall(candidate.text))
    return candidate.document if found <= threshold else "special tag in the caption"


def stated_size(candidate: Candidate, threshold: float) -> Verdict:
    """Drop pairs whose data set states a width or height that is no number, or a smaller one."""
    stated = [candidate.document.meta[name] for name in _SIZES if candidate.document.meta.get(name) is not None]
    sizes = [_number(size) for size in stated]
    if any(size is None for size in sizes):
        return "stated size is no number"
    return candidate.document if all(size >= threshold for size in sizes if size) else "stated size is too small"


def min_words(candidate: Candidate, threshold: float) -> Verdict:
    """Drop documents of fewer words."""
    return candidate.document if len(candidate.words) >= threshold else "too few words"


def max_words(candidate: Candidate, threshold: float) -> Verdict:
    """Drop documents of more words."""
    return candidate.document if len(candidate.words) <= threshold else "too many words"


def min_characters(candidate: Candidate, threshold: float) -> Verdict:
    """Drop documents of fewer characters, white space around them not counted."""
    return candidate.document if len(candidate.text.strip()) >= threshold else "too few characters"


def repeated_words(candidate: Candidate, threshold: float) -> Verdict:
    """Drop captions of which one word makes up a larger share."""
    words = [word.lower() for word in candidate.words]
    if len(words) < _FEW_WORDS:
        return candidate.document
    most = max(Counter(words).values())
    return candidate.document if most <= threshold * len(words) else "one word repeated"


def _number(size: object) -> float | None:
    if isinstance(size, bool) or not isinstance(size, (int, float, str)):
        return None
    try:
        return float(size)
    except ValueError:
        return None
